"""From raw Sentinel-2 bands to the colours that EuroSAT's JPEGs have."""

import io

import numpy as np
import PIL.Image

from resnetd_tf.sentinel2 import BANDS, RENDERED_DN, RENDERED_LEVELS, RGB_BANDS

# The grey level of each digital number.
LEVELS = np.round(np.clip(1 + np.arange(2**16) * RENDERED_LEVELS / RENDERED_DN, 1, 255)).astype("uint8")


def true_colour(dn: np.ndarray) -> np.ndarray:
    """Red, green and blue of images of EuroSAT's 13 bands, as EuroSAT's authors rendered them before JPEG.

    Args:
        dn: (..., 13) digital numbers, in the order of `sentinel2.BANDS`.

    Returns:
        (..., 3) uint8, from 1 to 255.
    """
    return rendered(dn[..., [BANDS.index(band) for band in RGB_BANDS]])


def rendered(colours: np.ndarray) -> np.ndarray:
    """`true_colour` of red, green and blue alone, (..., 3) digital numbers."""
    if colours.dtype != "uint16":
        colours = np.clip(np.rint(colours), 0, len(LEVELS) - 1).astype("uint16")
    return LEVELS[colours]


def stored(image: np.ndarray) -> np.ndarray:
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
