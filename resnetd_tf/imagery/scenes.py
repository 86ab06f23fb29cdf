"""Land-cover maps of whole scenes."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import filelock
import numpy as np
import rasterio.errors
from rasterio.windows import Window

from resnetd_tf.data import images
from resnetd_tf.data.rasters import Reading
from resnetd_tf.errors import InputError, first_line
from resnetd_tf.imagery import areas, clouds, maps, progress
from resnetd_tf.imagery.pixels import Scene
from resnetd_tf.imagery.products import Source, one_source, open_source
from resnetd_tf.quiet import quiet
from resnetd_tf.saved import SavedClassifier
from resnetd_tf.sentinel2 import BANDS, RENDERED_DN, RENDERED_LEVELS, RGB_BANDS


@dataclass(frozen=True)
class Options:
    """How a scene is mapped.

    Attributes:
        window: Side in pixels of the windows that are classified.
        stride: Side of the map's cells, of which the window's is a multiple.
        min_probability: Cells whose best class is less probable stay empty.
        whole: Whether the map has the scene's pixels, rather than cells.
        probabilities: Whether the probabilities of all classes are written too.
        overwrite: Whether maps of the same name are replaced.
    """

    window: int = 64
    stride: int = 32
    min_probability: float = 0.0
    whole: bool = False
    probabilities: bool = False
    overwrite: bool = False

    @classmethod
    def of(cls, classifier: SavedClassifier, window: int | None, stride: int | None, **others) -> "Options":
        """Those given; else windows of the size of the training's patches, and half a window as the stride."""
        window = classifier.patch_side if window is None else window
        half = window if window % 2 else window // 2
        return cls(window=window, stride=half if stride is None else stride, **others)

    def __post_init__(self) -> None:
        if self.stride < 1 or self.window < 1 or self.window % self.stride:
            raise InputError(f"--window={self.window} must be a multiple of --stride={self.stride}")
        if not 0 <= self.min_probability <= 1:
            raise InputError(f"--min_probability={self.min_probability}: must be from 0 to 1")


def fill_of(classifier: SavedClassifier, missing: str) -> tuple[float, ...] | None:
    """Digital numbers that stand for missing bands, the means of the training; `None` where scenes are refused.

    Raises:
        InputError: `missing` is neither "refuse" nor "mean", or the classifier does not say its means.
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
    return tuple((mean - 1) * RENDERED_DN / RENDERED_LEVELS for mean in means)  # from grey levels


def scene_for(
    classifier: SavedClassifier,
    paths: Sequence[str | pathlib.Path],
    missing: str = "refuse",
    area: str | None = None,
    *,
    bands: Sequence[str] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    keep_clouds: bool = False,
) -> Scene:
    """A scene with the bands that a classifier takes.

    Args:
        classifier: Of RGB, or of EuroSAT's 13 bands.
        paths: As for `products.open_scene`.
        missing: "refuse" scenes that lack a band, or fill in the training's "mean".
        area: The part that is wanted, as for `areas.cut`.
        bands, scale, offset, keep_clouds: As for `products.open_scene`.

    Raises:
        InputError: It cannot be opened, or not for this classifier.
    """
    reading = Reading(tuple(bands) if bands else None, scale, offset, fill_of(classifier, missing))
    return open_for(classifier, one_source(paths), reading, area, keep_clouds)


def open_for(
    classifier: SavedClassifier, source: Source, reading: Reading, area: str | None, keep_clouds: bool
) -> Scene:
    """Opens a scene that was found, as `scene_for` does."""
    if classifier.bands not in (3, len(BANDS)):
        raise InputError(f"{classifier.path} takes {classifier.bands} bands, neither RGB nor EuroSAT's 13")
    scene = open_source(source, RGB_BANDS if classifier.bands == 3 else BANDS, reading, keep_clouds)
    scene = scene if area is None else areas.cut(scene, area)
    pixels = Window(scene.left, scene.top, scene.grid.width, scene.grid.height)
    summary = clouds.summary(scene.clouds, pixels, keep_clouds)
    return dataclasses.replace(scene, words=f"{scene.words}; {summary}")


def write_map(
    classifier: SavedClassifier, scene: Scene, output: str | pathlib.Path, options: Options = Options()
) -> dict:
    """Maps a scene, and writes OUTPUT_landcover.tif, .png, OUTPUT_areas.csv and, if asked for, OUTPUT_probability.tif.

    All of them are written, or none. Rows that are done are kept in OUTPUT.unfinished meanwhile: the same call goes on
    with them where it was interrupted.

    Args:
        classifier: Of the scene's bands.
        scene: As `scene_for` opens it.
        output: What the files' names begin with.
        options: How.

    Returns:
        Cells, seconds, the share of each class in the area that is mapped, and row and column of the cell where it is
        most probable.

    Raises:
        InputError: A file is there already, or cannot be written or read; or the classifier has too many classes.
    """
    maps.check_classes(classifier.classes)
    base = pathlib.Path(output)
    if not base.name:
        raise InputError(f"--output={output}: give what the names of files begin with, as maps/june")
    targets = targets_of(base, options.probabilities)
    started = time.monotonic()
    folder = base.with_name(f"{base.name}.unfinished")
    with _writing(base):
        _check_targets(targets, options.overwrite)
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "lock").exists():
            raise InputError(f"{folder} is there already, and no map's; give another --output")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = filelock.FileLock(folder / "lock", timeout=0).acquire()
        except filelock.Timeout:
            raise InputError(f"{folder} is in use by another process; give another --output") from None
        with lock, _removed_without_progress(folder):
            probabilities, pixels = progress.classified(classifier, scene, options.window, options.stride, folder)
            with quiet(), _writing(base):  # libtiff prints what it also raises
                mapped, counts, sizes = _write(folder, scene, probabilities, pixels, options, classifier.classes)
            strongest = _strongest(probabilities, mapped)
            _check_targets(targets, options.overwrite)  # it may have taken hours
            obsolete = set(targets_of(base, probabilities=True).values()).difference(targets.values())
            _publish(folder, targets, obsolete if options.overwrite else ())
            shutil.rmtree(folder, ignore_errors=True)  # Windows keeps the lock's file
    print(f"Written: {', '.join(str(path) for path in targets.values())}")
    print(maps.areas_as_text(sizes, classifier.classes, scene.grid.crs is not None), flush=True)
    shares = sizes / sizes.sum()
    return {
        "cells": int(counts.sum()),
        "seconds": time.monotonic() - started,
        "shares": dict(zip(classifier.classes, shares.tolist())),
        "strongest": {classifier.classes[index]: cell for index, cell in sorted(strongest.items())},
    }


def _strongest(found: np.ndarray, mapped: np.ndarray) -> dict[int, tuple[int, int]]:
    """For each class of a map the cell in which it is most probable."""
    highest: dict[int, tuple[float, tuple[int, int]]] = {}
    for row, (values, classes) in enumerate(zip(found, mapped)):
        for index in np.unique(classes[classes != maps.NODATA]).tolist():
            of_class = np.where(classes == index, values[:, index], -1)
            column = int(of_class.argmax())
            if of_class[column] > highest.get(index, (-1,))[0]:
                highest[index] = float(of_class[column]), (row, column)
    return {index: cell for index, (_, cell) in highest.items()}


def targets_of(base: pathlib.Path, probabilities: bool) -> dict[str, pathlib.Path]:
    """The files that a map is written to."""
    names = ["landcover.tif", "landcover.tif.aux.xml", "landcover.png", "areas.csv"]
    names += ["probability.tif"] if probabilities else []
    return {name: base.with_name(f"{base.name}_{name}") for name in names}


def _check_targets(targets: dict[str, pathlib.Path], overwrite: bool) -> None:
    for path in targets.values():
        if path.is_dir() or (path.exists() and not overwrite):
            raise InputError(f"{path} exists; give another --output, or --overwrite")


@contextlib.contextmanager
def _removed_without_progress(folder: pathlib.Path) -> Iterator[None]:
    """Removes the folder of an unfinished map that fails before any rows are kept in it."""
    try:
        yield
    except BaseException:
        if not (folder / "state.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _publish(folder: pathlib.Path, targets: dict[str, pathlib.Path], obsolete: Collection[pathlib.Path]) -> None:
    """Gives all files of a map their names, or none: after a failure every earlier file has its name again.

    Args:
        folder: The folder in which the files lie, on the file system of the targets.
        targets: Where each file goes, by its name in the folder.
        obsolete: Files of an earlier map that have no successor.

    Raises:
        OSError: A file cannot be stored or renamed.
    """
    for name in targets:
        with (folder / name).open("r+b") as file:
            os.fsync(file.fileno())  # a full network drive may say so only here
    with contextlib.ExitStack() as undo:
        for path in (*targets.values(), *obsolete):
            if path.exists():
                earlier = folder / f"earlier-{path.name}"
                path.replace(earlier)
                undo.callback(earlier.replace, path)
        for name, path in targets.items():
            (folder / name).replace(path)
            undo.callback(path.unlink, missing_ok=True)
        undo.pop_all()


@contextlib.contextmanager
def _writing(base: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (OSError, rasterio.errors.RasterioError) as error:
        what = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"cannot write {base}_*: {what}; free space or give another --output") from error


def _write(
    folder: pathlib.Path,
    scene: Scene,
    found: np.ndarray,
    pixels: np.ndarray,
    options: Options,
    classes: tuple[str, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Writes all files of a map into a folder.

    Args:
        folder: Where they go.
        scene: What was mapped.
        found: (rows, columns, classes) float32, probabilities.
        pixels: (rows, columns) float32, pixels of each cell that are data and wanted.
        options: Stride and output settings.
        classes: Class names.

    Returns:
        The classes (rows, columns) of the cells, and (classes,) the cells of each class and their area, as
        `maps.areas_of_classes` measures it.
    """
    known = pixels > 0
    mapped = np.stack([maps.best(values, valid, options.min_probability) for values, valid in zip(found, known)])
    stride = options.stride
    if (mapped == maps.NODATA).all():
        shutil.rmtree(folder)
        raise InputError(f"{scene.name}: nothing to map: everywhere no data, clouds, or less than --min_probability")
    maps.write_classes(folder / "landcover.tif", scene, mapped, stride, classes, options.whole)
    maps.draw(folder / "landcover.png", scene, mapped, stride, classes)
    images.verify(str(folder / "landcover.png"))
    counts = np.bincount(mapped[mapped != maps.NODATA], minlength=len(classes))
    sizes = maps.areas_of_classes(scene.grid, mapped, pixels, stride, len(classes))
    table = maps.table_of_areas(counts, sizes, classes, scene.grid.crs is not None)
    (folder / "areas.csv").write_text(table, encoding="utf-8")
    if options.probabilities:
        maps.write_probabilities(folder / "probability.tif", scene, found, known, stride, classes)
    return mapped, counts, sizes
