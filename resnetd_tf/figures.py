"""Drawing results with Matplotlib: where pictures may be written, writing them, grids of patches."""

import pathlib
import warnings

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure  # pyplot would open the backend that the user has configured

from resnetd_tf import rundir
from resnetd_tf.errors import InputError

UNAVAILABLE_FORMATS = {"pgf"}  # needs LaTeX


def check_picture_path(path: str | pathlib.Path, overwrite: bool) -> None:
    """Checks, before the work whose result is drawn, that a picture can be written.

    Args:
        path: The picture. Its suffix says the format.
        overwrite: Whether an existing file may be replaced.

    Raises:
        InputError: The format is unknown, the file exists, or the folder cannot be written to.
    """
    path, formats = pathlib.Path(path), FigureCanvasAgg.get_supported_filetypes().keys() - UNAVAILABLE_FORMATS
    if path.suffix.lower().removeprefix(".") not in formats:
        raise InputError(f"cannot draw {path}: its name must end in one of .{', .'.join(sorted(formats))}")
    if path.is_dir() or (path.exists() and not overwrite):
        raise InputError(f"cannot draw {path}: it exists; give another name, or --overwrite")
    temporary = rundir.temporary_path(path)
    try:
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise InputError(f"cannot draw {path}: {error.strerror}; give another name") from error


def save_figure(figure: Figure, path: pathlib.Path, margins: str | None = "tight") -> None:
    """Writes a figure atomically: either the complete file appears or none.

    Args:
        figure: The figure.
        path: The file. An existing one is replaced.
        margins: Matplotlib's `bbox_inches`: "tight" cuts empty margins off, `None` keeps them.
    """
    with rundir.write_atomically(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # Matplotlib draws boxes for letters that its font lacks
        figure.savefig(temporary, dpi=120, bbox_inches=margins)


def escape_mathtext(text: str) -> str:
    """Escapes dollar signs, between which Matplotlib would typeset mathematics."""
    return text.replace("$", r"\$")


def picture_grid(count: int, columns: int, width: float, height: float, title: float) -> tuple[Figure, np.ndarray]:
    """Makes a figure with a grid of axes for pictures.

    Args:
        count: Number of pictures.
        columns: Pictures in a row.
        width: Width of a cell in inches.
        height: Height of a cell, with its title, in inches.
        title: Height of the title above the first row in inches.

    Returns:
        The figure and its axes, row by row, as an array (rows * columns,). No axes are drawn.
    """
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(width * columns, height * rows))
    margins = {"left": 0.01, "right": 0.99, "bottom": 0.01, "top": 1 - title / (height * rows)}
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={**margins, "wspace": 0.05, "hspace": 0.2})
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes.ravel()
