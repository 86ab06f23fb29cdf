"""Bands in raster files."""

import contextlib
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import rasterio
import rasterio.errors
import rasterio.windows
from rasterio.enums import MaskFlags
from rasterio.vrt import WarpedVRT

from resnetd_tf.data import images
from resnetd_tf.errors import damage_told

BLOCK = 1024  # rows of a block in Sentinel-2's JPEG 2000


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


def files_of(datasets: Sequence[rasterio.DatasetReader], *paths: str) -> tuple[tuple[str, int, float], ...]:
    """The files that datasets are read from, and others, with the size and the time of the last change of each."""
    names = {*paths, *(file for dataset in datasets for file in dataset.files)}
    on_disk = {re.sub(r"^/vsizip/\{(.*)\}/.*", r"\1", name) for name in names}
    found = {name: pathlib.Path(name).stat() for name in sorted(on_disk) if pathlib.Path(name).is_file()}
    return tuple((name, of.st_size, of.st_mtime) for name, of in found.items())
