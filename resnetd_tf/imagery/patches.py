"""Labels for new images."""

import pathlib
from collections.abc import Sequence

import numpy as np

from resnetd_tf import rundir
from resnetd_tf.data import splits as data
from resnetd_tf.errors import InputError


def predict(model: str, paths: Sequence[str | pathlib.Path], top: int = 3) -> list[np.ndarray]:
    """Prints the most probable classes of image files, one line each.

    Args:
        model: A path as `rundir.locate` takes it.
        paths: Image files; all are read before anything is printed.
        top: Classes to print for each.

    Returns:
        Probabilities (classes,) of each file.

    Raises:
        InputError: No file is given, or one cannot be read or has other bands than the model takes.
    """
    if not paths:
        raise InputError("no image given")
    classifier = rundir.open_classifier(model)
    images = [data.read_image(path) for path in paths]
    for path, image in zip(paths, images):
        if image.shape[-1] != classifier.bands:
            raise InputError(f"{path}: {image.shape[-1]} bands; {classifier.path} takes {classifier.bands}")
    results = [classifier.predict(image[np.newaxis])[0] for image in images]
    for path, probabilities in zip(paths, results):
        best = np.argsort(-probabilities, kind="stable")[:top]
        print(f"{path}:", ", ".join(f"{classifier.classes[i]} {100 * probabilities[i]:.2f} %" for i in best))
    return results
