"""How well a converted model agrees with the one it was made from, and the images to try it on."""

import numpy as np

from resnetd_tf.data import images, sources
from resnetd_tf.saved import SavedClassifier

IMAGES = 200  # of a split, for calibration and for comparison


def agreement(probabilities: np.ndarray, expected: np.ndarray) -> str:
    """In words, how well probabilities (n, classes) agree with those expected."""
    same = 100 * (probabilities.argmax(1) == expected.argmax(1)).mean()
    difference = np.abs(probabilities - expected).max()
    return f"same class for {same:.1f} %, largest difference of a probability {difference:.1e}"


def patches(
    classifier: SavedClassifier,
    splits: tuple[str, ...],
    dataset: str | None,
    data_dir: str | None,
    eurosat_zip: str | None,
    split_files: str | None,
) -> list[np.ndarray]:
    """The first images of splits of the named dataset, or of the one that the classifier was trained on.

    Returns:
        For each split an array (n, height, width, bands) of the size that the classifier was trained on.

    Raises:
        InputError: No dataset is known, or its images have another number of bands.
    """
    name, data_dir, split_files = classifier.source(dataset, data_dir, split_files)
    loaded = sources.load(
        name,
        splits,
        data_dir=data_dir,
        eurosat_zip=eurosat_zip,
        split_files=split_files,
        image_size=classifier.metadata.get("image_size"),  # as in training
        interpolation=classifier.metadata.get("interpolation", "bilinear"),
    )
    classifier.check_bands(name, loaded.bands)
    chosen = [loaded.splits[split].images[:IMAGES] for split in splits]
    height, width = classifier.metadata.get("patch_shape", chosen[0][0].shape)[:2]
    return [np.stack([images.resize(image, height, width) for image in some]) for some in chosen]
