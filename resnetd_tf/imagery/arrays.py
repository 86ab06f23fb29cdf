"""Land cover of scenes as NumPy arrays, for notebooks."""

import pathlib
from dataclasses import dataclass

import numpy as np
import rasterio
from rasterio.windows import Window

from resnetd_tf.data import digital_numbers
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import maps, patches, windows
from resnetd_tf.imagery.grid import Grid
from resnetd_tf.imagery.pixels import SAMPLE, Scene
from resnetd_tf.imagery.scenes import Options, scene_for
from resnetd_tf.saved import SavedClassifier


@dataclass(frozen=True)
class LandCover:
    """A map.

    Attributes:
        classes: (rows, columns) uint8, the index of each cell's class; `maps.NODATA`, 255, where there is none.
        probabilities: (rows, columns, classes) float32.
    """

    classes: np.ndarray
    probabilities: np.ndarray


class _InMemory:
    """An array as windows are read from it."""

    def __init__(self, pixels: np.ndarray, valid: np.ndarray):
        self.pixels, self.valid = pixels, valid
        self.grid = Grid(None, rasterio.Affine.identity(), pixels.shape[1], pixels.shape[0])
        self.picture = pixels.dtype == "uint8"
        self.margins, self.outlines = (0, 0, 0, 0), ()

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = window.toslices()
        return self.pixels[rows, columns], self.valid[rows, columns]


def map_scene(
    classifier: SavedClassifier,
    scene: Scene | np.ndarray | str | pathlib.Path,
    *,
    window: int | None = None,
    stride: int | None = None,
    min_probability: float = 0.0,
    checked: bool = True,
) -> LandCover:
    """The land cover of a scene, as `scenes.write_map` writes it.

    Args:
        classifier: Of RGB, or of EuroSAT's 13 bands.
        scene: As `scenes.scene_for` opens it, or a path for it; or its pixels of 10 m as `patches.check_array` takes
            them. There is nothing where all bands are 0 or a masked array's mask says so.
        window: Side in pixels of the windows that are classified; default the side of the training's patches.
        stride: Side of a cell, of which the window's is a multiple; default half a window.
        min_probability: Cells whose best class is less probable have none.
        checked: Whether an array of uint16 is refused if its numbers can hardly be digital numbers, such as grey levels
            or numbers that still have an offset in them.

    Raises:
        InputError: It cannot be mapped by this classifier, or a number is outside its range.
    """
    maps.check_classes(classifier.classes)
    if isinstance(scene, str | pathlib.Path):
        scene = scene_for(classifier, [scene])
    pixels = _of_array(classifier, scene, checked) if isinstance(scene, np.ndarray) else scene
    options = Options.of(classifier, window=window, stride=stride, min_probability=min_probability)
    shape = windows.cells(pixels, options.stride)
    probabilities, mapped = np.empty((*shape, len(classifier.classes)), "float32"), np.empty(shape, "bool")
    rows = windows.probabilities(classifier.predict, len(classifier.classes), pixels, options.window, options.stride)
    for row, (values, valid_pixels) in enumerate(rows):
        probabilities[row], mapped[row] = values, valid_pixels > 0
    return LandCover(maps.best(probabilities, mapped, min_probability), probabilities)


def _of_array(classifier: SavedClassifier, pixels: np.ndarray, checked: bool) -> _InMemory:
    all_bands, pixels = pixels, patches.check_array("the scene", np.asarray(pixels), classifier)
    valid = (pixels != 0).any(-1)
    if isinstance(all_bands, np.ma.MaskedArray):
        valid &= ~np.ma.getmaskarray(all_bands).any(axis=-1)
    if pixels.dtype == "uint16":
        valid &= ~digital_numbers.impossible(pixels)
        step = tuple(slice(None, None, max(1, side // SAMPLE)) for side in valid.shape)
        if checked and (fault := patches.array_patch(np.asarray(all_bands)[step]).fault):
            raise InputError(f"the scene: {fault.text}; {patches.UNCHECKED}")
    return _InMemory(pixels, valid)
