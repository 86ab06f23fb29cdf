"""Other readings of a scene's numbers, for the advice to a user whose scene is unlike the training images."""

from collections.abc import Iterator

import numpy as np

from resnetd_tf.data.digital_numbers import KNOWN_SCALES
from resnetd_tf.imagery.scene import Scene
from resnetd_tf.sentinel2 import BASELINE_OFFSET_DN, RENDERINGS, RGB_BANDS, render_colours

WHITE_LEVEL = 240  # grey level: white is cloud or snow, which in a darker rendering would look like water


def other_readings(scene: Scene, pixels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yields flags, and the pixels as the flags would have them read.

    Args:
        scene: The scene.
        pixels: (n, height, width, 3) grey levels or digital numbers of it.
    """
    if scene.is_picture and np.median(pixels) >= WHITE_LEVEL:
        return
    names = ",".join(reversed(RGB_BANDS))
    yield f"--bands={names} (red and blue exchanged)", pixels[..., ::-1]
    if scene.is_picture:
        for name, rendering in RENDERINGS.items():
            conversion = rendering.conversion(pixels.dtype, False)
            if conversion and name != "eurosat":
                yield f"--rendering={name}", render_colours((pixels + conversion[0]) * conversion[1])
        return
    band = next(band for band in scene.bands if band)
    gain = band.gain
    for factor, meaning, *_ in KNOWN_SCALES:
        if not meaning.startswith("65535"):
            continue
        yield f"--scale={gain * factor:.4g} ({meaning})", np.rint(pixels * factor).astype("uint16")
    if band.dtype == "uint8":
        return
    lowered = np.clip(pixels.astype("int32") - BASELINE_OFFSET_DN, 0, 65_535).astype("uint16")
    yield f"--offset=-{BASELINE_OFFSET_DN / gain:g} (of baseline 04.00)", lowered
