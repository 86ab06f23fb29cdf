"""Facts about Sentinel-2 and EuroSAT: classes, bands, names of bands, and how EuroSAT's pictures were rendered."""

import io
import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import PIL.Image

# EuroSAT's classes in TFDS's alphabetical order: the index of a class is its label.
CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
PATCH_SIZE = 64  # side of EuroSAT's images in pixels
OPEN_WATER_CLASS = "SeaLake"  # nearly all of its images show water alone; those of River also show the banks

# The bands of EuroSAT's 13-band files in their order. B8A is last there and follows B08 in Sentinel-2's products.
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
# The bands that EuroSAT's JPEG files show as red, green and blue.
RGB_BANDS = ("B04", "B03", "B02")

# EuroSAT's authors turned digital numbers (DN, 10,000 times the reflectance) from 0 to BRIGHTEST_DN into grey levels
# from 1 to 1 + RENDERED_LEVELS. Derived from 270 pairs of patches, which the formula reproduces pixel for pixel.
BRIGHTEST_DN = 2750
RENDERED_LEVELS = 254

# The lowest and the highest median, in DN, that any of 80 raw EuroSAT patches (eight of each class) has in a band.
# Level-2A products, corrected for the atmosphere, are darker by up to 1,000 DN in B01 to B04.
MEDIAN_DN = {
    "B01": (899, 2080),
    "B02": (618, 1962),
    "B03": (397, 1991),
    "B04": (225, 2201),
    "B05": (194, 2414),
    "B06": (181, 3664),
    "B07": (164, 4542),
    "B08": (135, 4525),
    "B09": (54, 2078),
    "B10": (5, 26),
    "B11": (22, 3958),
    "B12": (10, 2606),
    "B8A": (117, 4899),
}
# Products since processing baseline 04.00 (January 2022) store DN plus this offset.
BASELINE_OFFSET_DN = 1000

# What the air adds to the ground's reflectance, in DN. L1C has it and L2A has not: the atmospheric correction takes 23,
# 42 and 70 grey levels of red, green and blue away.
AIR_DN = {"B04": 250, "B03": 455, "B02": 760}
# DN: the range of the first percentile of blue in L1C, where the air alone gives 590. Twenty scenes have 704 to 1,148,
# EuroSAT's raw patches laid side by side 606, and 98 % of its patches lie in this range.
DARK_BLUE_DN = (590, 1300)
# DN: the air adds so much more to dark blue than to dark red. Scenes of L1C have 410 to 516, of L2A -13 to 37.
MIN_DARK_SLOPE_DN = 150
# DN: red and blue are exchanged where dark red is so much brighter; 1 % of EuroSAT's patches, bare soil, have 150.
MIN_EXCHANGED_SLOPE_DN = 250

# Names that producers give to bands, among them the common names of STAC's extension "eo".
BAND_ALIASES = {
    "coastal": "B01",
    "coastalaerosol": "B01",
    "aerosol": "B01",
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    **{f"{name}{number}": f"B0{4 + number}" for name in ("rededge", "re", "vre") for number in (1, 2, 3)},
    "nir": "B08",
    "nir1": "B08",
    "nearinfrared": "B08",
    "nir08": "B8A",
    "nir2": "B8A",
    "nirnarrow": "B8A",
    "narrownir": "B8A",
    "rededge4": "B8A",
    "nir09": "B09",
    "watervapour": "B09",
    "watervapor": "B09",
    "cirrus": "B10",
    "swir1": "B11",
    "swir16": "B11",
    "swir2": "B12",
    "swir22": "B12",
}
# Abbreviations that count in a band's description, but not in a file's name.
BAND_ABBREVIATIONS = {"r": "B04", "g": "B03", "b": "B02", "n": "B08", "grn": "B03", "blu": "B02"}
_BAND_NUMBER = re.compile(r"(?<![0-9a-z])(?:b|band[ _-]*)0*(1[0-2]|[1-9]|8a)(?![0-9a-z])", re.IGNORECASE)
_FILLER_WORDS = re.compile(r"\b(?:median|mean|band|toa|boa|sr|reflectance|s2|sentinel2?|(?:10|20|60)m)\b")


def parse_band_name(text: str | None) -> str | None:
    """Returns the band that a description names, or `None`.

    A name in brackets counts before a number, as in "Band 1 (Red)".

    Args:
        text: A description such as "B4", "b04_median", "S2_B04", "Band 4" or "Red, 665 nm".

    Returns:
        One of `BANDS`; `None` if the description names no band or several.
    """
    text = (text or "").split(",")[0]
    in_brackets = re.search(r"\(([^)]*)\)", text)
    if in_brackets and (band := parse_band_name(in_brackets[1])):
        return band
    text = text.split("(")[0]
    numbered = {f"B{number.upper().zfill(2)}" for number in _BAND_NUMBER.findall(text)}
    if numbered:
        return numbered.pop() if len(numbered) == 1 else None
    name = _FILLER_WORDS.sub(" ", re.sub(r"[^0-9a-z]+", " ", text.lower())).replace(" ", "")
    return BAND_ALIASES.get(name) or BAND_ABBREVIATIONS.get(name)


def split_band_from_stem(stem: str) -> tuple[str, str | None]:
    """Splits the name of a file of one band into a template and the band.

    Args:
        stem: The file's name without its suffix, such as "T33UUP_B04_10m".

    Returns:
        The template and the band, such as "T33UUP_{band}_10m" and "B04"; the stem and `None` if it names no band.
    """
    numbered = list(_BAND_NUMBER.finditer(stem))
    if len({match[1].upper() for match in numbered}) == 1:
        match = numbered[-1]
        return f"{stem[: match.start()]}{{band}}{stem[match.end() :]}", f"B{match[1].upper().zfill(2)}"
    tokens = re.split(r"([^0-9A-Za-z]+)", stem)
    for index in range(len(tokens) - 1, -1, -2) if not numbered else ():
        if re.fullmatch(r"(?:10|20|60)m", tokens[index]):
            continue
        band = BAND_ALIASES.get(tokens[index].lower())
        if band and (index < 2 or tokens[index - 2].lower() not in ("edge", "false")):
            return "".join([*tokens[:index], "{band}", *tokens[index + 1 :]]), band
        break
    return stem, None


# How producers store reflectances: pictures of 8 bits, and bands whose numbers are no digital numbers.


@dataclass(frozen=True)
class Rendering:
    """How a producer stores reflectances.

    Attributes:
        producer: Who stores them so, for the user.
        colour_dn: Digital number at the highest stored number (255, 65535, or 1 of real numbers) of true colours, by
            the kind of the numbers: "uint8", "uint16" or "float".
        band_dn: The same for a file of a single band.
        darkest_level: Stored number of 0 DN.
    """

    producer: str
    colour_dn: Mapping[str, float]
    band_dn: Mapping[str, float] = field(default_factory=dict)
    darkest_level: int = 0

    def conversion(self, dtype: np.dtype, is_single_band: bool) -> tuple[float, float] | None:
        """Returns offset and gain that make digital numbers of stored ones; `None` if the producer has no such files.

        Args:
            dtype: Type of the stored numbers.
            is_single_band: Whether the file has one band rather than colours.
        """
        kind = "float" if dtype.kind == "f" else dtype.name
        highest_dn = (self.band_dn if is_single_band else self.colour_dn).get(kind)
        if highest_dn is None:
            return None
        highest_stored = 1 if kind == "float" else np.iinfo(dtype).max
        return float(0 - self.darkest_level), highest_dn / (highest_stored - self.darkest_level)


# ESA defines TCI: levels from 1 to 255, where 255 is 3,558 DN in L1C and 2,000 in L2A. Files of L2A have zeros too.
# EO Browser multiplies true colours and single bands of 8 bits by 2.5. Sentinel Hub stores a reflectance of 1 as the
# highest number unless its script multiplies. Earth Engine's catalogue shows reflectances up to 0.3.
RENDERINGS = {
    "eurosat": Rendering("EuroSAT", {"uint8": BRIGHTEST_DN}, {"uint8": BRIGHTEST_DN}, 255 - RENDERED_LEVELS),
    "tci": Rendering("TCI of L1C", {"uint8": 3558}, {"uint8": 3558}, 1),
    "tci-l2a": Rendering("TCI of L2A", {"uint8": 2000}, {"uint8": 2000}),
    "eobrowser": Rendering(
        "EO Browser", {"uint8": 4000, "uint16": 4000, "float": 4000}, {"uint8": 4000, "uint16": 10_000}
    ),
    "sentinelhub": Rendering(
        "Sentinel Hub without a gain",
        {"uint8": 10_000, "uint16": 10_000, "float": 10_000},
        {"uint8": 10_000, "uint16": 10_000, "float": 10_000},
    ),
    "earthengine": Rendering("Earth Engine", {"uint8": 3000}),
}
_TCI_NAME = re.compile(r"(?<![0-9A-Za-z])TCI(?![0-9A-Za-z])(_\d\dm)?")
_BROWSER_NAME = re.compile(r"Sentinel[-_ ]?2[A-D]?[-_ ,]+L(1C|2A)[-_ ,]+(.+)", re.IGNORECASE)
_TRUE_COLOUR_LAYER = re.compile(r"true[-_ ]*colou?r", re.IGNORECASE)
_OTHER_LAYERS = re.compile(
    r"false[-_ ]*colou?r|highlight[-_ ]*optimized|enhanced|swir|urban|geology|agriculture|bathymetr|burn|snow"
    r"|(?<![a-z])(?:nd[a-z]i|[a-z]+[-_ ]*index)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class RenderingName:
    """How a producer's name of a file says that its numbers are to be read.

    Attributes:
        rendering: One of `RENDERINGS`; `None` if the name shows a layer that has no digital numbers, as false colours.
        level: "L1C" or "L2A".
        layer: "true colour", "band", or the producer's name of another layer.
    """

    rendering: str | None
    level: str
    layer: str


def parse_rendering_name(path: pathlib.Path) -> RenderingName | None:
    """Returns how the name of a file says that its numbers are to be read, or `None` if it does not say.

    Args:
        path: The file, such as "T33UUP_20240601T100031_TCI_10m.jp2" or "2018-10-13, Sentinel-2B L1C, B03.tiff".
    """
    if match := _TCI_NAME.search(path.stem):
        folders = " ".join([path.stem, *(parent.name for parent in path.absolute().parents)])
        is_l2a = match[1] or re.search(r"(?<![A-Z0-9])(?:MSI)?L2A(?![A-Z0-9])", folders)
        return RenderingName("tci-l2a", "L2A", "true colour") if is_l2a else RenderingName("tci", "L1C", "true colour")
    if not (match := _BROWSER_NAME.search(path.stem)):
        return None
    level, layer = f"L{match[1].upper()}", match[2]
    if _TRUE_COLOUR_LAYER.match(layer):
        return RenderingName("eobrowser", level, "true colour")
    if band_match := re.fullmatch(r"B(?:0[1-9]|1[0-2]|8A)([-_ ]*\(raw\))?", layer, re.IGNORECASE):
        return RenderingName("sentinelhub" if band_match[1] else "eobrowser", level, "band")
    return RenderingName(None, level, layer.replace("_", " ")) if _OTHER_LAYERS.search(layer) else None


# Rendering digital numbers as the colours that EuroSAT's JPEG files have.

# The grey level of each digital number from 0 to 65535.
GREY_LEVELS = np.round(np.clip(1 + np.arange(2**16) * RENDERED_LEVELS / BRIGHTEST_DN, 1, 255)).astype("uint8")


def render_true_colour(dn: np.ndarray) -> np.ndarray:
    """Renders red, green and blue of 13 bands as EuroSAT's authors did before compressing them.

    Args:
        dn: (..., 13) digital numbers in the order of `BANDS`.

    Returns:
        (..., 3) uint8 grey levels from 1 to 255.
    """
    return render_colours(dn[..., [BANDS.index(band) for band in RGB_BANDS]])


def render_colours(colours: np.ndarray) -> np.ndarray:
    """Renders digital numbers of colours as grey levels.

    Args:
        colours: (..., 3) digital numbers of red, green and blue, of any dtype.

    Returns:
        (..., 3) uint8 grey levels from 1 to 255.
    """
    if colours.dtype != "uint16":
        colours = np.clip(np.rint(colours), 0, len(GREY_LEVELS) - 1).astype("uint16")
    return GREY_LEVELS[colours]


def render_levels(levels: np.ndarray, offset: float, gain: float) -> np.ndarray:
    """Renders a picture again as EuroSAT's JPEG files are.

    Args:
        levels: (height, width, 3) uint8, grey levels of another rendering.
        offset: What is added to the levels first.
        gain: Digital numbers for each grey level.

    Returns:
        (height, width, 3) uint8.
    """
    return compress_as_eurosat(render_colours((np.arange(256) + offset) * gain)[levels])


def compress_as_eurosat(image: np.ndarray) -> np.ndarray:
    """Compresses and decompresses an image as EuroSAT's JPEG files are: quality 100, colours at half the size (4:2:0).

    A classifier trained on EuroSAT has never seen colours at full resolution.

    Args:
        image: (height, width, 3) uint8, as `render_true_colour` returns it.

    Returns:
        (height, width, 3) uint8.
    """
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "JPEG", quality=100, subsampling="4:2:0")
    with PIL.Image.open(file) as picture:
        return np.asarray(picture)
