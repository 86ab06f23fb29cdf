"""Bands of Sentinel-2 in raster files: which band is which, their digital numbers, and where there is data.

Patches and scenes are read alike, from any file that GDAL opens: a file of several bands, pages or variables.
"""

import contextlib
import functools
import json
import logging
import math
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import rasterio
import rasterio.errors
import rasterio.windows
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.vrt import WarpedVRT

from resnetd_tf.data import digital_numbers
from resnetd_tf.data.digital_numbers import Fault, Sample
from resnetd_tf.errors import InputError, damage_as_input_error, first_line
from resnetd_tf.sentinel2 import (
    BANDS,
    BASELINE_OFFSET_DN,
    RENDERINGS,
    RGB_BANDS,
    parse_band_name,
    parse_rendering_name,
)

JPEG2000_BLOCK_ROWS = 1024  # rows of a block in the JPEG 2000 files of Sentinel-2
BASELINE_PATTERN = re.compile(r"S2[A-D]_MSIL(?:1C|2A)_\d{8}T\d{6}_N(\d{4})_")
COLOUR_INTERPRETATIONS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
MIN_FILL_SHARE = 0.01  # share of the pixels that a fill value has at least
AS_EUROSAT = "eurosat"  # the rendering whose grey levels are taken as they are
TRUE_COLOUR = "true colour of 8 bits"  # start of the description of a picture that becomes digital numbers
AS_THEY_ARE = "picture of 8 bits: colours as they are"  # start of the description of such a picture
MAX_REFLECTANCE_SCALE = 0.5  # a smaller declared scale gives reflectances, a larger one digital numbers

logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # an InputError reports what cannot be read


@dataclass(frozen=True)
class Band:
    """One band in a raster file.

    Attributes:
        dataset: The file, opened by rasterio.
        index: Number of the band in the file, from 1.
        offset: Number that is added to stored numbers.
        gain: Factor by which the sum becomes digital numbers: (stored + offset) * gain.
        fill: Undeclared fill value: a pixel with it in every band has no data. `None` if there is none.
    """

    dataset: rasterio.DatasetReader
    index: int
    offset: float = 0.0
    gain: float = 1.0
    fill: float | None = None

    @property
    def dtype(self) -> np.dtype:
        """Type of the stored numbers."""
        return np.dtype(self.dataset.dtypes[self.index - 1])

    @property
    def nodata(self) -> float | None:
        """Stored number that the file declares as missing data; `None` if it declares none."""
        return self.dataset.nodatavals[self.index - 1]

    def digital_numbers(self, stored: np.ndarray) -> np.ndarray:
        """Converts stored numbers of any shape to digital numbers, float32; 0 where they are not finite."""
        return np.nan_to_num((stored.astype("float32") + self.offset) * self.gain, posinf=0, neginf=0)


@dataclass(frozen=True)
class RasterOptions:
    """How a user says to interpret raster files that do not state it themselves: (stored + offset) * scale.

    Attributes:
        bands: Names of all bands of a file in its order; `None` to use the file's own.
        scale: Factor that gives digital numbers, after the offset is added; above 0. `None` to use the file's own.
        offset: Number that is added to stored numbers first. `None` to use the file's own.
        fill: For each of EuroSAT's 13 bands the digital number that replaces a missing band; `None` refuses files that
            lack bands.
        level: "L1C" for reflectances above the atmosphere, "L2A" for those of the ground, to which the air's light is
            added for a classifier of colours. `None` to use what the product, its name or its dark pixels say.
        rendering: How a producer stores reflectances, one of `sentinel2.RENDERINGS`, in place of scale and offset.
            `None` to find it out where the file tells.

    Raises:
        InputError: A number is outside its range, a name is no band or no rendering, or both a rendering and numbers
            are given.
    """

    bands: tuple[str, ...] | None = None
    scale: float | None = None
    offset: float | None = None
    fill: tuple[float, ...] | None = None
    rendering: str | None = None
    level: str | None = None

    def __post_init__(self) -> None:
        if self.rendering is not None:
            if self.rendering not in RENDERINGS:
                raise InputError(f"--rendering={self.rendering}: must be one of {', '.join(RENDERINGS)}")
            if numbers := replace(self, rendering=None, bands=None, level=None).flags:
                raise InputError(f"--rendering={self.rendering} says scale and offset already; leave out {numbers}")
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0):
            raise InputError(f"--scale={self.scale}: must be above 0 and finite")
        if self.offset is not None and not math.isfinite(self.offset):
            raise InputError(f"--offset={self.offset}: must be a finite number")
        if self.level not in (None, "L1C", "L2A"):
            raise InputError(f"--level={self.level}: must be L1C or L2A")
        if self.bands is not None:
            object.__setattr__(self, "bands", tuple(self.bands))
            names = [parse_band_name(band) for band in self.bands or ()]
            unknown = [band for band, name in zip(self.bands or (), names) if not name and band.strip()[:1] in "Bb"]
            if unknown or not any(names):
                problem = f"{', '.join(unknown)} is none; " if unknown else ""
                raise InputError(f"--bands={','.join(self.bands or ())}: {problem}bands are {', '.join(BANDS)}")

    @property
    def flags(self) -> str:
        """The options as command-line flags; empty if there are none."""
        bands = self.bands and ",".join(self.bands)
        values = {"bands": bands, "scale": self.scale, "offset": self.offset, "rendering": self.rendering}
        values["level"] = self.level
        return " ".join(f"--{name}={value}" for name, value in values.items() if value is not None)


AS_STORED = RasterOptions()


@dataclass(frozen=True)
class BandSet:
    """The bands of a patch or a scene.

    Attributes:
        bands: The bands by name, such as "B04".
        is_picture: Whether they are the colours of a picture of 8 bits rather than digital numbers.
        description: A phrase for the user: the bands, and how and by whose word stored numbers become digital numbers.
        is_calibrated: Whether a product's metadata or the rendering of a picture state offset and scale.
        is_unnamed: Whether they are 13 bands without names, taken to be in EuroSAT's order.
    """

    bands: dict[str, Band]
    is_picture: bool
    description: str
    is_calibrated: bool = False
    is_unnamed: bool = False


class NotARaster(InputError):
    """GDAL does not open a file."""


def open_raster(path: str) -> rasterio.DatasetReader:
    """Opens a raster file.

    Raises:
        InputError: The path is an address of the web, or GDAL cannot open the file (`NotARaster`).
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
    """Suppresses rasterio's warning of files that have no georeference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def open_bands(
    path: pathlib.Path,
    raster_options: RasterOptions,
    accepts_picture: bool = True,
    dataset: rasterio.DatasetReader | None = None,
) -> BandSet:
    """Opens the bands of one file: a GeoTIFF, VRT, JPEG 2000, netCDF or any other file that GDAL opens.

    Args:
        path: The file.
        raster_options: Names of bands, scale and offset, which count before those of the file.
        accepts_picture: Whether 8 bits with named colours may be a picture rather than digital numbers.
        dataset: The file, if it is open already.

    Raises:
        InputError: GDAL does not open the file, its bands are unknown, or a band is there twice.
    """
    with damage_as_input_error(f"{path}: cannot be read, damaged or truncated"):
        return _make_band_set(path, raster_options, accepts_picture, dataset or open_raster(str(path)))


def _make_band_set(
    path: pathlib.Path, raster_options: RasterOptions, accepts_picture: bool, dataset: rasterio.DatasetReader
) -> BandSet:
    """Makes the band set of an open file, as `open_bands` returns it."""
    locations = _locate_bands(dataset, path)
    dtype = np.dtype(locations[0][0].dtypes[locations[0][1] - 1])
    if dtype.kind == "c" or dtype.kind not in "iuf":
        raise InputError(f"{path}: its numbers are {dtype}; give whole or real numbers")
    stac_bands = _read_stac_bands(path, len(locations))
    names = _name_bands(path, locations, raster_options, stac_bands, dtype)
    if dtype == "uint8" and (accepts_picture or not any(names)) and (colours := _picture_colours(dataset, names)):
        bands = {name: Band(dataset, index) for name, index in zip(RGB_BANDS, colours)}
        picture = BandSet(bands, True, _describe_picture(dataset, colours))
        return _apply_flags_to_picture(path, picture, raster_options)
    if not any(names):
        raise InputError(_unnamed_bands_message(dataset, path, locations, dtype))
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        unique_names = [name if name and name not in names[:position] else "x" for position, name in enumerate(names)]
        raise InputError(
            f"{path}: {', '.join(repeated)} is there twice; name the bands that are meant, as "
            f"--bands={','.join(unique_names)} (x for the others)"
        )
    bands, sources = {}, set()
    for name, (band_dataset, index), stac_band in zip(names, locations, stac_bands):
        if not name:
            continue
        offset, gain, source = 0.0, 1.0, ""
        if raster_options.rendering is not None:
            offset, gain, source = _stated_rendering(path, dtype, len(locations), raster_options.rendering)
        elif raster_options.scale is None or raster_options.offset is None:
            offset, gain, source = _declared_conversion(band_dataset, index, path, stac_band)
        if not source and raster_options.scale is None and raster_options.offset is None:
            offset, gain, source = _conversion_by_name(path, dtype, len(locations))
        bands[name] = _apply_flags(Band(band_dataset, index, offset, gain), raster_options)
        sources.add(source)
    unused = [str(number) for number, name in enumerate(names, 1) if not name]
    description = f"bands {', '.join(bands)} of {dtype}: "
    description += describe_conversion(list(bands.values()), " and ".join(sorted(sources)), raster_options)
    if unused:
        description += f"; band {', '.join(unused)} of the file, no band of Sentinel-2, not used"
    is_unnamed = raster_options.bands is None and len(names) == len(BANDS) and not stac_bands[0]
    is_unnamed = is_unnamed and not any(map(parse_band_name, _band_labels(locations)))
    if is_unnamed:
        description += "; without names, in EuroSAT's order"
    return BandSet(bands, False, description, is_unnamed=is_unnamed)


def missing_bands(
    name: str, band_set: BandSet, required_bands: Sequence[str], raster_options: RasterOptions
) -> list[str]:
    """Returns the bands that a file or a scene lacks.

    Args:
        name: Name of the file or the scene, for the message.
        band_set: Its bands.
        required_bands: Names of the bands that the classifier takes.
        raster_options: The user's options, whose `fill` replaces missing bands.

    Raises:
        InputError: Bands are missing and nothing replaces them, or all are missing.
    """
    missing = [band for band in required_bands if band not in band_set.bands]
    if missing and (raster_options.fill is None or len(missing) == len(required_bands)):
        fills_in = "; --missing=mean fills in" if len(required_bands) > 3 else ""  # no colour is filled in
        raise InputError(f"{name} has no {', '.join(missing)}, which the classifier takes{fills_in}")
    return missing


# Finding the bands of a file and their names.

Location = tuple[rasterio.DatasetReader, int]  # a file and the number of a band in it, from 1


def _locate_bands(dataset: rasterio.DatasetReader, path: pathlib.Path) -> list[Location]:
    """Locates the bands of a file, which may be pages or variables of one band each.

    Raises:
        InputError: The file has no bands, variables of several images, or pages of several bands.
    """
    tags = dataset.tags(ns="SUBDATASETS")
    # In order of their numbers: `dataset.subdatasets` has the tenth after the first.
    keys = sorted((key for key in tags if key.endswith("_NAME")), key=lambda key: int(key.split("_")[1]))
    pages = [tags[key] for key in keys if not tags[key].startswith("SENTINEL2_")]
    if dataset.count == 1 and _stores_rows_as_pages(dataset, len(pages)):
        dataset, pages = _read_rows_as_pages(pages), []
    if dataset.count > 1:
        _require_one_image(dataset, pages, path)
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


def _require_one_image(dataset: rasterio.DatasetReader, pages: Sequence[str], path: pathlib.Path) -> None:
    """Raises InputError if a file has further pages like its first one, such as dates; smaller ones are previews."""
    for page in pages[1:]:
        with open_raster(page) as image:
            if (image.shape, image.count) == (dataset.shape, dataset.count):
                raise InputError(
                    f"{path}: holds {len(pages)} images of {dataset.count} bands, such as dates; choose one, as by "
                    f"gdal_translate 'GTIFF_DIR:1:{path}' first.tif"
                )


def _stores_rows_as_pages(dataset: rasterio.DatasetReader, pages: int) -> bool:
    """Returns whether a TIFF is an array (height, width, bands) written by tifffile: a page for each row of pixels."""
    shape = []
    with contextlib.suppress(ValueError, TypeError, KeyError):
        shape = json.loads(dataset.tags().get("TIFFTAG_IMAGEDESCRIPTION", ""))["shape"]
    is_declared = len(shape) == 3 and shape[0] == pages > shape[2] == dataset.width
    return pages > 1 and (is_declared or dataset.width == len(BANDS) != pages)


def _read_rows_as_pages(pages: Sequence[str]) -> rasterio.DatasetReader:
    """Reads a TIFF whose pages are rows of pixels (width, bands), and returns it as a raster in memory with bands."""
    rows = []
    for page in pages:
        with open_raster(page) as file:
            rows.append(file.read(1))
    pixels = np.stack(rows).transpose(2, 0, 1)
    bands, height, width = pixels.shape
    memory = rasterio.MemoryFile()
    with ignore_missing_georeference():
        shape = {"count": bands, "height": height, "width": width, "dtype": pixels.dtype}
        with memory.open(driver="GTiff", **shape) as file:
            file.write(pixels)
        dataset = memory.open()
    setattr(dataset, "memory", memory)  # noqa: B010 - keeps the memory as long as the dataset
    return dataset


def _band_labels(locations: Sequence[Location]) -> list[str | None]:
    """Returns the file's own name of each band: GDAL's description, or a tag of products and netCDF."""
    labels: list[str | None] = []
    for dataset, index in locations:
        label = dataset.descriptions[index - 1]
        # Tags take time to read: if the first band has none, the others of the file have none either.
        if not label and (dataset is not locations[0][0] or dataset.tags(1)):
            tags = dataset.tags(index)
            label = tags.get("BANDNAME") or tags.get("NETCDF_VARNAME")
        labels.append(label)
    return labels


def _name_bands(
    path: pathlib.Path,
    locations: Sequence[Location],
    raster_options: RasterOptions,
    stac_bands: list[dict],
    dtype: np.dtype,
) -> list[str | None]:
    """Names each band of a file by the user's options, the file, STAC, or its colours; `None` for unknown bands.

    Raises:
        InputError: The user names another number of bands.
    """
    if raster_options.bands is not None:
        if len(raster_options.bands) != len(locations):
            raise InputError(f"--bands names {len(raster_options.bands)} bands, {path} has {len(locations)}")
        return [parse_band_name(band) for band in raster_options.bands]
    labels = _band_labels(locations)
    matches = [re.fullmatch(r"(b|band)[\W_]*0*(\d+)", (label or "").lower()) for label in labels]
    are_numbered = all(match and int(match[2]) == number for number, match in enumerate(matches, 1))
    in_full = all(match and match[1] == "band" for match in matches)
    if are_numbered and (in_full or len(locations) <= 4 or len(locations) == len(BANDS)):
        labels = [None] * len(locations)  # positions in the file rather than names of Sentinel-2's bands
    names = [parse_band_name(label) for label in labels]
    if not any(names):
        names = [parse_band_name(str(band.get("name") or band.get("common_name") or "")) for band in stac_bands]
    rendering_name = parse_rendering_name(path)
    if not any(names) and rendering_name and rendering_name.layer == "true colour" and len(names) in (3, 4):
        return [*RGB_BANDS, None][: len(names)]  # the fourth is a mask
    colours = [dataset.colorinterp[index - 1] for dataset, index in locations]
    if not any(names) and all(colours.count(colour) == 1 for colour in COLOUR_INTERPRETATIONS):
        if dtype == "uint8":  # `_picture_colours` decides
            return [None] * len(locations)
        return [dict(zip(COLOUR_INTERPRETATIONS, RGB_BANDS)).get(colour) for colour in colours]
    if not any(names) and len(locations) == len(BANDS) and dtype != "uint8":
        return list(BANDS)  # EuroSAT's own files have no names
    return names


def _unnamed_bands_message(
    dataset: rasterio.DatasetReader, path: pathlib.Path, locations: Sequence[Location], dtype: np.dtype
) -> str:
    """Returns the message for a file none of whose bands are known."""
    count = len(locations)
    is_palette = dataset.colorinterp[:1] == (ColorInterp.palette,)
    if is_palette or dataset.driver in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        if is_palette:
            return f"{path}: colours of a palette; convert it to RGB of 8 bits"
        return f"{path}: {dtype} without red, green and blue, no true colour; give an RGB picture of 8 bits"
    if dtype == "uint8" and 1 < count <= 4:
        colours = ", ".join(colour.name.replace("gray", "grey") for colour in dataset.colorinterp)
        return (
            f"{path}: {count} bands of 8 bits whose colours the file gives as {colours}, so maybe no true colour; name "
            f"all of them, as {_example_of_bands_flag(count)}"
        )
    if count == 1:
        return f"{path}: one band of {dtype}; give the files of the other bands too, named as ..._B04.tif"
    labels = ", ".join(filter(None, _band_labels(locations)))
    naming = f"are called {labels}" if labels else "have no names"
    return f"{path}: {count} bands of {dtype} that {naming}; name all of them, as {_example_of_bands_flag(count)}"


def _example_of_bands_flag(count: int) -> str:
    """Returns a --bands flag that names a number of bands in a common order."""
    l2a = [band for band in BANDS if band != "B10"]
    orders = {1: ("B04",), 3: ("B04", "B03", "B02"), 4: ("B02", "B03", "B04", "B08"), 12: l2a, len(BANDS): BANDS}
    names = orders.get(count, (*("B02", "B03", "B04", "B08", *["x"] * count)[:count],))
    remark = " (x for what is no band of Sentinel-2)" if "x" in names else ""
    return f"--bands={','.join(names)} if that is their order{remark}"


def _picture_colours(dataset: rasterio.DatasetReader, names: list[str | None]) -> Sequence[int] | None:
    """Returns which bands of an 8-bit picture are red, green and blue, from 1; `None` if the file is no picture.

    The names of the bands decide, or else the file's colours. A file with names that lack one of the three colours is
    no picture: B08, B04, B03 are false colours. Bands that are grey or undefined may be any bands.
    """
    if dataset.count != len(names):  # the bands are pages
        return None
    if all(names.count(band) == 1 for band in RGB_BANDS):
        return [names.index(band) + 1 for band in RGB_BANDS]
    if any(names) or dataset.count > 4 or dataset.colorinterp[0] == ColorInterp.palette:
        return None
    if set(COLOUR_INTERPRETATIONS) <= set(dataset.colorinterp):
        return [dataset.colorinterp.index(colour) + 1 for colour in COLOUR_INTERPRETATIONS]
    return None


def _describe_picture(dataset: rasterio.DatasetReader, colours: Sequence[int]) -> str:
    """Returns the description of a picture whose bands `colours`, from 1, are red, green and blue."""
    text = "" if list(colours) == [1, 2, 3] else f", red, green and blue its bands {', '.join(map(str, colours))}"
    unused = [
        str(index)
        for index in dataset.indexes
        if index not in colours and dataset.colorinterp[index - 1] != ColorInterp.alpha
    ]
    return f"{AS_THEY_ARE}{text}" + (f"; band {', '.join(unused)} not used" if unused else "")


def _apply_flags_to_picture(path: pathlib.Path, picture: BandSet, raster_options: RasterOptions) -> BandSet:
    """Returns a picture as the user says to read it: as it is, or as digital numbers.

    Raises:
        InputError: The user states an offset without a scale.
    """
    conversion = picture_conversion(path, raster_options)
    if conversion is None:
        return picture
    return convert_picture(picture, *conversion, describe_stated_picture(raster_options))


def describe_stated_picture(raster_options: RasterOptions) -> str:
    """Returns a phrase on what the user says of a picture's grey levels, by a rendering or a scale."""
    if raster_options.rendering is not None:
        return describe_rendering(raster_options.rendering, "as given")
    offset_text = f" after an offset of {raster_options.offset:+g}" if raster_options.offset else ""
    return f"{raster_options.scale:g} DN for a grey level{offset_text}, as given"


def picture_conversion(path: pathlib.Path, raster_options: RasterOptions) -> tuple[float, float] | None:
    """Returns offset and gain that the user states for a picture; `None` to take its grey levels as they are.

    Raises:
        InputError: The user states an offset without a scale.
    """
    if raster_options.rendering not in (None, AS_EUROSAT):
        return RENDERINGS[raster_options.rendering].conversion(np.dtype("uint8"), False)
    if raster_options.scale is not None:
        return raster_options.offset or 0.0, raster_options.scale
    if raster_options.offset is not None:
        raise InputError(
            f"{path} is a picture of 8 bits, whose colours are taken as they are: no "
            f"--offset={raster_options.offset:g} without --scale"
        )
    return None


def convert_picture(picture: BandSet, offset: float, gain: float, text: str) -> BandSet:
    """Returns a picture of 8 bits as bands with digital numbers.

    Args:
        picture: The picture.
        offset: What is added to grey levels.
        gain: Digital numbers for each grey level.
        text: What the grey levels mean and who says so, as a phrase.
    """
    bands = {name: replace(band, offset=offset, gain=gain) for name, band in picture.bands.items()}
    description = picture.description.replace(AS_THEY_ARE, f"{TRUE_COLOUR}, {text}")
    return BandSet(bands, False, description, is_calibrated=True)


def describe_rendering(name: str, source: str) -> str:
    """Returns a phrase on the rendering of a picture, as "255 for 4,000 DN (EO Browser, by its name)".

    Args:
        name: One of `RENDERINGS`.
        source: How the rendering is known, as a phrase.
    """
    rendering = RENDERINGS[name]
    return f"255 for {rendering.colour_dn['uint8']:,} DN ({rendering.producer}, {source})"


# Offset and scale of a file's numbers.

LOWER_ACCURACY = "EuroSAT is of L1C, as seen from above the atmosphere: expect less of L2A"


def describe_conversion(bands: Sequence[Band], source: str, raster_options: RasterOptions) -> str:
    """Returns a phrase on how stored numbers become digital numbers.

    Args:
        bands: The bands.
        source: Where offset and scale come from, as a phrase such as "as the file says".
        raster_options: The user's options, which are "as given".
    """
    offsets, gains = sorted({band.offset for band in bands}), sorted({band.gain for band in bands})
    as_stored = offsets == [0] and gains == [1]
    if as_stored and raster_options.scale is None and raster_options.offset is None:
        return "digital numbers as they are stored"
    offset_source = "as given" if raster_options.offset is not None else source
    scale_source = "as given" if raster_options.scale is not None else source
    offset_text = f"offset {' or '.join(f'{value:+g}' for value in offsets)}"
    scale_text = f"scale {' or '.join(f'{value:g}' for value in gains)}"
    if offset_source == scale_source:
        return f"digital numbers by {offset_text} and {scale_text} {offset_source}"
    parts = ("digital numbers by", offset_text, offset_source, "and", scale_text, scale_source)
    return " ".join(part for part in parts if part)


def calibrate_band(
    dataset: rasterio.DatasetReader, index: int, path: str, product_tags: dict, raster_options: RasterOptions
) -> Band:
    """Makes a band of a product with the offset and the scale of the metadata, or the user's.

    Args:
        dataset: The file.
        index: Number of the band in the file, from 1.
        path: The metadata file, for messages.
        product_tags: GDAL's tags of the product.
        raster_options: The user's scale and offset, which count before those of the metadata.

    Raises:
        InputError: The metadata have no finite number there, or a quantification that is not above 0.
    """
    offset = _metadata_number(path, dataset.tags(index), ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET"), 0)
    quantification = _metadata_number(path, product_tags, ("QUANTIFICATION_VALUE", "BOA_QUANTIFICATION_VALUE"), 10_000)
    if quantification <= 0:
        raise InputError(f"{path}: its quantification is {quantification:g}, not above 0; download the product again")
    return _apply_flags(Band(dataset, index, offset, 10_000 / quantification), raster_options)


def _metadata_number(path: str, tags: dict[str, str], keys: tuple[str, ...], default: float) -> float:
    """Returns the number under the first of some keys that metadata have, or else the default."""
    key, text = next(((key, tags[key]) for key in keys if tags.get(key)), ("", str(default)))
    with damage_as_input_error(f"{path}: its {key} cannot be used", "; download the product again"):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"it is {text}")
    return number


def _apply_flags(band: Band, raster_options: RasterOptions) -> Band:
    """Returns a band with the user's offset and scale, where the user gives them."""
    offset = band.offset if raster_options.offset is None else raster_options.offset
    gain = band.gain if raster_options.scale is None else raster_options.scale
    return replace(band, offset=offset, gain=gain)


def _declared_conversion(
    dataset: rasterio.DatasetReader, index: int, path: pathlib.Path, stac_band: dict
) -> tuple[float, float, str]:
    """Returns offset and gain of a band as declared with the file.

    The first source that declares them counts: scale and offset of GDAL (or CF), tags with metadata of a product, a
    STAC item in the folder, or the processing baseline in the name of the file or its product.

    Args:
        dataset: The file.
        index: Number of the band in the file, from 1.
        path: Path of the file.
        stac_band: The band's entry in a STAC item; empty if there is none.

    Returns:
        Offset, gain, and a phrase for the source, such as "as the file says".

    Raises:
        InputError: A declared number cannot be used.
    """
    tags = dataset.tags()
    has_product_tags = {"RADIO_ADD_OFFSET", "BOA_ADD_OFFSET"} & dataset.tags(index).keys()
    has_product_tags |= {"QUANTIFICATION_VALUE", "BOA_QUANTIFICATION_VALUE"} & tags.keys()
    scale, offset = dataset.scales[index - 1], dataset.offsets[index - 1]
    source = "as the file says"
    if has_product_tags and (scale, offset) == (1.0, 0.0):
        band = calibrate_band(dataset, index, str(path), tags, AS_STORED)
        return band.offset, band.gain, "as its metadata say"
    if (scale, offset) == (1.0, 0.0):
        with damage_as_input_error(f"{path}: scale and offset of its STAC item cannot be used"):
            scale, offset = float(stac_band.get("scale", 1.0)), float(stac_band.get("offset", 0.0))
        source = "as its STAC item says"
    if (scale, offset) != (1.0, 0.0):
        if not (math.isfinite(scale) and scale > 0 and math.isfinite(offset)):
            raise InputError(f"{path}: says a scale of {scale} and an offset of {offset}; give --scale and --offset")
        return offset / scale, gain_of_scale(scale), source
    products = [parent.name for parent in path.absolute().parents if parent.suffix.upper() == ".SAFE"]
    baseline = next(filter(None, map(BASELINE_PATTERN.search, [path.name, *products])), None)
    if baseline and int(baseline[1]) >= 400 and np.dtype(dataset.dtypes[index - 1]).kind in "iu":
        return -float(BASELINE_OFFSET_DN), 1.0, f"as of baseline {baseline[1][:2]}.{baseline[1][2:]} in its name"
    return 0.0, 1.0, ""


def gain_of_scale(scale: float) -> float:
    """Returns the factor to digital numbers of a declared scale, which gives reflectances or digital numbers."""
    return scale * (10_000 if scale < MAX_REFLECTANCE_SCALE else 1)


def _stated_rendering(path: pathlib.Path, dtype: np.dtype, count: int, name: str) -> tuple[float, float, str]:
    """Returns offset and gain of the bands of a file in the rendering that the user names, and a phrase for the source.

    Raises:
        InputError: The producer has no files of such numbers.
    """
    conversion = RENDERINGS[name].conversion(dtype, is_single_band=count == 1)
    if conversion is None:
        kind = "a single band" if count == 1 else "bands"
        raise InputError(f"{path}: --rendering={name} states no numbers for {kind} of {dtype}; give --scale")
    return *conversion, f"as {RENDERINGS[name].producer} stores them, as given"


def _conversion_by_name(path: pathlib.Path, dtype: np.dtype, count: int) -> tuple[float, float, str]:
    """Returns offset and gain of the bands of a file whose name is a producer's, and a phrase for the source.

    Args:
        path: The file.
        dtype: Type of its stored numbers.
        count: Number of its bands.

    Returns:
        0, 1 and no phrase if the name tells nothing.
    """
    rendering_name = parse_rendering_name(path)
    if rendering_name is None or rendering_name.rendering is None:
        return 0.0, 1.0, ""
    rendering = RENDERINGS[rendering_name.rendering]
    conversion = rendering.conversion(dtype, is_single_band=count == 1)
    if conversion is None or (count > 1 and rendering_name.layer == "band"):
        return 0.0, 1.0, ""
    source = f"as {rendering.producer} stores them, by its name (--scale=1 takes them as they are)"
    if rendering_name.level == "L2A":
        source += f"; {LOWER_ACCURACY}"
    return *conversion, source


def _read_stac_bands(path: pathlib.Path, count: int) -> list[dict]:
    """Reads what a STAC item in the file's folder says of each band.

    Args:
        path: The raster file.
        count: Number of its bands.

    Returns:
        For each band a dictionary of name, common_name, scale and offset, from `raster:bands` and `eo:bands` or from
        STAC 1.1's `bands`; empty if no item describes the file.

    Raises:
        InputError: An item describes the file and cannot be read.
    """
    if path.parent.is_dir():
        items = [(file, file.stat().st_mtime_ns) for file in sorted(path.parent.glob("*.json"))]
        asset = _read_stac_assets(tuple(items)).get(path.name) if items else None
        if asset:
            with damage_as_input_error(f"{path}: its STAC item cannot be read", "; remove or mend it"):
                return [merge_stac_band(asset, position) for position in range(count)]
    return [{}] * count


@functools.lru_cache(maxsize=4)
def _read_stac_assets(items: tuple[tuple[pathlib.Path, int], ...]) -> dict[str, dict]:
    """Reads the assets of STAC items, by the name of their file.

    Args:
        items: JSON files with the times of their last change, which renew the cache.
    """
    assets: dict[str, dict] = {}
    for file, _ in items:
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
            item = json.loads(file.read_text(encoding="utf-8"))
            if "stac_version" in item:
                assets |= {asset["href"].rsplit("/", 1)[-1]: asset for asset in item["assets"].values()}
    return assets


def merge_stac_band(asset: dict, position: int) -> dict:
    """Merges all that an asset says of the band at a position, from 0; without the prefixes of STAC's extensions."""
    merged = {key: asset[f"raster:{key}"] for key in ("scale", "offset") if f"raster:{key}" in asset}
    for key in ("eo:bands", "raster:bands", "bands"):
        entries = asset.get(key) or []
        if position < len(entries):
            entry = entries[position]
            merged |= {key.removeprefix("raster:").removeprefix("eo:"): value for key, value in entry.items()}
    return {key: value for key, value in merged.items() if value is not None}


# Stored numbers, and where there is data.


def block_row_bytes(bands: Sequence[Band]) -> int:
    """Returns the bytes of one row of blocks of all bands: GDAL decodes whole blocks."""
    total = 0
    for band in bands:
        dataset = band.dataset.src_dataset if isinstance(band.dataset, WarpedVRT) else band.dataset
        # GDAL does not say the size of blocks in the files behind a product.
        rows = max(JPEG2000_BLOCK_ROWS, dataset.block_shapes[band.index - 1][0])
        total += rows * dataset.width * band.dtype.itemsize
    return total


def unique_datasets(bands: Sequence[Band]) -> list[rasterio.DatasetReader]:
    """Returns the files that bands are in, each once."""
    return list({id(band.dataset): band.dataset for band in bands}.values())


def read_bands(
    bands: Sequence[Band], window: rasterio.windows.Window | None = None, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Reads stored numbers of bands on one grid.

    Args:
        bands: The bands.
        window: The part to read; `None` for all.
        shape: Rows and columns to reduce the part to, by leaving some out; `None` for all.

    Returns:
        (height, width, bands).

    Raises:
        InputError: A file is damaged.
    """
    columns: list[np.ndarray] = [np.empty(0)] * len(bands)
    for dataset in unique_datasets(bands):
        positions = [position for position, band in enumerate(bands) if band.dataset is dataset]
        out_shape = (len(positions), *shape) if shape else None
        with (
            damage_as_input_error(f"{dataset.name}: cannot be read, damaged or truncated"),
            ignore_missing_georeference(),
        ):
            stored = dataset.read([bands[position].index for position in positions], window=window, out_shape=out_shape)
        for position, numbers in zip(positions, stored):
            columns[position] = numbers
    return np.stack(columns, axis=-1)


def valid_mask(
    bands: Sequence[Band],
    stored: np.ndarray,
    window: rasterio.windows.Window | None = None,
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """Returns where stored numbers are data.

    The file's mask or alpha decides. Without one, pixels that have the file's nodata or 0 in every band are no data: a
    zero in one band alone is dark water, and 255 in one colour is bright. A nodata other than 0 (but in 8 bits) and NaN
    count in a single band. So does 0 in a band with a negative offset, since data is stored above the offset. In 8 bits
    0 may also be dark water.

    Args:
        bands: The bands.
        stored: (height, width, bands), as `read_bands` returns it for the same window and shape.
        window: The part that was read; `None` for all.
        shape: Rows and columns that the part was reduced to; `None` for all.

    Returns:
        (height, width) bool.

    Raises:
        InputError: The file's mask is damaged.
    """
    masked_ids = {
        id(dataset) for dataset in unique_datasets(bands) if MaskFlags.per_dataset in dataset.mask_flag_enums[0]
    }
    valid = np.ones(stored.shape[:2], bool)
    is_empty = np.ones(stored.shape[:2], bool)
    is_filled = np.ones(stored.shape[:2], bool)
    for position, band in enumerate(bands):
        column, nodata = stored[..., position], band.nodata
        if stored.dtype.kind == "f":
            valid &= np.isfinite(column)
        is_nodata = np.zeros_like(valid) if nodata is None or np.isnan(nodata) else column == nodata
        if nodata and band.dtype != "uint8":
            valid &= ~is_nodata
        if band.offset < 0 and band.dtype.kind in "iu" and band.dtype != "uint8":
            valid &= column != 0
        is_empty &= is_nodata if id(band.dataset) in masked_ids else is_nodata | (column == 0)
        is_filled &= column == band.fill if band.fill is not None else False
    for band in {id(band.dataset): band for band in bands if id(band.dataset) in masked_ids}.values():
        with damage_as_input_error(f"{band.dataset.name}: its mask cannot be read"):
            valid &= band.dataset.read_masks(band.index, window=window, out_shape=shape) > 0
    return valid & ~is_empty & ~is_filled


def to_digital_numbers(bands: Sequence[Band], stored: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Converts stored numbers to digital numbers.

    Args:
        bands: The bands.
        stored: (height, width, bands), as `read_bands` returns it.
        valid: (height, width) bool, where there is data. Pixels whose numbers can only stand for missing data, such as
            an undeclared -9999, are set to False in place.

    Returns:
        (height, width, bands) uint16; the array `stored` itself if it has digital numbers already.
    """
    if all(band.offset == 0 and band.gain == 1 and band.dtype == "uint16" for band in bands):
        numbers = stored
    else:
        columns = [band.digital_numbers(stored[..., position]) for position, band in enumerate(bands)]
        numbers = np.rint(np.stack(columns, axis=-1))
    valid &= ~digital_numbers.impossible_mask(numbers)
    return numbers if numbers.dtype == "uint16" else np.clip(numbers, 0, 65_535).astype("uint16")


def make_sample(bands: dict[str, Band], stored: np.ndarray, valid: np.ndarray) -> Sample:
    """Collects the numbers of pixels with data, for `digital_numbers.find_fault`.

    Args:
        bands: The bands by name.
        stored: (height, width, bands), as `read_bands` returns it.
        valid: (height, width) bool, where there is data.
    """
    offset = np.array([band.offset for band in bands.values()])
    gain = np.array([band.gain for band in bands.values()])
    return Sample(tuple(bands), stored[valid].astype("float64"), offset, gain, stored.dtype)


def find_number_fault(band_set: BandSet, sample: Sample, raster_options: RasterOptions) -> Fault | None:
    """Returns why the numbers of a file can hardly be digital numbers, with flags that settle it; `None` if they can.

    Args:
        band_set: The bands of the file.
        sample: Numbers of at least one pixel.
        raster_options: The user's options, which are hardly doubted.
    """
    if band_set.is_unnamed and len(sample.names) == len(BANDS):
        order = digital_numbers.find_order_fault(sample.stored)
        if order:
            return Fault(order)
    is_known = band_set.is_calibrated or raster_options.rendering is not None
    scale_known = is_known or raster_options.scale is not None
    offset_known = is_known or raster_options.offset is not None
    return digital_numbers.find_fault(sample, scale_known, offset_known)


def find_common_fill(stored: np.ndarray, valid: np.ndarray) -> float | None:
    """Finds an undeclared fill value: a number that over a hundredth of the pixels have in every band.

    Args:
        stored: (height, width, bands), as `read_bands` returns it.
        valid: (height, width) bool, where there is data by the file's word.

    Returns:
        The number; `None` if there is none, or if there are fewer than three bands.
    """
    if stored.shape[-1] < 3:
        return None
    equal = (stored == stored[..., :1]).all(axis=-1) & valid
    values, counts = np.unique(stored[..., 0][equal], return_counts=True)
    if not len(values) or not MIN_FILL_SHARE * valid.sum() < counts.max() < valid.sum():
        return None
    return float(values[counts.argmax()])


def undeclared_fill_shares(bands: Sequence[Band], stored: np.ndarray, valid: np.ndarray) -> dict[float, float]:
    """Returns undeclared numbers that stand for missing data in every band, with their shares of the pixels.

    Args:
        bands: The bands.
        stored: (height, width, bands), as `read_bands` returns it.
        valid: (height, width) bool, where there is data in the end.

    Returns:
        The share of the pixels, above 0.001, by number.
    """
    equal = (stored == stored[..., :1]).all(axis=-1) & ~valid
    values, counts = np.unique(stored[..., 0][equal], return_counts=True)
    declared = {band.nodata for band in bands}
    shares = {float(value): float(count) / valid.size for value, count in zip(values, counts)}
    # Zeros for missing data are common in files that declare nothing.
    expected = {0.0} if declared == {None} else set()
    return {value: share for value, share in shares.items() if value not in declared | expected and share > 1e-3}


def file_fingerprints(datasets: Sequence[rasterio.DatasetReader], *paths: str) -> tuple[tuple[str, int, float], ...]:
    """Returns name, size in bytes and time of the last change of files, which recognise a changed scene.

    Args:
        datasets: Open datasets, of which all files count.
        paths: Further files.
    """
    names = {*paths, *(file for dataset in datasets for file in dataset.files)}
    on_disk = {re.sub(r"^/vsizip/\{(.*)\}/.*", r"\1", name) for name in names}
    stats = {name: pathlib.Path(name).stat() for name in sorted(on_disk) if pathlib.Path(name).is_file()}
    return tuple((name, stat.st_size, stat.st_mtime) for name, stat in stats.items())
