"""How good a saved classifier is on a split."""

import pathlib

import numpy as np
import sklearn.metrics
from scipy.stats import binomtest

from resnetd_tf import rundir
from resnetd_tf.data import splits as data
from resnetd_tf.errors import InputError
from resnetd_tf.evaluation import report

WORST = 24  # mistakes shown


def interval(correct: int, count: int) -> list[float]:
    """The 95 % Wilson interval of an accuracy, [low, high]."""
    bounds = binomtest(correct, count).proportion_ci(method="wilson")
    return [float(bounds.low), float(bounds.high)]


def metrics(labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> dict:
    """Accuracy with its 95 % Wilson interval, per-class scores and the confusion matrix.

    Args:
        labels: (n,) true class indices.
        probabilities: (n, classes).
        classes: Their names.
    """
    predicted, indices = probabilities.argmax(axis=1), range(len(classes))
    correct = int((predicted == labels).sum())
    columns = sklearn.metrics.precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0)
    return {
        "accuracy": correct / len(labels),
        "accuracy_interval": interval(correct, len(labels)),
        "count": len(labels),
        "classes": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f1), "support": int(support)}
            for name, p, r, f1, support in zip(classes, *columns)
        },
        "confusion_matrix": sklearn.metrics.confusion_matrix(labels, predicted, labels=indices).tolist(),
    }


def evaluate(classifier: rundir.SavedClassifier, dataset: data.Dataset, split: str, folder: pathlib.Path) -> dict:
    """Evaluates on one split and writes metrics.json, confusion_matrix.png and mistakes.png.

    Args:
        classifier: An opened classifier.
        dataset: With that split loaded.
        split: Its name.
        folder: An existing folder to write to.

    Returns:
        What metrics.json holds: `metrics` and the most confident mistakes.

    Raises:
        InputError: Bands or classes differ between classifier and dataset.
    """
    bands = dataset.patch_shape[-1]
    if bands != classifier.bands:
        raise InputError(f"{classifier.path} takes {classifier.bands} bands, {dataset.name} has {bands}")
    if dataset.classes != classifier.classes:
        raise InputError(
            f"{classifier.path} knows the classes {', '.join(classifier.classes)}; "
            f"{dataset.name} has {', '.join(dataset.classes)}"
        )
    chosen = dataset.splits[split]
    probabilities = classifier.predict(chosen.images)
    result = {"dataset": dataset.name, "split": split}
    result |= metrics(chosen.labels, probabilities, dataset.classes)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != chosen.labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:WORST]
    result["mistakes"] = [
        {
            "name": chosen.names[index],
            "true": dataset.classes[chosen.labels[index]],
            "predicted": dataset.classes[predicted[index]],
            "probability": float(confidence[index]),
        }
        for index in worst
    ]
    rundir.write_json(folder / "metrics.json", result)
    report.plot_confusion(result, folder / "confusion_matrix.png")
    report.plot_mistakes(chosen.images[worst], result["mistakes"], folder / "mistakes.png")
    return result


def run(model: str, dataset: str | None, split: str, output_dir: str | None, **source) -> None:
    """What `evaluate.py` does: evaluates a saved classifier and prints the table.

    Args:
        model: A path as `rundir.locate` takes it.
        dataset: Name of a dataset; `None` for the one the model was trained on.
        split: Of "train", "validation", "test", or a TFDS slice.
        output_dir: A folder that does not exist yet; `None` for evaluation-SPLIT-K beside the model.
        **source: Further arguments of `data.load`.

    Raises:
        InputError: Something given cannot be used.
    """
    classifier = rundir.open_classifier(model)
    dataset = dataset or classifier.metadata.get("dataset")
    if dataset is None:
        raise InputError(f"{classifier.path} does not say what it was trained on; give --dataset")
    loaded = data.load(dataset, (split,), **source)
    folder = rundir.new_evaluation(classifier.folder or pathlib.Path(), split, output_dir)
    result = evaluate(classifier, loaded, split, folder)
    print(report.table(result))
    print(f"Written to {folder}: metrics.json, confusion_matrix.png, mistakes.png")
