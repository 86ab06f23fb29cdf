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
from resnetd_tf.data.rasters import gain_of_scale, ignore_missing_georeference, merge_stac_band
from resnetd_tf.errors import InputError, damage_as_input_error, first_line
from resnetd_tf.imagery.clouds import CLOUDS_TAG, HIDDEN_CLASSES
from resnetd_tf.imagery.grid import PIXEL_METRES, Grid, common_grid, file_grid
from resnetd_tf.imagery.products import COARSE_METRES
from resnetd_tf.imagery.scene import degrees_to_pixels, read_polygons
from resnetd_tf.sentinel2 import BANDS, BASELINE_OFFSET_DN, RGB_BANDS, parse_band_name

if TYPE_CHECKING:
    import pystac

SEARCH_PREFIX = "stac:"
EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"  # of Element 84, open to everyone
MARGIN = 64  # pixels around the area, into which windows at its edge reach
ROWS_AT_ONCE = 1024
MAX_ITEMS = 100  # of a mosaic; each is opened only where clearer ones leave pixels empty
FOUND_ITEMS = 500  # that an API is asked for
# Dark water has down to -200 DN. Where more than this share is darker, an offset was subtracted twice.
IMPOSSIBLE_DN, MAX_IMPOSSIBLE_SHARE = -250, 0.2
UNUSED_ROLES = {"metadata", "overview", "thumbnail", "visual"}  # roles of assets that are no bands
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
        offset: Number that is added to stored numbers; `None` for what the file says.
        gain: Factor by which the sum becomes digital numbers; `None` for what the file says.
        metres: Side of its pixels in metres; infinite if the item does not say it.
    """

    address: str
    offset: float | None
    gain: float | None
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
        box: West, south, east and north in degrees; `None` if it does not say them.
    """

    name: str
    day: str
    cloud_cover: float
    assets: dict[str, Asset]
    classification: str | None
    box: tuple[float, float, float, float] | None


def is_remote(text: str) -> bool:
    """Returns whether a scene is an item or a search: an address, "stac:COLLECTION", or the file of an item."""
    if text.startswith((SEARCH_PREFIX, "http://", "https://")):
        return True
    path = pathlib.Path(text)
    if path.suffix.lower() not in (".json", ".geojson") or not path.is_file():
        return False
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return isinstance(content, dict) and "stac_version" in content
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
    margin: int = MARGIN,
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
        margin: Pixels around the area that are read too.
        keep_clouds: Whether clouds, their shadows and snow are data, where an item has a scene classification.
        overwrite: Whether a file of the same name is replaced.

    Returns:
        The path of the file.

    Raises:
        InputError: An item cannot be read, lacks a band, or does not show the area; or nothing is found.
    """
    shown = _without_query(text)
    items = [_read_item(item) for item in _find_items(text, area, date, max_cloud, api)]
    items, bands = _select_items(shown, items, required_bands)
    path = pathlib.Path(f"{prefix}{_name_file(items[0], shown)}.tif")
    if not overwrite:
        if path.exists():
            raise InputError(f"{path} exists already; give another --output, or --overwrite")
        rundir.require_absent(path)
    with rasterio.Env(**GDAL_OPTIONS), contextlib.ExitStack() as files:
        grid = _area_grid(items, area, margin)
        readers = [_ItemReader(item, bands, grid, files, keep_clouds) for item in items]
        masks_clouds = not keep_clouds and any(item.classification for item in items)
        with rundir.write_atomically(path) as temporary:
            counts = _write_mosaic(readers, bands, grid, temporary, masks_clouds=masks_clouds)
            if not sum(counts[:-1]):
                raise InputError(
                    f"{shown}: no item shows a clear pixel of the area; give another --area, --date or --max_cloud"
                )
    names = [f"{item.name} ({item.day})" for item, count in zip(items, counts) if count]
    empty = f"{100 * counts[-1] / sum(counts):.1f} % {'no data, clouds or snow' if masks_clouds else 'no data'}"
    print(f"{shown}: {len(names)} item{'s' * (len(names) > 1)}, {', '.join(names)}")
    print(f"Read: {path}, {grid.width} x {grid.height} pixels of {', '.join(bands)}; {empty}", flush=True)
    return path


def _without_query(address: str) -> str:
    """Returns an address as it may be shown: what follows a question mark may be a secret token."""
    return address.partition("?")[0]


def _describe_error(error: Exception, address: str) -> str:
    """Returns the first line of an error's message without the query of an address."""
    return first_line(Exception(str(error).replace(address, _without_query(address))))


def _name_file(item: Item, text: str) -> str:
    """Returns the name of a file of an item: its id, in which L2A counts later and the baseline must not."""
    name = re.sub(r"_N\d{4}(?=_)", "", re.sub(r"[^\w.-]", "_", item.name))
    return name if "L2A" in name or "l2a" not in text.lower() else f"{name}_L2A"


def _select_items(text: str, items: Sequence[Item], required_bands: Sequence[str]) -> tuple[list[Item], list[str]]:
    """Selects the items that have all required bands that any of them has, the clearest first; and bands to read.

    Raises:
        InputError: No item has red, green and blue.
    """
    wanted = {band for item in items for band in item.assets} & {*required_bands, *RGB_BANDS}
    complete = sorted((item for item in items if wanted <= item.assets.keys()), key=lambda item: item.cloud_cover)
    if missing := [band for band in RGB_BANDS if band not in wanted]:
        bands = ", ".join(band for band in BANDS if band in items[0].assets) or "no bands"
        raise InputError(f"{text}: {items[0].name} has no {', '.join(missing)}, but {bands}")
    if not complete:
        raise InputError(f"{text}: no item has all of {', '.join(sorted(wanted))}")
    has_water_band = all(WATER_BAND in item.assets for item in complete)
    wanted_bands = wanted & set(required_bands) | ({WATER_BAND} if has_water_band else set())
    return complete[:MAX_ITEMS], [band for band in BANDS if band in wanted_bands]


def _find_items(text: str, area: str | None, date: str | None, max_cloud: float, api: str) -> "list[pystac.Item]":
    """Reads the item at an address, or asks an API for items, and signs the addresses of their files where needed."""
    import pystac
    import pystac_client

    shown = _without_query(text)
    try:
        if not text.startswith(SEARCH_PREFIX):
            items = [pystac.Item.from_file(text)]
        elif area and date:
            search = pystac_client.Client.open(api).search(
                collections=[text.removeprefix(SEARCH_PREFIX)],
                bbox=_search_box(area),
                datetime=date,
                max_items=FOUND_ITEMS,
            )
            items = list(search.items())
        else:
            raise InputError(f"{text}: a search needs --area and --date, such as --date=2024-06-01/2024-08-31")
        clear_items = [item for item in items if not text.startswith(SEARCH_PREFIX) or _cloud_cover(item) <= max_cloud]
        if not clear_items:
            raise InputError(
                f"{text}: {api} has {len(items)} items of that area and date, none with at most {max_cloud:g} % "
                "clouds; give another --date, --area or --max_cloud"
            )
        for item in clear_items:
            item.make_asset_hrefs_absolute()
            if any(".blob.core.windows.net" in asset.href for asset in item.assets.values()):
                _sign(item)
    except (InputError, ModuleNotFoundError):
        raise
    except Exception as error:  # requests, urllib and the readers of STAC raise many kinds
        raise InputError(f"{shown}: cannot be read as STAC ({_describe_error(error, text)})") from error
    return clear_items


def _cloud_cover(item: "pystac.Item") -> float:
    """Returns the share of an item under clouds in per cent; 100 if it does not say that."""
    stated = item.properties.get("eo:cloud_cover")
    return 100.0 if stated is None else float(stated)


def _search_box(area: str) -> list[float]:
    """Returns west, south, east and north of an area as STAC takes them: west is greater across 180 degrees."""
    longitudes, latitudes = np.concatenate([ring for rings in read_polygons(area) for ring in rings]).T
    first = longitudes[0]
    longitudes = (longitudes - first + 180) % 360 - 180 + first  # together on one side of 180 degrees
    west, east = (round((degrees + 180) % 360 - 180, 9) for degrees in (longitudes.min(), longitudes.max()))
    return [float(west), float(latitudes.min()), float(180 if east == -180 else east), float(latitudes.max())]


def _sign(item: "pystac.Item") -> None:
    """Adds the token that Planetary Computer gives to everyone to the addresses of an item's files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its use of pydantic
        import planetary_computer
    planetary_computer.sign_inplace(item)


def _read_item(item: "pystac.Item") -> Item:
    """Reads what an item says of its bands.

    Raises:
        InputError: The item breaks the rules of STAC.
    """
    properties = item.properties
    assets: dict[str, Asset] = {}
    classification = None
    with damage_as_input_error(f"{item.id}: cannot be read as a STAC item"):
        for key, asset in item.assets.items():
            if key.upper().startswith("SCL") and (classification is None or _is_tiff(asset.href)):
                classification = asset.href
            if (band := _read_asset(key, asset, properties)) and (
                band[0] not in assets or _rank(band[1]) < _rank(assets[band[0]])
            ):
                assets[band[0]] = band[1]
        day = str(properties.get("datetime") or properties.get("start_datetime") or "")[:10]
        west, south, east, north = item.bbox[:2] + item.bbox[-2:] if item.bbox and len(item.bbox) == 4 else [0.0] * 4
        box = (west, south, east, north) if south < north else None
        return Item(item.id, day, _cloud_cover(item), assets, classification, box)


def _read_asset(key: str, asset: "pystac.Asset", properties: dict) -> tuple[str, Asset] | None:
    """Returns the name and the file of the band that an asset holds; `None` if it holds no band or several."""
    entry = asset.to_dict()
    if UNUSED_ROLES & set(entry.get("roles") or []):
        return None
    if max(len(entry.get(field) or []) for field in ("eo:bands", "bands", "raster:bands")) > 1:
        return None  # a picture
    fields = merge_stac_band(entry, 0)
    names = (parse_band_name(name) for name in (fields.get("name"), fields.get("common_name"), key))
    band = next(filter(None, names), None)
    if band is None:
        return None
    resolution = re.search(r"_(\d+)m$", key)
    metres = entry.get("gsd") or fields.get("spatial_resolution") or (float(resolution[1]) if resolution else math.inf)
    offset, gain = _read_conversion(fields, properties)
    return band, Asset(asset.href, offset, gain, float(metres))


def _rank(asset: Asset) -> tuple[float, bool]:
    """Orders files of the same band: the finest first, of these GeoTIFFs, of which parts can be read."""
    return asset.metres, not _is_tiff(asset.address)


def _is_tiff(address: str) -> bool:
    return urlsplit(address).path.lower().endswith((".tif", ".tiff"))


def _read_conversion(fields: dict, properties: dict) -> tuple[float | None, float | None]:
    """Returns offset and gain of a band, by its own fields or else by the processing baseline of the item.

    Raises:
        ValueError: The fields have no numbers that can be used.
    """
    baseline = str(properties.get("s2:processing_baseline") or properties.get("processing:version") or "")
    has_offset = re.match(r"0*[4-9]\.|0*[1-9]\d\.", baseline) is not None
    # Earth Search subtracts the offset from the files of a collection, and still names it in the items.
    is_subtracted = bool(properties.get("earthsearch:boa_offset_applied"))
    if not {"scale", "offset"} & fields.keys() and not has_offset and not is_subtracted:
        return None, None
    scale = float(fields.get("scale", 1.0))
    default = -BASELINE_OFFSET_DN * scale if has_offset else 0.0
    offset = 0.0 if is_subtracted else float(fields.get("offset", default)) / scale
    return _check_conversion(offset, scale)


def _check_conversion(offset: float, scale: float) -> tuple[float, float]:
    """Returns the offset, and the gain that belongs to a scale; raises ValueError if they cannot be used."""
    if not (math.isfinite(offset) and math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale {scale} and offset {offset}")
    return offset, gain_of_scale(scale)


@contextlib.contextmanager
def _open(address: str) -> Iterator[rasterio.DatasetReader]:
    """Opens a file at an address.

    Raises:
        InputError: The file cannot be opened, or has no place on the Earth.
    """
    shown = _without_query(address)
    try:
        with ignore_missing_georeference():
            dataset = rasterio.open(address)
    except rasterio.errors.RasterioError as error:
        reason = _describe_error(error, address)
        denied = "; its token may have expired: fetch the item again" if re.search("40[13]", reason) else ""
        raise InputError(f"{shown}: cannot be opened ({reason}){denied}") from error
    with dataset:
        if dataset.crs is None:
            raise InputError(f"{shown}: has no coordinate reference system, so that no place is found in it")
        yield dataset


def _area_grid(items: Sequence[Item], area: str | None, margin: int) -> Grid:
    """Returns the pixels of an area with a margin, in line with those of the clearest item, 10 m each.

    The grid is cut to the extent of the items.

    Raises:
        InputError: The area lies outside of the items.
    """
    name = items[0].name
    with _open(items[0].assets["B04"].address) as dataset:
        grid, stored_pixels = common_grid([dataset]), dataset.width * dataset.height
    metres = PIXEL_METRES * (grid.width * grid.height / stored_pixels) ** 0.5
    if metres > COARSE_METRES:
        print(f"{name}: its pixels have {metres:.0f} m; the classifier knows ground of 10 m, expect little")
    if area is None:
        return grid
    boxes = [",".join(map(str, item.box)) for item in items[1:] if item.box]
    corners = [np.array([(0, 0), (grid.width, grid.height)]), *(_pixels_of(box, grid) for box in boxes)]
    extent = np.concatenate(corners)
    wanted = _pixels_of(area, grid)
    low = np.maximum(np.floor(wanted.min(0)) - margin, np.floor(extent.min(0)))
    high = np.minimum(np.ceil(wanted.max(0)) + margin, np.ceil(extent.max(0)))
    if not (low < high).all():
        raise InputError(f"--area={area}: {name} does not reach there")
    (column, row), (width, height) = low.astype(int).tolist(), (high - low).astype(int).tolist()
    return Grid(grid.crs, grid.transform * rasterio.Affine.translation(column, row), width, height)


def _pixels_of(area: str, grid: Grid) -> np.ndarray:
    """Returns columns and rows (n, 2) of the outlines of an area, but for places that the grid's projection lacks."""
    points = np.concatenate([degrees_to_pixels(ring, grid) for rings in read_polygons(area) for ring in rings])
    return points[np.isfinite(points).all(1)]


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
        self.scales: dict[str, tuple[float, float]] = {}  # scale and offset in each file

    def read(self, row: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns digital numbers (bands, height, width) uint16 and where there is data (height, width) bool.

        Raises:
            InputError: A file cannot be read, or its numbers cannot be as the item says.
        """
        window = Window(0, row, self.grid.width, height)
        numbers = np.empty((len(self.bands), height, self.grid.width), "uint16")
        # A band may be 0 where others have data, as the near infrared of water.
        has_any_data, is_finite = np.zeros(numbers.shape[1:], bool), np.ones(numbers.shape[1:], bool)
        for position, band in enumerate(self.bands):
            asset = self.item.assets[band]
            stored = self._read_window(asset.address, window, is_classification=False)
            has_data = np.isfinite(stored) & (stored != 0)
            has_any_data |= has_data
            is_finite &= np.isfinite(stored)
            dn = self._convert(band, np.where(has_data, stored, 0).astype("float32"), has_data)
            numbers[position] = np.clip(np.rint(dn), 1, 65535)
        valid = has_any_data & is_finite
        if self.mask_address:
            classes = self._read_window(self.mask_address, window, is_classification=True)
            valid &= ~np.isin(classes, HIDDEN_CLASSES)
        return numbers, valid

    def _convert(self, band: str, stored: np.ndarray, has_data: np.ndarray) -> np.ndarray:
        """Converts stored numbers of a band to digital numbers, by the item or else by the file."""
        asset, vrt = self.item.assets[band], self.datasets[self.item.assets[band].address]
        offset, gain = asset.offset, asset.gain
        if offset is None or gain is None:
            with damage_as_input_error(f"{_without_query(asset.address)}: its conversion cannot be used"):
                scale = self.scales[asset.address][0]
                offset, gain = _check_conversion(self.scales[asset.address][1] / scale, scale)
        dn = (stored + offset) * gain
        if not has_data.any():
            return dn
        impossible_share = float((dn[has_data] < IMPOSSIBLE_DN).mean())
        if impossible_share > MAX_IMPOSSIBLE_SHARE:
            raise InputError(
                f"{self.item.name}: {100 * impossible_share:.0f} % of its {band} is below {IMPOSSIBLE_DN} DN by the "
                f"offset {offset:g} of the item; its files seem to have none: download and map them with --offset=0"
            )
        if np.dtype(vrt.dtypes[0]).kind == "f" and gain == 1 and dn[has_data].max() < 2:
            raise InputError(
                f"{self.item.name}: its {band} has numbers up to {dn[has_data].max():.2g}, reflectances of which the "
                "item says no scale; download the files and map them with --scale=10000"
            )
        return dn

    def _read_window(self, address: str, window: Window, *, is_classification: bool) -> np.ndarray:
        if address not in self.datasets:
            dataset = self.files.enter_context(_open(address))
            stored_grid = file_grid(dataset)
            has_pixels = stored_grid.crs == self.grid.crs and np.isclose(
                abs(stored_grid.transform.a), abs(self.grid.transform.a)
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
            self.scales[address] = (dataset.scales[0], dataset.offsets[0])
        try:
            return self.datasets[address].read(1, window=window)
        except rasterio.errors.RasterioError as error:
            raise InputError(
                f"{_without_query(address)}: cannot be read ({_describe_error(error, address)})"
            ) from error


def _write_mosaic(
    readers: Sequence[_ItemReader], bands: Sequence[str], grid: Grid, path: pathlib.Path, *, masks_clouds: bool
) -> list[int]:
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
        if masks_clouds:
            file.update_tags(**{CLOUDS_TAG: "clouds, their shadows and snow left out by the scene classification"})
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
