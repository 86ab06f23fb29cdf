"""Accuracy and calibration on images that are noisier, blurrier or otherwise worse than the training images.

The corruptions use Pillow and SciPy. They share no code with the training augmentation, and they are the same at every
call.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import PIL.Image
import scipy.ndimage

from resnetd_tf.data.splits import Dataset, Split
from resnetd_tf.errors import InputError
from resnetd_tf.evaluation.metrics import expected_calibration_error, measure_accuracy, predict_probabilities
from resnetd_tf.saved import SavedClassifier

# Takes an image (height, width, 3) float64, in grey levels from 0 to 255, and returns the corrupted image.
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption with a grade.

    Attributes:
        name: Kind of the corruption: "noise".
        grade: Strength of the corruption, in words: "2 grey levels".
        change: Function that corrupts one image.
    """

    name: str
    grade: str
    change: Change

    def __call__(self, images: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
        """Corrupts images (height, width, 3) uint8. The random numbers for an image depend on its position only."""
        return [self._corrupt_image(image, np.random.default_rng(index)) for index, image in enumerate(images)]

    def _corrupt_image(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.clip(np.round(self.change(image.astype("float64"), rng)), 0, 255).astype("uint8")


def _add_noise(levels: float) -> Change:
    return lambda image, rng: image + rng.normal(0, levels, image.shape)


def _encode(format: str, quality: int) -> Change:
    def change(image, rng):
        file = io.BytesIO()
        PIL.Image.fromarray(image.astype("uint8")).save(file, format, quality=quality)
        with PIL.Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"), "float64")

    return change


def _blur(sigma: float) -> Change:
    return lambda image, rng: scipy.ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


def _coarsen(factor: int) -> Change:
    def change(image, rng):
        picture = PIL.Image.fromarray(image.astype("uint8"))
        size = (max(1, picture.width // factor), max(1, picture.height // factor))
        smaller = picture.resize(size, PIL.Image.Resampling.BOX)
        return np.asarray(smaller.resize(picture.size, PIL.Image.Resampling.BICUBIC), "float64")

    return change


def _scale_brightness(factor: float) -> Change:
    return lambda image, rng: image * factor


def _scale_contrast(factor: float) -> Change:
    return lambda image, rng: (image - image.mean()) * factor + image.mean()


def _tint(red: float, green: float, blue: float) -> Change:
    return lambda image, rng: image * (red, green, blue)


def _add_haze(share: float) -> Change:
    """Adds light that the air scatters, more of it in blue than in red."""
    return lambda image, rng: image * (1 - share) + share * np.array((200.0, 210.0, 225.0))


def _shift(pixels: float) -> Change:
    return lambda image, rng: scipy.ndimage.shift(image, (pixels, pixels, 0), order=1, mode="nearest")


CORRUPTIONS = (
    Corruption("noise", "1 grey level", _add_noise(1)),
    Corruption("noise", "2 grey levels", _add_noise(2)),
    Corruption("noise", "5 grey levels", _add_noise(5)),
    Corruption("JPEG", "quality 95", _encode("JPEG", 95)),
    Corruption("JPEG", "quality 75", _encode("JPEG", 75)),
    Corruption("JPEG", "quality 50", _encode("JPEG", 50)),
    Corruption("blur", "sigma of 0.5 pixels", _blur(0.5)),
    Corruption("blur", "sigma of 1 pixel", _blur(1)),
    Corruption("coarser pixels", "of twice the side", _coarsen(2)),
    Corruption("brightness", "90 %", _scale_brightness(0.9)),
    Corruption("brightness", "110 %", _scale_brightness(1.1)),
    Corruption("contrast", "90 %", _scale_contrast(0.9)),
    Corruption("contrast", "110 %", _scale_contrast(1.1)),
    Corruption("tint", "red 105 %, blue 95 %", _tint(1.05, 1, 0.95)),
    # The training augmentation has none of the following.
    Corruption("WebP", "quality 90", _encode("WEBP", 90)),
    Corruption("haze", "a tenth", _add_haze(0.1)),
    Corruption("shift", "half a pixel", _shift(0.5)),
)


def evaluate_corruptions(
    classifier: SavedClassifier, dataset: Dataset, split_name: str, over_turns: bool = False
) -> Iterator[dict]:
    """Measures accuracy and calibration on the original images of a split, then under each corruption.

    Args:
        classifier: An opened classifier of RGB images.
        dataset: A dataset with that split loaded, and with the classes of the classifier.
        split_name: Name of the split.
        over_turns: Whether to average over the eight rotations and flips of each image.

    Yields:
        For each corruption: `corruption` ("none" for the original images), `grade`, `accuracy`, `accuracy_interval`,
        the mean `confidence` and `calibration_error`.

    Raises:
        InputError: The images are not RGB.
    """
    if dataset.bands != 3:
        raise InputError(f"--corruptions are those of pictures in RGB; {dataset.name} has {dataset.bands} bands")
    split = dataset.splits[split_name]
    for corruption in (None, *CORRUPTIONS):
        images = corruption(split.images) if corruption else split.images
        probabilities = predict_probabilities(classifier, images, over_turns)
        yield {
            "corruption": corruption.name if corruption else "none",
            "grade": corruption.grade if corruption else "",
            **measure_accuracy(split.labels, probabilities),
            "confidence": float(probabilities.max(axis=1).mean()),
            "calibration_error": expected_calibration_error(split.labels, probabilities),
        }


def average_corruptions(rows: list[dict]) -> dict:
    """Averages the rows of `evaluate_corruptions`.

    Returns:
        `accuracy` and `calibration_error` of the original images; `mean_accuracy` and `mean_calibration_error` over all
        corruptions.
    """
    clean_row, *corrupted_rows = rows
    return {
        "accuracy": clean_row["accuracy"],
        "mean_accuracy": float(np.mean([row["accuracy"] for row in corrupted_rows])),
        "calibration_error": clean_row["calibration_error"],
        "mean_calibration_error": float(np.mean([row["calibration_error"] for row in corrupted_rows])),
    }


def corrupt_examples(split: Split, count: int = 3) -> list[list[np.ndarray]]:
    """Corrupts the first images of a split that have the size of its first image.

    Returns:
        The original images, then a list of images for each corruption, in the order of `evaluate_corruptions`.
    """
    images = [image for image in split.images if image.shape == split.images[0].shape][:count]
    return [images, *(corruption(images) for corruption in CORRUPTIONS)]
