"""What pictures of results have in common."""

import pathlib

import numpy as np
from matplotlib.figure import Figure  # without pyplot, whose backend is the user's choice

from resnetd_tf import rundir


def save(figure: Figure, path: pathlib.Path, margins: str | None = "tight") -> None:
    """Writes a figure, whole or not at all."""
    with rundir.atomic(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches=margins)


def plain(text: str) -> str:
    """A name as matplotlib draws it literally: dollars are no mathematics."""
    return text.replace("$", r"\$")


def grid(count: int, columns: int, width: float, height: float, title: float) -> tuple[Figure, np.ndarray]:
    """A figure and places for so many pictures in it, each of that size and with a title so high, in inches."""
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(width * columns, height * rows))
    place = {"left": 0.01, "right": 0.99, "bottom": 0.01, "top": 1 - title / (height * rows)}
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={**place, "wspace": 0.05, "hspace": 0.2})
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes.ravel()
