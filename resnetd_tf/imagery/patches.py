"""Labels for new patches: images of the size of one land-cover class, in files of their own."""

import csv
import json
import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np

from resnetd_tf import figures
from resnetd_tf.data import images
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import rendering
from resnetd_tf.saved import SavedClassifier

FORMATS = ("table", "json", "csv")
TOGETHER = 512  # files that are read before they are classified
DRAWN = 60  # patches in a picture
COLUMNS = 6  # of it


def files_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The images in a folder and those below it, by name; hidden ones are left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in images.SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def read(path: str | pathlib.Path, classifier: SavedClassifier) -> np.ndarray:
    """An image as a classifier takes it; one of 13 bands for a classifier of RGB as EuroSAT's pictures show them.

    Raises:
        InputError: It cannot be read, or has other bands.
    """
    return _rendered(str(path), images.read(path), classifier)


def _rendered(name: str, pixels: np.ndarray, classifier: SavedClassifier) -> np.ndarray:
    pixels = rendering.taken(name, pixels, classifier)
    numbers = pixels.dtype == "uint16" and classifier.bands == 3
    return rendering.stored(rendering.rendered(pixels)) if numbers else pixels


def predict(classifier: SavedClassifier, images: Sequence[np.ndarray | str | pathlib.Path]) -> np.ndarray:
    """Probabilities of the classes of patches, (n, classes) float32.

    Args:
        classifier: What to label them with.
        images: Files, or arrays as `rendering.taken` takes them, of any sizes.

    Raises:
        InputError: One of them cannot be read, or has other bands.
    """
    if isinstance(images, str | pathlib.Path):
        images = [images]
    return classifier.predict(
        [
            read(image, classifier)
            if isinstance(image, str | pathlib.Path)
            else _rendered(f"image {index}", np.asarray(image), classifier)
            for index, image in enumerate(images)
        ]
    )


def label(
    classifier: SavedClassifier,
    paths: Sequence[pathlib.Path],
    top: int = 3,
    format: str = "table",
    picture: str | pathlib.Path | None = None,
    explain: Callable[[list[tuple[str, np.ndarray]]], None] | None = None,
) -> list[str]:
    """Prints the most probable classes of image files; what is wrong with those that could not be read.

    Args:
        classifier: What to label them with.
        paths: The files.
        top: Number of classes to print for each.
        format: One of `FORMATS`: a line each, a list of objects, or comma-separated values.
        picture: Where to draw the first of them with their classes; green or red where their folder is named as a
            class.
        explain: What gets the names and pixels of the first of them.

    Raises:
        InputError: The picture cannot be written.
    """
    bad: list[str] = []
    listed: list[dict] = []
    drawn: list[tuple] = []
    writer = csv.writer(sys.stdout, lineterminator="\n")
    top = min(top, len(classifier.classes))
    if format == "csv":
        writer.writerow(
            ["path", *(f"{what}_{place}" for place in range(1, top + 1) for what in ("class", "probability"))]
        )
    for start in range(0, len(paths), TOGETHER):
        good, pixels = [], []
        for path in paths[start : start + TOGETHER]:
            try:
                pixels.append(read(path, classifier))
                good.append(path)
            except InputError as error:
                bad.append(str(error))
        try:
            answers = classifier.predict(pixels)
        except InputError as error:  # such as a server that is gone: labels of the files before stay
            bad.append(str(error))
            break
        for path, image, probabilities in zip(good, pixels, answers):
            best = np.argsort(-probabilities, kind="stable")[:top].tolist()
            found = {classifier.classes[index]: float(probabilities[index]) for index in best}
            if format == "table":
                print(f"{path}:", ", ".join(f"{name} {100 * value:.2f} %" for name, value in found.items()), flush=True)
            elif format == "csv":
                writer.writerow([path, *(text for name, value in found.items() for text in (name, f"{value:.6f}"))])
            listed.append({"path": str(path), "probabilities": found})
            if len(drawn) < DRAWN:
                drawn.append((image, path, next(iter(found.items()))))
    if format == "json":
        print(json.dumps(listed, indent=1))
    if picture and drawn:
        draw(pathlib.Path(picture), drawn, classifier.classes)
    if explain and drawn:
        explain([(path.name, image) for image, path, _ in drawn])
    without = len(paths) - len(listed)
    return [f"{without} of {len(paths)} images have no label: {'; '.join(bad)}"] if bad else []


def draw(path: pathlib.Path, labelled: list[tuple], classes: tuple[str, ...]) -> None:
    """Draws patches (pixels, path, (class, probability)) in a grid.

    Raises:
        InputError: The picture cannot be written.
    """
    figure, places = figures.grid(len(labelled), COLUMNS, 2.2, 2.4, title=0.3)
    for axes, (pixels, file, (name, probability)) in zip(places, labelled):
        axes.imshow(pixels if pixels.shape[-1] == 3 else rendering.true_colour(pixels))
        true = file.absolute().parent.name
        colour = "black" if true not in classes else "green" if true == name else "firebrick"
        axes.set_title(f"{figures.plain(name)} {100 * probability:.0f} %", fontsize=8, color=colour)
    figures.save(figure, path, margins=None)
