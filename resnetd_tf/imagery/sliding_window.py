"""From a scene to the probabilities of its cells, by overlapping windows of the size of a patch."""

import contextlib
import hashlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import keras
import numpy as np
from rasterio.windows import Window

from resnetd_tf import rundir, sentinel2
from resnetd_tf.imagery.grid import Grid
from resnetd_tf.imagery.scene import Scene, area_coverage
from resnetd_tf.saved import SavedClassifier

STRIP_ROWS = 128  # rows that are read at once; `rasters.row_of_blocks` has GDAL keep those of one block
MIN_VALID_SHARE = 0.5  # share of a window's pixels that must be data
MAX_WINDOWS_PER_SIDE = 4  # windows of a row or column, of those over a cell, that are looked at to explain it


class PixelSource(Protocol):
    """What windows are taken from: a `pixels.Scene`, or an array."""

    @property
    def grid(self) -> Grid: ...

    @property
    def picture(self) -> bool: ...

    @property
    def margins(self) -> tuple[int, int, int, int]: ...

    @property
    def outlines(self) -> tuple[dict, ...]: ...

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]: ...


def map_shape(scene: PixelSource, stride: int) -> tuple[int, int]:
    """Rows and columns of a map with cells of stride x stride pixels."""
    return -(-scene.grid.height // stride), -(-scene.grid.width // stride)


def read_region(scene: PixelSource, window: int, stride: int) -> Window:
    """The pixels that the windows over a scene's cells read, those of its files around a part of them too.

    It begins whole cells before the part, so that windows lie where they lie over all of the files, if the part begins
    with one of their cells.
    """
    reach, (above, below, left, right) = window - stride, scene.margins
    rows, columns = map_shape(scene, stride)
    top, first = (min(reach, margin // stride * stride) for margin in (above, left))
    bottom = min(scene.grid.height + below, rows * stride + reach)
    last = min(scene.grid.width + right, columns * stride + reach)
    return Window(-first, -top, first + last, top + bottom)


def classify_rows(
    predict: Callable[[np.ndarray], np.ndarray],
    classes: int,
    scene: PixelSource,
    window: int,
    stride: int,
    first: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the rows of a map, from the top.

    Every window of window x window pixels at multiples of the stride is classified, and its probabilities are averaged
    in the cells it covers, with weights that fall to its edge and are higher for windows that are sure. Windows over a
    part of a scene reach into what lies around it. A scene that ends within a cell is mirrored there. Windows in which
    too much is missing do not count, in others the mean stands for what is missing.

    Args:
        predict: From windows (n, window, window, bands) to probabilities (n, classes).
        classes: Number of classes.
        scene: The scene.
        window: Side of a window in pixels, a multiple of the stride.
        stride: Side of a cell.
        first: The row to begin with.

    Yields:
        (columns, classes) float32, and (columns,) float32, how many pixels of each cell are data and lie in the scene's
        outlines; 0 where nothing is known of a cell.
    """
    count, read = window // stride, read_region(scene, window, stride)
    above, before = -read.row_off // stride, -read.col_off // stride
    first, (rows, columns) = first + above, map_shape(scene, stride)
    rows, of_part = rows + above, slice(before, before + columns)
    across, down = (max(1, -(-side // stride) - count + 1) for side in (read.width, read.height))
    profile = np.sin(np.pi * (np.arange(count) + 0.5) / count) ** 2
    weights = np.outer(profile, profile).astype("float32")
    strips = _StripReader(scene, read, window, stride)
    begin = max(0, min(first - count + 1, down - 1))
    sums = np.zeros((count, across + count - 1, classes), "float32")
    filled = np.zeros(sums.shape[:2], "float32")
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(2) as renderer:
        prepare = partial(_prepare_windows, strips, scene, window, stride, renderer)
        coming = reader.submit(prepare, begin)
        for row in range(begin, down):
            images, shares, pixels_of_cells = coming.result()
            if row + 1 < down:
                coming = reader.submit(prepare, row + 1)
            used = np.flatnonzero(shares >= MIN_VALID_SHARE)
            if used.size:
                found, trust = np.zeros((across, classes), "float32"), np.zeros(across, "float32")
                found[used] = predict(images[used])
                trust[used] = shares[used] * window_confidence(found[used])
                each = found * trust[:, np.newaxis]
                for y, x in np.ndindex(count, count):
                    sums[y, x : x + across] += weights[y, x] * each
                    filled[y, x : x + across] += weights[y, x] * trust
            last = row + 1 == down
            for y in range(count if last else 1):
                if first <= row + y < rows:
                    weight = np.where(filled[y] > 0, filled[y], 1)[:, np.newaxis]
                    known = np.where(filled[y] > 0, pixels_of_cells[y], 0)
                    yield (sums[y] / weight)[of_part], known[of_part]
            sums[:-1], filled[:-1], sums[-1], filled[-1] = sums[1:], filled[1:], 0, 0


def window_confidence(probabilities: np.ndarray) -> np.ndarray:
    """How much windows count, (n,), by their probabilities (n, classes).

    One where two kinds of land meet is less sure than one that has a single kind. Cube roots, because of a hundredth
    and a thousandth that are left for other classes the latter says far more. Chosen on mosaics of validation patches.
    """
    roots = np.cbrt(probabilities)
    return (roots.max(1) / roots.sum(1)) ** 4


class _StripReader:
    """Pixels of a region of a scene by rows, of which some are kept; beyond the region they are mirrored."""

    def __init__(self, scene: PixelSource, region: Window, window: int, stride: int):
        self.scene, self.region = scene, region
        self.width = max(window, -(-region.width // stride) * stride)
        self.top = 0
        self.kept: tuple[np.ndarray, np.ndarray] | None = None

    def read(self, top: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (count, width, bands) from a row of the region on, and where they are data.

        Rows are asked for from the top. Data that are mirrored count too.
        """
        region = self.region
        end = min(top + count, region.height)
        above = max(0, top - count)  # from where rows may be mirrored
        while self.kept is None or self.top + len(self.kept[1]) < end:
            start = self.top + len(self.kept[1]) if self.kept else above // STRIP_ROWS * STRIP_ROWS
            height = min(STRIP_ROWS, region.height - start)
            new = self.scene.read(Window(region.col_off, region.row_off + start, region.width, height))
            if self.kept is None:
                self.top, self.kept = start, new
            else:
                past = max(0, above - self.top)
                pixels, valid = (np.concatenate((old[past:], rows)) for old, rows in zip(self.kept, new))
                self.top, self.kept = self.top + past, (pixels, valid)
        beyond = ((0, top + count - end), (0, self.width - region.width))
        first = above if beyond[0][1] else top
        pixels, valid = (part[first - self.top : end - self.top] for part in self.kept)
        if any(after for _, after in beyond):
            pixels = np.pad(pixels, (*beyond, (0, 0)), mode="symmetric")
            valid = np.pad(valid, beyond, mode="symmetric")
        return pixels[top - first :], valid[top - first :]


def _prepare_windows(
    strips: _StripReader, scene: PixelSource, window: int, stride: int, renderer: ThreadPoolExecutor, row: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A row of windows as the classifier takes them, the share of each that is data, and the pixels of each cell."""
    pixels, valid = strips.read(row * stride, window)
    across = (strips.width - window) // stride + 1
    starts = np.arange(across) * stride
    images = np.stack([pixels[:, start : start + window] for start in starts])
    valid_masks = np.stack([valid[:, start : start + window] for start in starts])
    shares = valid_masks.mean((1, 2))
    for index in np.flatnonzero((shares < 1) & (shares >= MIN_VALID_SHARE)):
        images[index][~valid_masks[index]] = np.rint(images[index][valid_masks[index]].mean(0))
    if not scene.picture and images.shape[-1] == 3:
        images = np.stack(list(renderer.map(sentinel2.compress_as_eurosat, sentinel2.render_colours(images))))
    return images, shares, _count_valid_pixels(strips, scene, stride, row, valid)


def _count_valid_pixels(
    strips: _StripReader, scene: PixelSource, stride: int, row: int, valid: np.ndarray
) -> np.ndarray:
    """How many pixels of each cell are data in the scene and its outlines, (rows, columns) of the windows of a row."""
    region, counted = strips.region, valid.astype("float32")
    height, width = min(len(valid), region.height - row * stride), region.width
    counted[height:] = counted[:, width:] = 0  # what is mirrored
    if scene.outlines:
        above, _, left, _ = scene.margins
        area = Window(region.col_off + left, region.row_off + row * stride + above, width, height)
        counted[:height, :width] *= area_coverage(scene.outlines, area)
    return counted.reshape(len(valid) // stride, stride, -1, stride).sum((1, 3))


def windows_over_cell(scene: PixelSource, cell: tuple[int, int], window: int, stride: int) -> np.ndarray:
    """Windows that a cell of a map has its probabilities from, (n, window, window, bands) as the classifier takes them.

    Of many, as a short stride has, every so many; none in which too much is missing.

    Args:
        scene: The scene.
        cell: Row and column of the map.
        window, stride: As for `probabilities`.
    """
    count, images_over, read = window // stride, [], read_region(scene, window, stride)
    sides = ((cell[0] - read.row_off // stride, read.height), (cell[1] - read.col_off // stride, read.width))
    places = (
        range(max(0, index - count + 1), min(index, max(0, -(-side // stride) - count)) + 1) for index, side in sides
    )
    rows, columns = (list(some[:: max(1, len(some) // MAX_WINDOWS_PER_SIDE)]) for some in places)
    strips = _StripReader(scene, read, window, stride)
    with ThreadPoolExecutor(2) as renderer:
        for row in rows:
            images, shares, _ = _prepare_windows(strips, scene, window, stride, renderer, row)
            images_over.append(images[columns][shares[columns] >= MIN_VALID_SHARE])
    return np.concatenate(images_over)


# How far a map has come, kept on disk: where it is interrupted, the same call goes on.


SAVE_INTERVAL_SECONDS = 10  # from one note of how far a map has come to the next


def classify_scene(
    classifier: SavedClassifier, scene: Scene, window: int, stride: int, folder: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (rows, columns, classes) and pixels of each cell, in a folder that may have some already.

    Both are float32, as `windows.probabilities` yields them.
    """
    shape = map_shape(scene, stride)
    state = folder / "state.json"
    rings = [ring for outline in scene.outlines for ring in outline["coordinates"]]
    doing = {
        # One on a server can be replaced meanwhile: nothing is gone on with.
        "model": [
            str(classifier.path),
            time.time() if classifier.is_served else _modification_time(classifier.path),
        ],
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
    if done and not all(_holds_array(folder / name, *kind) for name, kind in arrays.items()):
        done = 0
    if not done:
        state.unlink(missing_ok=True)
    probabilities, pixels = (_open_array(folder / name, *kind, bool(done)) for name, kind in arrays.items())
    if done:
        print(f"Going on after row {done} of {shape[0]}, of which {folder} has the rest", flush=True)
    bar = keras.utils.Progbar(shape[0] - done, unit_name="row") if sys.stdout.isatty() and done < shape[0] else None
    told = time.monotonic()
    rows = classify_rows(classifier.predict, len(classifier.classes), scene, window, stride, done)
    for row, (values, valid_pixels) in enumerate(rows, done):
        probabilities[row], pixels[row] = values, valid_pixels
        if bar:
            bar.add(1)
        if time.monotonic() - told > SAVE_INTERVAL_SECONDS:
            told = time.monotonic()
            probabilities.flush()
            pixels.flush()
            rundir.write_json(state, {**doing, "rows": row + 1})
    probabilities.flush()
    pixels.flush()
    rundir.write_json(state, {**doing, "rows": shape[0]})
    return probabilities, pixels


def _modification_time(path: pathlib.Path) -> float:
    """The time at which a model was last changed, a folder's files too."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def _holds_array(path: pathlib.Path, dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a file has an array of this type and shape."""
    with contextlib.suppress(Exception):
        array = np.load(path, mmap_mode="r")  # which looks at the file's size
        return array.dtype == dtype and array.shape == shape
    return False


def _open_array(path: pathlib.Path, dtype: str, shape: tuple[int, ...], is_there: bool) -> np.memmap:
    """An array in a file, which is made unless it is there already."""
    array = np.lib.format.open_memmap(path, "r+" if is_there else "w+", dtype, shape)
    if not is_there and hasattr(os, "posix_fallocate"):  # a disk that is full is an error here, later it is a crash
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
