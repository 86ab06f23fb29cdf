"""Bands in raster files, on one grid of pixels of 10 m."""

import contextlib
import math
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import rasterio
import rasterio.errors
import rasterio.warp
import rasterio.windows
from rasterio.crs import CRS
from rasterio.enums import MaskFlags, Resampling
from rasterio.vrt import WarpedVRT

from resnetd_tf.data import images
from resnetd_tf.errors import InputError, damage_told

WIDEST = 120_000  # pixels, of what is brought into one zone of UTM
BLOCK = 1024  # rows of a block in Sentinel-2's JPEG 2000
PIXEL = 10.0  # metres, of EuroSAT's patches


@dataclass(frozen=True)
class Layer:
    """One band in a raster file.

    Attributes:
        dataset: The file, opened by rasterio.
        index: Its number in the file, from 1.
        offset, gain: A digital number is (stored + offset) * gain.
    """

    dataset: rasterio.DatasetReader
    index: int
    offset: float = 0.0
    gain: float = 1.0

    def digital_numbers(self, stored: np.ndarray) -> np.ndarray:
        """What is stored as digital numbers, float32; 0 of what is no number."""
        return np.nan_to_num((stored.astype("float32") + self.offset) * self.gain)


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


def datasets(layers: Sequence[Layer]) -> list[rasterio.DatasetReader]:
    """The files of bands, each once."""
    return list({id(layer.dataset): layer.dataset for layer in layers}.values())


def open_raster(path: str) -> rasterio.DatasetReader:
    """A raster file, opened.

    Raises:
        InputError: GDAL cannot open it.
    """
    with damage_told(f"{path}: not a raster file that GDAL reads", "; remove or replace it"), quiet():
        dataset = rasterio.open(path)
    if dataset.driver == "PNG":  # of which GDAL reads what is there, and makes up the rest
        with damage_told(f"{path}: cannot be read, damaged or truncated"):
            images.verify(path)
    return dataset


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without rasterio's warning of files that have no georeference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


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


def row_of_blocks(layers: Sequence[Layer]) -> int:
    """Bytes of the blocks that lie side by side in the files, which are decoded whole."""
    total = 0
    for layer in layers:
        dataset = layer.dataset.src_dataset if isinstance(layer.dataset, WarpedVRT) else layer.dataset
        rows = max(BLOCK, dataset.block_shapes[layer.index - 1][0])  # GDAL does not tell of those behind a product
        total += rows * dataset.width * np.dtype(dataset.dtypes[layer.index - 1]).itemsize
    return total


def read(
    layers: Sequence[Layer], window: rasterio.windows.Window | None = None, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """What the files hold, (height, width, layers), as it is stored.

    Args:
        layers: Bands on one grid.
        window: The part that is read; `None` for all.
        shape: Rows and columns to which it is reduced, by leaving some out; `None` for all.

    Raises:
        InputError: A file is damaged.
    """
    found: list[np.ndarray] = [np.empty(0)] * len(layers)
    for dataset in datasets(layers):
        places = [place for place, layer in enumerate(layers) if layer.dataset is dataset]
        size = (len(places), *shape) if shape else None
        with damage_told(f"{dataset.name}: cannot be read, damaged or truncated"), quiet():
            read = dataset.read([layers[place].index for place in places], window=window, out_shape=size)
        for place, band in zip(places, read):
            found[place] = band
    return np.stack(found, axis=-1)


def there(
    layers: Sequence[Layer],
    stored: np.ndarray,
    window: rasterio.windows.Window | None = None,
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """Where all of `stored`, which `read` returned, is data: (height, width) bool.

    It is not where a band has its file's nodata or is no number, or the file's mask or alpha says so; or, of files that
    declare no nodata, where all bands are 0.
    """
    valid = np.ones(stored.shape[:2], bool)
    nodata = [layer.dataset.nodata for layer in layers]
    for place, value in enumerate(nodata):
        if value is not None and not np.isnan(value):
            valid &= stored[..., place] != value
        if stored.dtype.kind == "f":
            valid &= np.isfinite(stored[..., place])
    if all(value is None for value in nodata):
        valid &= (stored != 0).any(axis=-1)
    for dataset, index in {id(layer.dataset): (layer.dataset, layer.index) for layer in layers}.values():
        if MaskFlags.per_dataset in dataset.mask_flag_enums[index - 1]:
            valid &= dataset.read_masks(index, window=window, out_shape=shape) > 0
    return valid


def files_of(datasets: Sequence[rasterio.DatasetReader]) -> tuple[tuple[str, int, float], ...]:
    """The files that datasets are read from, with the size and the time of the last change of each."""
    names = {file for dataset in datasets for file in dataset.files}
    on_disk = {re.sub(r"^/vsizip/\{(.*)\}/.*", r"\1", name) for name in names}
    found = {name: pathlib.Path(name).stat() for name in sorted(on_disk) if pathlib.Path(name).is_file()}
    return tuple((name, of.st_size, of.st_mtime) for name, of in found.items())
