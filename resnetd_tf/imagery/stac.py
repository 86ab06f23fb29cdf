"""Scenes where they are: items of a SpatioTemporal Asset Catalog (STAC), of which only an area is read.

`fetch_scene` reads the area from the files of one item, or of the items that an API finds, and writes it as a GeoTIFF
of digital numbers. Several items become one mosaic. Each pixel is from the item with the fewest clouds that shows it.
"""

import contextlib
import json
import math
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from resnetd_tf import rundir
from resnetd_tf.data.rasters import MAX_REFLECTANCE_SCALE, merge_stac_band
from resnetd_tf.errors import InputError, first_line
from resnetd_tf.imagery.clouds import HIDDEN_CLASSES
from resnetd_tf.imagery.grid import PIXEL_METRES, Grid, file_grid
from resnetd_tf.imagery.scene import degrees_to_pixels, read_polygons
from resnetd_tf.sentinel2 import BANDS, BASELINE_OFFSET_DN, RGB_BANDS, parse_band_name

if TYPE_CHECKING:
    import pystac

SEARCH_PREFIX = "stac:"
EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"  # of Element 84, open to everyone
MARGIN = 64  # pixels around the area, into which windows at its edge reach
ROWS_AT_ONCE = 1024
MAX_ITEMS = 12  # of a mosaic
FOUND_ITEMS = 500  # that an API is asked for
WATER_BAND = "B08"  # tells water from land
# Only the file itself is asked for, its head at once, and a failed request is made again.
GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "VSI_CACHE": True,
}


@dataclass(frozen=True)
class Asset:
    """One band of an item.

    Attributes:
        address: Address or path of its file.
        offset: Number that is added to stored numbers.
        gain: Factor by which the sum becomes digital numbers.
        metres: Side of its pixels in metres; 0 if the item does not say it.
    """

    address: str
    offset: float
    gain: float
    metres: float


@dataclass(frozen=True)
class Item:
    """What is read of a STAC item.

    Attributes:
        name: Its id.
        day: The day of its acquisition, "2024-06-01".
        cloud_cover: Share of it under clouds, in per cent; 100 if it does not say that.
        assets: Its bands by name.
        classification: Address of L2A's scene classification; `None` if it has none.
    """

    name: str
    day: str
    cloud_cover: float
    assets: dict[str, Asset]
    classification: str | None


def is_remote(text: str) -> bool:
    """Returns whether a scene is an item or a search: an address, "stac:COLLECTION", or the file of an item."""
    if text.startswith((SEARCH_PREFIX, "http://", "https://")):
        return True
    path = pathlib.Path(text)
    if path.suffix.lower() not in (".json", ".geojson") or not path.is_file():
        return False
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return "stac_version" in json.loads(path.read_text(encoding="utf-8"))
    return False


def fetch_scene(
    text: str,
    prefix: str,
    *,
    required_bands: Sequence[str] = RGB_BANDS,
    area: str | None = None,
    date: str | None = None,
    max_cloud: float = 20.0,
    api: str = EARTH_SEARCH,
    keep_clouds: bool = False,
    overwrite: bool = False,
) -> pathlib.Path:
    """Reads an area of one item, or of those that an API finds, and writes it as a GeoTIFF of digital numbers.

    Args:
        text: Address or path of an item, or "stac:COLLECTION" for a search.
        prefix: Start of the file's path. The id of the clearest item follows.
        required_bands: The bands that a classifier takes. B08 is read too where it is there.
        area: "W,S,E,N" in degrees, or a GeoJSON file of polygons; `None` reads a whole item.
        date: A day or a time, or two with a slash between, for a search.
        max_cloud: Greatest share of clouds of an item in per cent, for a search.
        api: Address of the API for a search.
        keep_clouds: Whether clouds, their shadows and snow are data, where an item has a scene classification.
        overwrite: Whether a file of the same name is replaced.

    Returns:
        The path of the file.

    Raises:
        InputError: An item cannot be read, lacks a band, or does not show the area; or nothing is found.
    """
    items = [_read_item(item) for item in _find_items(text, area, date, max_cloud, api)]
    items = sorted(items, key=lambda item: item.cloud_cover)[:MAX_ITEMS]
    bands = [band for band in BANDS if all(band in item.assets for item in items)]
    if missing := [band for band in RGB_BANDS if band not in bands]:
        raise InputError(f"{text}: {items[0].name} has no {', '.join(missing)}, but {', '.join(bands) or 'no bands'}")
    bands = [band for band in bands if band in (*required_bands, WATER_BAND)]
    name = re.sub(r"[^\w.-]", "_", items[0].name)
    if "l2a" in text.lower() and not re.search("L2A", name):  # what the file's name tells of it
        name += "_L2A"
    path = pathlib.Path(f"{prefix}{name}.tif")
    if not overwrite:
        rundir.require_absent(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.Env(**GDAL_OPTIONS), contextlib.ExitStack() as files:
        with files.enter_context(_open(items[0].assets["B04"].address)) as dataset:
            grid = _area_grid(file_grid(dataset), area, items[0].name)
        readers = [_ItemReader(item, bands, grid, files, keep_clouds) for item in items]
        with rundir.write_atomically(path) as temporary:
            counts = _write_mosaic(readers, bands, grid, temporary)
    empty, used = counts[-1] / (grid.width * grid.height), sum(count > 0 for count in counts[:-1])
    if empty == 1:
        path.unlink()
        raise InputError(f"{text}: no item shows a clear pixel of the area; give another --area, --date or --max_cloud")
    names = ", ".join(f"{item.name} ({item.day})" for item, count in zip(items, counts) if count)
    hidden = "no data" if keep_clouds or not any(item.classification for item in items) else "no data, clouds or snow"
    print(f"{text}: {used} item{'s' * (used > 1)}, {names}")
    print(f"Read: {path}, {grid.width} x {grid.height} pixels of {', '.join(bands)}; {100 * empty:.1f} % {hidden}")
    return path


def _find_items(text: str, area: str | None, date: str | None, max_cloud: float, api: str) -> "list[pystac.Item]":
    """Reads the item at an address, or asks an API for items, and signs the addresses of their files where needed."""
    import pystac
    import pystac_client

    try:
        if not text.startswith(SEARCH_PREFIX):
            found = [pystac.Item.from_file(text)]
        else:
            if not (area and date):
                raise InputError(f"{text}: a search needs --area and --date, such as --date=2024-06-01/2024-08-31")
            longitudes, latitudes = np.concatenate([ring for rings in read_polygons(area) for ring in rings]).T
            box = [longitudes.min(), latitudes.min(), longitudes.max(), latitudes.max()]
            search = pystac_client.Client.open(api).search(
                collections=[text.removeprefix(SEARCH_PREFIX)], bbox=box, datetime=date, max_items=FOUND_ITEMS
            )
            found = list(search.items())
            clear = [item for item in found if item.properties.get("eo:cloud_cover", 100) <= max_cloud]
            if not clear:
                raise InputError(
                    f"{text}: {api} has {len(found)} items of that area and date, none with at most {max_cloud:g} % "
                    "clouds; give another --date, --area or --max_cloud"
                )
            found = clear
        for item in found:
            item.make_asset_hrefs_absolute()
            if any(".blob.core.windows.net" in asset.href for asset in item.assets.values()):
                _sign(item)
    except InputError:
        raise
    except Exception as error:  # requests, urllib and the readers of STAC raise many kinds
        raise InputError(f"{text}: cannot be read as STAC ({first_line(error)})") from error
    return found


def _sign(item: "pystac.Item") -> None:
    """Adds the token that Planetary Computer gives to everyone to the addresses of an item's files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its use of pydantic
        import planetary_computer
    planetary_computer.sign_inplace(item)


def _read_item(item: "pystac.Item") -> Item:
    """Reads what an item says of its bands."""
    properties = item.properties
    assets: dict[str, Asset] = {}
    classification = None
    for key, asset in item.assets.items():
        entry = asset.to_dict()
        entry["href"] = asset.href
        if key.upper().startswith("SCL") and (classification is None or _is_tiff(asset.href)):
            classification = asset.href
        if max(len(entry.get(field) or []) for field in ("eo:bands", "bands", "raster:bands")) > 1:
            continue  # a picture
        fields = merge_stac_band(entry, 0)
        names = (parse_band_name(name) for name in (fields.get("name"), fields.get("common_name"), key))
        band = next(filter(None, names), None)
        if band is None:
            continue
        metres = entry.get("gsd") or fields.get("spatial_resolution") or _key_metres(key)
        offset, gain = _read_conversion(fields, properties, item.id)
        candidate = Asset(asset.href, offset, gain, float(metres))
        if band not in assets or _rank(candidate) < _rank(assets[band]):
            assets[band] = candidate
    day = str(properties.get("datetime") or properties.get("start_datetime") or "")[:10]
    return Item(item.id, day, float(properties.get("eo:cloud_cover", 100)), assets, classification)


def _key_metres(key: str) -> float:
    resolution = re.search(r"_(\d+)m$", key)
    return float(resolution[1]) if resolution else 0.0


def _rank(asset: Asset) -> tuple[float, bool]:
    """Orders files of the same band: the finest first, of these GeoTIFFs, of which parts can be read."""
    return asset.metres, not _is_tiff(asset.address)


def _is_tiff(address: str) -> bool:
    return urlsplit(address).path.lower().endswith((".tif", ".tiff"))


def _read_conversion(fields: dict, properties: dict, name: str) -> tuple[float, float]:
    """Returns offset and gain of a band, by its own fields or else by the processing baseline of the item.

    Raises:
        InputError: The fields have no finite numbers.
    """
    baseline = str(properties.get("s2:processing_baseline") or properties.get("processing:version") or "")
    has_offset = re.match(r"0*[4-9]\.|0*[1-9]\d\.", baseline) is not None
    # Earth Search subtracts the offset from the files of a collection, and still names it in the items.
    is_subtracted = bool(properties.get("earthsearch:boa_offset_applied"))
    try:
        scale = float(fields.get("scale", 1.0))
        gain = scale * (10_000 if scale < MAX_REFLECTANCE_SCALE else 1)
        default = -BASELINE_OFFSET_DN * scale if has_offset else 0.0
        offset = 0.0 if is_subtracted else float(fields.get("offset", default)) / scale
        if not (math.isfinite(offset) and math.isfinite(gain) and gain > 0):
            raise ValueError
    except (TypeError, ValueError, ZeroDivisionError) as error:
        stated = f"scale {fields.get('scale')} and offset {fields.get('offset')}"
        raise InputError(f"{name}: its {stated} cannot be used") from error
    return offset, gain


@contextlib.contextmanager
def _open(address: str) -> Iterator[rasterio.DatasetReader]:
    """Opens a file at an address."""
    shown = address.partition("?")[0]  # what follows may be a secret token
    try:
        dataset = rasterio.open(address)
    except rasterio.errors.RasterioError as error:
        reason = first_line(error).replace(address, shown)
        denied = "; its token may have expired: fetch the item again" if re.search("40[13]", reason) else ""
        raise InputError(f"{shown}: cannot be opened ({reason}){denied}") from error
    with dataset:
        yield dataset


def _area_grid(item_grid: Grid, area: str | None, name: str) -> Grid:
    """Returns the pixels of an area with a margin, in line with those of an item, 10 m each.

    Raises:
        InputError: The item has no coordinate reference system, or the area is far from it.
    """
    if item_grid.crs is None:
        raise InputError(f"{name}: its files have no coordinate reference system")
    step = PIXEL_METRES / abs(item_grid.transform.a) if item_grid.crs.is_projected else 1.0
    fine = Grid(
        item_grid.crs,
        item_grid.transform * rasterio.Affine.scale(step),
        round(item_grid.width / step),
        round(item_grid.height / step),
    )
    if area is None:
        return fine
    points = [degrees_to_pixels(ring, fine) for rings in read_polygons(area) for ring in rings]
    places = np.concatenate(points)
    low, high = np.floor(places.min(0)).astype(int) - MARGIN, np.ceil(places.max(0)).astype(int) + MARGIN
    if not ((high > 0) & (low < (fine.width, fine.height))).all():
        raise InputError(f"--area={area}: {name} does not reach there")
    (column, row), (width, height) = low.tolist(), (high - low).tolist()
    return Grid(fine.crs, fine.transform * rasterio.Affine.translation(column, row), width, height)


class _ItemReader:
    """Reads rows of a grid from an item. Its files are opened when they are needed first.

    Args:
        item: The item.
        bands: The bands to read.
        grid: The grid.
        files: Closes the files.
        keep_clouds: Whether clouds, shadows and snow are data.
    """

    def __init__(self, item: Item, bands: Sequence[str], grid: Grid, files: contextlib.ExitStack, keep_clouds: bool):
        self.item, self.bands, self.grid, self.files = item, bands, grid, files
        self.mask_address = None if keep_clouds else item.classification
        self.datasets: dict[str, WarpedVRT] = {}

    def read(self, row: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns digital numbers (bands, height, width) uint16 and where there is data (height, width) bool."""
        window = Window(0, row, self.grid.width, height)
        numbers = np.empty((len(self.bands), height, self.grid.width), "uint16")
        valid = np.ones(numbers.shape[1:], bool)
        for position, band in enumerate(self.bands):
            asset = self.item.assets[band]
            stored = self._read_window(asset.address, window, is_classification=False)
            valid &= stored != 0
            numbers[position] = np.clip(np.rint((stored.astype("float32") + asset.offset) * asset.gain), 1, 65535)
        if self.mask_address:
            classes = self._read_window(self.mask_address, window, is_classification=True)
            valid &= ~np.isin(classes, HIDDEN_CLASSES)
        return numbers, valid

    def _read_window(self, address: str, window: Window, *, is_classification: bool) -> np.ndarray:
        if address not in self.datasets:
            dataset = self.files.enter_context(_open(address))
            shown_grid = file_grid(dataset)
            has_pixels = shown_grid.crs == self.grid.crs and np.isclose(
                abs(shown_grid.transform.a), abs(self.grid.transform.a)
            )
            vrt = WarpedVRT(
                dataset,
                crs=self.grid.crs,
                transform=self.grid.transform,
                width=self.grid.width,
                height=self.grid.height,
                src_nodata=dataset.nodata or 0,
                nodata=0,
                resampling=Resampling.nearest if has_pixels or is_classification else Resampling.cubic,
            )
            self.datasets[address] = self.files.enter_context(vrt)
        try:
            return self.datasets[address].read(1, window=window)
        except rasterio.errors.RasterioError as error:
            shown = address.partition("?")[0]
            raise InputError(f"{shown}: cannot be read ({first_line(error).replace(address, shown)})") from error


def _write_mosaic(readers: Sequence[_ItemReader], bands: Sequence[str], grid: Grid, path: pathlib.Path) -> list[int]:
    """Writes a mosaic; each pixel is from the first item that shows it.

    Returns:
        How many pixels are from each item, and how many are empty.
    """
    counts = [0] * (len(readers) + 1)
    profile = {"crs": grid.crs, "transform": grid.transform, "width": grid.width, "height": grid.height}
    layout = {"tiled": True, "compress": "deflate", "predictor": 2, "bigtiff": "if_safer"}
    with rasterio.open(
        path, "w", driver="GTiff", count=len(bands), dtype="uint16", nodata=0, **profile, **layout
    ) as file:
        file.descriptions = tuple(bands)
        file.update_tags(stac_items=",".join(reader.item.name for reader in readers))
        for row in range(0, grid.height, ROWS_AT_ONCE):
            height = min(ROWS_AT_ONCE, grid.height - row)
            mosaic = np.zeros((len(bands), height, grid.width), "uint16")
            is_empty = np.ones(mosaic.shape[1:], bool)
            for index, reader in enumerate(readers):
                if not is_empty.any():
                    break
                numbers, valid = reader.read(row, height)
                chosen = valid & is_empty
                mosaic[:, chosen] = numbers[:, chosen]
                is_empty &= ~chosen
                counts[index] += int(chosen.sum())
            counts[-1] += int(is_empty.sum())
            file.write(mosaic, window=Window(0, row, grid.width, height))
    return counts
