"""Water as an index of two bands shows it: it reflects less of the one band than of the other, and land does not.

The near infrared tells best (McFeeters 1996, NDWI of B03 and B08), or the shortwave infrared (Xu 2006, MNDWI of B03 and
B11). Pictures have neither. In them blue and red tell where the sea is clear.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rasterio.transform import array_bounds
from rasterio.windows import Window

from resnetd_tf.data import rasters
from resnetd_tf.data.rasters import Band
from resnetd_tf.imagery.grid import Grid, warp_to_grid
from resnetd_tf.sentinel2 import CLASSES

WATER_CLASSES = ("River", "SeaLake")
UNKNOWN = 2  # beside 0 for land and 1 for water: a pixel without data
BRIGHTEST_INFRARED_DN = 1_500  # above, it is cloud, snow or a roof rather than water
MIN_RIVER_SHARE = 0.05  # of a cell that is water: below, it is land whatever the classifier says
HISTOGRAM_BINS = 256
SAMPLE_PIXELS = 1024  # pixels a side from which the threshold is found
CLEAR_SEA_INDEX = 0.44  # of blue and red: at least half of the pixels that are taken for water must have it


@dataclass(frozen=True)
class IndexKind:
    """A kind of index: (bright - dark) / (bright + dark).

    Attributes:
        name: Its name, for the user.
        bright: The band of which water reflects more.
        dark: The band of which water reflects less.
        bounds: The lowest and the highest threshold.
        default: The threshold of scenes that have none between the bounds; `None` uses no index there.
    """

    name: str
    bright: str
    dark: str
    bounds: tuple[float, float]
    default: float | None


# The best first. 0 is the threshold of the papers. Blue and red: clear sea has 0.45 to 0.55, forest at most 0.39.
KINDS = (
    IndexKind("NDWI of B03 and B08", "B03", "B08", (-0.1, 0.2), 0.0),
    IndexKind("MNDWI of B03 and B11", "B03", "B11", (-0.1, 0.3), 0.0),
    IndexKind("blue and red", "B02", "B04", (0.389, 0.47), None),
)


@dataclass(frozen=True)
class WaterIndex:
    """An index of two bands on the scene's grid, which is higher for water than for land.

    Attributes:
        kind: The kind of index.
        bands: Its two bands, the brighter one first.
        threshold: Pixels with a higher index are water.
    """

    kind: IndexKind
    bands: tuple[Band, Band]
    threshold: float

    @property
    def summary(self) -> str:
        """A phrase for the user."""
        return f"water by {self.kind.name} above {self.threshold:.2f} (--water=classifier does without)"

    def read_water(self, window: Window) -> np.ndarray:
        """Returns which pixels of a window of the files' grid are water.

        Returns:
            (height, width) uint8: 1 for water, 0 for land, `UNKNOWN` without data.

        Raises:
            InputError: A file is damaged.
        """
        numbers = self.read_numbers(window)
        water = is_water(numbers, self.kind, self.threshold).astype("uint8")
        has_data = np.isfinite(numbers).all(-1) & (numbers > 0).any(-1)
        return np.where(has_data, water, np.uint8(UNKNOWN))

    def read_numbers(self, window: Window | None = None, shape: tuple[int, int] | None = None) -> np.ndarray:
        """Reads digital numbers or grey levels of the two bands, (height, width, 2) float32.

        A stored 0 of an infrared index is NaN: it means no data, and would be water.

        Args:
            window: The part of the files to read; `None` for all.
            shape: Rows and columns to reduce the part to; `None` for all.
        """
        stored = rasters.read_bands(self.bands, window, shape)
        columns = [band.digital_numbers(stored[..., position]) for position, band in enumerate(self.bands)]
        numbers = np.stack(columns, axis=-1)
        if self.kind.default is not None:
            numbers[(stored == 0) | ~np.isfinite(stored)] = np.nan
        return numbers


def is_water(numbers: np.ndarray, kind: IndexKind, threshold: float) -> np.ndarray:
    """Returns which pixels are water, (...,) bool.

    Args:
        numbers: (..., 2) digital numbers or grey levels of the index's two bands.
        kind: The kind of index.
        threshold: Pixels with a higher index are water.
    """
    water = compute_index(numbers) > threshold
    return water if kind.default is None else water & (numbers[..., 1] < BRIGHTEST_INFRARED_DN)


def compute_index(numbers: np.ndarray) -> np.ndarray:
    """Computes (bright - dark) / (bright + dark) of numbers (..., 2), from -1 to 1; -1 where both bands are 0."""
    bright, dark = np.maximum(numbers[..., 0], 0), np.maximum(numbers[..., 1], 0)
    total = bright + dark
    return np.where(total > 0, (bright - dark) / np.where(total > 0, total, 1), -1)


def find_water_index(bands: dict[str, Band], grid: Grid) -> WaterIndex | None:
    """Returns the best index that a scene has bands for; `None` if it has none that tells.

    Args:
        bands: The bands of the scene by name, also those that no classifier takes.
        grid: The scene's grid, to which the bands are resampled.

    Raises:
        InputError: A file is damaged.
    """
    for kind in KINDS:
        if kind.bright not in bands or kind.dark not in bands:
            continue
        is_one_file = bands[kind.bright].dataset is bands[kind.dark].dataset
        if not is_one_file and not all(_covers(bands[name], grid) for name in (kind.bright, kind.dark)):
            continue
        pair = tuple(
            dataclasses.replace(bands[name], dataset=warp_to_grid(bands[name].dataset, grid))
            for name in (kind.bright, kind.dark)
        )
        index = WaterIndex(kind, (pair[0], pair[1]), 0.0)
        shape = (min(SAMPLE_PIXELS, grid.height), min(SAMPLE_PIXELS, grid.width))
        numbers = index.read_numbers(shape=shape)
        values = compute_index(numbers)[(numbers > 0).all(-1)]
        if not values.size:  # an empty band
            continue
        threshold = find_threshold(values, kind)
        return None if threshold is None else dataclasses.replace(index, threshold=threshold)
    return None


def _covers(band: Band, grid: Grid) -> bool:
    """Returns whether a band reaches as far as a grid, but for a pixel of its own."""
    if band.dataset.crs != grid.crs:
        return False
    west, south, east, north = array_bounds(grid.height, grid.width, grid.transform)
    bounds, tolerance = band.dataset.bounds, max(band.dataset.res)
    return bool(
        min(west, east) >= min(bounds.left, bounds.right) - tolerance
        and max(west, east) <= max(bounds.left, bounds.right) + tolerance
        and min(south, north) >= min(bounds.bottom, bounds.top) - tolerance
        and max(south, north) <= max(bounds.bottom, bounds.top) + tolerance
    )


def find_threshold(values: np.ndarray, kind: IndexKind) -> float | None:
    """Finds the threshold between land and water by Otsu's method (1979) within the bounds of an index.

    Args:
        values: (n,) the index of pixels with data.
        kind: The kind of index.

    Returns:
        The threshold; the kind's default if the best threshold of all lies outside of the bounds.
    """
    if not values.size:
        return kind.default
    values = values.clip(*np.quantile(values, (0.005, 0.995)))
    counts, edges = np.histogram(values, HISTOGRAM_BINS)
    centres = (edges[1:] + edges[:-1]) / 2
    low_counts, low_sums = counts.cumsum(), (counts * centres).cumsum()
    count, total = low_counts[-1], low_sums[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (total * low_counts / count - low_sums) ** 2 / (low_counts * (count - low_counts))
    between = np.nan_to_num(between, posinf=0)
    best = float(centres[between >= between.max() * (1 - 1e-6)].mean())  # the middle of a gap between two kinds
    if not kind.bounds[0] < best < kind.bounds[1]:
        return kind.default
    if kind.default is None and np.median(values[values > best]) < CLEAR_SEA_INDEX:
        return None
    return best


def apply_water_shares(probabilities: np.ndarray, water_shares: np.ndarray, is_water_class: np.ndarray) -> np.ndarray:
    """Gives the water classes of each cell together the share of the cell that is water, and the others the rest.

    A cell with some water keeps a higher probability of the classifier: EuroSAT's patches of rivers are mostly land.
    Within both groups the classifier's probabilities keep their ratios.

    Args:
        probabilities: (n, classes) float32, from 0 to 1.
        water_shares: (n,) float32, from 0 to 1; cells without a share have NaN, and keep their probabilities.
        is_water_class: (classes,) bool.

    Returns:
        (n, classes) float32.
    """
    probabilities = np.maximum(probabilities, 1e-12)  # no class is impossible, so that each group has a sum
    classified_water = probabilities[:, is_water_class].sum(1) / probabilities.sum(1)
    water = np.where(water_shares < MIN_RIVER_SHARE, water_shares, np.maximum(water_shares, classified_water))
    result = probabilities.copy()
    for group, total in ((is_water_class, water), (~is_water_class, 1 - water)):
        members = probabilities[:, group]
        result[:, group] = members / members.sum(1, keepdims=True) * total[:, np.newaxis]
    return np.where(np.isnan(water_shares)[:, np.newaxis], probabilities, result).astype("float32")


def has_eurosat_water(classes: Sequence[str]) -> bool:
    """Returns whether there is a class of water, and no classes beside EuroSAT's ten, which may be water too."""
    return not set(WATER_CLASSES).isdisjoint(classes) and not set(classes) > set(CLASSES)


def water_class_mask(classes: Sequence[str], index: WaterIndex | None) -> np.ndarray | None:
    """Returns which classes an index tells from all others, (classes,) bool; `None` without index or such classes."""
    if index is None:
        return None
    mask = np.isin(classes, WATER_CLASSES)
    return mask if mask.any() and not mask.all() else None
