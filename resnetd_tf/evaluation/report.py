"""Metrics, training history and example images as text and as pictures."""

import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure  # without pyplot, whose backend is the user's choice

from resnetd_tf import figures, rundir
from resnetd_tf.evaluation.metrics import Evaluation
from resnetd_tf.sentinel2 import BANDS, render_true_colour

MAX_LABELLED_CLASSES = 40  # with more classes, a confusion matrix is drawn without names and numbers
REPORT_FILES = "metrics.json, confusion_matrix.png, examples.png, mistakes.png"


def write_report(evaluation: Evaluation, folder: pathlib.Path) -> None:
    """Writes `REPORT_FILES` into an existing folder.

    metrics.json is written last: a folder that has it has every file.
    """
    plot_confusion(evaluation.result, folder / "confusion_matrix.png")
    plot_patches(evaluation, evaluation.examples, folder / "examples.png", columns=5)
    plot_patches(evaluation, evaluation.mistakes, folder / "mistakes.png")
    rundir.write_json(folder / "metrics.json", evaluation.result)


def format_table(metrics: dict) -> str:
    """Formats the scores of each class as a table, and the summary below it."""
    width = max(len(name) for name in metrics["classes"])
    lines = [f"{'class':<{width}}  precision  recall      F1  support"]
    for name, row in metrics["classes"].items():
        lines.append(
            f"{name:<{width}}  {row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1']:6.4f}  {row['support']:7d}"
        )
    return "\n".join([*lines, "", format_summary(metrics)])


def format_summary(metrics: dict) -> str:
    """Formats the accuracy with its interval as one line."""
    note = " (synthetic images)" if metrics["dataset"] == "synthetic" else ""
    accuracy = format_accuracy(metrics["accuracy"], metrics["accuracy_interval"])
    return f"{_describe_split(metrics)}{note}: {accuracy}, {metrics['count']} images"


def format_accuracy(accuracy: float, interval: list[float]) -> str:
    """Formats an accuracy with its interval: "96.59 % [95.84, 97.21]"."""
    low, high = interval
    return f"{100 * accuracy:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"


def format_latency(measurements: dict) -> str:
    """Formats the size of an exported model and its time for one image as one line.

    Args:
        measurements: `megabytes`, and `milliseconds_1` and `milliseconds_2`: median and 95th percentile with one and
            with two threads.
    """
    one_thread, two_threads = measurements["milliseconds_1"], measurements["milliseconds_2"]
    return (
        f"{measurements['megabytes']:.1f} MB; one image, median and 95th percentile: "
        f"{one_thread[0]:.1f} and {one_thread[1]:.1f} ms with one thread, "
        f"{two_threads[0]:.1f} and {two_threads[1]:.1f} ms with two"
    )


def _describe_split(result: dict) -> str:
    """Describes the split of an accuracy: "test accuracy of eurosat/rgb, over eight turns"."""
    return f"{result['split']} accuracy of {result['dataset']}" + ", over eight turns" * result["over_turns"]


def plot_history(history: list[dict], path: pathlib.Path) -> None:
    """Draws accuracy and loss of training and validation against epochs.

    Args:
        history: One row for each epoch, with `epoch`, `accuracy`, `loss`, `val_accuracy` and `val_loss`.
        path: File of the picture.
    """
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(10, 4))
    for axis, name in zip(figure.subplots(1, 2), ("accuracy", "loss")):
        axis.plot(epochs, [row[name] for row in history], marker="o", markersize=4, label="training")
        axis.plot(epochs, [row[f"val_{name}"] for row in history], marker="o", markersize=4, label="validation")
        axis.set(xlabel="epoch", ylabel=name, xlim=(0.5, len(epochs) + 0.5))
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axis.grid(alpha=0.3)
        axis.legend()
    figures.save_figure(figure, path)


def plot_confusion(metrics: dict, path: pathlib.Path) -> None:
    """Draws the confusion matrix of an evaluation's result into a file."""
    counts, names = np.array(metrics["confusion_matrix"]), list(metrics["classes"])
    figures.save_figure(draw_confusion(counts, names, format_summary(metrics)), path)


def draw_confusion(counts: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Draws a confusion matrix: rows are true classes, columns are predicted ones.

    Colours show the share of each cell in its row.

    Args:
        counts: Number of images (classes, classes).
        names: Class names.
        title: Title of the figure.
    """
    names = [figures.escape_mathtext(name) for name in names]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    readable = len(names) <= MAX_LABELLED_CLASSES
    size = 2.5 + 0.55 * min(len(names), MAX_LABELLED_CLASSES)
    figure = Figure(figsize=(size, size))
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true", title=figures.escape_mathtext(title))
    if readable:
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axis.set_yticks(range(len(names)), names)
    for (row, column), count in np.ndenumerate(counts):
        if count and readable:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=8)
    return figure


def plot_patches(evaluation: Evaluation, indices: np.ndarray, path: pathlib.Path, columns: int = 6) -> None:
    """Draws images with their true class, their predicted class and its probability.

    Images of 13 bands are drawn in true colour.

    Args:
        evaluation: A classifier's probabilities for the images of a split.
        indices: Indices of the images to draw.
        path: File of the picture.
        columns: Number of images in a row.
    """
    figure, axes = figures.picture_grid(len(indices), columns, 2.2, 2.6, title=0.4)
    for axis, index in zip(axes, indices):
        image = evaluation.split.images[index]
        axis.imshow(render_true_colour(image) if image.shape[-1] == len(BANDS) else image)
        true_class = figures.escape_mathtext(evaluation.classes[evaluation.split.labels[index]])
        predicted_class = figures.escape_mathtext(evaluation.classes[evaluation.predictions[index]])
        title = f"true {true_class}\n{predicted_class} {100 * evaluation.confidence[index]:.1f} %"
        axis.set_title(title, fontsize=8, color="black" if true_class == predicted_class else "firebrick")
    if not len(indices):
        figure.suptitle("No image was classified wrongly.")
    figures.save_figure(figure, path, margins=None)  # known margins spare matplotlib a second drawing


CORRUPTION_HEADER = f"{'corruption':<37}{'accuracy':<23}confidence  calibration error"


def format_corruption_row(row: dict) -> str:
    """Formats accuracy and calibration under one corruption as a line of a table."""
    accuracy = format_accuracy(row["accuracy"], row["accuracy_interval"])
    confidence, error = 100 * row["confidence"], 100 * row["calibration_error"]
    return f"{row['corruption']:<16}{row['grade']:<21}{accuracy:<23}{confidence:8.2f} %{error:16.2f} %"


def format_corruption_summary(result: dict) -> str:
    """Formats accuracy and calibration on the original images, and their means over the corruptions, as one line."""
    clean, mean, error, mean_error = (
        100 * result[name] for name in ("accuracy", "mean_accuracy", "calibration_error", "mean_calibration_error")
    )
    return (
        f"{_describe_split(result)}: {clean:.2f} % as they are, {mean:.2f} % in the mean over "
        f"{len(result['corruptions']) - 1} corruptions; expected calibration error {error:.2f} % and {mean_error:.2f} %"
    )


def plot_corruptions(rows: list[dict], patches: list[list[np.ndarray]], path: pathlib.Path, columns: int = 3) -> None:
    """Draws a few patches under each corruption, with the accuracy.

    Args:
        rows: The rows that `corruptions.evaluate_corruptions` yields.
        patches: For each row a list of patches (height, width, 3) uint8, all of one size.
        path: File of the picture.
        columns: Number of corruptions in a row of the picture.
    """
    figure, axes = figures.picture_grid(len(rows), columns, 4, 1.55, title=0.34)
    for axis, row, row_patches in zip(axes, rows, patches):
        axis.imshow(np.concatenate(row_patches, axis=1), interpolation="nearest")
        description = f"{row['corruption']}, {row['grade']}" if row["grade"] else "as they are"
        axis.set_title(f"{description}: {100 * row['accuracy']:.2f} %", fontsize=9)
    figures.save_figure(figure, path, margins=None)
