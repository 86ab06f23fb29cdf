"""Labels for new patches: images of the size of one land-cover class, in files of their own."""

import pathlib
from collections.abc import Sequence

import numpy as np

from resnetd_tf.data import images
from resnetd_tf.errors import InputError
from resnetd_tf.saved import open_classifier


def predict(
    model: str,
    paths: Sequence[str | pathlib.Path],
    top: int = 3,
    *,
    max_pixels: int = images.MAX_PIXELS,
    trust: bool = False,
) -> np.ndarray:
    """Prints the most probable classes of image files, one line each.

    Args:
        model: A path as `saved.locate` takes it.
        paths: Image files; all are read before anything is printed.
        top: Number of classes to print for each.
        max_pixels: The most that an image may have.
        trust: As for `saved.open_classifier`.

    Returns:
        Probabilities (files, classes).

    Raises:
        InputError: No file is given, or one cannot be read or has other bands than the model takes.
    """
    if not paths:
        raise InputError("no image given")
    classifier = open_classifier(model, trust=trust)
    pixels = [images.read(path, max_pixels) for path in paths]
    for path, image in zip(paths, pixels):
        classifier.check_bands(str(path), image.shape[-1])
    results = classifier.predict(pixels)
    for path, probabilities in zip(paths, results):
        best = np.argsort(-probabilities, kind="stable")[:top]
        print(f"{path}:", ", ".join(f"{classifier.classes[i]} {100 * probabilities[i]:.2f} %" for i in best))
    return results
