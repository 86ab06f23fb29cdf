"""From a scene to the probabilities of its cells, by overlapping windows of the size of a patch."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np
from rasterio.windows import Window

from resnetd_tf.data import rendering
from resnetd_tf.imagery.grid import Grid

STRIP = 128  # rows that are read at once; `rasters.row_of_blocks` has GDAL keep those of one block
LEAST_VALID = 0.5  # share of a window's or a cell's pixels that must be there
MOST_OVER = 4  # windows of a row or column, of those over a cell, that are looked at to explain it


class Pixels(Protocol):
    """What windows are taken from: a `pixels.Scene`, or an array."""

    @property
    def grid(self) -> Grid: ...

    @property
    def picture(self) -> bool: ...

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]: ...


def cells(scene: Pixels, stride: int) -> tuple[int, int]:
    """Rows and columns of a map with cells of stride x stride pixels."""
    return -(-scene.grid.height // stride), -(-scene.grid.width // stride)


def probabilities(
    predict: Callable[[np.ndarray], np.ndarray], classes: int, scene: Pixels, window: int, stride: int, first: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the rows of a map, from the top.

    Every window of window x window pixels at multiples of the stride is classified, and its probabilities are averaged
    in the cells it covers, with weights that fall to its edge and are higher for windows that are sure. A scene that
    ends within a cell is mirrored there. Windows in which too much is missing do not count, in others the mean stands
    for what is missing.

    Args:
        predict: From windows (n, window, window, bands) to probabilities (n, classes).
        classes: Number of classes.
        scene: The scene.
        window: Side of a window in pixels, a multiple of the stride.
        stride: Side of a cell.
        first: The row to begin with.

    Yields:
        (columns, classes) float32, and (columns,) bool, whether there is anything.
    """
    count, (rows, columns) = window // stride, cells(scene, stride)
    across, down = max(1, columns - count + 1), max(1, rows - count + 1)
    profile = np.sin(np.pi * (np.arange(count) + 0.5) / count) ** 2
    weights = np.outer(profile, profile).astype("float32")
    strips = _Strips(scene, window, stride)
    begin = max(0, min(first - count + 1, down - 1))
    sums = np.zeros((count, across + count - 1, classes), "float32")
    filled = np.zeros(sums.shape[:2], "float32")
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(2) as renderer:
        prepare = partial(_prepare, strips, scene, window, stride, renderer)
        coming = reader.submit(prepare, begin)
        for row in range(begin, down):
            images, shares, valid = coming.result()
            if row + 1 < down:
                coming = reader.submit(prepare, row + 1)
            used = np.flatnonzero(shares >= LEAST_VALID)
            if used.size:
                found, trust = np.zeros((across, classes), "float32"), np.zeros(across, "float32")
                found[used] = predict(images[used])
                trust[used] = shares[used] * sureness(found[used])
                each = found * trust[:, np.newaxis]
                for y, x in np.ndindex(count, count):
                    sums[y, x : x + across] += weights[y, x] * each
                    filled[y, x : x + across] += weights[y, x] * trust
            last = row + 1 == down
            for y in range(count if last else 1):
                if first <= row + y < rows:
                    there = (filled[y] > 0) & (valid[y] >= LEAST_VALID)
                    weight = np.where(filled[y] > 0, filled[y], 1)[:, np.newaxis]
                    yield (sums[y] / weight)[:columns], there[:columns]
            sums[:-1], filled[:-1], sums[-1], filled[-1] = sums[1:], filled[1:], 0, 0


def sureness(probabilities: np.ndarray) -> np.ndarray:
    """How much windows count, (n,), by their probabilities (n, classes).

    One where two kinds of land meet is less sure than one that has a single kind. Cube roots, because of a hundredth
    and a thousandth that are left for other classes the latter says far more. Chosen on mosaics of validation patches.
    """
    roots = np.cbrt(probabilities)
    return (roots.max(1) / roots.sum(1)) ** 4


class _Strips:
    """Pixels of a scene by rows, of which some are held; beyond its edges it is mirrored."""

    def __init__(self, scene: Pixels, window: int, stride: int):
        self.scene, self.width = scene, max(window, cells(scene, stride)[1] * stride)
        self.top = 0
        self.held: tuple[np.ndarray, np.ndarray] | None = None

    def rows(self, top: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (count, width, bands) from a row on, and where there are any; rows are asked for from the top."""
        grid = self.scene.grid
        end = min(top + count, grid.height)
        above = max(0, top - count)  # from where rows may be mirrored
        while self.held is None or self.top + len(self.held[1]) < end:
            start = self.top + len(self.held[1]) if self.held else above // STRIP * STRIP
            new = self.scene.read(Window(0, start, grid.width, min(STRIP, grid.height - start)))
            if self.held is None:
                self.top, self.held = start, new
            else:
                past = max(0, above - self.top)
                pixels, valid = (np.concatenate((old[past:], more)) for old, more in zip(self.held, new))
                self.top, self.held = self.top + past, (pixels, valid)
        beyond = ((0, top + count - end), (0, self.width - grid.width))
        first = above if beyond[0][1] else top
        pixels, valid = (part[first - self.top : end - self.top] for part in self.held)
        if any(after for _, after in beyond):
            pixels = np.pad(pixels, (*beyond, (0, 0)), mode="symmetric")
            valid = np.pad(valid, beyond, mode="symmetric")
        return pixels[top - first :], valid[top - first :]


def _prepare(
    strips: _Strips, scene: Pixels, window: int, stride: int, renderer: ThreadPoolExecutor, row: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A row of windows as the classifier takes them, the share of each that is there, and that of each cell."""
    pixels, valid = strips.rows(row * stride, window)
    across = (strips.width - window) // stride + 1
    starts = np.arange(across) * stride
    images = np.stack([pixels[:, start : start + window] for start in starts])
    there = np.stack([valid[:, start : start + window] for start in starts])
    shares = there.mean((1, 2))
    for index in np.flatnonzero((shares < 1) & (shares >= LEAST_VALID)):
        images[index][~there[index]] = np.rint(images[index][there[index]].mean(0))
    if not scene.picture and images.shape[-1] == 3:
        images = np.stack(list(renderer.map(rendering.stored, rendering.rendered(images))))
    of_cells = valid.reshape(window // stride, stride, -1, stride).mean((1, 3))
    return images, shares, of_cells


def over(scene: Pixels, cell: tuple[int, int], window: int, stride: int) -> np.ndarray:
    """Windows that a cell of a map has its probabilities from, (n, window, window, bands) as the classifier takes them.

    Of many, as a short stride has, every so many; none in which too much is missing.

    Args:
        scene: The scene.
        cell: Row and column of the map.
        window, stride: As for `probabilities`.
    """
    count, found = window // stride, []
    places = (
        range(max(0, index - count + 1), min(index, max(0, all_cells - count)) + 1)
        for index, all_cells in zip(cell, cells(scene, stride))
    )
    rows, columns = (list(some[:: max(1, len(some) // MOST_OVER)]) for some in places)
    strips = _Strips(scene, window, stride)
    with ThreadPoolExecutor(2) as renderer:
        for row in rows:
            images, shares, _ = _prepare(strips, scene, window, stride, renderer, row)
            found.append(images[columns][shares[columns] >= LEAST_VALID])
    return np.concatenate(found)
