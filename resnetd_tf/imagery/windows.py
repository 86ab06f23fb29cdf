"""From a scene to the probabilities of its cells, by overlapping windows of the size of a patch."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np
from rasterio.windows import Window

from resnetd_tf.data import rendering
from resnetd_tf.imagery import areas
from resnetd_tf.imagery.grid import Grid

STRIP = 128  # rows that are read at once; `rasters.row_of_blocks` has GDAL keep those of one block
LEAST_VALID = 0.5  # share of a window's pixels that must be data
MOST_OVER = 4  # windows of a row or column, of those over a cell, that are looked at to explain it


class Pixels(Protocol):
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


def cells(scene: Pixels, stride: int) -> tuple[int, int]:
    """Rows and columns of a map with cells of stride x stride pixels."""
    return -(-scene.grid.height // stride), -(-scene.grid.width // stride)


def region(scene: Pixels, window: int, stride: int) -> Window:
    """The pixels that the windows over a scene's cells read, those of its files around a part of them too.

    It begins whole cells before the part, so that windows lie where they lie over all of the files, if the part begins
    with one of their cells.
    """
    reach, (above, below, left, right) = window - stride, scene.margins
    rows, columns = cells(scene, stride)
    top, first = (min(reach, margin // stride * stride) for margin in (above, left))
    bottom = min(scene.grid.height + below, rows * stride + reach)
    last = min(scene.grid.width + right, columns * stride + reach)
    return Window(-first, -top, first + last, top + bottom)


def probabilities(
    predict: Callable[[np.ndarray], np.ndarray], classes: int, scene: Pixels, window: int, stride: int, first: int = 0
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
    count, read = window // stride, region(scene, window, stride)
    above, before = -read.row_off // stride, -read.col_off // stride
    first, (rows, columns) = first + above, cells(scene, stride)
    rows, of_part = rows + above, slice(before, before + columns)
    across, down = (max(1, -(-side // stride) - count + 1) for side in (read.width, read.height))
    profile = np.sin(np.pi * (np.arange(count) + 0.5) / count) ** 2
    weights = np.outer(profile, profile).astype("float32")
    strips = _Strips(scene, read, window, stride)
    begin = max(0, min(first - count + 1, down - 1))
    sums = np.zeros((count, across + count - 1, classes), "float32")
    filled = np.zeros(sums.shape[:2], "float32")
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(2) as renderer:
        prepare = partial(_prepare, strips, scene, window, stride, renderer)
        coming = reader.submit(prepare, begin)
        for row in range(begin, down):
            images, shares, pixels_of_cells = coming.result()
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
                    weight = np.where(filled[y] > 0, filled[y], 1)[:, np.newaxis]
                    known = np.where(filled[y] > 0, pixels_of_cells[y], 0)
                    yield (sums[y] / weight)[of_part], known[of_part]
            sums[:-1], filled[:-1], sums[-1], filled[-1] = sums[1:], filled[1:], 0, 0


def sureness(probabilities: np.ndarray) -> np.ndarray:
    """How much windows count, (n,), by their probabilities (n, classes).

    One where two kinds of land meet is less sure than one that has a single kind. Cube roots, because of a hundredth
    and a thousandth that are left for other classes the latter says far more. Chosen on mosaics of validation patches.
    """
    roots = np.cbrt(probabilities)
    return (roots.max(1) / roots.sum(1)) ** 4


class _Strips:
    """Pixels of a region of a scene by rows, of which some are kept; beyond the region they are mirrored."""

    def __init__(self, scene: Pixels, region: Window, window: int, stride: int):
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
            start = self.top + len(self.kept[1]) if self.kept else above // STRIP * STRIP
            height = min(STRIP, region.height - start)
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


def _prepare(
    strips: _Strips, scene: Pixels, window: int, stride: int, renderer: ThreadPoolExecutor, row: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A row of windows as the classifier takes them, the share of each that is data, and the pixels of each cell."""
    pixels, valid = strips.read(row * stride, window)
    across = (strips.width - window) // stride + 1
    starts = np.arange(across) * stride
    images = np.stack([pixels[:, start : start + window] for start in starts])
    valid_masks = np.stack([valid[:, start : start + window] for start in starts])
    shares = valid_masks.mean((1, 2))
    for index in np.flatnonzero((shares < 1) & (shares >= LEAST_VALID)):
        images[index][~valid_masks[index]] = np.rint(images[index][valid_masks[index]].mean(0))
    if not scene.picture and images.shape[-1] == 3:
        images = np.stack(list(renderer.map(rendering.stored, rendering.rendered(images))))
    return images, shares, _pixels_of_cells(strips, scene, stride, row, valid)


def _pixels_of_cells(strips: _Strips, scene: Pixels, stride: int, row: int, valid: np.ndarray) -> np.ndarray:
    """How many pixels of each cell are data in the scene and its outlines, (rows, columns) of the windows of a row."""
    region, counted = strips.region, valid.astype("float32")
    height, width = min(len(valid), region.height - row * stride), region.width
    counted[height:] = counted[:, width:] = 0  # what is mirrored
    if scene.outlines:
        above, _, left, _ = scene.margins
        area = Window(region.col_off + left, region.row_off + row * stride + above, width, height)
        counted[:height, :width] *= areas.coverage(scene.outlines, area)
    return counted.reshape(len(valid) // stride, stride, -1, stride).sum((1, 3))


def over(scene: Pixels, cell: tuple[int, int], window: int, stride: int) -> np.ndarray:
    """Windows that a cell of a map has its probabilities from, (n, window, window, bands) as the classifier takes them.

    Of many, as a short stride has, every so many; none in which too much is missing.

    Args:
        scene: The scene.
        cell: Row and column of the map.
        window, stride: As for `probabilities`.
    """
    count, images_over, read = window // stride, [], region(scene, window, stride)
    sides = ((cell[0] - read.row_off // stride, read.height), (cell[1] - read.col_off // stride, read.width))
    places = (
        range(max(0, index - count + 1), min(index, max(0, -(-side // stride) - count)) + 1) for index, side in sides
    )
    rows, columns = (list(some[:: max(1, len(some) // MOST_OVER)]) for some in places)
    strips = _Strips(scene, read, window, stride)
    with ThreadPoolExecutor(2) as renderer:
        for row in rows:
            images, shares, _ = _prepare(strips, scene, window, stride, renderer, row)
            images_over.append(images[columns][shares[columns] >= LEAST_VALID])
    return np.concatenate(images_over)
