"""How well a converted model agrees with the one it was made from, and the images to try it on."""

import numpy as np

from resnetd_tf.data import sources
from resnetd_tf.data.splits import Dataset
from resnetd_tf.saved import SavedClassifier

IMAGES = 200  # of a split, for calibration and for comparison
DEFAULT_PATCH = 64  # side in pixels of the patches of a model that does not say


def agreement(probabilities: np.ndarray, expected: np.ndarray) -> str:
    """In words, how well probabilities (n, classes) agree with those expected."""
    same = 100 * (probabilities.argmax(1) == expected.argmax(1)).mean()
    difference = np.abs(probabilities - expected).max()
    return f"same class for {same:.1f} %, largest difference of a probability {difference:.1e}"


def patch_shape(classifier: SavedClassifier) -> tuple[int, int, int]:
    """(height, width, bands) of the patches that a classifier was trained on."""
    return tuple(classifier.metadata.get("patch_shape", (DEFAULT_PATCH, DEFAULT_PATCH, classifier.bands)))


def load_splits(
    classifier: SavedClassifier,
    splits: tuple[str, ...],
    dataset: str | None,
    data_dir: str | None,
    eurosat_zip: str | None,
) -> Dataset:
    """Splits of the named dataset, or of the one that the classifier was trained on.

    Raises:
        InputError: No dataset is known, or its images have another number of bands.
    """
    name = classifier.dataset(dataset)
    size = patch_shape(classifier)[0]
    loaded = sources.load(name, splits, data_dir=data_dir, eurosat_zip=eurosat_zip, image_size=size)
    classifier.check_bands(name, loaded.patch_shape[-1])
    return loaded
