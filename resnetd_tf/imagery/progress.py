"""How far a map has come, kept on disk: where it is interrupted, the same call goes on."""

import contextlib
import hashlib
import json
import os
import pathlib
import sys
import time

import keras
import numpy as np

from resnetd_tf import rundir
from resnetd_tf.imagery import windows
from resnetd_tf.imagery.pixels import Scene
from resnetd_tf.saved import SavedClassifier

SAVED_SECONDS = 10  # from one note of how far a map has come to the next


def classified(
    classifier: SavedClassifier, scene: Scene, window: int, stride: int, folder: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (rows, columns, classes) and pixels of each cell, in a folder that may have some already.

    Both are float32, as `windows.probabilities` yields them.
    """
    shape = windows.cells(scene, stride)
    state = folder / "state.json"
    rings = [ring for outline in scene.outlines for ring in outline["coordinates"]]
    doing = {
        # One on a server can be replaced meanwhile: nothing is gone on with.
        "model": [str(classifier.path), _changed(classifier.path) if classifier.told is None else time.time()],
        "scene": scene.name,
        "words": scene.words,
        "files": [list(file) for file in scene.files],
        "layers": [layer and [layer.index, layer.offset, layer.gain] for layer in scene.layers],
        "grid": [*shape, scene.grid.width, scene.grid.height, *scene.grid.transform[:6]],
        "outlines": hashlib.sha256(b"".join(ring.tobytes() for ring in rings)).hexdigest(),
        "window": window,
        "stride": stride,
    }
    done = 0
    with contextlib.suppress(Exception):  # there is none, or what there is is damaged
        before = json.loads(state.read_text(encoding="utf-8"))
        done = before.pop("rows")
        if before != doing or not 0 < done <= shape[0]:
            done = 0
    arrays = {"probabilities.npy": ("float32", (*shape, len(classifier.classes))), "pixels.npy": ("float32", shape)}
    if done and not all(_is_whole(folder / name, *kind) for name, kind in arrays.items()):
        done = 0
    if not done:
        state.unlink(missing_ok=True)
    probabilities, pixels = (_array(folder / name, *kind, bool(done)) for name, kind in arrays.items())
    if done:
        print(f"Going on after row {done} of {shape[0]}, of which {folder} has the rest", flush=True)
    bar = keras.utils.Progbar(shape[0] - done, unit_name="row") if sys.stdout.isatty() and done < shape[0] else None
    told = time.monotonic()
    rows = windows.probabilities(classifier.predict, len(classifier.classes), scene, window, stride, done)
    for row, (values, valid_pixels) in enumerate(rows, done):
        probabilities[row], pixels[row] = values, valid_pixels
        if bar:
            bar.add(1)
        if time.monotonic() - told > SAVED_SECONDS:
            told = time.monotonic()
            probabilities.flush()
            pixels.flush()
            rundir.write_json(state, {**doing, "rows": row + 1})
    probabilities.flush()
    pixels.flush()
    rundir.write_json(state, {**doing, "rows": shape[0]})
    return probabilities, pixels


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
