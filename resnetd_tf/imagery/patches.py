"""Labels for new patches: images of the size of one land-cover class, in files of their own."""

import pathlib
from collections.abc import Sequence

import numpy as np

from resnetd_tf.data import images
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import rendering
from resnetd_tf.saved import SavedClassifier
from resnetd_tf.sentinel2 import BANDS


def predict(
    classifier: SavedClassifier,
    paths: Sequence[str | pathlib.Path],
    top: int = 3,
) -> np.ndarray:
    """Prints the most probable classes of image files, one line each.

    Args:
        classifier: What to label them with.
        paths: Image files; all are read before anything is printed.
        top: Number of classes to print for each.

    Returns:
        Probabilities (files, classes).

    Raises:
        InputError: No file is given, or one cannot be read or has other bands than the model takes. (For a model of RGB
            those of 13 bands are shown as EuroSAT's pictures are.)
    """
    if not paths:
        raise InputError("no image given")
    pixels = [images.read(path) for path in paths]
    if classifier.bands == 3:
        pixels = [
            rendering.stored(rendering.true_colour(one)) if one.shape[-1] == len(BANDS) else one for one in pixels
        ]
    for path, image in zip(paths, pixels):
        classifier.check_bands(str(path), image.shape[-1])
    results = classifier.predict(pixels)
    for path, probabilities in zip(paths, results):
        best = np.argsort(-probabilities, kind="stable")[:top]
        print(f"{path}:", ", ".join(f"{classifier.classes[i]} {100 * probabilities[i]:.2f} %" for i in best))
    return results


def _as_picture(dn: np.ndarray) -> np.ndarray:
    return rendering.stored(rendering.true_colour(dn))
