"""Land-cover maps of whole scenes."""

import contextlib
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import filelock
import keras
import numpy as np
import rasterio.errors

from resnetd_tf import rundir
from resnetd_tf.errors import InputError, first_line
from resnetd_tf.imagery import areas, maps, windows
from resnetd_tf.imagery.pixels import Scene
from resnetd_tf.imagery.products import open_scene
from resnetd_tf.saved import SavedClassifier
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS

SAVED_SECONDS = 10  # from one note of how far a map has come to the next


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

    def __post_init__(self) -> None:
        if self.stride < 1 or self.window < 1 or self.window % self.stride:
            raise InputError(f"--window={self.window} must be a multiple of --stride={self.stride}")
        if not 0 <= self.min_probability <= 1:
            raise InputError(f"--min_probability={self.min_probability}: must be from 0 to 1")


def scene_for(
    classifier: SavedClassifier,
    paths: Sequence[str | pathlib.Path],
    missing: str = "refuse",
    area: str | None = None,
    **how,
) -> Scene:
    """A scene with the bands that a classifier takes.

    Args:
        classifier: Of RGB, or of EuroSAT's 13 bands.
        paths: As for `products.open_scene`.
        missing: "refuse" scenes that lack a band, or fill in the training's "mean".
        area: The part that is wanted, as for `areas.cut`.
        how: As for `products.open_scene`.

    Raises:
        InputError: It cannot be opened, or not for this classifier.
    """
    if classifier.bands not in (3, len(BANDS)):
        raise InputError(f"{classifier.path} takes {classifier.bands} bands, neither RGB nor EuroSAT's 13")
    fill = None
    if missing == "mean":
        fill = classifier.metadata.get("normalization", {}).get("mean")
        if fill is None:
            raise InputError(f"{classifier.path} does not say the means of its training, for --missing=mean")
    scene = open_scene(paths, RGB_BANDS if classifier.bands == 3 else BANDS, fill=fill, **how)
    return areas.cut(scene, area) if area else scene


def map_scene(
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
        Cells, seconds, and the share of each class.

    Raises:
        InputError: A file is there already, or cannot be written or read.
    """
    base = pathlib.Path(output)
    if not base.name:
        raise InputError(f"--output={output}: give what the names of files begin with, as maps/june")
    names = ["landcover.tif", "landcover.tif.aux.xml", "landcover.png", "areas.csv"]
    names += ["probability.tif"] if options.probabilities else []
    targets = {name: base.with_name(f"{base.name}_{name}") for name in names}
    started = time.monotonic()
    shape = windows.cells(scene, options.stride)
    folder = base.with_name(f"{base.name}.unfinished")
    with _writing(base):
        for path in targets.values():
            if path.is_dir() or (path.exists() and not options.overwrite):
                raise InputError(f"{path} exists; give another --output, or --overwrite")
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / "lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise InputError(f"{folder} is in use by another process; give another --output") from None
        with lock:
            found, there = _classified(classifier, scene, options, folder, shape)
            there = there & areas.inside(scene, shape, options.stride)
            counts = _write(folder, scene, found, there, options, classifier.classes, names)
            for name, path in targets.items():
                (folder / name).replace(path)
            if options.overwrite and not options.probabilities:
                base.with_name(f"{base.name}_probability.tif").unlink(missing_ok=True)  # of the map before
        shutil.rmtree(folder)
    print(f"Written: {', '.join(str(path) for path in targets.values())}")
    shares = counts / max(1, counts.sum())
    return {
        "cells": int(counts.sum()),
        "seconds": time.monotonic() - started,
        "shares": dict(zip(classifier.classes, shares.tolist())),
    }


@contextlib.contextmanager
def _writing(base: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (OSError, rasterio.errors.RasterioError) as error:
        what = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"cannot write {base}_*: {what}; free space or give another --output") from error


def _classified(
    classifier: SavedClassifier, scene: Scene, options: Options, folder: pathlib.Path, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (rows, columns, classes) and where there are any, in a folder that may have some already."""
    state = folder / "state.json"
    doing = {
        "model": [str(classifier.path), _changed(classifier.path)],
        "scene": scene.name,
        "words": scene.words,
        "files": [list(file) for file in scene.files],
        "layers": [layer and [layer.index, layer.offset, layer.gain] for layer in scene.layers],
        "grid": [*shape, scene.grid.width, scene.grid.height, *scene.grid.transform[:6]],
        "window": options.window,
        "stride": options.stride,
    }
    done = 0
    with contextlib.suppress(Exception):  # there is none, or what there is is damaged
        before = json.loads(state.read_text(encoding="utf-8"))
        done = before.pop("rows")
        if before != doing or not 0 < done <= shape[0]:
            done = 0
    of = {"probabilities.npy": ("float32", (*shape, len(classifier.classes))), "there.npy": ("bool", shape)}
    if done and not all(_is_whole(folder / name, *kind) for name, kind in of.items()):
        done = 0
    if not done:
        state.unlink(missing_ok=True)
    found, there = (_array(folder / name, *kind, bool(done)) for name, kind in of.items())
    if done:
        print(f"Going on after row {done} of {shape[0]}, of which {folder} has the rest", flush=True)
    bar = keras.utils.Progbar(shape[0] - done, unit_name="row") if sys.stdout.isatty() and done < shape[0] else None
    told = time.monotonic()
    rows = windows.probabilities(
        classifier.predict, len(classifier.classes), scene, options.window, options.stride, done
    )
    for row, (values, valid) in enumerate(rows, done):
        found[row], there[row] = values, valid
        if bar:
            bar.add(1)
        if time.monotonic() - told > SAVED_SECONDS:
            told = time.monotonic()
            found.flush()
            there.flush()
            rundir.write_json(state, {**doing, "rows": row + 1})
    found.flush()
    there.flush()
    rundir.write_json(state, {**doing, "rows": shape[0]})
    return found, there


def _changed(path: pathlib.Path) -> float:
    """The time at which a model was last changed, a folder's files too."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def _is_whole(path: pathlib.Path, dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a file has an array of this type and shape."""
    with contextlib.suppress(Exception):
        array = np.load(path, mmap_mode="r")  # which looks at the file's size
        return array.dtype == dtype and array.shape == shape
    return False


def _array(path: pathlib.Path, dtype: str, shape: tuple[int, ...], is_there: bool) -> np.memmap:
    """An array in a file, which is made unless it is there already."""
    array = np.lib.format.open_memmap(path, "r+" if is_there else "w+", dtype, shape)
    if not is_there and hasattr(os, "posix_fallocate"):  # a disk that is full is an error here, later it is a crash
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _write(
    folder: pathlib.Path,
    scene: Scene,
    found: np.ndarray,
    there: np.ndarray,
    options: Options,
    classes: tuple[str, ...],
    names: list[str],
) -> np.ndarray:
    """Writes all files of a map into a folder; the number of cells of each class."""
    mapped = np.stack([maps.best(values, valid, options.min_probability) for values, valid in zip(found, there)])
    stride = options.stride
    if (mapped == maps.NODATA).all():
        raise InputError(f"{scene.name}: nothing to map: everywhere no data, clouds, or less than --min_probability")
    maps.write_classes(folder / names[0], scene, mapped, stride, classes, options.whole)
    maps.draw(folder / "landcover.png", scene, mapped, stride, classes)
    counts = np.bincount(mapped[mapped != maps.NODATA], minlength=len(classes))
    hectares = scene.grid.hectares and scene.grid.hectares * stride**2
    (folder / "areas.csv").write_text(maps.table_of_areas(counts, classes, hectares), encoding="utf-8")
    if options.probabilities:
        maps.write_probabilities(folder / "probability.tif", scene, found, there, stride, classes)
    return counts
