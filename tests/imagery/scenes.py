"""Drawn scenes, and a classifier that looks at their colours alone."""

import pathlib
from collections.abc import Callable

import numpy as np
import rasterio
from products import CRS, ORIGIN
from rasterio.transform import from_origin

from resnetd_tf.saved import SavedClassifier

CLASSES = ("Forest", "SeaLake", "moor", "heath")


def predict_by_colour(images) -> np.ndarray:
    """Probabilities of the four classes, from the mean colour of a window."""
    means = np.asarray(images, "float64").mean((1, 2))
    scores = np.stack([means[:, 1], means[:, 2], means[:, 0], means.mean(1)], axis=1) / 10
    exponentials = np.exp(scores - scores.max(1, keepdims=True))
    return (exponentials / exponentials.sum(1, keepdims=True)).astype("float32")


def colour_classifier(predict: Callable = predict_by_colour) -> SavedClassifier:
    """A classifier of four classes for patches of 64 pixels."""
    return SavedClassifier(pathlib.Path("model"), pathlib.Path(), CLASSES, 3, predict)


def draw_fields(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with fields of 40 x 40 pixels."""
    generator = np.random.default_rng(seed)
    fields = generator.integers(40, 200, (height // 40 + 1, width // 40 + 1, 3)).repeat(40, 0).repeat(40, 1)
    return (fields[:height, :width] + generator.integers(-20, 20, (height, width, 3))).astype("uint8")


def write_scene(path: pathlib.Path, pixels: np.ndarray, metres: float = 10, crs: str | None = CRS, **profile) -> str:
    """Writes pixels (height, width, bands) as a GeoTIFF, without a place if `crs` is `None`; returns its path."""
    height, width, bands = pixels.shape
    shape = {"height": height, "width": width, "count": bands, "dtype": pixels.dtype}
    place = {"crs": crs, "transform": from_origin(*ORIGIN, metres, metres)} if crs else {}
    with rasterio.open(path, "w", driver="GTiff", **shape, **{**place, **profile}) as file:
        file.write(np.moveaxis(pixels, -1, 0))
    return str(path)


def read_classes(path: pathlib.Path) -> np.ndarray:
    """Classes of a map, (rows, columns) uint8."""
    with rasterio.open(path) as file:
        return file.read(1)
