"""What a scene is: bands on one grid, and where there are any."""

from dataclasses import dataclass

import numpy as np
import rasterio
from rasterio.windows import Window

from resnetd_tf.errors import InputError
from resnetd_tf.imagery import layers, safe
from resnetd_tf.imagery.grid import Grid
from resnetd_tf.imagery.layers import Layer

SAMPLE = 512  # pixels on a side that are looked at before a scene is mapped
SMALLEST_CACHE = 2**25  # bytes
DARK_SHARE = 0.25  # of numbers that are not above 0, in scenes that are no mistake
DARKEST = 1000  # DN that an offset of products since baseline 04.00 adds to all


@dataclass(frozen=True)
class Scene:
    """A scene, opened.

    Attributes:
        name: What it is called.
        grid: Its pixels.
        layers: Its bands, on that grid; `None` for one that is missing.
        picture: Whether it is a true-colour picture of 8 bits; otherwise its bands are digital numbers.
        fill: What missing bands have everywhere.
        words: What was found and what is applied to it.
        clouds: What tells where clouds are.
        left, top: Column and row of the layers' grid at which the scene begins.
        outlines: Polygons of the area that is wanted, in columns and rows of the files; none for all of it. Each has
            its rings (n, 2) as "coordinates", the outer one first, and as "bbox" the least and greatest of each.
        files: The files it is read from, each with its size and the time of its last change.
    """

    name: str
    grid: Grid
    layers: tuple[Layer | None, ...]
    picture: bool
    fill: tuple[float, ...]
    words: str
    clouds: tuple[Layer, ...] = ()
    left: int = 0
    top: int = 0
    outlines: tuple[dict, ...] = ()
    files: tuple[tuple[str, int, float], ...] = ()

    @property
    def margins(self) -> tuple[int, int, int, int]:
        """Pixels of the files above, below, left and right of the grid: more than none around a part of a scene."""
        dataset = next(layer.dataset for layer in self.layers if layer)
        below, right = dataset.height - self.top - self.grid.height, dataset.width - self.left - self.grid.width
        return self.top, below, self.left, right

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """A window's pixels, and where there are any; a part of a scene is read beyond its edges too.

        Returns:
            (height, width, bands), grey levels as uint8 or digital numbers as uint16, 10,000 times the reflectance; and
            (height, width) bool.

        Raises:
            InputError: A file is damaged.
        """
        there = [layer for layer in self.layers if layer]
        place = Window(window.col_off + self.left, window.row_off + self.top, window.width, window.height)
        # So much is kept of what was decoded, as scenes are read from the top; else it would be a share of all memory.
        kept = max(SMALLEST_CACHE, layers.row_of_blocks([*there, *self.clouds]) * 3 // 2)
        with rasterio.Env(GDAL_CACHEMAX=kept):
            stored = layers.read(there, place)
            valid = layers.there(there, stored, place)
            kinds = layers.read(self.clouds, place) if self.clouds else None
        if kinds is not None:
            valid &= ~(np.isin(kinds, safe.HIDDEN) if len(self.clouds) == 1 else kinds > 0).any(axis=-1)
        if self.picture:
            return stored, valid
        bands = np.empty((*stored.shape[:2], len(self.layers)), "uint16")
        bands[:] = np.rint(self.fill)
        for layer, dn in zip(there, np.moveaxis(stored, -1, 0)):
            if layer.offset or layer.gain != 1 or dn.dtype != "uint16":
                dn = np.clip(np.rint(layer.digital_numbers(dn)), 0, 65535)
            bands[..., self.layers.index(layer)] = dn
        return bands, valid


def check_numbers(scene: Scene, has_scale: bool, has_offset: bool) -> None:
    """Raises InputError if numbers are not what they are taken for, from a look at all of the scene."""
    if scene.picture:
        return
    there = [layer for layer in scene.layers if layer]
    shape = (min(SAMPLE, scene.grid.height), min(SAMPLE, scene.grid.width))
    stored = layers.read(there, shape=shape)
    valid = stored[layers.there(there, stored, shape=shape)]
    check_stored(
        scene.name,
        valid,
        np.array([layer.offset for layer in there]),
        np.array([layer.gain for layer in there]),
        has_scale=has_scale,
        has_offset=has_offset,
        is_product=scene.words.startswith("Sentinel-2"),
    )


def check_stored(
    name: str,
    stored: np.ndarray,
    offsets: np.ndarray,
    gains: np.ndarray,
    *,
    has_scale: bool = False,
    has_offset: bool = False,
    is_product: bool = False,
) -> None:
    """Raises InputError if numbers cannot be, after offset and gain, 10,000 times a reflectance.

    Args:
        name: What the scene is called.
        stored: (n, bands), what is stored where there is data.
        offsets, gains: (bands,), as in `layers.Layer`.
        has_scale, has_offset: Whether they were given.
        is_product: Whether a product's metadata says them.
    """
    if not stored.size:
        raise InputError(f"{name} has no data, or none that was seen; nothing to map")
    values = stored.astype("float64")
    what = f"{name}: its numbers go from {values.min():.6g} to {values.max():.6g}"
    if not has_scale and values.max() <= 2 and stored.dtype.kind == "f":
        raise InputError(f"{what}, as reflectances do; --scale=10000 makes digital numbers of them")
    if values.max() <= 0:
        raise InputError(f"{what}, and digital numbers are above 0; give --scale and --offset, or another scene")
    if ((values + offsets) * gains).max() > 65535:
        raise InputError(f"{what}, and digital numbers end at 65535; --scale makes digital numbers of them")
    if not has_scale and values.max() <= 255:
        raise InputError(f"{what}, as grey levels of 8 bits do; give the digital numbers, or a picture of type uint8")
    dark = (values + offsets <= 0).mean(axis=0).min()  # of the band that has least: clear water has no red
    if has_offset or is_product:
        if offsets.min() < 0 and dark > DARK_SHARE:
            raise InputError(
                f"{what}, and {100 * dark:.0f} % are not above 0 after the offset; --offset=0 leaves it out"
            )
    elif dark > DARK_SHARE:
        why = "as of pixels without data" if values.min() < 0 else "as after an offset that was taken away twice"
        raise InputError(
            f"{what}, and in each band {100 * dark:.0f} % or more are not above 0, {why}; declare what has no data "
            "(gdal_edit -a_nodata), give the numbers as they were, or say by --offset=0 that they are right"
        )
    elif np.percentile(values, 0.1) >= DARKEST:
        raise InputError(
            f"{what}, none near 0: products since baseline 04.00 are offset; --offset=-1000 takes it away, --offset=0 "
            "says that there is none"
        )
