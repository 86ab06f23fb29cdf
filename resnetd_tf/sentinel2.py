"""Facts about Sentinel-2 and EuroSAT that models and data agree on."""

import io
import re

import numpy as np
import PIL.Image

# EuroSAT's classes in TFDS's (alphabetical) order: the index is the label.
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

# Bands of eurosat/all in file order (B8A is last, unlike in Sentinel-2 products).
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
# What EuroSAT's JPEGs show as red, green and blue.
RGB_BANDS = ("B04", "B03", "B02")

# How EuroSAT's authors turned DN (digital numbers, 10,000 times the reflectance) into grey levels: DN from 0 to
# RENDERED_DN became 1 to 1 + RENDERED_LEVELS. Read off 270 pairs of patches, which this reproduces pixel for pixel.
BRIGHTEST_DN = 2750
RENDERED_LEVELS = 254

# Digital numbers of the 80 raw patches beside EuroSAT's documentation, eight a class: the lowest and the highest median
# that a patch has in a band. L2A, from which the atmosphere is taken away, is darker by up to 1,000 in B01 to B04.
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
# Products since processing baseline 04.00 (January 2022) store this much more than 10,000 times the reflectance.
BASELINE_OFFSET_DN = 1000

# Names that producers give to bands; STAC's "common names" (extension eo) among them.
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
BAND_LETTERS = {"r": "B04", "g": "B03", "b": "B02", "n": "B08", "grn": "B03", "blu": "B02"}  # of descriptions alone
_BAND_NUMBER = re.compile(r"(?<![0-9a-z])(?:b|band[ _-]*)0*(1[0-2]|[1-9]|8a)(?![0-9a-z])", re.IGNORECASE)
_FILLER_WORDS = re.compile(r"\b(?:median|mean|band|toa|boa|sr|reflectance|s2|sentinel2?|(?:10|20|60)m)\b")


def parse_band_name(text: str | None) -> str | None:
    """The band that a description names: "B4", "b04_median", "S2_B04", "Band 4", "Red, 665 nm"; `None` for others.

    A word in brackets goes before a number, as in "Band 1 (Red)".
    """
    text = (text or "").split(",")[0]
    in_brackets = re.search(r"\(([^)]*)\)", text)
    if in_brackets and (word := parse_band_name(in_brackets[1])):
        return word
    text = text.split("(")[0]
    numbered = {f"B{number.upper().zfill(2)}" for number in _BAND_NUMBER.findall(text)}
    if numbered:
        return numbered.pop() if len(numbered) == 1 else None
    letters = _FILLER_WORDS.sub(" ", re.sub(r"[^0-9a-z]+", " ", text.lower()))
    word = letters.replace(" ", "")
    return BAND_ALIASES.get(word) or BAND_LETTERS.get(word)


def split_band_from_stem(stem: str) -> tuple[str, str | None]:
    """A file's name without the band that it tells, and that band: "T33UUP_{band}_10m" and "B04"; `None` for none."""
    numbered = list(_BAND_NUMBER.finditer(stem))
    if len({match[1].upper() for match in numbered}) == 1:
        match = numbered[-1]
        return f"{stem[: match.start()]}{{band}}{stem[match.end() :]}", f"B{match[1].upper().zfill(2)}"
    tokens = re.split(r"([^0-9A-Za-z]+)", stem)
    for place in range(len(tokens) - 1, -1, -2) if not numbered else ():
        if re.fullmatch(r"(?:10|20|60)m", tokens[place]):
            continue
        band = BAND_ALIASES.get(tokens[place].lower())
        if band and (place < 2 or tokens[place - 2].lower() not in ("edge", "false")):
            return "".join([*tokens[:place], "{band}", *tokens[place + 1 :]]), band
        break
    return stem, None


# From raw Sentinel-2 bands to the colours that EuroSAT's JPEGs have.


# The grey level of each digital number.
GREY_LEVELS = np.round(np.clip(1 + np.arange(2**16) * RENDERED_LEVELS / BRIGHTEST_DN, 1, 255)).astype("uint8")


def render_true_colour(dn: np.ndarray) -> np.ndarray:
    """Red, green and blue of images of EuroSAT's 13 bands, as EuroSAT's authors rendered them before JPEG.

    Args:
        dn: (..., 13) digital numbers, in the order of `sentinel2.BANDS`.

    Returns:
        (..., 3) uint8, from 1 to 255.
    """
    return render_colours(dn[..., [BANDS.index(band) for band in RGB_BANDS]])


def render_colours(colours: np.ndarray) -> np.ndarray:
    """`true_colour` of red, green and blue alone, (..., 3) digital numbers."""
    if colours.dtype != "uint16":
        colours = np.clip(np.rint(colours), 0, len(GREY_LEVELS) - 1).astype("uint16")
    return GREY_LEVELS[colours]


def compress_as_eurosat(image: np.ndarray) -> np.ndarray:
    """An image as EuroSAT's JPEGs give it back: of quality 100, with colours at half size.

    Without it a classifier sees what it was not trained on: colours of twice the detail.

    Args:
        image: (height, width, 3) uint8, as `true_colour` returns it.

    Returns:
        The same shape and type.
    """
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "JPEG", quality=100, subsampling="4:2:0")
    with PIL.Image.open(file) as picture:
        return np.asarray(picture)
