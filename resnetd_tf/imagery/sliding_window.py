"""From a scene to the probabilities of its cells, by overlapping windows of the size of a patch.

`classify_rows` yields the rows of a map. `classify_scene` keeps them in files, so that an interrupted map resumes.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import keras
import numpy as np
from rasterio.windows import Window

from resnetd_tf import rundir, sentinel2
from resnetd_tf.imagery.grid import Grid
from resnetd_tf.imagery.scene import Scene, area_coverage
from resnetd_tf.saved import SavedClassifier

STRIP_ROWS = 128  # rows that are read at once; GDAL caches the row of blocks that they lie in
MIN_VALID_SHARE = 0.5  # share of a window's pixels that must be data
MAX_WINDOWS_PER_SIDE = 4  # windows of a row or column over a cell that are considered to explain it
SAVE_INTERVAL_SECONDS = 10  # seconds from one record of the progress to the next
STATE_NAME = "state.json"  # the record of the progress


class PixelSource(Protocol):
    """A scene or an array from which windows are read."""

    @property
    def grid(self) -> Grid: ...

    @property
    def is_picture(self) -> bool: ...

    @property
    def margins(self) -> tuple[int, int, int, int]: ...

    @property
    def outlines(self) -> tuple[dict, ...]: ...

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]: ...


def map_shape(scene: PixelSource, stride: int) -> tuple[int, int]:
    """Returns rows and columns of a map with cells of stride x stride pixels."""
    return -(-scene.grid.height // stride), -(-scene.grid.width // stride)


def find_window_region(scene: PixelSource, window: int, stride: int) -> Window:
    """Returns the pixels that the windows over a scene's cells read, also around a scene that is a part of its files.

    The region begins whole cells before the part. So windows lie where they lie over all of the files, if the part
    begins with one of their cells.

    Args:
        scene: The scene.
        window: Side of a window in pixels.
        stride: Side of a cell in pixels.
    """
    reach, (above, below, left, right) = window - stride, scene.margins
    rows, columns = map_shape(scene, stride)
    rows_above, columns_before = (min(reach, margin // stride * stride) for margin in (above, left))
    bottom = min(scene.grid.height + below, rows * stride + reach)
    end = min(scene.grid.width + right, columns * stride + reach)
    return Window(-columns_before, -rows_above, columns_before + end, rows_above + bottom)


def classify_rows(
    predict: Callable[[np.ndarray], np.ndarray],
    class_count: int,
    scene: PixelSource,
    window: int,
    stride: int,
    first_row: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the rows of a map, from the top.

    Windows of window x window pixels lie at multiples of the stride. Each is classified, and each cell gets the mean of
    the probabilities of the windows over it. The weights fall to a window's edge and rise with its confidence. Windows
    over a part of a scene reach into the pixels around it. A scene that ends within a cell is mirrored there. Windows
    with too little data do not count; in others the mean of their data stands for the missing pixels.

    Args:
        predict: From windows (n, window, window, bands) to probabilities (n, classes).
        class_count: Number of classes.
        scene: The scene.
        window: Side of a window in pixels, a multiple of the stride.
        stride: Side of a cell in pixels.
        first_row: The row to begin with.

    Yields:
        probabilities: (columns, classes) float32, from 0 to 1.
        valid_pixels: (columns,) float32, how many pixels of each cell are data and lie in the scene's outlines; 0 where
            nothing is known of a cell.
    """
    cells = window // stride  # along a window's side
    profile = np.sin(np.pi * (np.arange(cells) + 0.5) / cells) ** 2
    weights = np.outer(profile, profile).astype("float32")
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(2) as renderer:
        windows = _WindowReader(scene, window, stride, renderer)
        region, window_rows, window_columns = windows.region, windows.rows, windows.columns
        # The map's rows and columns, counted in cells of the region.
        (map_rows, map_columns), first_column = map_shape(scene, stride), -region.col_off // stride
        first_row = first_row + -region.row_off // stride
        end_row = map_rows + -region.row_off // stride
        columns = slice(first_column, first_column + map_columns)
        # Sums over the rows of cells that the current row of windows covers.
        sums = np.zeros((cells, window_columns + cells - 1, class_count), "float32")
        weight_sums = np.zeros(sums.shape[:2], "float32")
        start = max(0, min(first_row - cells + 1, window_rows - 1))
        next_row = reader.submit(windows.read_row, start)
        for row in range(start, window_rows):
            images, valid_shares, valid_pixels = next_row.result()
            if row + 1 < window_rows:
                next_row = reader.submit(windows.read_row, row + 1)
            usable_columns = np.flatnonzero(valid_shares >= MIN_VALID_SHARE)
            if usable_columns.size:
                probabilities = np.zeros((window_columns, class_count), "float32")
                confidence = np.zeros(window_columns, "float32")
                probabilities[usable_columns] = predict(images[usable_columns])
                confidence[usable_columns] = valid_shares[usable_columns] * window_confidence(
                    probabilities[usable_columns]
                )
                weighted_probabilities = probabilities * confidence[:, np.newaxis]
                for y, x in np.ndindex(cells, cells):
                    sums[y, x : x + window_columns] += weights[y, x] * weighted_probabilities
                    weight_sums[y, x : x + window_columns] += weights[y, x] * confidence
            is_last = row + 1 == window_rows
            for y in range(cells if is_last else 1):  # rows of cells that no further window covers
                if first_row <= row + y < end_row:
                    is_known = weight_sums[y] > 0
                    means = sums[y] / np.where(is_known, weight_sums[y], 1)[:, np.newaxis]
                    yield means[columns], np.where(is_known, valid_pixels[y], 0)[columns]
            sums[:-1], weight_sums[:-1], sums[-1], weight_sums[-1] = sums[1:], weight_sums[1:], 0, 0


def window_confidence(probabilities: np.ndarray) -> np.ndarray:
    """Returns how much windows count, (n,) float32, by their probabilities (n, classes).

    A window where two kinds of land meet is less sure than a window of a single kind. Cube roots tell a hundredth from
    a thousandth that is left for other classes. The formula was selected on mosaics of validation patches.
    """
    roots = np.cbrt(probabilities)
    return (roots.max(1) / roots.sum(1)) ** 4


def windows_over_cell(scene: PixelSource, cell: tuple[int, int], window: int, stride: int) -> np.ndarray:
    """Returns the windows that a cell of a map has its probabilities from, except windows with too little data.

    A short stride has many windows over a cell: at most about `MAX_WINDOWS_PER_SIDE` a row and a column are returned.

    Args:
        scene: The scene.
        cell: Row and column of the map.
        window: Side of a window in pixels.
        stride: Side of a cell in pixels.

    Returns:
        (n, window, window, bands), as the classifier takes them.
    """
    cells = window // stride
    with ThreadPoolExecutor(2) as renderer:
        reader = _WindowReader(scene, window, stride, renderer)
        region = reader.region
        row, column = cell[0] - region.row_off // stride, cell[1] - region.col_off // stride
        row_range, column_range = (
            range(max(0, index - cells + 1), min(index, count - 1) + 1)
            for index, count in ((row, reader.rows), (column, reader.columns))
        )
        rows, columns = (
            list(indices[:: max(1, len(indices) // MAX_WINDOWS_PER_SIDE)]) for indices in (row_range, column_range)
        )
        windows = []
        for row in rows:
            images, valid_shares, _ = reader.read_row(row)
            windows.append(images[columns][valid_shares[columns] >= MIN_VALID_SHARE])
    return np.concatenate(windows)


class _WindowReader:
    """Reads rows of windows over a scene, from the top; pixels beyond the scene are mirrored.

    Args:
        scene: The scene.
        window: Side of a window in pixels.
        stride: Side of a cell in pixels.
        renderer: Threads that render windows.

    Attributes:
        region: The pixels that are read.
        rows: Number of rows of windows.
        columns: Number of windows in a row.
    """

    def __init__(self, scene: PixelSource, window: int, stride: int, renderer: ThreadPoolExecutor):
        self.scene, self.window, self.stride, self.renderer = scene, window, stride, renderer
        self.region = find_window_region(scene, window, stride)
        cells = window // stride
        self.rows, self.columns = (
            max(1, -(-side // stride) - cells + 1) for side in (self.region.height, self.region.width)
        )
        self.padded_width = max(window, -(-self.region.width // stride) * stride)
        self.cache_top = 0  # the first row of the region that is in the cache
        self.cache: tuple[np.ndarray, np.ndarray] | None = None

    def read_row(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads a row of windows.

        Returns:
            images: (columns, window, window, bands), as the classifier takes them.
            valid_shares: (columns,) float64, the share of each window that is data, from 0 to 1.
            valid_pixels: Pixels of each cell, as `_count_valid_pixels` returns them.
        """
        pixels, valid = self._read_pixels(row * self.stride, self.window)
        starts = np.arange(self.columns) * self.stride
        images = np.stack([pixels[:, start : start + self.window] for start in starts])
        valid_masks = np.stack([valid[:, start : start + self.window] for start in starts])
        valid_shares = valid_masks.mean((1, 2))
        for index in np.flatnonzero((valid_shares < 1) & (valid_shares >= MIN_VALID_SHARE)):
            images[index][~valid_masks[index]] = np.rint(images[index][valid_masks[index]].mean(0))
        if not self.scene.is_picture and images.shape[-1] == 3:
            rendered_images = sentinel2.render_colours(images)
            images = np.stack(list(self.renderer.map(sentinel2.compress_as_eurosat, rendered_images)))
        return images, valid_shares, self._count_valid_pixels(row, valid)

    def _read_pixels(self, top: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads rows of the region, which are asked for from the top; mirrored pixels are data if their originals are.

        Args:
            top: The first row.
            count: Number of rows.

        Returns:
            pixels: (count, padded width, bands).
            valid: (count, padded width) bool, where there is data.
        """
        region = self.region
        end = min(top + count, region.height)
        first_needed = max(0, top - count)  # rows above may be mirrored below
        while self.cache is None or self.cache_top + len(self.cache[1]) < end:
            strip_top = first_needed // STRIP_ROWS * STRIP_ROWS
            if self.cache is not None:
                strip_top = self.cache_top + len(self.cache[1])
            height = min(STRIP_ROWS, region.height - strip_top)
            strip = self.scene.read(Window(region.col_off, region.row_off + strip_top, region.width, height))
            if self.cache is None:
                self.cache_top, self.cache = strip_top, strip
            else:
                skip = max(0, first_needed - self.cache_top)
                pixels, valid = (np.concatenate((old[skip:], new)) for old, new in zip(self.cache, strip))
                self.cache_top, self.cache = self.cache_top + skip, (pixels, valid)
        padding = ((0, top + count - end), (0, self.padded_width - region.width))
        first = first_needed if padding[0][1] else top
        pixels, valid = (array[first - self.cache_top : end - self.cache_top] for array in self.cache)
        if padding[0][1] or padding[1][1]:
            pixels = np.pad(pixels, (*padding, (0, 0)), mode="symmetric")
            valid = np.pad(valid, padding, mode="symmetric")
        return pixels[top - first :], valid[top - first :]

    def _count_valid_pixels(self, row: int, valid: np.ndarray) -> np.ndarray:
        """Counts how many pixels of each cell are data in the scene and its outlines.

        Args:
            row: The row of windows.
            valid: (window, padded width) bool, where there is data.

        Returns:
            (cells of a window, columns of cells) float32.
        """
        region, pixel_weights = self.region, valid.astype("float32")
        height, width = min(len(valid), region.height - row * self.stride), region.width
        pixel_weights[height:] = pixel_weights[:, width:] = 0  # mirrored pixels
        if self.scene.outlines:
            above, _, left, _ = self.scene.margins
            file_window = Window(region.col_off + left, region.row_off + row * self.stride + above, width, height)
            pixel_weights[:height, :width] *= area_coverage(self.scene.outlines, file_window)
        return pixel_weights.reshape(len(valid) // self.stride, self.stride, -1, self.stride).sum((1, 3))


# The rows of a map are kept on disk: where it is interrupted, the same call resumes it.


def classify_scene(
    classifier: SavedClassifier, scene: Scene, window: int, stride: int, folder: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    """Classifies a scene into files of a folder; rows that an interrupted call left there are not classified again.

    Args:
        classifier: The classifier.
        scene: The scene.
        window: Side of a window in pixels, a multiple of the stride.
        stride: Side of a cell in pixels.
        folder: The folder of the files.

    Returns:
        probabilities: (rows, columns, classes) float32, from 0 to 1, in a file.
        valid_pixels: (rows, columns) float32, pixels of each cell that are data and lie in the scene's outlines.
    """
    shape = map_shape(scene, stride)
    row_count = shape[0]
    state_path = folder / STATE_NAME
    task = _describe_task(classifier, scene, window, stride)
    arrays = {"probabilities.npy": (*shape, len(classifier.classes)), "pixels.npy": shape}
    rows_done = _read_progress(state_path, task, row_count)
    if not all(_holds_array(folder / name, array_shape) for name, array_shape in arrays.items()):
        rows_done = 0
    if not rows_done:
        state_path.unlink(missing_ok=True)
    probabilities, valid_pixels = (
        _open_array(folder / name, array_shape, create=not rows_done) for name, array_shape in arrays.items()
    )
    if rows_done:
        print(f"Going on after row {rows_done} of {row_count}, of which {folder} has the rest", flush=True)

    def save_progress(rows: int) -> None:
        probabilities.flush()
        valid_pixels.flush()
        rundir.write_json(state_path, {**task, "rows": rows})

    remaining_rows = row_count - rows_done
    bar = keras.utils.Progbar(remaining_rows, unit_name="row") if sys.stdout.isatty() and remaining_rows else None
    save_time = time.monotonic()
    rows = classify_rows(classifier.predict, len(classifier.classes), scene, window, stride, rows_done)
    for row, (row_probabilities, row_valid_pixels) in enumerate(rows, rows_done):
        probabilities[row], valid_pixels[row] = row_probabilities, row_valid_pixels
        if bar:
            bar.add(1)
        if time.monotonic() - save_time > SAVE_INTERVAL_SECONDS:
            save_time = time.monotonic()
            save_progress(row + 1)
    save_progress(row_count)
    return probabilities, valid_pixels


def _describe_task(classifier: SavedClassifier, scene: Scene, window: int, stride: int) -> dict[str, Any]:
    """Returns everything on which the rows of a map depend, as JSON holds it: other rows are not resumed."""
    rings = [ring for outline in scene.outlines for ring in outline["coordinates"]]
    # A model on a server can be replaced meanwhile: its maps are never resumed.
    model_time = time.time() if classifier.is_served else _modification_time(classifier.path)
    return {
        "model": [str(classifier.path), model_time],
        "scene": scene.name,
        "description": scene.description,
        "files": [list(file) for file in scene.files],
        "bands": [band and [band.index, band.offset, band.gain] for band in scene.bands],
        "grid": [*map_shape(scene, stride), scene.grid.width, scene.grid.height, *scene.grid.transform[:6]],
        "outlines": hashlib.sha256(b"".join(ring.tobytes() for ring in rings)).hexdigest(),
        "window": window,
        "stride": stride,
    }


def _modification_time(path: pathlib.Path) -> float:
    """Returns the time at which a model was last changed; for a folder, the latest time of its files."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def _read_progress(state_path: pathlib.Path, task: dict[str, Any], row_count: int) -> int:
    """Returns how many rows of the same task are done; 0 if the record is of another task, missing or damaged."""
    with contextlib.suppress(Exception):
        state = json.loads(state_path.read_text(encoding="utf-8"))
        rows = state.pop("rows")
        if state == task and 0 < rows <= row_count:
            return rows
    return 0


def _holds_array(path: pathlib.Path, shape: tuple[int, ...]) -> bool:
    """Returns whether a file has a float32 array of this shape."""
    with contextlib.suppress(Exception):
        array = np.load(path, mmap_mode="r")  # which looks at the file's size
        return array.dtype == "float32" and array.shape == shape
    return False


def _open_array(path: pathlib.Path, shape: tuple[int, ...], create: bool) -> np.memmap:
    """Opens a float32 array in a file, or creates it."""
    array = np.lib.format.open_memmap(path, "w+" if create else "r+", "float32", shape)
    if create and hasattr(os, "posix_fallocate"):  # here a full disk is an error, later it would be a crash
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
