"""Bands of Sentinel-2 in raster files: which band is which, their digital numbers, and where there is data.

Whatever GDAL opens is read here, a patch as well as a scene: a file of several bands, pages or variables.
"""

import contextlib
import functools
import json
import math
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import rasterio
import rasterio.errors
import rasterio.windows
import tifffile
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.vrt import WarpedVRT

from resnetd_tf.data import digital_numbers
from resnetd_tf.data.digital_numbers import Fault, Sample
from resnetd_tf.errors import InputError, damage_as_input_error, first_line
from resnetd_tf.sentinel2 import BANDS, BASELINE_OFFSET_DN, RGB_BANDS, parse_band_name

JPEG2000_BLOCK_ROWS = 1024  # rows of a block in Sentinel-2's JPEG 2000
BASELINE_PATTERN = re.compile(r"S2[A-D]_MSIL(?:1C|2A)_\d{8}T\d{6}_N(\d{4})_")
COLOUR_INTERPRETATIONS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
MIN_FILL_SHARE = 0.01  # share of the pixels
MAX_REFLECTANCE_SCALE = 0.5  # a declared scale below makes reflectances, one above digital numbers


@dataclass(frozen=True)
class Band:
    """One band in a raster file.

    Attributes:
        dataset: The file, opened by rasterio.
        index: Number of the band in the file, from 1.
        offset, gain: A digital number is (stored + offset) * gain.
        fill: A number that stands for missing data where every band has it, though the file does not say so.
    """

    dataset: rasterio.DatasetReader
    index: int
    offset: float = 0.0
    gain: float = 1.0
    fill: float | None = None

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.dataset.dtypes[self.index - 1])

    @property
    def nodata(self) -> float | None:
        return self.dataset.nodatavals[self.index - 1]

    def digital_numbers(self, stored: np.ndarray) -> np.ndarray:
        """Stored numbers as digital numbers, float32; 0 where they are not finite."""
        return np.nan_to_num((stored.astype("float32") + self.offset) * self.gain, posinf=0, neginf=0)


@dataclass(frozen=True)
class Reading:
    """What a user says of numbers in files that do not say it themselves.

    Attributes:
        bands: Names of the bands of a file, in its order.
        scale: Digital numbers for each stored unit, after the offset.
        offset: What is added to stored numbers first.
        fill: For each of EuroSAT's 13 bands the digital number that stands for a missing one; `None` refuses those.

    Raises:
        InputError: A number is outside its range, or a name is no band.
    """

    bands: tuple[str, ...] | None = None
    scale: float | None = None
    offset: float | None = None
    fill: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0):
            raise InputError(f"--scale={self.scale}: must be above 0 and finite")
        if self.offset is not None and not math.isfinite(self.offset):
            raise InputError(f"--offset={self.offset}: must be a finite number")
        if self.bands is not None:
            object.__setattr__(self, "bands", tuple(self.bands))
            names = [parse_band_name(band) for band in self.bands or ()]
            unknown = [band for band, name in zip(self.bands or (), names) if not name and band.strip()[:1] in "Bb"]
            if unknown or not any(names):
                problem = f"{', '.join(unknown)} is none; " if unknown else ""
                raise InputError(f"--bands={','.join(self.bands or ())}: {problem}bands are {', '.join(BANDS)}")

    @property
    def flags(self) -> str:
        """The flags that were given, as on the command line; empty for none."""
        values = {"bands": self.bands and ",".join(self.bands), "scale": self.scale, "offset": self.offset}
        return " ".join(f"--{name}={value}" for name, value in values.items() if value is not None)


AS_STORED = Reading()


@dataclass(frozen=True)
class BandSet:
    """The bands that were found in files of one scene.

    Attributes:
        bands: By name.
        is_picture: Whether they are the colours of a picture of 8 bits, and no digital numbers.
        description: What was found, and where the numbers' meaning was read, in words.
        is_calibrated: Whether a product's metadata say what the numbers mean.
        is_unnamed: Whether 13 bands have no names and are taken to be in EuroSAT's order.
    """

    bands: dict[str, Band]
    is_picture: bool
    description: str
    is_calibrated: bool = False
    is_unnamed: bool = False


class NotARaster(InputError):
    """GDAL does not open a file."""


def unique_datasets(bands: Sequence[Band]) -> list[rasterio.DatasetReader]:
    """The files of bands, each once."""
    return list({id(band.dataset): band.dataset for band in bands}.values())


def open_raster(path: str) -> rasterio.DatasetReader:
    """A raster file, opened.

    Raises:
        InputError: GDAL cannot open it.
    """
    if "://" in path and not pathlib.Path(path).exists():
        raise InputError(f"{path}: an address of the web is not read; download the file first")
    try:
        with ignore_missing_georeference():
            return rasterio.open(path)
    except Exception as error:
        raise NotARaster(
            f"{path}: not a raster file that GDAL reads ({first_line(error)}); remove or replace it"
        ) from error


@contextlib.contextmanager
def ignore_missing_georeference() -> Iterator[None]:
    """Without rasterio's warning of files that have no georeference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def open_bands(
    path: pathlib.Path, reading: Reading, takes_picture: bool = True, dataset: rasterio.DatasetReader | None = None
) -> BandSet:
    """Opens the bands of one file: a GeoTIFF, VRT, JPEG 2000, netCDF or whatever else GDAL opens.

    Args:
        path: The file.
        reading: What the user says of it.
        takes_picture: Whether 8 bits with named colours may be a picture, rather than digital numbers.
        dataset: The file, if it is opened already.

    Raises:
        InputError: GDAL does not open it, its bands are not known or are named twice.
    """
    with damage_as_input_error(f"{path}: cannot be read, damaged or truncated"):
        return _band_set(path, reading, takes_picture, dataset or open_raster(str(path)))


def _band_set(path: pathlib.Path, reading: Reading, takes_picture: bool, dataset: rasterio.DatasetReader) -> BandSet:
    """The bands of an opened file, as `open_bands` returns them."""
    places = _band_places(dataset, path)
    dtype = np.dtype(places[0][0].dtypes[places[0][1] - 1])
    if dtype.kind == "c" or dtype.kind not in "iuf":
        raise InputError(f"{path}: its numbers are {dtype}; give whole or real numbers")
    stac = _stac_bands(path, len(places))
    names = _band_names(path, places, reading, stac, dtype)
    if dtype == "uint8" and (takes_picture or not any(names)) and (colours := _picture_colours(dataset, names)):
        bands = {band: Band(dataset, place) for band, place in zip(RGB_BANDS, colours)}
        return BandSet(bands, True, _describe_picture(dataset, colours))
    if not any(names):
        raise InputError(_unnamed_bands_message(dataset, path, places, dtype))
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        once = [name if name and name not in names[:place] else "x" for place, name in enumerate(names)]
        raise InputError(
            f"{path}: {', '.join(repeated)} is there twice; name the bands that are meant, as --bands={','.join(once)} "
            "(x for the others)"
        )
    chosen = [(name, place, item) for name, place, item in zip(names, places, stac) if name]
    bands, sources = {}, set()
    for name, (band_dataset, index), item in chosen:
        offset, gain, source = 0.0, 1.0, ""
        if reading.scale is None or reading.offset is None:
            offset, gain, source = _declared_conversion(band_dataset, index, path, item)
        bands[name] = _apply_flags(Band(band_dataset, index, offset, gain), reading)
        sources.add(source)
    unused = [place for place, name in enumerate(names, 1) if not name]
    description = f"bands {', '.join(bands)} of {dtype}: "
    description += describe_conversion(list(bands.values()), " and ".join(sorted(sources)), reading)
    if unused:
        description += f"; band {', '.join(map(str, unused))} of the file, no band of Sentinel-2, not used"
    is_unnamed = (
        reading.bands is None and len(names) == len(BANDS) and not any(map(parse_band_name, _band_labels(places)))
    )
    is_unnamed &= not stac[0]
    if is_unnamed:
        description += "; without names, in EuroSAT's order"
    return BandSet(bands, False, description, is_unnamed=is_unnamed)


def missing_bands(name: str, band_set: BandSet, wanted: Sequence[str], reading: Reading) -> list[str]:
    """The wanted bands that a file or a scene of that name lacks.

    Raises:
        InputError: Nothing fills them in, or all are missing.
    """
    missing = [band for band in wanted if band not in band_set.bands]
    if missing and (reading.fill is None or len(missing) == len(wanted)):
        fills_in = "; --missing=mean fills in" if len(wanted) > 3 else ""  # a colour is a third of what is seen
        raise InputError(f"{name} has no {', '.join(missing)}, which the classifier takes{fills_in}")
    return missing


def describe_conversion(bands: Sequence[Band], source: str, reading: Reading) -> str:
    """How stored numbers of bands become digital numbers, and who says so, in words."""
    offsets, gains = sorted({band.offset for band in bands}), sorted({band.gain for band in bands})
    as_stored = offsets == [0] and gains == [1]
    if as_stored and reading.scale is None and reading.offset is None:
        return "digital numbers as they are stored"
    offset_source = "as given" if reading.offset is not None else source
    scale_source = "as given" if reading.scale is not None else source
    offset_text = f"offset {' or '.join(f'{value:+g}' for value in offsets)}"
    scale_text = f"scale {' or '.join(f'{value:g}' for value in gains)}"
    if offset_source == scale_source:
        return f"digital numbers by {offset_text} and {scale_text} {offset_source}"
    parts = ("digital numbers by", offset_text, offset_source, "and", scale_text, scale_source)
    return " ".join(part for part in parts if part)


def calibrate_band(
    dataset: rasterio.DatasetReader, index: int, path: str, product_tags: dict, reading: Reading
) -> Band:
    """A band of a product with the offset and the scale of its metadata, or those that the user gives.

    Args:
        dataset, index: The band.
        path: The file that has the metadata.
        product_tags: What it says of all bands, as GDAL has it.
        reading: What the user says.

    Raises:
        InputError: Metadata have something else than a number.
    """
    offset = _metadata_number(path, dataset.tags(index), ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET"), 0)
    quantification = _metadata_number(path, product_tags, ("QUANTIFICATION_VALUE", "BOA_QUANTIFICATION_VALUE"), 10_000)
    if quantification <= 0:
        raise InputError(f"{path}: its quantification is {quantification:g}, not above 0; download the product again")
    return _apply_flags(Band(dataset, index, offset, 10_000 / quantification), reading)


def _metadata_number(path: str, tags: dict[str, str], keys: tuple[str, ...], default: float) -> float:
    """The number that metadata give under one of some keys, else the default."""
    key, text = next(((key, tags[key]) for key in keys if tags.get(key)), ("", str(default)))
    with damage_as_input_error(f"{path}: its {key} cannot be used", "; download the product again"):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"it is {text}")
    return number


def _apply_flags(band: Band, reading: Reading) -> Band:
    """A band with the offset and the scale that the user gives."""
    offset = band.offset if reading.offset is None else reading.offset
    gain = band.gain if reading.scale is None else reading.scale
    return Band(band.dataset, band.index, offset, gain)


def _band_places(dataset: rasterio.DatasetReader, path: pathlib.Path) -> list[tuple[rasterio.DatasetReader, int]]:
    """Where a file's bands are: in its pages or variables, where it has several of one band each.

    Raises:
        InputError: It has no bands, or variables that are no images of one band.
    """
    parts_of_file = dataset.tags(ns="SUBDATASETS")  # in `dataset.subdatasets` the tenth follows the first
    keys = sorted((key for key in parts_of_file if key.endswith("_NAME")), key=lambda key: int(key.split("_")[1]))
    pages = [parts_of_file[key] for key in keys if not parts_of_file[key].startswith("SENTINEL2_")]
    if dataset.count == 1 and _stores_rows_as_pages(dataset, len(pages)):
        dataset, pages = _read_rows_as_pages(path), []
    if dataset.count > 1 or (dataset.count == 1 and len(pages) < 2):
        return [(dataset, index) for index in dataset.indexes]
    parts = [open_raster(name) for name in pages]
    shape = dataset.shape if dataset.count else max((part.shape for part in parts), default=None)
    parts = [part for part in parts if part.shape == shape]
    if not parts:
        raise InputError(f"{path}: {dataset.driver} without any band; give a file of images")
    if several := next((part for part in parts if part.count != 1), None):
        raise InputError(
            f"{path}: {several.name.rsplit(':', 1)[-1]} has {several.count} images, such as dates; choose one, as by "
            "gdal_translate -b 1"
        )
    return [(part, 1) for part in parts]


def _stores_rows_as_pages(dataset: rasterio.DatasetReader, pages: int) -> bool:
    """Whether a TIFF is an array (height, width, bands) as tifffile writes it: a page for each row of pixels."""
    shape = []
    with contextlib.suppress(ValueError, TypeError, KeyError):
        shape = json.loads(dataset.tags().get("TIFFTAG_IMAGEDESCRIPTION", ""))["shape"]
    is_said = len(shape) == 3 and shape[0] == pages > shape[2] == dataset.width
    return pages > 1 and (is_said or dataset.width == len(BANDS) != pages)


def _read_rows_as_pages(path: pathlib.Path) -> rasterio.DatasetReader:
    """A TIFF whose pages are rows of pixels as a raster in memory that has bands."""
    with damage_as_input_error(f"{path}: cannot be read, damaged or truncated"):
        pixels = np.moveaxis(tifffile.imread(path, is_ome=False), -1, 0)
    bands, height, width = pixels.shape
    memory = rasterio.MemoryFile()
    with ignore_missing_georeference():
        shape = {"count": bands, "height": height, "width": width, "dtype": pixels.dtype}
        with memory.open(driver="GTiff", **shape) as file:
            file.write(pixels)
        dataset = memory.open()
    setattr(dataset, "memory", memory)  # noqa: B010 - which is there as long as the dataset
    return dataset


def _band_labels(places: list[tuple[rasterio.DatasetReader, int]]) -> list[str | None]:
    """What a file calls its bands: GDAL's descriptions, or those of products and netCDF."""
    labels: list[str | None] = []
    for dataset, index in places:
        label = dataset.descriptions[index - 1]
        if not label and (dataset is not places[0][0] or dataset.tags(1)):  # which the first band tells
            tags = dataset.tags(index)
            label = tags.get("BANDNAME") or tags.get("NETCDF_VARNAME")
        labels.append(label)
    return labels


def _band_names(
    path: pathlib.Path, places: list, reading: Reading, stac: list[dict], dtype: np.dtype
) -> list[str | None]:
    """Names of a file's bands, as the user, STAC or the file tells; `None` of what is no band of Sentinel-2."""
    if reading.bands is not None:
        if len(reading.bands) != len(places):
            raise InputError(f"--bands names {len(reading.bands)} bands, {path} has {len(places)}")
        return [parse_band_name(band) for band in reading.bands]
    labels = _band_labels(places)
    numbered = [re.fullmatch(r"(b|band)[\W_]*0*(\d+)", (label or "").lower()) for label in labels]
    counts = all(match and int(match[2]) == place for place, match in enumerate(numbered, 1))
    in_full = all(match and match[1] == "band" for match in numbered)
    if counts and (in_full or len(places) <= 4 or len(places) == len(BANDS)):  # numbers in the file, not names
        labels = [None] * len(places)
    names = [parse_band_name(label) for label in labels]
    if not any(names):
        names = [parse_band_name(str(item.get("name") or item.get("common_name") or "")) for item in stac]
    colours = [dataset.colorinterp[index - 1] for dataset, index in places]
    if not any(names) and all(colours.count(colour) == 1 for colour in COLOUR_INTERPRETATIONS):
        names = [dict(zip(COLOUR_INTERPRETATIONS, RGB_BANDS)).get(colour) for colour in colours]
        return names if dtype != "uint8" else [None] * len(places)  # a picture's are looked at by `_colours`
    if not any(names) and len(places) == len(BANDS) and dtype != "uint8":
        return list(BANDS)  # EuroSAT's own files say nothing
    return names


def _unnamed_bands_message(dataset, path: pathlib.Path, places: list, dtype: np.dtype) -> str:
    if dataset.driver in ("PNG", "JPEG", "GIF", "BMP", "WEBP") or (dtype == "uint8" and len(places) <= 4):
        return f"{path}: {dtype} or of a palette, of unknown scale; convert it to RGB of 8 bits"
    if len(places) == 1:
        return f"{path}: one band of {dtype}; give the files of the other bands too, named as ..._B04.tif"
    called = ", ".join(filter(None, _band_labels(places)))
    naming = f"are called {called}" if called else "have no names"
    return (
        f"{path}: {len(places)} bands of {dtype} that {naming}; name all of them, as {_bands_flag_example(len(places))}"
    )


def _bands_flag_example(count: int) -> str:
    """A flag that names as many bands, in an order that is common for their number."""
    orders = {1: ("B04",), 3: ("B04", "B03", "B02"), 4: ("B02", "B03", "B04", "B08"), len(BANDS): BANDS}
    names = orders.get(count, (*("B02", "B03", "B04", "B08", *["x"] * count)[:count],))
    kind = " (x for what is no band of Sentinel-2)" if "x" in names else ""
    return f"--bands={','.join(names)} if that is their order{kind}"


def _picture_colours(dataset: rasterio.DatasetReader, names: list[str | None]) -> Sequence[int] | None:
    """The bands of a picture of 8 bits that are red, green and blue, from 1; `None` of what is no picture.

    Their names say it; if none has one, the file's colours, else their order. Where some are named, but not all three
    colours, it is no picture: B08, B04, B03 are false colours.
    """
    if dataset.count != len(names):  # pages, which are no picture together
        return None
    if all(names.count(band) == 1 for band in RGB_BANDS):
        return [names.index(band) + 1 for band in RGB_BANDS]
    if any(names) or dataset.count > 4 or dataset.colorinterp[0] == ColorInterp.palette:
        return None
    if dataset.count == 2 and dataset.colorinterp[1] != ColorInterp.alpha:
        return None
    if set(COLOUR_INTERPRETATIONS) <= set(dataset.colorinterp):
        return [dataset.colorinterp.index(colour) + 1 for colour in COLOUR_INTERPRETATIONS]
    return (1, 2, 3) if dataset.count > 2 else (1, 1, 1)  # the last of two or four is transparency


def _describe_picture(dataset: rasterio.DatasetReader, colours: Sequence[int]) -> str:
    usual: dict[tuple[int, ...], str] = {(1, 2, 3): "", (1, 1, 1): ", one grey for all"}
    text = usual.get(tuple(colours), f", red, green and blue its bands {', '.join(map(str, colours))}")
    unused = [
        str(index)
        for index in dataset.indexes
        if index not in colours and dataset.colorinterp[index - 1] != ColorInterp.alpha
    ]
    return f"picture of 8 bits: colours as they are{text}" + (f"; band {', '.join(unused)} not used" if unused else "")


def _declared_conversion(
    dataset: rasterio.DatasetReader, index: int, path: pathlib.Path, item: dict
) -> tuple[float, float, str]:
    """Offset and gain of a band as the file says them, and where: metadata of a product, scale and offset of GDAL
    (or CF), a STAC item beside it, the name of a product.
    """
    of_file = dataset.tags()
    is_of_product = {"RADIO_ADD_OFFSET", "BOA_ADD_OFFSET"} & dataset.tags(index).keys()
    is_of_product |= {"QUANTIFICATION_VALUE", "BOA_QUANTIFICATION_VALUE"} & of_file.keys()
    scale, offset = dataset.scales[index - 1], dataset.offsets[index - 1]
    source = "as the file says"
    if is_of_product and (scale, offset) == (1.0, 0.0):
        band = calibrate_band(dataset, index, str(path), of_file, AS_STORED)
        return band.offset, band.gain, "as its metadata say"
    if (scale, offset) == (1.0, 0.0):
        with damage_as_input_error(f"{path}: scale and offset of its STAC item cannot be used"):
            scale, offset = float(item.get("scale", 1.0)), float(item.get("offset", 0.0))
        source = "as its STAC item says"
    if (scale, offset) != (1.0, 0.0):
        if not (math.isfinite(scale) and scale > 0 and math.isfinite(offset)):
            raise InputError(f"{path}: says a scale of {scale} and an offset of {offset}; give --scale and --offset")
        return offset / scale, scale * (10_000 if scale < MAX_REFLECTANCE_SCALE else 1), source
    products = [parent.name for parent in path.absolute().parents if parent.suffix.upper() == ".SAFE"]
    baseline = next(filter(None, map(BASELINE_PATTERN.search, [path.name, *products])), None)
    if baseline and int(baseline[1]) >= 400 and np.dtype(dataset.dtypes[index - 1]).kind in "iu":
        return -float(BASELINE_OFFSET_DN), 1.0, f"as of baseline {baseline[1][:2]}.{baseline[1][2:]} in its name"
    return 0.0, 1.0, ""


def _stac_bands(path: pathlib.Path, count: int) -> list[dict]:
    """For each band what a STAC item beside the file says of it: name, common_name, scale, offset.

    Those of `raster:bands` and `eo:bands`, or of STAC 1.1's `bands`; empty where there is no item for the file.
    """
    if path.parent.is_dir():
        items = [(file, file.stat().st_mtime_ns) for file in sorted(path.parent.glob("*.json"))]
        asset = _stac_assets(tuple(items)).get(path.name) if items else None
        if asset:
            with damage_as_input_error(f"{path}: its STAC item cannot be read", "; remove or mend it"):
                return [_stac_band(asset, place) for place in range(count)]
    return [{}] * count


@functools.lru_cache(maxsize=4)
def _stac_assets(items: tuple[tuple[pathlib.Path, int], ...]) -> dict[str, dict]:
    """The assets of STAC items by the name of their file; the items' times of change renew what is cached."""
    assets: dict[str, dict] = {}
    for file, _ in items:
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
            item = json.loads(file.read_text(encoding="utf-8"))
            if "stac_version" in item:
                assets |= {asset["href"].rsplit("/", 1)[-1]: asset for asset in item["assets"].values()}
    return assets


def _stac_band(asset: dict, place: int) -> dict:
    merged: dict = {}
    for key in ("eo:bands", "raster:bands", "bands"):
        source = asset.get(key) or []
        if place < len(source):
            merged |= {key.removeprefix("raster:").removeprefix("eo:"): value for key, value in source[place].items()}
    of_asset = {key: asset[f"raster:{key}"] for key in ("scale", "offset") if f"raster:{key}" in asset}
    return {key: value for key, value in (of_asset | merged).items() if value is not None}


def block_row_bytes(bands: Sequence[Band]) -> int:
    """Bytes of the blocks that lie side by side in the files, which are decoded whole."""
    total = 0
    for band in bands:
        dataset = band.dataset.src_dataset if isinstance(band.dataset, WarpedVRT) else band.dataset
        rows = max(
            JPEG2000_BLOCK_ROWS, dataset.block_shapes[band.index - 1][0]
        )  # GDAL does not tell of those behind a product
        total += rows * dataset.width * band.dtype.itemsize
    return total


def read_bands(
    bands: Sequence[Band], window: rasterio.windows.Window | None = None, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Stored numbers of bands on one grid, (height, width, bands).

    Args:
        bands: The bands.
        window: The part that is read; `None` for all.
        shape: Rows and columns to which it is reduced, by leaving some out; `None` for all.

    Raises:
        InputError: A file is damaged.
    """
    columns: list[np.ndarray] = [np.empty(0)] * len(bands)
    for dataset in unique_datasets(bands):
        places = [place for place, band in enumerate(bands) if band.dataset is dataset]
        size = (len(places), *shape) if shape else None
        with (
            damage_as_input_error(f"{dataset.name}: cannot be read, damaged or truncated"),
            ignore_missing_georeference(),
        ):
            stored = dataset.read([bands[place].index for place in places], window=window, out_shape=size)
        for place, band in zip(places, stored):
            columns[place] = band
    return np.stack(columns, axis=-1)


def valid_mask(
    bands: Sequence[Band],
    stored: np.ndarray,
    window: rasterio.windows.Window | None = None,
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """Where stored numbers, which `read` returned, are data: (height, width) bool.

    The file's mask or alpha decides. Without one there is no data where every band has the file's nodata or 0: a zero
    in one band alone is dark water, and 255 in one colour is bright. Any other nodata, and what is no number, count in
    any band; so does 0 where an offset is taken away, since data is stored above it.
    """
    masked = {id(dataset) for dataset in unique_datasets(bands) if MaskFlags.per_dataset in dataset.mask_flag_enums[0]}
    valid = np.ones(stored.shape[:2], bool)
    is_empty = np.ones(stored.shape[:2], bool)
    is_filled = np.ones(stored.shape[:2], bool)
    for place, band in enumerate(bands):
        column, nodata = stored[..., place], band.nodata
        if stored.dtype.kind == "f":
            valid &= np.isfinite(column)
        is_nodata = np.zeros_like(valid) if nodata is None or np.isnan(nodata) else column == nodata
        if nodata and band.dtype != "uint8":
            valid &= ~is_nodata
        if band.offset < 0 and band.dtype.kind in "iu":
            valid &= column != 0
        is_empty &= is_nodata if id(band.dataset) in masked else is_nodata | (column == 0)
        is_filled &= column == band.fill if band.fill is not None else False
    for band in {id(band.dataset): band for band in bands if id(band.dataset) in masked}.values():
        with damage_as_input_error(f"{band.dataset.name}: its mask cannot be read"):
            valid &= band.dataset.read_masks(band.index, window=window, out_shape=shape) > 0
    return valid & ~is_empty & ~is_filled


def to_digital_numbers(bands: Sequence[Band], stored: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Digital numbers (height, width, bands) uint16 of what `read` returned.

    Numbers that can only stand for missing data, such as an undeclared -9999, are taken out of `valid`, in place.
    """
    if all(band.offset == 0 and band.gain == 1 and band.dtype == "uint16" for band in bands):
        numbers = stored
    else:
        columns = [band.digital_numbers(stored[..., place]) for place, band in enumerate(bands)]
        numbers = np.rint(np.stack(columns, axis=-1))
    valid &= ~digital_numbers.impossible_mask(numbers)
    return numbers if numbers.dtype == "uint16" else np.clip(numbers, 0, 65_535).astype("uint16")


def make_sample(bands: dict[str, Band], stored: np.ndarray, valid: np.ndarray) -> Sample:
    """Numbers of named bands where there is data, to be judged by `digital_numbers.fault`.

    Args:
        bands: The bands, by name.
        stored: (height, width, bands), as `read` returns it.
        valid: (height, width) bool, where there is data.
    """
    offset = np.array([band.offset for band in bands.values()])
    gain = np.array([band.gain for band in bands.values()])
    return Sample(tuple(bands), stored[valid].astype("float64"), offset, gain, stored.dtype)


def find_number_fault(band_set: BandSet, sample: Sample, reading: Reading) -> Fault | None:
    """Why numbers of a file can hardly be what they are taken for, with the flags that settle it; `None` if they can.

    Args:
        band_set: The bands of the file.
        sample: Numbers of them, at least one pixel.
        reading: What the user said of the numbers.
    """
    if band_set.is_unnamed and len(sample.names) == len(BANDS):
        order = digital_numbers.find_order_fault(sample.stored)
        if order:
            return Fault(order)
    known = band_set.is_calibrated
    return digital_numbers.find_fault(sample, known or reading.scale is not None, known or reading.offset is not None)


def find_common_fill(stored: np.ndarray, valid: np.ndarray) -> float | None:
    """A number that more than a hundredth of the pixels have in every band, as no ground has; `None` for none."""
    if stored.shape[-1] < 3:
        return None
    equal = (stored == stored[..., :1]).all(axis=-1) & valid
    values, counts = np.unique(stored[..., 0][equal], return_counts=True)
    if not len(values) or not MIN_FILL_SHARE * valid.sum() < counts.max() < valid.sum():
        return None
    return float(values[counts.argmax()])


def undeclared_fill_shares(bands: Sequence[Band], stored: np.ndarray, valid: np.ndarray) -> dict[float, float]:
    """Shares of the pixels by the number that stands for missing data in every band, though no file declares it.

    Args:
        bands: The bands.
        stored: (height, width, bands), as `read` returns it.
        valid: (height, width) bool, where there is data after all.
    """
    equal = (stored == stored[..., :1]).all(axis=-1) & ~valid
    values, counts = np.unique(stored[..., 0][equal], return_counts=True)
    declared = {band.nodata for band in bands}
    shares = {float(value): float(count) / valid.size for value, count in zip(values, counts)}
    # A file that declares nothing has zeros for missing data as often as not.
    expected = {0.0} if declared == {None} else set()
    return {value: share for value, share in shares.items() if value not in declared | expected and share > 1e-3}


def file_fingerprints(datasets: Sequence[rasterio.DatasetReader], *paths: str) -> tuple[tuple[str, int, float], ...]:
    """The files that datasets are read from, and others, with the size and the time of the last change of each."""
    names = {*paths, *(file for dataset in datasets for file in dataset.files)}
    on_disk = {re.sub(r"^/vsizip/\{(.*)\}/.*", r"\1", name) for name in names}
    stats = {name: pathlib.Path(name).stat() for name in sorted(on_disk) if pathlib.Path(name).is_file()}
    return tuple((name, stat.st_size, stat.st_mtime) for name, stat in stats.items())
