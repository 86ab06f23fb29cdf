"""What a scene is: bands on one grid, and where there are any."""

from dataclasses import dataclass

import numpy as np
import rasterio
from rasterio.windows import Window

from resnetd_tf.data import rasters
from resnetd_tf.data.rasters import Band
from resnetd_tf.imagery.clouds import CloudMask
from resnetd_tf.imagery.grid import Grid

SAMPLE = 512  # pixels on a side that are looked at before a scene is mapped
SMALLEST_CACHE = 2**25  # bytes


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
        clouds: What hides clouds; `None` where they are mapped.
        left, top: Column and row of the layers' grid at which the scene begins.
        outlines: Polygons of the area that is wanted, in columns and rows of the files; none for all of it. Each has
            its rings (n, 2) as "coordinates", the outer one first, and as "bbox" the least and greatest of each.
        files: The files it is read from, each with its size and the time of its last change.
    """

    name: str
    grid: Grid
    layers: tuple[Band | None, ...]
    picture: bool
    fill: tuple[float, ...]
    words: str
    clouds: CloudMask | None = None
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
        bands = [layer for layer in self.layers if layer]
        place = Window(window.col_off + self.left, window.row_off + self.top, window.width, window.height)
        # So much is kept of what was decoded, as scenes are read from the top; else it would be a share of all memory.
        cache_bytes = max(SMALLEST_CACHE, rasters.row_of_blocks(bands) * 3 // 2)
        with rasterio.Env(GDAL_CACHEMAX=cache_bytes):
            stored = rasters.read(bands, place)
            valid = rasters.valid_mask(bands, stored, place)
            if self.clouds:
                valid &= ~self.clouds.hidden(place)
        if self.picture:
            return stored, valid
        numbers = rasters.to_digital_numbers(bands, stored, valid)
        if len(bands) == len(self.layers):
            return numbers, valid
        pixels = np.empty((*stored.shape[:2], len(self.layers)), "uint16")
        pixels[:] = np.rint(self.fill)
        pixels[..., [place for place, layer in enumerate(self.layers) if layer]] = numbers
        return pixels, valid
