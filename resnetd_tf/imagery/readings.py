"""Other readings of a scene's numbers, for the advice to a user whose scene is unlike the training images."""

from collections.abc import Iterator

import numpy as np

from resnetd_tf.imagery.scene import Scene
from resnetd_tf.sentinel2 import BASELINE_OFFSET_DN, BRIGHTEST_DN, RENDERED_LEVELS, RGB_BANDS

# Digital numbers of a stored 1, and what it then stood for.
SCALES = ((10_000 / 65_535, "65535 for a reflectance of 1"), (4_000 / 65_535, "65535 for a reflectance of 0.4"))
PICTURE_SCALES = ((3_558 / 255, "the products' TCI"), (4_000 / 255, "EO Browser"))


def other_readings(scene: Scene, pixels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yields flags, and the pixels as the flags would have them read.

    Args:
        scene: The scene.
        pixels: (n, height, width, 3) grey levels or digital numbers of it.
    """
    names = ",".join(reversed(RGB_BANDS))
    yield f"--bands={names} (red and blue exchanged)", pixels[..., ::-1]
    if scene.is_picture:
        for scale, meaning in PICTURE_SCALES:
            levels = 1 + pixels * (scale * RENDERED_LEVELS / BRIGHTEST_DN)
            yield f"--scale={scale:.2f} ({meaning})", np.clip(np.rint(levels), 0, 255).astype("uint8")
        return
    gain = next(band.gain for band in scene.bands if band)
    for factor, meaning in SCALES:
        yield f"--scale={gain * factor:.4g} ({meaning})", np.rint(pixels * factor).astype("uint16")
    lowered = np.clip(pixels.astype("int32") - BASELINE_OFFSET_DN, 0, 65_535).astype("uint16")
    yield f"--offset=-{BASELINE_OFFSET_DN / gain:g} (of baseline 04.00)", lowered
