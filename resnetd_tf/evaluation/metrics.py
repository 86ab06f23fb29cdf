"""Metrics of a classifier on labelled images. This module only computes numbers; `report` writes and draws them."""

import bisect
import dataclasses
import functools
import math
from dataclasses import dataclass

import numpy as np

from resnetd_tf.data.splits import Dataset, Split
from resnetd_tf.errors import InputError
from resnetd_tf.saved import SavedClassifier

Images = np.ndarray | list[np.ndarray]

MAX_LISTED_MISTAKES = 24  # mistakes that metrics.json lists and mistakes.png draws
MAX_EXAMPLE_CLASSES = 40  # classes that examples.png draws
NORMAL_QUANTILE = 1.959963984540054  # 97.5 % of the standard normal distribution lie below it
MAX_TEMPERATURE = 10.0


def wilson_interval(correct: int, count: int) -> list[float]:
    """Computes the 95 % confidence interval of an accuracy.

    If the classifier were tried on many sets of `count` such images, 95 % of the intervals would hold its true
    accuracy. The formula is Wilson's score interval (Wilson 1927, doi 10.1080/01621459.1927.10502953).

    Args:
        correct: Number of images that were classified correctly.
        count: Number of images, at least 1.

    Returns:
        [low, high], each from 0 to 1.
    """
    accuracy, z = correct / count, NORMAL_QUANTILE
    centre = (2 * count * accuracy + z**2) / (2 * (count + z**2))
    margin = z / (2 * (count + z**2)) * math.sqrt(4 * count * accuracy * (1 - accuracy) + z**2)
    low = 0.0 if correct == 0 else centre - margin
    high = 1.0 if correct == count else centre + margin
    return [low, high]


def measure_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """Computes the accuracy with its interval.

    Args:
        labels: True class indices (n,).
        probabilities: Probabilities (n, classes).

    Returns:
        `accuracy`, the share of images whose most probable class is the true one, and `accuracy_interval`.
    """
    correct = int((probabilities.argmax(axis=1) == labels).sum())
    return {"accuracy": correct / len(labels), "accuracy_interval": wilson_interval(correct, len(labels))}


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Computes the expected calibration error: how far confidence is from accuracy.

    The confidence of an image is its highest probability. Images are binned by confidence. The difference between mean
    confidence and accuracy in each bin is averaged, weighted by the images in the bin (arXiv 1706.04599, section 2).

    Args:
        labels: True class indices (n,).
        probabilities: Probabilities (n, classes).
        bins: Number of bins of equal width.

    Returns:
        The error, from 0 to 1.
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bin_indices = np.minimum((confidence * bins).astype(int), bins - 1)
    # The difference in each bin, times the number of its images.
    differences = np.bincount(bin_indices, weights=confidence - correct, minlength=bins)
    return float(np.abs(differences).sum() / len(labels))


def count_confusions(labels: np.ndarray, predictions: np.ndarray, class_count: int) -> np.ndarray:
    """Counts the confusion matrix (classes, classes): rows are true classes, columns are predicted ones."""
    counts = np.zeros((class_count, class_count), int)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def compute_metrics(labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> dict:
    """Computes accuracy with its interval, scores of each class and the confusion matrix.

    Args:
        labels: True class indices (n,).
        probabilities: Probabilities (n, classes).
        classes: Class names in the order of the probabilities.

    Returns:
        `accuracy`, `accuracy_interval`, `count`, `classes` and `confusion_matrix`. `classes` holds the precision,
        recall, F1 and support of each class. A score whose denominator is zero is 0.
    """
    counts = count_confusions(labels, probabilities.argmax(axis=1), len(classes))
    correct, support, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    precision = correct / np.maximum(predicted, 1)
    recall = correct / np.maximum(support, 1)
    f1 = 2 * correct / np.maximum(support + predicted, 1)
    return {
        **measure_accuracy(labels, probabilities),
        "count": len(labels),
        "classes": {
            name: {
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "f1": float(f1[index]),
                "support": int(support[index]),
            }
            for index, name in enumerate(classes)
        },
        "confusion_matrix": counts.tolist(),
    }


@dataclass(frozen=True)
class Evaluation:
    """A classifier's probabilities for the images of a split, and the metrics that follow from them.

    Attributes:
        model: Name of the classifier's file or folder.
        dataset: Name of the dataset.
        split_name: Name of the split.
        split: Images and true labels of the split.
        classes: Class names in the order of the probabilities.
        probabilities: Probabilities (n, classes).
        over_turns: Whether the probabilities are means over the eight rotations and flips of each image.
    """

    model: str
    dataset: str
    split_name: str
    split: Split
    classes: tuple[str, ...]
    probabilities: np.ndarray
    over_turns: bool = False

    @property
    def predictions(self) -> np.ndarray:
        """Index (n,) of the most probable class of each image."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """Probability (n,) of the most probable class of each image."""
        return self.probabilities.max(axis=1)

    @property
    def mistakes(self) -> np.ndarray:
        """Indices of the wrongly classified images with the highest confidence, the most confident first."""
        wrong = np.flatnonzero(self.predictions != self.split.labels)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:MAX_LISTED_MISTAKES]

    @property
    def examples(self) -> np.ndarray:
        """Indices of the first image of each class in the split, for at most `MAX_EXAMPLE_CLASSES` classes."""
        return np.unique(self.split.labels, return_index=True)[1][:MAX_EXAMPLE_CLASSES]

    @functools.cached_property
    def result(self) -> dict:
        """Content of metrics.json: what was evaluated, its metrics and the most confident mistakes."""
        predictions, confidence, labels = self.predictions, self.confidence, self.split.labels
        mistakes = [
            {
                "name": self.split.names[index],
                "true": self.classes[labels[index]],
                "predicted": self.classes[predictions[index]],
                "probability": float(confidence[index]),
            }
            for index in self.mistakes
        ]
        return {
            "model": self.model,
            "dataset": self.dataset,
            "split": self.split_name,
            "over_turns": self.over_turns,
            **compute_metrics(labels, self.probabilities, self.classes),
            "mistakes": mistakes,
        }


def align_classes(classifier: SavedClassifier, dataset: Dataset) -> Dataset:
    """Renumbers the labels of a dataset by the classes of a classifier.

    The dataset may have fewer classes than the classifier, in any order.

    Args:
        classifier: An opened classifier.
        dataset: A dataset with one or more splits loaded.

    Returns:
        The dataset with the classifier's classes.

    Raises:
        InputError: The classifier does not know all classes, or takes another number of bands.
    """
    classifier.check_bands(dataset.name, dataset.bands)
    if unknown := [name for name in dataset.classes if name not in classifier.classes]:
        raise InputError(
            f"{dataset.name} has {', '.join(unknown)}; {classifier.path} knows the classes "
            f"{', '.join(classifier.classes)}; give images of these alone"
        )
    indices = np.array([classifier.classes.index(name) for name in dataset.classes])
    splits = {name: dataclasses.replace(split, labels=indices[split.labels]) for name, split in dataset.splits.items()}
    return dataclasses.replace(dataset, classes=classifier.classes, splits=splits)


def predict_probabilities(classifier: SavedClassifier, images: Images, over_turns: bool = False) -> np.ndarray:
    """Classifies images.

    Args:
        classifier: An opened classifier.
        images: Raw pixels (n, height, width, bands), or a list of images (height, width, bands) of any sizes.
        over_turns: Whether to average over the eight rotations and flips of each image: satellite images have no
            upright position.

    Returns:
        Probabilities (n, classes).
    """
    if not over_turns:
        return classifier.predict(images)
    orientations = (
        [np.rot90(image[::-1] if flipped else image, quarter_turns) for image in images]
        for flipped in (False, True)
        for quarter_turns in range(4)
    )
    return np.mean([classifier.predict(turned_images) for turned_images in orientations], axis=0)


def evaluate_split(
    classifier: SavedClassifier, dataset: Dataset, split_name: str, over_turns: bool = False
) -> Evaluation:
    """Classifies the images of one split.

    Args:
        classifier: An opened classifier.
        dataset: A dataset with that split loaded, and with the classes of the classifier.
        split_name: Name of the split.
        over_turns: Whether to average over the eight rotations and flips of each image.
    """
    split = dataset.splits[split_name]
    probabilities = predict_probabilities(classifier, split.images, over_turns)
    return Evaluation(classifier.path.name, dataset.name, split_name, split, dataset.classes, probabilities, over_turns)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Finds the temperature that calibrates a classifier (Guo et al., arXiv 1706.04599, section 4.2).

    Logits are to be divided by it. The temperature minimises the log loss on images that were not used for training. It
    is above 1 for an overconfident classifier and below 1 for an underconfident one. It changes the class of no image.

    Targets are smoothed: true classes count as a little less than certain, by 1 / (n + 2) (Platt 1999, section 2.2).
    Otherwise ten images that are all classified correctly would promise certainty.

    Args:
        labels: True class indices (n,).
        probabilities: Probabilities (n, classes) of the classifier.

    Returns:
        The temperature from 0.1 to 10, in steps of 0.01. It is 1 for a calibrated classifier.
    """
    count = len(labels)
    logits = np.log(np.maximum(probabilities.astype("float64"), np.finfo("float32").tiny))
    smoothing = 1 / (count + 2)
    target_logits = (1 - smoothing) * logits[np.arange(count), labels] + smoothing * logits.mean(axis=1)

    def log_loss(hundredths: int) -> float:
        scale = 100 / hundredths
        return float((np.logaddexp.reduce(logits * scale, axis=1) - target_logits * scale).mean())

    # The loss is convex in 1 / temperature, so it falls until its minimum and rises after it.
    temperatures = range(round(100 / MAX_TEMPERATURE), round(100 * MAX_TEMPERATURE))
    position = bisect.bisect_left(
        temperatures, True, key=lambda hundredths: log_loss(hundredths + 1) > log_loss(hundredths)
    )
    return (temperatures.start + position) / 100
