"""How well a converted model agrees with the one it was made from, and the images to try it on."""

import numpy as np

from resnetd_tf.data import images, sources
from resnetd_tf.data.rasters import AS_STORED, Reading
from resnetd_tf.saved import SavedClassifier
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS

IMAGES = 256  # to compare on


def compared(probabilities: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """How well probabilities (n, classes) agree with those expected: same_class, a share, and largest_difference."""
    return {
        "same_class": float((probabilities.argmax(1) == expected.argmax(1)).mean()),
        "largest_difference": float(np.abs(probabilities - expected).max()),
    }


def words(found: dict[str, float]) -> str:
    """What `compared` says, for people."""
    return (
        f"same class for {100 * found['same_class']:.1f} %, "
        f"largest difference of a probability {found['largest_difference']:.1e}"
    )


def patches(
    classifier: SavedClassifier,
    counts: dict[str, int | None],
    dataset: str | None,
    data_dir: str | None,
    eurosat_zip: str | None,
    split_files: str | None,
    reading: Reading = AS_STORED,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first images of splits of the named dataset, or of the one that the classifier was trained on.

    Args:
        classifier: Whose images they are to be.
        counts: How many of each split; `None` for all.
        dataset: Its name; `None` for the one that the classifier was trained on.
        data_dir, eurosat_zip, split_files, reading: As for `sources.load`.

    Returns:
        For each split images (n, height, width, bands) of the size that the classifier was trained on, and labels (n,).

    Raises:
        InputError: No dataset is known, or its images have another number of bands.
    """
    name, data_dir, split_files = sources.as_trained(
        classifier.path, classifier.metadata, dataset, data_dir, split_files
    )
    loaded = sources.load(
        name,
        tuple(counts),
        data_dir=data_dir,
        eurosat_zip=eurosat_zip,
        split_files=split_files,
        wanted={3: RGB_BANDS, len(BANDS): BANDS}.get(classifier.bands),
        reading=sources.reading_as_trained(classifier.metadata, name, reading),
        image_size=classifier.metadata.get("image_size"),  # as in training
        interpolation=classifier.metadata.get("interpolation", "bilinear"),
    )
    classifier.check_bands(name, loaded.bands)
    chosen = [(loaded.splits[split], count) for split, count in counts.items()]
    height, width = classifier.metadata.get("patch_shape", chosen[0][0].images[0].shape)[:2]
    return [
        (images.of_one_size(split.images[:count], height, width), np.asarray(split.labels[:count]))
        for split, count in chosen
    ]
