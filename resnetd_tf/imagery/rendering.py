"""The rendering of a picture, the order of its colours, and the white around a polygon that was cut out of it.

EuroSAT's pictures show digital numbers up to 2,750. Other producers show more, so that their pictures are darker. The
name or the metadata of a file tell its rendering, or else its darkest pixels, which show the air's own light.
"""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resnetd_tf.data import rasters
from resnetd_tf.data.rasters import LOWER_ACCURACY, RENDERINGS, Band, BandSet, describe_rendering
from resnetd_tf.errors import InputError
from resnetd_tf.imagery.scene import SAMPLE_PIXELS, OutsideMask
from resnetd_tf.sentinel2 import RGB_BANDS, parse_rendering_name

WHITE = 255  # grey level around a polygon that was cut out
MIN_OUTSIDE_SHARE = 0.01  # share of the pixels that the surroundings of a polygon have at least
# Grey level: a cloud ends in brighter pixels, a polygon in land and water.
MAX_BORDER_LEVEL = 200
DARK_PERCENTILE = 1  # per cent of the pixels
MIN_SAMPLE_PIXELS = 4096  # pixels with data without which a percentile tells nothing
# The dark level of blue in DN. In L1C the air alone gives 650 at sea level: real scenes have 830 to 1,200, pictures of
# haze or bright ground more. Corrected for the air, as in L2A, they have 80 to 500.
BLUE_DN = {"L1C": (550.0, 2000.0), "L2A": (0.0, 900.0)}
# Dark levels of blue, in grey levels, that tell EO Browser's rendering without any name. There they are 706 to 863 DN,
# in EuroSAT's rendering 476 to 585 DN, less than the air gives. EuroSAT's own pictures have 64 to 108.
BROWSER_LEVELS = (45, 55)
MIN_AIR_DIFFERENCE = 15  # grey levels by which the air's blue exceeds its red
# Of the air's light, blue exceeds red by at least half. Ground without anything dark has less, as deserts.
MIN_SWAPPED_DIFFERENCE = 25  # grey levels
MIN_SWAPPED_RATIO = 1.5
MAX_AIR_LEVEL = 130  # grey level of blue: brighter than any haze over dark ground


@dataclass(frozen=True)
class PictureRendering:
    """The rendering of a picture by its own evidence.

    Attributes:
        name: One of `sentinel2.RENDERINGS`; `None` to take the grey levels as they are.
        source: How the rendering is known, as a phrase; with no name a remark, or nothing.
        level: "L1C" or "L2A".
    """

    name: str | None
    source: str = ""
    level: str = "L1C"


def read_dark_levels(bands: Sequence[Band]) -> np.ndarray | None:
    """Returns the first percentile of red, green and blue in grey levels, (3,) float64.

    Pixels without data and white ones do not count. `None` if there are too few others.
    """
    shape = _sample_shape(bands)
    stored = rasters.read_bands(bands, shape=shape)
    valid = rasters.valid_mask(bands, stored, shape=shape) & ~(stored == WHITE).all(axis=-1)
    if valid.sum() < MIN_SAMPLE_PIXELS:
        return None
    return np.percentile(stored[valid], DARK_PERCENTILE, axis=0)


def convert_to_digital_numbers(path: pathlib.Path, picture: BandSet) -> BandSet:
    """Returns a picture as digital numbers if it tells another rendering than EuroSAT's, or else as it is.

    Args:
        path: The file.
        picture: Its colours.

    Raises:
        InputError: The name of the file says that it shows no true colour.
    """
    bands = [picture.bands[name] for name in RGB_BANDS]
    rendering = find_rendering(path, bands[0].dataset.tags(), read_dark_levels(bands))
    if rendering.name is None:
        return BandSet(picture.bands, True, picture.description + rendering.source)
    conversion = RENDERINGS[rendering.name].conversion(np.dtype("uint8"), False)
    assert conversion is not None  # each rendering has pictures
    text = describe_rendering(rendering.name, rendering.source)
    text += "; --rendering=eurosat takes the grey levels as they are"
    if rendering.level == "L2A":
        text += f"; {LOWER_ACCURACY}"
    return rasters.convert_picture(picture, *conversion, text)


def find_rendering(path: pathlib.Path, tags: dict[str, str], dark_levels: np.ndarray | None) -> PictureRendering:
    """Finds the rendering of a picture of true colour.

    Args:
        path: The file.
        tags: GDAL's metadata of the file.
        dark_levels: First percentiles of red, green and blue, or `None`, as `read_dark_levels` returns them.

    Raises:
        InputError: The name of the file says that it shows no true colour.
    """
    product_type = tags.get("PRODUCT_TYPE", "") + tags.get("PROCESSING_LEVEL", "").upper().replace("LEVEL-", "L")
    if product_type.startswith("S2MSI") or product_type in BLUE_DN:  # GDAL copies them from a product with its TCI
        is_l2a = "2A" in product_type
        return PictureRendering("tci-l2a" if is_l2a else "tci", "by its metadata", "L2A" if is_l2a else "L1C")
    rendering_name = parse_rendering_name(path)
    if rendering_name and rendering_name.rendering is None:
        raise InputError(
            f"{path}: its name says {rendering_name.layer}, whose colours are no digital numbers; download true colour "
            "or the bands, or --rendering=eurosat takes the grey levels as they are"
        )
    if rendering_name and rendering_name.layer == "true colour":
        name, level = str(rendering_name.rendering), rendering_name.level
        # Files of a catalogue may be called TCI.tif in both levels.
        for candidate, candidate_level in ((name, level), *[("tci-l2a", "L2A")] * (name == "tci")):
            if _fits_air(candidate, candidate_level, dark_levels):
                return PictureRendering(candidate, "by its name", candidate_level)
        blue = 0 if dark_levels is None else dark_levels[2]
        return PictureRendering(
            None,
            f" (its name is as of {RENDERINGS[name].producer} in {level}, but not its dark level, {blue:.0f} in blue; "
            f"--rendering={name} reads it so)",
        )
    if dark_levels is not None and _shows_air(dark_levels) and BROWSER_LEVELS[0] <= dark_levels[2] <= BROWSER_LEVELS[1]:
        blue = f"{dark_levels[2]:.0f}"
        return PictureRendering("eobrowser", f"by its dark level, {blue} in blue, where EuroSAT's has 64 to 108")
    return PictureRendering(None)


def _fits_air(name: str, level: str, dark_levels: np.ndarray | None) -> bool:
    """Returns whether the dark level of blue can be that of a product's level in a rendering; also if it is unknown."""
    conversion = RENDERINGS[name].conversion(np.dtype("uint8"), False)
    if dark_levels is None or conversion is None:
        return True
    offset, gain = conversion
    low, high = BLUE_DN[level]
    return bool(low <= (dark_levels[2] + offset) * gain <= high)


def _shows_air(dark_levels: np.ndarray) -> bool:
    """Returns whether dark pixels show the air's own light: more green than red, and more blue than green."""
    red, green, blue = dark_levels
    return bool(red < green < blue and blue - red >= MIN_AIR_DIFFERENCE)


def check_colour_order(path: pathlib.Path, picture: BandSet) -> None:
    """Raises InputError if red and blue of a picture seem to be swapped: if dark pixels show the air's light so."""
    bands = [picture.bands[name] for name in RGB_BANDS]
    dark_levels = read_dark_levels(bands)
    if dark_levels is None:
        return
    red, green, blue = dark_levels
    is_swapped = red - blue > MIN_SWAPPED_DIFFERENCE and red >= MIN_SWAPPED_RATIO * blue and red <= MAX_AIR_LEVEL
    if not (is_swapped and _shows_air(dark_levels[::-1])):
        return
    swapped_names = dict(zip((band.index for band in bands), RGB_BANDS[::-1]))
    names = ",".join(swapped_names.get(index, "x") for index in bands[0].dataset.indexes)
    stated_names = ",".join(
        {band.index: name for band, name in zip(bands, RGB_BANDS)}.get(index, "x") for index in bands[0].dataset.indexes
    )
    raise InputError(
        f"{path}: its darkest {DARK_PERCENTILE} % has more red than blue (levels {red:.0f}, {green:.0f}, {blue:.0f}), "
        f"but the air is blue: red and blue seem to be swapped; --bands={names} swaps them, --bands={stated_names} "
        "takes them as they are"
    )


# White around a polygon that was cut out is no data. White clouds and roofs in it are.


def find_outside(bands: Sequence[Band]) -> OutsideMask | None:
    """Finds the white surroundings of a polygon in a picture, or in bands, of 8 bits.

    Args:
        bands: The bands, on one grid.

    Returns:
        The mask; `None` if there are no such surroundings.
    """
    if any(band.dtype != "uint8" for band in bands):
        return None
    shape = _sample_shape(bands)
    stored = rasters.read_bands(bands, shape=shape)
    valid = rasters.valid_mask(bands, stored, shape=shape)
    white = (stored == WHITE).all(axis=-1) & valid
    if white.sum() <= MIN_OUTSIDE_SHARE * white.size:
        return None
    outside = _connect_to_corners(white | ~valid)
    surroundings = _grow(outside)
    border = surroundings & ~outside & valid
    share = float((outside & white).mean())
    if share <= MIN_OUTSIDE_SHARE or not border.any():
        return None
    if np.median(stored[border].min(axis=-1)) >= MAX_BORDER_LEVEL:  # a cloud
        return None
    dataset = bands[0].dataset
    return OutsideMask(surroundings, dataset.height, dataset.width, share)


def _sample_shape(bands: Sequence[Band]) -> tuple[int, int]:
    height, width = bands[0].dataset.shape
    return min(SAMPLE_PIXELS, height), min(SAMPLE_PIXELS, width)


def _connect_to_corners(passable: np.ndarray) -> np.ndarray:
    """Returns the pixels (height, width) from which passable pixels lead to a corner, along rows and columns."""
    reached = np.zeros_like(passable)
    reached[:: len(reached) - 1 or 1, :: reached.shape[1] - 1 or 1] = True
    reached &= passable
    count = -1
    while count != (count := int(reached.sum())):
        for turned, walls in ((reached, ~passable), (reached.T, ~passable.T)):
            # Number the runs of passable pixels of all rows, and reach each run that has a reached pixel.
            runs = np.cumsum(np.pad(walls, ((0, 0), (1, 0)), constant_values=True).ravel())
            runs = runs.reshape(len(walls), -1)[:, 1:]
            is_reached = np.zeros(runs.max() + 1, bool)
            is_reached[runs[turned]] = True
            turned |= is_reached[runs] & ~walls
    return reached


def _grow(mask: np.ndarray) -> np.ndarray:
    """Returns a mask (height, width) with the pixels beside it."""
    padded = np.pad(mask, 1)
    rows, columns = mask.shape
    return np.logical_or.reduce([padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)])
