"""Measures of a classifier on labelled images: numbers only, nothing is written or drawn."""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
import sklearn.metrics
from scipy.stats import binomtest

from resnetd_tf.data.splits import Dataset, Split
from resnetd_tf.errors import InputError
from resnetd_tf.saved import SavedClassifier

Images = np.ndarray | list[np.ndarray]

WORST = 24  # mistakes that are listed and drawn
SHOWN = 40  # classes that examples are drawn of


def interval(correct: int, count: int) -> list[float]:
    """The 95 % confidence interval of an accuracy, [low, high], after Wilson.

    Were the classifier tried on many sets of `count` such images, the interval would hold its true accuracy for 95 % of
    them.
    """
    bounds = binomtest(correct, count).proportion_ci(method="wilson")
    return [float(bounds.low), float(bounds.high)]


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """The share of images (n,) whose most probable class is the true one, and its interval."""
    correct = int((probabilities.argmax(axis=1) == labels).sum())
    return {"accuracy": correct / len(labels), "accuracy_interval": interval(correct, len(labels))}


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """The expected calibration error: how far confidence is from accuracy, from 0 to 1.

    Images are binned by their confidence, the highest probability; of each bin the mean confidence is compared with the
    accuracy, and the differences are averaged, weighted by the images in the bin (arXiv 1706.04599, section 2).

    Args:
        labels: (n,) true class indices.
        probabilities: (n, classes).
        bins: Number of bins of equal width.
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    differences = np.bincount(place, weights=confidence - correct, minlength=bins)  # of each bin, times its images
    return float(np.abs(differences).sum() / len(labels))


def metrics(labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> dict:
    """Accuracy with its interval, per-class scores and the confusion matrix.

    Args:
        labels: (n,) true class indices.
        probabilities: (n, classes).
        classes: Their names.
    """
    predicted, indices = probabilities.argmax(axis=1), range(len(classes))
    columns = sklearn.metrics.precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0)
    return {
        **accuracy(labels, probabilities),
        "count": len(labels),
        "classes": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f1), "support": int(support)}
            for name, p, r, f1, support in zip(classes, *columns)
        },
        "confusion_matrix": sklearn.metrics.confusion_matrix(labels, predicted, labels=indices).tolist(),
    }


@dataclass(frozen=True)
class Evaluation:
    """What a classifier says of a split.

    Attributes:
        model: Name of the classifier's file or folder.
        dataset: Name of the dataset.
        split_name: Name of the split in it.
        split: Its images and true labels.
        classes: Class names.
        probabilities: (n, classes), what the classifier gave.
        over_turns: Whether they are means over the turns of each image.
    """

    model: str
    dataset: str
    split_name: str
    split: Split
    classes: tuple[str, ...]
    probabilities: np.ndarray
    over_turns: bool = False

    @property
    def predicted(self) -> np.ndarray:
        """(n,) most probable classes."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """(n,) their probabilities."""
        return self.probabilities.max(axis=1)

    @property
    def mistakes(self) -> np.ndarray:
        """Indices of the images most confidently wrong, the worst first."""
        wrong = np.flatnonzero(self.predicted != self.split.labels)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:WORST]

    @property
    def examples(self) -> np.ndarray:
        """Indices of the first image of every class that the split has, of so many as a picture shows."""
        return np.unique(self.split.labels, return_index=True)[1][:SHOWN]

    @functools.cached_property
    def result(self) -> dict:
        """What metrics.json holds: `metrics` and the most confident mistakes."""
        predicted, confidence, labels = self.predicted, self.confidence, self.split.labels
        mistakes = [
            {
                "name": self.split.names[index],
                "true": self.classes[labels[index]],
                "predicted": self.classes[predicted[index]],
                "probability": float(confidence[index]),
            }
            for index in self.mistakes
        ]
        measured = metrics(labels, self.probabilities, self.classes)
        of = {"model": self.model, "dataset": self.dataset, "split": self.split_name, "over_turns": self.over_turns}
        return {**of, **measured, "mistakes": mistakes}


def with_classes_of(classifier: SavedClassifier, dataset: Dataset) -> Dataset:
    """The dataset with the classes that the classifier knows, of which its own may be a part.

    Raises:
        InputError: The classifier does not know all of them, or takes another number of bands.
    """
    classifier.check_bands(dataset.name, dataset.bands)
    if unknown := [name for name in dataset.classes if name not in classifier.classes]:
        raise InputError(
            f"{dataset.name} has {', '.join(unknown)}; {classifier.path} knows the classes "
            f"{', '.join(classifier.classes)}; give images of these alone"
        )
    labels = np.array([classifier.classes.index(name) for name in dataset.classes])
    splits = {name: dataclasses.replace(split, labels=labels[split.labels]) for name, split in dataset.splits.items()}
    return dataclasses.replace(dataset, classes=classifier.classes, splits=splits)


def predict(classifier: SavedClassifier, images: Images, over_turns: bool = False) -> np.ndarray:
    """Probabilities (n, classes) of images (n, height, width, bands), or of a list of them.

    Over turns they are means over the eight turns and flips of each image: seen from above, it has no upright.
    """
    if not over_turns:
        return classifier.predict(images)
    ways = (
        [np.rot90(image[::-1] if flipped else image, quarters) for image in images]
        for flipped in (False, True)
        for quarters in range(4)
    )
    return np.mean([classifier.predict(way) for way in ways], axis=0)


def evaluate(classifier: SavedClassifier, dataset: Dataset, split: str, over_turns: bool = False) -> Evaluation:
    """Classifies the images of one split.

    Args:
        classifier: An opened classifier.
        dataset: A dataset with that split loaded, and the classes of the classifier.
        split: The split's name.
        over_turns: As for `predict`.
    """
    chosen = dataset.splits[split]
    probabilities = predict(classifier, chosen.images, over_turns)
    return Evaluation(classifier.path.name, dataset.name, split, chosen, dataset.classes, probabilities, over_turns)
