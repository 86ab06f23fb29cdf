"""What pictures of results have in common."""

import pathlib
import warnings

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure  # without pyplot, whose backend is the user's choice

from resnetd_tf import rundir
from resnetd_tf.errors import InputError


def check_picture_path(path: str | pathlib.Path, overwrite: bool) -> None:
    """Raises InputError if a picture cannot be written there; before the work whose result it shows."""
    path, kinds = pathlib.Path(path), FigureCanvasAgg.get_supported_filetypes().keys() - {"pgf"}  # needs LaTeX
    if path.suffix.lower().removeprefix(".") not in kinds:
        raise InputError(f"cannot draw {path}: its name must end in one of .{', .'.join(sorted(kinds))}")
    if path.is_dir() or (path.exists() and not overwrite):
        raise InputError(f"cannot draw {path}: it exists; give another name, or --overwrite")
    temporary = rundir.temporary_path(path)
    try:
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise InputError(f"cannot draw {path}: {error.strerror}; give another name") from error


def save_figure(figure: Figure, path: pathlib.Path, margins: str | None = "tight") -> None:
    """Writes a figure, whole or not at all."""
    with rundir.write_atomically(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of letters that the font lacks: boxes are drawn
        figure.savefig(temporary, dpi=120, bbox_inches=margins)


def escape_mathtext(text: str) -> str:
    """A name as matplotlib draws it literally: dollars are no mathematics."""
    return text.replace("$", r"\$")


def picture_grid(count: int, columns: int, width: float, height: float, title: float) -> tuple[Figure, np.ndarray]:
    """A figure and places for so many pictures in it, each of that size and with a title so high, in inches."""
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(width * columns, height * rows))
    place = {"left": 0.01, "right": 0.99, "bottom": 0.01, "top": 1 - title / (height * rows)}
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={**place, "wspace": 0.05, "hspace": 0.2})
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes.ravel()
