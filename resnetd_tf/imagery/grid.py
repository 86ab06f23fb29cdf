"""The grid of 10 m pixels on which a scene's bands are read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import rasterio
import rasterio.warp
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from resnetd_tf.errors import InputError, damage_told

WIDEST = 120_000  # pixels, of what is brought into one zone of UTM
PIXEL = 10.0  # metres, of EuroSAT's patches


@dataclass(frozen=True)
class Grid:
    """The pixels of a scene.

    Attributes:
        crs: Their coordinate reference system; `None` without georeference.
        transform: From columns and rows to its coordinates.
        width, height: Their number.
    """

    crs: CRS | None
    transform: rasterio.Affine
    width: int
    height: int

    @property
    def hectares(self) -> float | None:
        """Area of a pixel; `None` without georeference."""
        if self.crs is None:
            return None
        return abs(self.transform.determinant) * self.crs.linear_units_factor[1] ** 2 / 10_000


def grid_of(datasets: Sequence[rasterio.DatasetReader]) -> Grid:
    """The grid of 10 m that files of one extent have in common.

    Files in degrees get the UTM zone of their middle. Without georeference pixels stay as they are.

    Raises:
        InputError: They have different extents or coordinate reference systems.
    """
    finest = min(datasets, key=lambda dataset: abs(dataset.transform.determinant))
    for other in datasets:
        if other.crs != finest.crs:
            raise InputError(f"{other.name} is in {other.crs}, {finest.name} in {finest.crs}; give bands of one scene")
        pixel = max(map(abs, (*other.transform[:2], *other.transform[3:5])))
        if not np.allclose(other.bounds, finest.bounds, atol=pixel / 2, rtol=0):
            raise InputError(
                f"{other.name} has the extent {tuple(other.bounds)}, {finest.name} {tuple(finest.bounds)}; give bands "
                "of one scene"
            )
    if finest.crs is None:
        return Grid(None, rasterio.Affine.identity(), finest.width, finest.height)
    with damage_told(f"{finest.name}: its coordinate reference system cannot be used", "; reproject it with gdalwarp"):
        return _metric(finest)


def _metric(finest: rasterio.DatasetReader) -> Grid:
    """The grid of 10 m of a file with a georeference."""
    if finest.crs.is_geographic or finest.crs.to_epsg() == 3857:  # whose metres are none but at the equator
        crs = _utm(finest)
        bounds = finest.bounds
        transform, width, height = rasterio.warp.calculate_default_transform(
            finest.crs, crs, finest.width, finest.height, *bounds, resolution=PIXEL
        )
        if max(width, height) > WIDEST:
            raise InputError(f"{finest.name} is wider than a zone of UTM; map parts of it")
        return Grid(crs, transform, width, height)
    metres = finest.crs.linear_units_factor[1]
    steps = [math.hypot(*finest.transform[i : i + 4 : 3]) * metres / PIXEL for i in (0, 1)]
    if np.allclose(steps, 1, atol=1e-3):
        return Grid(finest.crs, finest.transform, finest.width, finest.height)
    width, height = (max(1, round(count * step)) for count, step in zip((finest.width, finest.height), steps))
    scaled = finest.transform * rasterio.Affine.scale(finest.width / width, finest.height / height)
    return Grid(finest.crs, scaled, width, height)


def _utm(dataset: rasterio.DatasetReader) -> CRS:
    west, south, east, north = rasterio.warp.transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
    longitude = ((west + east) / 2 + 180) % 360 - 180
    return CRS.from_epsg((32600 if south + north >= 0 else 32700) + int(longitude // 6) + 31)


def on_grid(dataset: rasterio.DatasetReader, grid: Grid, nearest: bool = False) -> rasterio.DatasetReader:
    """The file as if it had the pixels of a grid: coarser ones are interpolated, finer ones averaged.

    With `nearest` they keep their values, which are kinds of something.
    """
    same = (dataset.width, dataset.height) == (grid.width, grid.height)
    if same and (grid.crs is None or dataset.transform.almost_equals(grid.transform, 1e-6)) and dataset.crs == grid.crs:
        return dataset
    finer = dataset.width > grid.width
    return WarpedVRT(
        dataset,
        crs=grid.crs,
        transform=grid.transform,
        width=grid.width,
        height=grid.height,
        resampling=Resampling.nearest if nearest else Resampling.average if finer else Resampling.cubic,
    )
