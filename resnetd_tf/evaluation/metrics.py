"""Measures of a classifier on labelled images: numbers only, nothing is written or drawn."""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
import sklearn.metrics
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from resnetd_tf.data.splits import Dataset, Split
from resnetd_tf.errors import InputError
from resnetd_tf.saved import SavedClassifier

Images = np.ndarray | list[np.ndarray]

MAX_LISTED_MISTAKES = 24  # mistakes that are listed and drawn
MAX_EXAMPLE_CLASSES = 40  # classes that examples are drawn of


def wilson_interval(correct: int, count: int) -> list[float]:
    """The 95 % confidence interval of an accuracy, [low, high], after Wilson.

    Were the classifier tried on many sets of `count` such images, the interval would hold its true accuracy for 95 % of
    them.
    """
    bounds = binomtest(correct, count).proportion_ci(method="wilson")
    return [float(bounds.low), float(bounds.high)]


def measure_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """The share of images (n,) whose most probable class is the true one, and its interval."""
    correct = int((probabilities.argmax(axis=1) == labels).sum())
    return {"accuracy": correct / len(labels), "accuracy_interval": wilson_interval(correct, len(labels))}


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
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


def compute_metrics(labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> dict:
    """Accuracy with its interval, per-class scores and the confusion matrix.

    Args:
        labels: (n,) true class indices.
        probabilities: (n, classes).
        classes: Their names.
    """
    predicted, indices = probabilities.argmax(axis=1), range(len(classes))
    columns = sklearn.metrics.precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0)
    return {
        **measure_accuracy(labels, probabilities),
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
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:MAX_LISTED_MISTAKES]

    @property
    def examples(self) -> np.ndarray:
        """Indices of the first image of every class that the split has, of so many as a picture shows."""
        return np.unique(self.split.labels, return_index=True)[1][:MAX_EXAMPLE_CLASSES]

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
        measured = compute_metrics(labels, self.probabilities, self.classes)
        of = {"model": self.model, "dataset": self.dataset, "split": self.split_name, "over_turns": self.over_turns}
        return {**of, **measured, "mistakes": mistakes}


def align_classes(classifier: SavedClassifier, dataset: Dataset) -> Dataset:
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


def predict_probabilities(classifier: SavedClassifier, images: Images, over_turns: bool = False) -> np.ndarray:
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


def evaluate_split(classifier: SavedClassifier, dataset: Dataset, split: str, over_turns: bool = False) -> Evaluation:
    """Classifies the images of one split.

    Args:
        classifier: An opened classifier.
        dataset: A dataset with that split loaded, and the classes of the classifier.
        split: The split's name.
        over_turns: As for `predict`.
    """
    chosen = dataset.splits[split]
    probabilities = predict_probabilities(classifier, chosen.images, over_turns)
    return Evaluation(classifier.path.name, dataset.name, split, chosen, dataset.classes, probabilities, over_turns)


# Probabilities that say how often a classifier is right (Guo et al., arXiv 1706.04599).


MAX_TEMPERATURE = 10.0


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """What to divide logits by so that the probabilities of images that were not trained on have the least log loss.

    Above 1 where a classifier is too sure of itself, below where it is not sure enough. One number, so that no image
    changes its class (section 4.2). True classes count as a little less than certain, the less the fewer the images, so
    that ten images that are all right promise no certainty (Platt 1999, section 2.2).

    Args:
        labels: (n,) true class indices.
        probabilities: (n, classes) of the classifier.

    Returns:
        From 0.1 to 10, rounded: what is calibrated already has 1.
    """
    count = len(labels)
    logits = np.log(np.maximum(probabilities.astype("float64"), np.finfo("float32").tiny))
    doubt = 1 / (count + 2)
    true = logits[np.arange(count), labels]

    def loss(logarithm: float) -> float:
        scale = np.exp(-logarithm)
        certain = (1 - doubt) * true + doubt * logits.mean(axis=1)
        return float((np.logaddexp.reduce(logits * scale, axis=1) - certain * scale).mean())

    furthest = np.log(MAX_TEMPERATURE)
    found = minimize_scalar(loss, bounds=(-furthest, furthest), method="bounded", options={"xatol": 1e-4}).x
    return round(float(np.exp(found)), 2)
