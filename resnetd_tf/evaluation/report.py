"""Metrics and history as text and as pictures."""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from resnetd_tf import rundir


def _save(figure, path: pathlib.Path) -> None:
    with rundir.atomic(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")
    plt.close(figure)


def table(metrics: dict) -> str:
    """Per-class table, then accuracy with its interval, as text."""
    width = max(len(name) for name in metrics["classes"])
    lines = [f"{'class':<{width}}  precision  recall      F1  support"]
    for name, row in metrics["classes"].items():
        lines.append(
            f"{name:<{width}}  {row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1']:6.4f}  {row['support']:7d}"
        )
    return "\n".join([*lines, "", summary(metrics)])


def summary(metrics: dict) -> str:
    """Accuracy with its interval, in one line."""
    low, high = metrics["accuracy_interval"]
    note = " (synthetic images)" if metrics["dataset"] == "synthetic" else ""
    return (
        f"{metrics['split']} accuracy of {metrics['dataset']}{note}: {100 * metrics['accuracy']:.2f} % "
        f"[{100 * low:.2f}, {100 * high:.2f}], {metrics['count']} images"
    )


def plot_history(history: list[dict], path: pathlib.Path) -> None:
    """Accuracy and loss against epochs, training and validation."""
    epochs = [row["epoch"] for row in history]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for axis, name in zip(axes, ("accuracy", "loss")):
        axis.plot(epochs, [row[name] for row in history], marker=".", label="training")
        axis.plot(epochs, [row[f"val_{name}"] for row in history], marker=".", label="validation")
        axis.set(xlabel="epoch", ylabel=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    _save(figure, path)


def plot_confusion(metrics: dict, path: pathlib.Path) -> None:
    """Confusion matrix: rows are true classes, columns predicted ones; colours are shares of the row."""
    counts, names = np.array(metrics["confusion_matrix"]), list(metrics["classes"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.55 * len(names)
    figure, axis = plt.subplots(figsize=(size, size))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="predicted", ylabel="true", title=summary(metrics))
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, count, ha="center", va="center", color=colour, fontsize=8)
    _save(figure, path)


def plot_mistakes(images: np.ndarray, mistakes: list[dict], path: pathlib.Path) -> None:
    """The images most confidently wrong, with true and predicted label.

    Args:
        images: (n, height, width, bands) of the mistakes; of 13 bands B04, B03, B02 are shown.
        mistakes: One for each, with keys "true", "predicted", "probability" and "name".
        path: The picture.
    """
    columns = 6
    rows = max(1, -(-len(mistakes) // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 2.6 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, mistake in zip(axes.flat, images, mistakes):
        if image.shape[-1] == 13:
            image = np.clip(image[..., [3, 2, 1]] / 2750, 0, 1)
        axis.imshow(image)
        title = f"true {mistake['true']}\n{mistake['predicted']} {100 * mistake['probability']:.1f} %"
        axis.set_title(title, fontsize=8)
    if not mistakes:
        figure.suptitle("No image was classified wrongly.")
    _save(figure, path)
