"""Labels of patches: images that show one class of land cover, in files or arrays.

`predict` returns probabilities, `label_patches` prints labels as `predict.py` does. Both read patches as the functions
below them say, which `landcover` uses for arrays too.
"""

import csv
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from resnetd_tf import figures, metadata, sentinel2
from resnetd_tf.data import digital_numbers, images
from resnetd_tf.data.images import Patch, PatchChecks
from resnetd_tf.data.rasters import AS_STORED, RasterOptions
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import gradcam
from resnetd_tf.imagery.products import classify_source, find_sources
from resnetd_tf.saved import SavedClassifier
from resnetd_tf.sentinel2 import BANDS, BRIGHTEST_DN, RENDERED_LEVELS, RGB_BANDS

UNCHECKED_ADVICE = "checked=False takes an array as it is, raster_options= says what numbers of files mean"
FORMATS = ("table", "json", "csv")
FILES_AT_ONCE = 512  # files that are read before they are classified
UNLIKE_MARK = "; unlike the training images"
MAX_DRAWN = 60  # patches in a picture
MAX_LISTED_ERRORS = 5  # errors of files in the message at the end
PICTURE_COLUMNS = 6  # patches in a row of a picture


def predict(
    classifier: SavedClassifier,
    images: Sequence[np.ndarray | str | pathlib.Path],
    raster_options: RasterOptions = AS_STORED,
    checked: bool = True,
) -> np.ndarray:
    """Returns the probabilities of the classes of patches.

    Args:
        classifier: The classifier.
        images: Files, or arrays as `select_bands` takes them, of any sizes.
        raster_options: Names of the bands, scale and offset, for files that do not say them.
        checked: Whether images are refused if their numbers can hardly be digital numbers.

    Returns:
        (n, classes) float32, from 0 to 1.

    Raises:
        InputError: An image cannot be read, or has other bands.
    """
    if isinstance(images, str | pathlib.Path):
        images = [images]
    pixel_arrays: list[np.ndarray] = []
    checks = PatchChecks()
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
            checks.add(name, patch)
    for reason in checks.refusals():
        raise InputError(f"{reason}; {UNCHECKED_ADVICE}")
    return classifier.predict(pixel_arrays)


# Files are labelled as `predict.py` does it.


@dataclass(frozen=True)
class _LabelledPatch:
    """A patch and its most probable classes.

    Attributes:
        path: The file.
        pixels: (height, width, bands), as the classifier takes them.
        probabilities: Probabilities of the most probable classes, from 0 to 1, by class name; the highest first.
        dissimilarity: How unlike the training images it is, above 1 for unlike; `None` if the model does not know it.
    """

    path: pathlib.Path
    pixels: np.ndarray
    probabilities: dict[str, float]
    dissimilarity: float | None

    @property
    def is_unlike(self) -> bool:
        """Whether it is unlike the training images."""
        return self.dissimilarity is not None and self.dissimilarity > 1


def label_patches(
    classifier: SavedClassifier,
    paths: Sequence[str | pathlib.Path],
    *,
    top: int = 3,
    format: str = "table",
    picture: str | None = None,
    explain: str | None = None,
    trust: bool = False,
    raster_options: RasterOptions = AS_STORED,
    missing: str = "refuse",
    overwrite: bool = False,
) -> None:
    """Prints the most probable classes of image files.

    A file without a label does not stop the others. The error at the end names the first of them, and the first scene.
    A patch that is unlike the training images is marked, if the classifier knows where it applies.

    Args:
        classifier: The classifier.
        paths: Image files, or folders of them.
        top: Number of classes to print for each image.
        format: One of `FORMATS`: a line for each image, a list of objects, or comma-separated values.
        picture: Where to draw the first images with their labels, green or red where their folder is named as a class.
        explain: Where to draw the first images beside their Grad-CAM.
        trust: Whether a model for `explain` may hold what no classifier of this package does.
        raster_options: Names of the bands, scale and offset, for files that do not say them.
        missing: "refuse" refuses an image that lacks a band, "mean" fills the band with the training's mean.
        overwrite: Whether pictures of the same name are replaced.

    Raises:
        InputError: An image has no label, a path leads to a scene, or a picture cannot be written.
    """
    for path in filter(None, (picture, explain)):
        figures.check_picture_path(path, overwrite)
    if picture and explain and pathlib.Path(picture).absolute() == pathlib.Path(explain).absolute():
        raise InputError(f"--picture and --explain are both {picture}; give another name to one")
    fill = missing_band_values(classifier, missing)
    largest_patch = metadata.largest_patch(classifier.metadata)
    files: list[pathlib.Path] = []
    scene_names: list[str] = []
    for source in find_sources(paths):
        if classify_source(source, largest_patch) == "scene":
            scene_names.append(source.name)
        else:  # also what is no image: reading it says what is wrong
            files += source.files
    failures: list[str] = []
    if files:
        cam = gradcam.open_gradcam(classifier, trust) if explain else None
        raster_options = dataclasses.replace(raster_options, fill=fill)
        labelled_patches, failures = _label_files(classifier, files, top, format, raster_options)
        if picture and labelled_patches:
            draw_labels(pathlib.Path(picture), labelled_patches, classifier.classes)
        if cam and labelled_patches:
            examples = [(patch.path.name, patch.pixels) for patch in labelled_patches]
            gradcam.draw_gradcam(str(explain), cam, classifier.classes, examples)
    if scene_names:
        failures.append(_format_scene_refusal(scene_names, largest_patch))
    if failures:
        raise InputError("; ".join(failures))


def _format_scene_refusal(names: list[str], largest_patch: int) -> str:
    """Formats the line that says which program maps scenes."""
    suffix = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{suffix}: larger than a patch ({largest_patch} pixels a side); map.py maps scenes"


def _label_files(
    classifier: SavedClassifier, files: Sequence[pathlib.Path], top: int, format: str, raster_options: RasterOptions
) -> tuple[list[_LabelledPatch], list[str]]:
    """Prints the most probable classes of files, in the order of the files.

    Returns:
        The first `MAX_DRAWN` of them for pictures, and the error of those without a label, or no error.
    """
    labelled_patches: list[_LabelledPatch] = []
    errors: list[str] = []
    rows: list[dict] = []
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if format == "csv":
        places = range(1, min(top, len(classifier.classes)) + 1)
        columns = [f"{name}_{place}" for place in places for name in ("class", "probability")]
        writer.writerow(["path", *columns, "dissimilarity"])
    unlike_count = 0
    for patch in _classify_files(classifier, files, min(top, len(classifier.classes)), format, raster_options, errors):
        labels = patch.probabilities
        if format == "table":
            text = ", ".join(f"{name} {100 * value:.2f} %" for name, value in labels.items())
            print(f"{patch.path}: {text}{UNLIKE_MARK if patch.is_unlike else ''}", flush=True)
        elif format == "csv":
            values = [text for name, value in labels.items() for text in (name, f"{value:.6f}")]
            dissimilarity = "" if patch.dissimilarity is None else f"{patch.dissimilarity:.3f}"
            writer.writerow([patch.path, *values, dissimilarity])
        rows.append({"path": str(patch.path), "probabilities": labels, "dissimilarity": patch.dissimilarity})
        unlike_count += patch.is_unlike
        if len(labelled_patches) < MAX_DRAWN:
            labelled_patches.append(patch)
    if format == "json":
        print(json.dumps(rows, indent=1))
    if unlike_count:
        print(f"Patches: unlike the training images: {unlike_count} of {len(rows)}", file=sys.stderr, flush=True)
    if rows and not classifier.knows_dissimilarity:
        text = "the model has no applicability score: no patch is marked as unlike the training images"
        print(f"Patches: {text}", file=sys.stderr, flush=True)
    if not errors:
        return labelled_patches, []
    listed_errors = errors[:MAX_LISTED_ERRORS]
    if len(errors) > MAX_LISTED_ERRORS:
        listed_errors.append(f"and {len(errors) - MAX_LISTED_ERRORS} more")
    return labelled_patches, [
        f"{len(files) - len(rows)} of {len(files)} images have no label: {'; '.join(listed_errors)}"
    ]


def _classify_files(
    classifier: SavedClassifier,
    files: Sequence[pathlib.Path],
    top: int,
    format: str,
    raster_options: RasterOptions,
    errors: list[str],
) -> Iterator[_LabelledPatch]:
    """Yields files with their most probable classes; errors of the others are added to `errors`."""
    descriptions: set[str] = set()
    for start in range(0, len(files), FILES_AT_ONCE):
        patches, batch_errors = _read_patches(files[start : start + FILES_AT_ONCE], classifier, raster_options)
        errors += batch_errors
        for text in sorted({patch.description for patch in patches.values()} - descriptions - {""}):
            print(f"Patches: {text}", file=None if format == "table" else sys.stderr, flush=True)
            descriptions.add(text)
        pixels = [patch.pixels for patch in patches.values()]
        try:
            probability_rows, dissimilarities = classifier.classify(pixels)
        except InputError as error:  # such as a server that is gone: labels of earlier files stay
            errors.append(str(error))
            return
        for index, (path, image) in enumerate(zip(patches, pixels)):
            probabilities = probability_rows[index]
            best = np.argsort(-probabilities, kind="stable")[:top].tolist()
            labels = {classifier.classes[label]: float(probabilities[label]) for label in best}
            dissimilarity = None if dissimilarities is None else float(dissimilarities[index])
            yield _LabelledPatch(path, image, labels, dissimilarity)


def _read_patches(
    files: Sequence[pathlib.Path], classifier: SavedClassifier, raster_options: RasterOptions
) -> tuple[dict[pathlib.Path, Patch], list[str]]:
    """Reads image files that belong together.

    Returns:
        The patches by path, and an error for each file that is left out.
    """
    patches: dict[pathlib.Path, Patch] = {}
    errors: list[str] = []
    for path in files:
        try:
            patches[path] = read_patch_for(path, classifier, raster_options)
        except InputError as error:
            errors.append(str(error))
    checks = PatchChecks()
    for path, patch in patches.items():
        checks.add(path, patch)
    for reason, refused in checks.refusals().items():
        errors.append(reason)
        for path in refused:
            del patches[path]
    if note := checks.note():
        print(f"Patches: {note}", file=sys.stderr)
    return patches, errors


def draw_labels(path: pathlib.Path, labelled_patches: Sequence[_LabelledPatch], classes: Sequence[str]) -> None:
    """Draws patches in a grid, each below its most probable class.

    Args:
        path: The picture.
        labelled_patches: The patches.
        classes: Class names. The title is green where a patch lies in a folder of its class, and red in another one's.

    Raises:
        InputError: The picture cannot be written.
    """
    figure, axes_grid = figures.picture_grid(len(labelled_patches), PICTURE_COLUMNS, 2.2, 2.4, title=0.3)
    for axes, patch in zip(axes_grid, labelled_patches):
        pixels, (name, probability) = patch.pixels, next(iter(patch.probabilities.items()))
        axes.imshow(pixels if pixels.shape[-1] == 3 else sentinel2.render_true_colour(pixels))
        folder = patch.path.absolute().parent.name
        colour = "black" if folder not in classes else "green" if folder == name else "firebrick"
        title = f"{figures.escape_mathtext(name)} {100 * probability:.0f} %" + ("\nunlike training" * patch.is_unlike)
        axes.set_title(title, fontsize=8, color=colour)
    figures.save_figure(figure, path, margins=None)


# Files and arrays become the pixels that a classifier takes.


def read_patch_for(
    path: str | pathlib.Path, classifier: SavedClassifier, raster_options: RasterOptions = AS_STORED
) -> Patch:
    """Reads an image file as a classifier takes it; bands become EuroSAT's pictures for a classifier of RGB.

    Args:
        path: The file.
        classifier: The classifier.
        raster_options: Names of the bands, scale and offset, for files that do not say them.

    Raises:
        InputError: The file cannot be read, or has other bands.
    """
    band_names = {3: RGB_BANDS, len(BANDS): BANDS}.get(classifier.bands)
    patch = images.open_image(path, required_bands=band_names, raster_options=raster_options).read()
    classifier.check_bands(str(path), patch.pixels.shape[-1])
    return patch


def select_bands(name: str, pixels: np.ndarray, classifier: SavedClassifier) -> np.ndarray:
    """Returns the bands of an array that a classifier takes, before they are rendered.

    Args:
        name: The array's name in errors.
        pixels: (height, width, bands), grey levels of red, green and blue as uint8, or digital numbers, 10,000 times
            the reflectance, as uint16: of red, green and blue, or of EuroSAT's 13 bands.
        classifier: A classifier of RGB, for which three of 13 bands are selected, or of 13 bands.

    Raises:
        InputError: The array has another shape or type.
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


def patch_from_array(pixels: np.ndarray) -> Patch:
    """Returns an array as a patch with a sample of its numbers, so that `images.PatchChecks` can check them.

    Args:
        pixels: (height, width, 3 or 13) uint16, digital numbers.
    """
    names = RGB_BANDS if pixels.shape[-1] == 3 else BANDS
    pixels = np.asarray(pixels, pixels.dtype.newbyteorder("="))
    stored = pixels[(pixels != 0).any(axis=-1) & ~digital_numbers.impossible_mask(pixels)].astype("float64")
    if not stored.size:
        return Patch(pixels)
    sample = digital_numbers.Sample(names, stored, np.zeros(len(names)), np.ones(len(names)), pixels.dtype)
    order_fault = digital_numbers.find_order_fault(stored) if len(names) == len(BANDS) else None
    fault = digital_numbers.Fault(order_fault) if order_fault else digital_numbers.find_fault(sample)
    return Patch(pixels, f"arrays of {len(names)} bands", fault, sample)


def missing_band_values(classifier: SavedClassifier, missing: str) -> tuple[float, ...] | None:
    """Returns the digital numbers that fill missing bands: the means of the training, one for each band.

    Args:
        classifier: The classifier.
        missing: "refuse" or "mean".

    Returns:
        Digital numbers in the order of the bands; `None` where images that lack a band are refused.

    Raises:
        InputError: `missing` is something else, or the classifier's metadata lack the means of its training.
    """
    if missing not in ("refuse", "mean"):
        raise InputError(f"--missing={missing}: must be refuse or mean")
    if missing == "refuse":
        return None
    means = classifier.metadata.get("normalization", {}).get("mean")
    if means is None:
        raise InputError(f"{classifier.path} does not say the means of its training, for --missing=mean")
    if len(means) == len(BANDS):
        return tuple(means)
    return tuple((mean - 1) * BRIGHTEST_DN / RENDERED_LEVELS for mean in means)  # from grey levels
