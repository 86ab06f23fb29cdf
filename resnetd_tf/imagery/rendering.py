"""From raw Sentinel-2 bands to the colours that EuroSAT's JPEGs have."""

import numpy as np

from resnetd_tf.sentinel2 import BANDS, RENDERED_DN, RENDERED_LEVELS, RGB_BANDS


def true_colour(dn: np.ndarray) -> np.ndarray:
    """Red, green and blue of images of EuroSAT's 13 bands, as EuroSAT's authors rendered them before JPEG.

    Args:
        dn: (..., 13) digital numbers, in the order of `sentinel2.BANDS`.

    Returns:
        (..., 3) uint8, from 1 to 255.
    """
    colours = dn[..., [BANDS.index(band) for band in RGB_BANDS]]
    levels = 1 + colours.astype("float64") * RENDERED_LEVELS / RENDERED_DN
    return np.round(np.clip(levels, 1, 255)).astype("uint8")
