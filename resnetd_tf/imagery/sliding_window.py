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
from resnetd_tf.imagery.water import UNKNOWN, WaterIndex, apply_water_shares, water_class_mask
from resnetd_tf.saved import SavedClassifier, WindowClassifier

STRIP_ROWS = 128  # rows that are read at once; GDAL caches the row of blocks that they lie in
MIN_VALID_SHARE = 0.5  # share of a window's pixels that must be data
MAX_WINDOWS_PER_SIDE = 4  # windows of a row or column over a cell that are considered to explain it
SAVE_INTERVAL_SECONDS = 10  # seconds from one record of the progress to the next
JPEG_BLOCK = 16  # pixels a side of the blocks that JPEG compresses by themselves at 4:2:0
MAX_JPEG_SIDE = 65_500  # pixels a side of the largest picture that libjpeg compresses
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

    @property
    def water_index(self) -> WaterIndex | None: ...

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]: ...

    def read_water(self, window: Window) -> np.ndarray | None: ...


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
    classify: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]],
    class_count: int,
    scene: PixelSource,
    window: int,
    stride: int,
    first_row: int = 0,
    is_water_class: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields the rows of a map, from the top.

    Windows of window x window pixels lie at multiples of the stride. Each is classified, and each cell gets the mean of
    the probabilities of the windows over it. The weights fall to a window's edge and rise with its confidence. Windows
    over a part of a scene reach into the pixels around it. A scene that ends within a cell is mirrored there. Windows
    with too little data do not count; in others the mean of their data stands for the missing pixels. The share of a
    cell that is water, where the scene has an index of it, is the probability of the water classes together.

    Args:
        classify: From windows (n, window, window, bands) to probabilities (n, classes) and to dissimilarities (n,), or
            `None` instead of these.
        class_count: Number of classes.
        scene: The scene.
        window: Side of a window in pixels, a multiple of the stride.
        stride: Side of a cell in pixels.
        first_row: The row to begin with.
        is_water_class: (classes,) bool, the classes that the scene's index of water tells from the others; `None` for
            the probabilities as they are.

    Yields:
        probabilities: (columns, classes) float32, from 0 to 1.
        valid_pixels: (columns,) float32, how many pixels of each cell are data and lie in the scene's outlines; 0 where
            nothing is known of a cell.
        dissimilarity: (columns,) float32, the mean of the windows over each cell; NaN where it is not known.
    """
    cells = window // stride  # along a window's side
    with ThreadPoolExecutor(1) as reader:
        windows = _WindowReader(scene, window, stride)
        region, window_rows = windows.region, windows.rows
        # The map's rows and columns, counted in cells of the region.
        (map_rows, map_columns), first_column = map_shape(scene, stride), -region.col_off // stride
        first_row = first_row + -region.row_off // stride
        end_row = map_rows + -region.row_off // stride
        columns = slice(first_column, first_column + map_columns)
        sums = _CellSums(cells, windows.columns, class_count)
        start = max(0, min(first_row - cells + 1, window_rows - 1))
        next_row = reader.submit(windows.read_row, start)
        for row in range(start, window_rows):
            images, valid_shares, valid_pixels, water_shares = next_row.result()
            if row + 1 < window_rows:
                next_row = reader.submit(windows.read_row, row + 1)
            usable_columns = np.flatnonzero(valid_shares >= MIN_VALID_SHARE)
            if usable_columns.size:
                sums.add(usable_columns, valid_shares[usable_columns], *classify(images[usable_columns]))
            is_last = row + 1 == window_rows
            for y in range(cells if is_last else 1):  # rows of cells that no further window covers
                if first_row <= row + y < end_row:
                    means, dissimilarity, is_known = sums.means(y)
                    if is_water_class is not None:
                        means = apply_water_shares(means, water_shares[y], is_water_class)
                    yield means[columns], np.where(is_known, valid_pixels[y], 0)[columns], dissimilarity[columns]
            sums.advance()


class _CellSums:
    """Weighted sums over the windows that cover each cell, for the rows of cells that a row of windows covers.

    Args:
        cells: Cells along a window's side.
        window_columns: Number of windows in a row.
        class_count: Number of classes.
    """

    def __init__(self, cells: int, window_columns: int, class_count: int):
        profile = np.sin(np.pi * (np.arange(cells) + 0.5) / cells) ** 2
        self.weights = np.outer(profile, profile).astype("float32")
        shape = (cells, window_columns + cells - 1)
        self.probabilities = np.zeros((*shape, class_count), "float32")
        self.probability_weights = np.zeros(shape, "float32")
        self.dissimilarity = np.zeros(shape, "float32")
        self.dissimilarity_weights = np.zeros(shape, "float32")

    def add(
        self, columns: np.ndarray, valid_shares: np.ndarray, probabilities: np.ndarray, dissimilarity: np.ndarray | None
    ) -> None:
        """Adds windows of a row.

        Args:
            columns: (n,) their columns of cells at the left.
            valid_shares: (n,) the share of each window that is data.
            probabilities: (n, classes).
            dissimilarity: (n,), or `None` if it is not known.
        """
        confidence = (valid_shares * window_confidence(probabilities)).astype("float32")
        weighted_probabilities = probabilities * confidence[:, np.newaxis]
        for (y, x), weight in np.ndenumerate(self.weights):
            self.probabilities[y, x + columns] += weight * weighted_probabilities
            self.probability_weights[y, x + columns] += weight * confidence
            if dissimilarity is not None:
                self.dissimilarity[y, x + columns] += weight * dissimilarity
                self.dissimilarity_weights[y, x + columns] += weight

    def means(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the means of a row of cells.

        Returns:
            probabilities: (columns, classes) float32.
            dissimilarity: (columns,) float32; NaN where it is not known.
            is_known: (columns,) bool, whether any window covers a cell.
        """
        is_known = self.probability_weights[row] > 0
        divisor = np.where(is_known, self.probability_weights[row], 1)[:, np.newaxis]
        weights = self.dissimilarity_weights[row]
        dissimilarity = np.full(len(weights), np.nan, "float32")
        np.divide(self.dissimilarity[row], weights, out=dissimilarity, where=weights > 0)
        return self.probabilities[row] / divisor, dissimilarity, is_known

    def advance(self) -> None:
        """Goes on to the next row of windows, a row of cells further down."""
        for sums in (self.probabilities, self.probability_weights, self.dissimilarity, self.dissimilarity_weights):
            sums[:-1], sums[-1] = sums[1:], 0


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
    reader = _WindowReader(scene, window, stride)
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
        images, valid_shares, *_ = reader.read_row(row)
        windows.append(images[columns][valid_shares[columns] >= MIN_VALID_SHARE])
    return np.concatenate(windows)


def render_window(pixels: np.ndarray, is_picture: bool) -> np.ndarray:
    """Renders pixels as the classifier takes them: digital numbers of three colours as EuroSAT's JPEG files.

    Args:
        pixels: (height, width, bands) grey levels or digital numbers.
        is_picture: Whether they are grey levels.
    """
    if is_picture or pixels.shape[-1] != 3:
        return pixels
    return sentinel2.compress_as_eurosat(sentinel2.render_colours(pixels))


def sample_windows(scene: PixelSource, window: int, per_side: int) -> np.ndarray:
    """Reads windows that are evenly spread over a scene, but for those with too little data.

    Args:
        scene: The scene.
        window: Side of a window in pixels.
        per_side: Windows in a row and in a column of the sample.

    Returns:
        (n, window, window, bands) grey levels or digital numbers; none of a scene that is smaller than a window.
    """
    grid, windows = scene.grid, []
    rows, columns = (
        np.unique(np.linspace(0, side - window, min(per_side, max(1, side // window))).astype(int))
        for side in (max(grid.height, window), max(grid.width, window))
    )
    if grid.height >= window and grid.width >= window:
        for row in rows.tolist():
            for column in columns.tolist():
                pixels, valid = scene.read(Window(column, row, window, window))
                if valid.mean() >= 1 - MIN_VALID_SHARE / 2:
                    windows.append(pixels)
    return np.stack(windows) if windows else np.empty((0, window, window, 0))


class _WindowReader:
    """Reads rows of windows over a scene, from the top; pixels beyond the scene are mirrored.

    Args:
        scene: The scene.
        window: Side of a window in pixels.
        stride: Side of a cell in pixels.

    Attributes:
        region: The pixels that are read.
        rows: Number of rows of windows.
        columns: Number of windows in a row.
    """

    def __init__(self, scene: PixelSource, window: int, stride: int):
        self.scene, self.window, self.stride = scene, window, stride
        self.region = find_window_region(scene, window, stride)
        cells = window // stride
        self.rows, self.columns = (
            max(1, -(-side // stride) - cells + 1) for side in (self.region.height, self.region.width)
        )
        self.padded_width = max(window, -(-self.region.width // stride) * stride)
        self.cache_top = 0  # the first row of the region that is in the cache
        self.cache: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def read_row(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Reads a row of windows.

        Returns:
            images: (columns, window, window, bands), as the classifier takes them.
            valid_shares: (columns,) float64, the share of each window that is data, from 0 to 1.
            valid_pixels: Pixels of each cell, as `_count_valid_pixels` returns them.
            water_shares: (cells of a window, columns of cells) float32, the share of each cell's data that is water,
                from 0 to 1; NaN where it is not known.
        """
        pixels, valid, water = self._read_pixels(row * self.stride, self.window)
        slices = [slice(start, start + self.window) for start in range(0, self.columns * self.stride, self.stride)]
        valid_masks = np.stack([valid[:, columns] for columns in slices])
        valid_shares = valid_masks.mean((1, 2))
        is_partial = (valid_shares < 1) & (valid_shares >= MIN_VALID_SHARE)
        images = self._render_windows(pixels)
        for index in np.flatnonzero(is_partial):
            image, valid_mask = pixels[:, slices[index]].copy(), valid_masks[index]
            image[~valid_mask] = np.rint(image[valid_mask].mean(0))
            images[index] = render_window(image, self.scene.is_picture)
        return images, valid_shares, self._count_valid_pixels(row, valid), self._measure_water(valid, water)

    def _render_windows(self, pixels: np.ndarray) -> np.ndarray:
        """Renders a row of windows (columns, window, window, bands) from its pixels (window, padded width, bands).

        Where blocks of JPEG begin with every window, many windows are compressed as one picture. Then the colours of a
        window's first and last column of pixels also depend on the pixels beside it.
        """
        windows_at_once = 1 if self.stride % JPEG_BLOCK else (MAX_JPEG_SIDE - self.window) // self.stride
        images = []
        for first in range(0, self.columns, windows_at_once):
            count = min(windows_at_once, self.columns - first)
            left, width = first * self.stride, (count - 1) * self.stride + self.window
            rendered = render_window(pixels[:, left : left + width], self.scene.is_picture)
            images += [rendered[:, index * self.stride :][:, : self.window] for index in range(count)]
        return np.stack(images)

    def _read_pixels(self, top: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads rows of the region, which are asked for from the top; mirrored pixels are data if their originals are.

        Args:
            top: The first row.
            count: Number of rows.

        Returns:
            pixels: (count, padded width, bands).
            valid: (count, padded width) bool, where there is data.
            water: (count, padded width) uint8, as `Scene.read_water` returns it.
        """
        region = self.region
        end = min(top + count, region.height)
        first_needed = max(0, top - count)  # rows above may be mirrored below
        while self.cache is None or self.cache_top + len(self.cache[1]) < end:
            strip_top = first_needed // STRIP_ROWS * STRIP_ROWS
            if self.cache is not None:
                strip_top = self.cache_top + len(self.cache[1])
            height = min(STRIP_ROWS, region.height - strip_top)
            window = Window(region.col_off, region.row_off + strip_top, region.width, height)
            water = self.scene.read_water(window)
            if water is None:
                water = np.full((height, region.width), UNKNOWN, "uint8")
            strip = (*self.scene.read(window), water)
            if self.cache is None:
                self.cache_top, self.cache = strip_top, strip
            else:
                skip = max(0, first_needed - self.cache_top)
                pixels, valid, water = (np.concatenate((old[skip:], new)) for old, new in zip(self.cache, strip))
                self.cache_top, self.cache = self.cache_top + skip, (pixels, valid, water)
        padding = ((0, top + count - end), (0, self.padded_width - region.width))
        first = first_needed if padding[0][1] else top
        pixels, valid, water = (array[first - self.cache_top : end - self.cache_top] for array in self.cache)
        if padding[0][1] or padding[1][1]:
            pixels = np.pad(pixels, (*padding, (0, 0)), mode="symmetric")
            valid, water = (np.pad(array, padding, mode="symmetric") for array in (valid, water))
        return pixels[top - first :], valid[top - first :], water[top - first :]

    def _measure_water(self, valid: np.ndarray, water: np.ndarray) -> np.ndarray:
        """Returns which share of each cell's data is water, (cells of a window, columns of cells) float32.

        Args:
            valid: (window, padded width) bool, where there is data.
            water: (window, padded width) uint8, as `Scene.read_water` returns it.
        """
        known, wet = (
            mask.reshape(len(valid) // self.stride, self.stride, -1, self.stride).sum((1, 3), dtype="float32")
            for mask in (valid & (water != UNKNOWN), valid & (water == 1))
        )
        return np.where(known > 0, wet / np.maximum(known, 1), np.float32(np.nan))

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
    classifier: SavedClassifier,
    window_classifier: WindowClassifier,
    scene: Scene,
    window: int,
    stride: int,
    folder: pathlib.Path,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classifies a scene into files of a folder; rows that an interrupted call left there are not classified again.

    Args:
        classifier: The classifier.
        window_classifier: The same classifier, open for windows.
        scene: The scene.
        window: Side of a window in pixels, a multiple of the stride.
        stride: Side of a cell in pixels.
        folder: The folder of the files.

    Returns:
        probabilities: (rows, columns, classes) float32, from 0 to 1, in a file.
        valid_pixels: (rows, columns) float32, pixels of each cell that are data and lie in the scene's outlines.
        dissimilarity: (rows, columns) float32, how unlike the training images each cell is; NaN where it is not known.
    """
    shape = map_shape(scene, stride)
    row_count = shape[0]
    state_path = folder / STATE_NAME
    task = _describe_task(classifier, scene, window, stride) | {"runtime": window_classifier.summary}
    arrays = {
        "probabilities.npy": (*shape, len(classifier.classes)),
        "pixels.npy": shape,
        "dissimilarity.npy": shape,
    }
    rows_done = _read_progress(state_path, task, row_count)
    if not all(_holds_array(folder / name, array_shape) for name, array_shape in arrays.items()):
        rows_done = 0
    if not rows_done:
        state_path.unlink(missing_ok=True)
    probabilities, valid_pixels, dissimilarity = (
        open_array(folder / name, array_shape, create=not rows_done) for name, array_shape in arrays.items()
    )
    if rows_done:
        print(f"Going on after row {rows_done} of {row_count}: {folder} has the rows before", flush=True)

    def save_progress(rows: int) -> None:
        probabilities.flush()
        valid_pixels.flush()
        dissimilarity.flush()
        rundir.write_json(state_path, {**task, "rows": rows})

    remaining_rows = row_count - rows_done
    bar = keras.utils.Progbar(remaining_rows, unit_name="row") if sys.stdout.isatty() and remaining_rows else None
    save_time = time.monotonic()
    rows = classify_rows(
        window_classifier.classify,
        len(classifier.classes),
        scene,
        window,
        stride,
        rows_done,
        is_water_class=water_class_mask(classifier.classes, scene.water_index),
    )
    try:
        for row_values in rows:
            probabilities[rows_done], valid_pixels[rows_done], dissimilarity[rows_done] = row_values
            rows_done += 1
            if bar:
                bar.add(1)
            if time.monotonic() - save_time > SAVE_INTERVAL_SECONDS:
                save_time = time.monotonic()
                save_progress(rows_done)
    except (KeyboardInterrupt, SystemExit):
        if rows_done:
            save_progress(rows_done)
        raise
    save_progress(row_count)
    return probabilities, valid_pixels, dissimilarity


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
        "water": scene.water_index and [scene.water_index.kind.name, scene.water_index.threshold],
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


def open_array(path: pathlib.Path, shape: tuple[int, ...], create: bool, dtype: str = "float32") -> np.memmap:
    """Opens an array in a file, or creates it."""
    array = np.lib.format.open_memmap(path, "w+" if create else "r+", dtype, shape)
    if create and hasattr(os, "posix_fallocate"):  # here a full disk is an error, later it would be a crash
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
