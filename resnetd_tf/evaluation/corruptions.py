"""How a classifier holds where pictures are not as clean as those it was trained on.

Made by Pillow and SciPy, by other code than what varies the images of training, and the same at every call.
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


@dataclass(frozen=True)
class Corruption:
    """One way in which pictures differ, in one grade.

    Attributes:
        name: What is done.
        grade: How much of it, in words.
        change: From an image (height, width, 3), in grey levels from 0 to 255 as float64, and a generator of random
            numbers to the image changed.
    """

    name: str
    grade: str
    change: Callable[[np.ndarray, np.random.Generator], np.ndarray]

    def __call__(self, images: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
        """Images (height, width, 3) uint8, each changed; the same ones in the same place are changed alike."""
        return [self._one(image, np.random.default_rng(index)) for index, image in enumerate(images)]

    def _one(self, image: np.ndarray, chance: np.random.Generator) -> np.ndarray:
        return np.clip(np.round(self.change(image.astype("float64"), chance)), 0, 255).astype("uint8")


def _add_noise(levels: float):
    return lambda image, chance: image + chance.normal(0, levels, image.shape)


def _encode(format: str, quality: int):
    def change(image, chance):
        file = io.BytesIO()
        PIL.Image.fromarray(image.astype("uint8")).save(file, format, quality=quality)
        with PIL.Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"), "float64")

    return change


def _blur(sigma: float):
    return lambda image, chance: scipy.ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


def _coarsen(factor: int):
    def change(image, chance):
        picture = PIL.Image.fromarray(image.astype("uint8"))
        size = (max(1, picture.width // factor), max(1, picture.height // factor))
        smaller = picture.resize(size, PIL.Image.Resampling.BOX)
        return np.asarray(smaller.resize(picture.size, PIL.Image.Resampling.BICUBIC), "float64")

    return change


def _scale_brightness(factor: float):
    return lambda image, chance: image * factor


def _scale_contrast(factor: float):
    return lambda image, chance: (image - image.mean()) * factor + image.mean()


def _tint(red: float, green: float, blue: float):
    return lambda image, chance: image * (red, green, blue)


def _add_haze(share: float):
    """Light that the air scatters, more of the blue than of the red."""
    return lambda image, chance: image * (1 - share) + share * np.array((200.0, 210.0, 225.0))


def _shift(pixels: float):
    return lambda image, chance: scipy.ndimage.shift(image, (pixels, pixels, 0), order=1, mode="nearest")


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
    # No training varies these.
    Corruption("WebP", "quality 90", _encode("WEBP", 90)),
    Corruption("haze", "a tenth", _add_haze(0.1)),
    Corruption("shift", "half a pixel", _shift(0.5)),
)


def evaluate_corruptions(
    classifier: SavedClassifier, dataset: Dataset, split: str, over_turns: bool = False
) -> Iterator[dict]:
    """Yields accuracy and calibration on the images of one split as they are, and then under each corruption.

    Arguments are as for `metrics.evaluate`.

    Raises:
        InputError: They are not RGB.
    """
    if dataset.bands != 3:
        raise InputError(f"--corruptions are those of pictures in RGB; {dataset.name} has {dataset.bands} bands")
    chosen = dataset.splits[split]
    for corruption in (None, *CORRUPTIONS):
        images = corruption(chosen.images) if corruption else chosen.images
        probabilities = predict_probabilities(classifier, images, over_turns)
        yield {
            "corruption": corruption.name if corruption else "none",
            "grade": corruption.grade if corruption else "",
            **measure_accuracy(chosen.labels, probabilities),
            "confidence": float(probabilities.max(axis=1).mean()),
            "calibration_error": expected_calibration_error(chosen.labels, probabilities),
        }


def corrupt_examples(split: Split, count: int = 3) -> list[list[np.ndarray]]:
    """For each row of `evaluate` the first images of the split that are of the first one's size."""
    images = [image for image in split.images if image.shape == split.images[0].shape][:count]
    return [images, *(corruption(images) for corruption in CORRUPTIONS)]


def average_corruptions(rows: list[dict]) -> dict:
    """Accuracy and calibration of images as they are, and their means over the corruptions, from `evaluate`'s rows."""
    clean, *changed = rows
    return {
        "accuracy": clean["accuracy"],
        "mean_accuracy": float(np.mean([row["accuracy"] for row in changed])),
        "calibration_error": clean["calibration_error"],
        "mean_calibration_error": float(np.mean([row["calibration_error"] for row in changed])),
    }
