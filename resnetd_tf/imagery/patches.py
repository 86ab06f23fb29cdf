"""Labels for new patches: images of the size of one land-cover class, in files of their own."""

import csv
import json
import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np

from resnetd_tf import figures, sentinel2
from resnetd_tf.data import digital_numbers, images
from resnetd_tf.data.images import Patch, PatchChecks
from resnetd_tf.data.rasters import AS_STORED, RasterOptions
from resnetd_tf.errors import InputError
from resnetd_tf.saved import SavedClassifier
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS

UNCHECKED_ADVICE = "checked=False takes an array as it is, raster_options= says what numbers of files mean"
FORMATS = ("table", "json", "csv")
FILES_AT_ONCE = 512  # files that are read before they are classified
MAX_DRAWN = 60  # patches in a picture
MAX_LISTED_ERRORS = 5  # images whose faults are told
PICTURE_COLUMNS = 6  # of it


def select_bands(name: str, pixels: np.ndarray, classifier: SavedClassifier) -> np.ndarray:
    """The bands of an array that a classifier takes, before they are rendered.

    Args:
        name: What it is called.
        pixels: (height, width, bands), grey levels of red, green and blue as uint8, or digital numbers, 10,000 times
            the reflectance, as uint16: of red, green and blue, or of EuroSAT's 13 bands.
        classifier: Of RGB, for which three of 13 bands are picked, or of 13 bands.

    Raises:
        InputError: It is something else.
    """
    pixels = np.asarray(pixels, pixels.dtype.newbyteorder("="))
    if pixels.ndim != 3 or not pixels.size:
        raise InputError(f"{name} has shape {pixels.shape}; give (height, width, bands)")
    if pixels.dtype != "uint16" and (pixels.dtype != "uint8" or pixels.shape[-1] != 3):
        raise InputError(
            f"{name} is {pixels.dtype} of {pixels.shape[-1]} bands; give grey levels of RGB as uint8, or digital "
            "numbers (10,000 times the reflectance) as uint16"
        )
    if classifier.bands == 3 and pixels.shape[-1] == len(BANDS):
        return pixels[..., [BANDS.index(band) for band in RGB_BANDS]]
    classifier.check_bands(name, pixels.shape[-1])
    return pixels


def read_patch_for(
    path: str | pathlib.Path, classifier: SavedClassifier, raster_options: RasterOptions = AS_STORED
) -> Patch:
    """An image file as a classifier takes it; one of bands for a classifier of RGB as EuroSAT's pictures show them.

    Raises:
        InputError: It cannot be read, or has other bands.
    """
    if classifier.bands not in (3, len(BANDS)):
        patch = images.read_patch(path, raster_options=raster_options)
        classifier.check_bands(str(path), patch.pixels.shape[-1])
        return patch
    wanted = RGB_BANDS if classifier.bands == 3 else BANDS
    images.read_header(path, required_bands=wanted, raster_options=raster_options)
    patch = images.read_patch(path, wanted, raster_options)
    classifier.check_bands(str(path), patch.pixels.shape[-1])
    return patch


def patch_from_array(pixels: np.ndarray) -> Patch:
    """An array (height, width, 3 or 13) uint16 of digital numbers as a patch, whose numbers are looked at."""
    names = RGB_BANDS if pixels.shape[-1] == 3 else BANDS
    pixels = np.asarray(pixels, pixels.dtype.newbyteorder("="))
    stored = pixels[(pixels != 0).any(axis=-1) & ~digital_numbers.impossible_mask(pixels)].astype("float64")
    if not stored.size:
        return Patch(pixels)
    sample = digital_numbers.Sample(names, stored, np.zeros(len(names)), np.ones(len(names)), pixels.dtype)
    order = digital_numbers.find_order_fault(stored) if len(names) == len(BANDS) else None
    fault = digital_numbers.Fault(order) if order else digital_numbers.find_fault(sample)
    return Patch(pixels, f"arrays of {len(names)} bands", fault, sample)


def predict(
    classifier: SavedClassifier,
    images: Sequence[np.ndarray | str | pathlib.Path],
    raster_options: RasterOptions = AS_STORED,
    checked: bool = True,
) -> np.ndarray:
    """Probabilities of the classes of patches, (n, classes) float32.

    Args:
        classifier: What to label them with.
        images: Files, or arrays as `check_array` takes them, of any sizes.
        raster_options: Names of bands, scale and offset of files that do not say them.
        checked: Whether images are refused if their numbers can hardly be digital numbers.

    Raises:
        InputError: One of them cannot be read, or has other bands.
    """
    if isinstance(images, str | pathlib.Path):
        images = [images]
    pixel_arrays: list[np.ndarray] = []
    doubts = PatchChecks()
    for index, image in enumerate(images):
        patch: Patch | None
        if isinstance(image, str | pathlib.Path):
            patch, name = read_patch_for(image, classifier, raster_options), pathlib.Path(image)
            pixels = patch.pixels
        else:
            name = pathlib.Path(f"image {index}")
            pixels = select_bands(str(name), np.asarray(image), classifier)
            patch = patch_from_array(np.asarray(image)) if pixels.dtype == "uint16" else None
            if pixels.dtype == "uint16" and classifier.bands == 3:
                pixels = sentinel2.compress_as_eurosat(sentinel2.render_colours(pixels))
        pixel_arrays.append(pixels)
        if patch and checked:
            doubts.add(name, patch)
    for reason in doubts.refusals():
        raise InputError(f"{reason}; {UNCHECKED_ADVICE}")
    return classifier.predict(pixel_arrays)


def label_patches(
    classifier: SavedClassifier,
    paths: Sequence[pathlib.Path],
    top: int = 3,
    format: str = "table",
    picture: str | pathlib.Path | None = None,
    explain: Callable[[list[tuple[str, np.ndarray]]], None] | None = None,
    raster_options: RasterOptions = AS_STORED,
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
        raster_options: What the user says of files that do not say it themselves.

    Raises:
        InputError: The picture cannot be written.
    """
    bad: list[str] = []
    listed: list[dict] = []
    drawn: list[tuple] = []
    described: set[str] = set()
    writer = csv.writer(sys.stdout, lineterminator="\n")
    top = min(top, len(classifier.classes))
    if format == "csv":
        writer.writerow(
            ["path", *(f"{what}_{place}" for place in range(1, top + 1) for what in ("class", "probability"))]
        )
    for start in range(0, len(paths), FILES_AT_ONCE):
        patches, errors = read_patches(paths[start : start + FILES_AT_ONCE], classifier, raster_options)
        bad += errors
        for text in sorted({patch.description for patch in patches.values()} - described - {""}):
            print(f"Patches: {text}", file=None if format == "table" else sys.stderr, flush=True)
            described.add(text)
        good, pixels = list(patches), [patch.pixels for patch in patches.values()]
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
            if len(drawn) < MAX_DRAWN:
                drawn.append((image, path, next(iter(found.items()))))
    if format == "json":
        print(json.dumps(listed, indent=1))
    if picture and drawn:
        draw_labels(pathlib.Path(picture), drawn, classifier.classes)
    if explain and drawn:
        explain([(path.name, image) for image, path, _ in drawn])
    without = len(paths) - len(listed)
    shown = bad[:MAX_LISTED_ERRORS] + [f"and {len(bad) - MAX_LISTED_ERRORS} more"] * (len(bad) > MAX_LISTED_ERRORS)
    return [f"{without} of {len(paths)} images have no label: {'; '.join(shown)}"] if bad else []


def read_patches(
    paths: Sequence[pathlib.Path], classifier: SavedClassifier, raster_options: RasterOptions
) -> tuple[dict[pathlib.Path, Patch], list[str]]:
    """Image files that belong together by path, and what is wrong with those that are left out."""
    patches: dict[pathlib.Path, Patch] = {}
    errors: list[str] = []
    for path in paths:
        try:
            patches[path] = read_patch_for(path, classifier, raster_options)
        except InputError as error:
            errors.append(str(error))
    doubts = PatchChecks()
    for path, patch in patches.items():
        doubts.add(path, patch)
    for reason, refused in doubts.refusals().items():
        errors.append(reason)
        for path in refused:
            del patches[path]
    if note := doubts.note():
        print(f"Patches: {note}", file=sys.stderr)
    return patches, errors


def draw_labels(path: pathlib.Path, labelled: list[tuple], classes: tuple[str, ...]) -> None:
    """Draws patches (pixels, path, (class, probability)) in a grid.

    Raises:
        InputError: The picture cannot be written.
    """
    figure, places = figures.picture_grid(len(labelled), PICTURE_COLUMNS, 2.2, 2.4, title=0.3)
    for axes, (pixels, file, (name, probability)) in zip(places, labelled):
        axes.imshow(pixels if pixels.shape[-1] == 3 else sentinel2.render_true_colour(pixels))
        true = file.absolute().parent.name
        colour = "black" if true not in classes else "green" if true == name else "firebrick"
        axes.set_title(f"{figures.escape_mathtext(name)} {100 * probability:.0f} %", fontsize=8, color=colour)
    figures.save_figure(figure, path, margins=None)
