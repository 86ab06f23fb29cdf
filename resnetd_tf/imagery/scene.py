"""A scene: bands on one grid, read by windows, and the part of a scene that lies in an area."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
import rasterio
import rasterio.warp
from rasterio.crs import CRS
from rasterio.windows import Window

from resnetd_tf.data import rasters
from resnetd_tf.data.rasters import Band
from resnetd_tf.errors import InputError, damage_as_input_error
from resnetd_tf.imagery.clouds import CloudMask
from resnetd_tf.imagery.grid import WGS84, Grid, grid_centre, grid_outline
from resnetd_tf.imagery.water import WaterIndex
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS, render_colours

SAMPLE_PIXELS = 512  # pixels a side of the sample whose numbers are checked before a scene is mapped
MIN_CACHE_BYTES = 2**25  # bytes of GDAL's cache of decoded blocks
STEP_DEGREES = 0.01  # degrees, longest piece of an outline: a line that is straight in degrees is curved in a scene
EDGE_TOLERANCE = 0.02  # pixels by which an outline may lie over the edge of one, as rounded degrees do
MIN_COVERAGE = 1e-6  # share of a pixel; less is rounding


@dataclass(frozen=True)
class OutsideMask:
    """Where white pixels lie outside of a polygon that was cut out of a picture.

    Attributes:
        mask: (rows, columns) bool, coarser than the files: where white pixels are no data.
        height: Rows of the files.
        width: Columns of the files.
        share: Share of the files' pixels that are white there, from 0 to 1.
    """

    mask: np.ndarray
    height: int
    width: int
    share: float

    def read_hidden(self, window: Window) -> np.ndarray:
        """Returns where white pixels of a window of the files are no data, (height, width) bool."""
        rows = (window.row_off + np.arange(window.height)) * len(self.mask) // self.height
        columns = (window.col_off + np.arange(window.width)) * self.mask.shape[1] // self.width
        return self.mask[np.ix_(rows.astype(int), columns.astype(int))]


@dataclass(frozen=True)
class Scene:
    """An opened scene.

    Attributes:
        name: The path by which users know it.
        grid: Its pixels.
        bands: Its bands in the order of the classifier, on one grid; `None` for a missing band.
        is_picture: Whether it is a true-colour picture of 8 bits; otherwise its bands are digital numbers.
        missing_values: For each band the digital number that fills it if it is missing.
        description: How its files are read and what is applied to them, in words.
        cloud_mask: The mask that hides clouds; `None` where clouds are mapped like land.
        water_index: The index that tells water from land; `None` leaves that to the classifier.
        column_offset: Column of the files' grid at which the scene begins.
        row_offset: Row of the files' grid at which the scene begins.
        outlines: Polygons of the wanted area, in columns and rows of the files; none if all of the scene is wanted.
            Each has its rings (n, 2) as "coordinates", the outer one first, and their extent as "bbox": the least
            column and row, then the greatest.
        files: The files it is read from, each with its size in bytes and the time of its last change.
        outside_mask: Where white pixels lie outside of a polygon that was cut out; `None` if there is none.
        cloud_note: What its file says of clouds that are taken out already; empty if it says nothing.
    """

    name: str
    grid: Grid
    bands: tuple[Band | None, ...]
    is_picture: bool
    missing_values: tuple[float, ...]
    description: str
    cloud_mask: CloudMask | None = None
    water_index: WaterIndex | None = None
    column_offset: int = 0
    row_offset: int = 0
    outlines: tuple[dict, ...] = ()
    files: tuple[tuple[str, int, float], ...] = ()
    outside_mask: OutsideMask | None = None
    cloud_note: str = ""

    @property
    def window(self) -> Window:
        """The scene's pixels in its files."""
        return Window(self.column_offset, self.row_offset, self.grid.width, self.grid.height)

    @property
    def margins(self) -> tuple[int, int, int, int]:
        """Pixels of the files above, below, left and right of the scene, if it is a part of its files; else 0."""
        dataset = next(band.dataset for band in self.bands if band)
        rows_below = dataset.height - self.row_offset - self.grid.height
        columns_right = dataset.width - self.column_offset - self.grid.width
        return self.row_offset, rows_below, self.column_offset, columns_right

    def require_crs(self) -> CRS:
        """Returns the coordinate reference system; raises InputError if the scene has none."""
        if self.grid.crs is None:
            raise InputError(f"{self.name}: has no coordinate reference system, so that no place is found in it")
        return self.grid.crs

    def read_water(self, window: Window) -> np.ndarray | None:
        """Returns which pixels of a window of the scene's grid are water; `None` without an index.

        Returns:
            (height, width) uint8: 1 for water, 0 for land, `water.UNKNOWN` without data.

        Raises:
            InputError: A file is damaged.
        """
        if self.water_index is None:
            return None
        with rasterio.Env(GDAL_CACHEMAX=self._cache_bytes):
            return self.water_index.read_water(self._file_window(window))

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Reads a window, which may reach beyond a part of a scene into its margins.

        Args:
            window: Columns and rows of the scene's grid.

        Returns:
            pixels: (height, width, bands), grey levels as uint8, or digital numbers, 10,000 times the reflectance, as
                uint16.
            valid: (height, width) bool, where there is data.

        Raises:
            InputError: A file is damaged.
        """
        bands = [band for band in self.bands if band]
        file_window = self._file_window(window)
        with rasterio.Env(GDAL_CACHEMAX=self._cache_bytes):
            stored = rasters.read_bands(bands, file_window)
            valid = rasters.valid_mask(bands, stored, file_window)
            if self.cloud_mask:
                valid &= ~self.cloud_mask.read_hidden(file_window)
        if self.outside_mask:
            valid &= ~((stored == 255).all(axis=-1) & self.outside_mask.read_hidden(file_window))
        if self.is_picture:
            return stored, valid
        numbers = rasters.to_digital_numbers(bands, stored, valid)
        if len(bands) == len(self.bands):
            return numbers, valid
        pixels = np.empty((*stored.shape[:2], len(self.bands)), "uint16")
        pixels[:] = np.rint(self.missing_values)
        pixels[..., [index for index, band in enumerate(self.bands) if band]] = numbers
        return pixels, valid

    def read_colours(self, window: Window, shape: tuple[int, int] | None = None) -> np.ndarray:
        """Reads a window as a picture, grey where a colour is missing.

        Args:
            window: Columns and rows of the scene's grid.
            shape: Height and width of the picture; `None` for the window's.

        Returns:
            (height, width, 3) uint8, rendered as EuroSAT's pictures.
        """
        by_name = dict(zip(RGB_BANDS if len(self.bands) == 3 else BANDS, self.bands))
        colours = [band for name in RGB_BANDS if (band := by_name[name])]
        if len(colours) < 3:
            colours = [next(band for band in self.bands if band)] * 3
        pixels = rasters.read_bands(colours, self._file_window(window), shape)
        if self.is_picture:
            return pixels
        dn = [band.digital_numbers(pixels[..., index]) for index, band in enumerate(colours)]
        return render_colours(np.stack(dn, axis=-1))

    def _file_window(self, window: Window) -> Window:
        """Returns a window of the scene's grid in columns and rows of the files."""
        return Window(
            window.col_off + self.column_offset, window.row_off + self.row_offset, window.width, window.height
        )

    @functools.cached_property
    def _cache_bytes(self) -> int:
        """Bytes that GDAL keeps. Scenes are read from the top, so a row of blocks suffices; GDAL would keep more."""
        bands = [band for band in self.bands if band] + list(self.water_index.bands if self.water_index else ())
        return max(MIN_CACHE_BYTES, rasters.block_row_bytes(bands) * 3 // 2)


# A part of a scene: the outlines of an area, and the share of each pixel that lies in them.


def crop_to_area(scene: Scene, area: str) -> Scene:
    """Returns the part of a scene that lies in an area.

    Args:
        scene: A scene with a coordinate reference system.
        area: "W,S,E,N" in degrees, or a GeoJSON file of polygons. Both may lie across 180 degrees.

    Raises:
        InputError: The area cannot be read, or lies outside.
    """
    if scene.grid.crs is None:
        raise InputError(f"--area={area}: {scene.name} has no coordinate reference system to find it by")
    if scene.outlines:
        raise InputError(f"--area={area}: {scene.name} is a part of a scene already; cut the whole scene")
    grid, extent = scene.grid, _grid_extent(scene.grid)
    outlines = []
    for polygon in read_polygons(area):
        for longitude_shift in range(-720, 721, 360):
            rings = [_clip_ring(ring + np.array((longitude_shift, 0)), extent) for ring in polygon]
            if len(rings[0]):
                pixel_rings = [degrees_to_pixels(ring, grid) for ring in rings if len(ring)]
                box = [*pixel_rings[0].min(0).tolist(), *pixel_rings[0].max(0).tolist()]
                outlines.append({"coordinates": pixel_rings, "bbox": box})
    # A field that is given twice has its area once.
    outlines_by_rings = {b"".join(ring.tobytes() for ring in outline["coordinates"]): outline for outline in outlines}
    outlines = list(outlines_by_rings.values())
    boxes = np.array([outline["bbox"] for outline in outlines]).reshape(-1, 4)
    size = (grid.width, grid.height)
    start = np.clip(np.floor(boxes[:, :2].min(0, initial=np.inf) + EDGE_TOLERANCE), 0, size)
    stop = np.clip(np.ceil(boxes[:, 2:].max(0, initial=-np.inf) - EDGE_TOLERANCE), 0, size)
    if not (start < stop).all():
        raise InputError(f"--area={area}: {scene.name} does not reach there")
    (column, row), (width, height) = start.astype(int).tolist(), (stop - start).astype(int).tolist()
    return dataclasses.replace(
        scene,
        grid=Grid(grid.crs, grid.transform * rasterio.Affine.translation(column, row), width, height),
        column_offset=column,
        row_offset=row,
        outlines=tuple(outlines),
        description=f"{scene.description}; of it {width} x {height} pixels",
    )


def _grid_extent(grid: Grid) -> tuple[float, float, float, float]:
    """Returns west, south, east and north of a grid in degrees, a little enlarged.

    West may be below -180 degrees, and east above 180.
    """
    longitude, _ = grid_centre(grid)
    x, y = grid.transform * grid_outline(grid.width, grid.height, 100).T
    longitudes, latitudes = map(np.array, rasterio.warp.transform(grid.crs, WGS84, x, y))
    longitudes = longitude + (longitudes - longitude + 180) % 360 - 180
    west, south, east, north = longitudes.min(), latitudes.min(), longitudes.max(), latitudes.max()
    for pole in (-90, 90):
        column, row = degrees_to_pixels(np.array([(longitude, pole)], "float64"), grid)[0]
        if 0 <= column <= grid.width and 0 <= row <= grid.height:
            west, east = longitude - 180, longitude + 180
            south, north = min(south, pole), max(north, pole)
    return west - STEP_DEGREES, max(-90, south - STEP_DEGREES), east + STEP_DEGREES, min(90, north + STEP_DEGREES)


def degrees_to_pixels(points: np.ndarray, grid: Grid) -> np.ndarray:
    """Returns columns and rows (n, 2) of points (n, 2), longitudes and latitudes in degrees."""
    x, y = rasterio.warp.transform(WGS84, grid.crs, *points.T)
    return np.stack(~grid.transform * (np.array(x), np.array(y)), axis=-1)


def read_polygons(area: str) -> list[list[np.ndarray]]:
    """Reads the polygons of an area: for each its rings (n, 2) of longitude and latitude, the outer one first."""
    if pathlib.Path(area).suffix.lower() not in (".json", ".geojson"):
        return [[_box_ring(area)]]
    with damage_as_input_error(f"--area={area}: cannot be read as GeoJSON"):
        content = json.loads(pathlib.Path(area).read_text(encoding="utf-8"))
        features = content["features"] if content["type"] == "FeatureCollection" else [content]
        shapes = [feature["geometry"] if feature["type"] == "Feature" else feature for feature in features]
        parts = [part for shape in shapes if shape for part in shape.get("geometries", [shape])]  # of a collection
        polygons = [part["coordinates"] for part in parts if part["type"] == "Polygon"]
        polygons += [polygon for part in parts if part["type"] == "MultiPolygon" for polygon in part["coordinates"]]
    if not polygons:
        raise InputError(f"--area={area}: has no polygons")
    with damage_as_input_error(f"--area={area}: its coordinates are no degrees, longitude first; save it as EPSG:4326"):
        return [[_close_ring(points) for points in polygon] for polygon in polygons]


def _box_ring(area: str) -> np.ndarray:
    """Returns the ring of a box "W,S,E,N" in degrees, which may lie across 180 degrees."""
    try:
        west, south, east, north = map(float, area.split(","))
    except ValueError:
        west = east = south = north = np.nan
    if -180 <= east < west <= 180 and east + 360 - west < 180:
        east += 360
    if not (-360 <= west < east <= min(540, west + 360) and -90 <= south < north <= 90):
        raise InputError(f"--area={area}: give west, south, east and north in degrees, or a .geojson file")
    return _divide_lines(np.array([(west, south), (east, south), (east, north), (west, north), (west, south)]))


def _close_ring(points: list) -> np.ndarray:
    """Returns points as a closed ring (n, 2) of lines that go the short way around the Earth, without heights."""
    ring = np.array([point[:2] for point in points], "float64")
    if len(ring) < 3 or not (np.abs(ring) <= (540, 90)).all():
        raise ValueError(f"a ring of {len(ring)} points goes from {ring.min():g} to {ring.max():g}")
    ring = ring if (ring[0] == ring[-1]).all() else np.concatenate((ring, ring[:1]))
    jumps = np.diff(ring[:, 0])
    if (np.abs(jumps) < 360).all():  # else it goes around the Earth
        ring[1:, 0] = ring[0, 0] + np.cumsum((jumps + 180) % 360 - 180)
    return _divide_lines(ring)


def _divide_lines(ring: np.ndarray) -> np.ndarray:
    """Returns a ring whose lines are divided into pieces of at most `STEP_DEGREES`."""
    counts = np.maximum(1, np.ceil(np.abs(np.diff(ring, axis=0)).max(1) / STEP_DEGREES)).astype(int)
    # Positions along the ring, in lines from its start.
    positions = np.repeat(np.arange(len(counts)), counts)
    positions = positions + np.concatenate([np.arange(count) / count for count in counts])
    positions = np.append(positions, len(counts))
    return np.stack([np.interp(positions, np.arange(len(ring)), ring[:, axis]) for axis in (0, 1)], axis=1)


def _clip_ring(ring: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Returns the part of a closed ring (n, 2) within a box, by Sutherland and Hodgman's algorithm; (0, 2) for none."""
    for axis, sign, limit in ((0, 1, box[0]), (1, 1, box[1]), (0, -1, box[2]), (1, -1, box[3])):
        if not len(ring):
            break
        depths = sign * (ring[:, axis] - limit)
        is_inside = depths >= 0
        crosses_limit = is_inside[:-1] != is_inside[1:]
        start_depths, end_depths = depths[:-1][crosses_limit], depths[1:][crosses_limit]
        share = (start_depths / (start_depths - end_depths))[:, np.newaxis]
        crossings = ring[:-1][crosses_limit] * (1 - share) + ring[1:][crosses_limit] * share
        order = np.argsort(np.concatenate((np.flatnonzero(is_inside), np.flatnonzero(crosses_limit) + 0.5)))
        ring = np.concatenate((ring[is_inside], crossings))[order]
        ring = np.concatenate((ring, ring[:1]))
    return ring


def area_coverage(outlines: Sequence[dict], window: Window) -> np.ndarray:
    """Returns how much of each pixel lies in polygons.

    Args:
        outlines: Polygons with their boxes, as in `Scene.outlines`.
        window: Pixels of the scene's files.

    Returns:
        (height, width) float64, shares from 0 to 1. They are exact, except for pixels on the edges of several polygons
        that lie over each other.
    """
    coverage = np.zeros((window.height, window.width))
    for outline in outlines:
        west, north, east, south = outline["bbox"]
        first, last = max(0, floor(west - window.col_off)), min(window.width, ceil(east - window.col_off))
        top, bottom = max(0, floor(north - window.row_off)), min(window.height, ceil(south - window.row_off))
        if first < last and top < bottom:
            origin, shape = (window.col_off + first, window.row_off + top), (bottom - top, last - first)
            outer, *holes = (_ring_coverage(ring - origin, shape) for ring in outline["coordinates"])
            coverage[top:bottom, first:last] += np.maximum(outer - sum(holes), 0)
    return np.where(coverage < MIN_COVERAGE, 0, np.minimum(coverage, 1))


def _ring_coverage(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Returns the share of each pixel, (height, width), that lies within a closed ring (n, 2) of columns and rows.

    As in renderers of fonts, each line covers the pixels right of it: a line downwards adds, a line upwards subtracts.
    """
    height, width = shape
    coverage = np.zeros((height, width + 2))
    crosses_rows = (ring[:-1, 1] < height) | (ring[1:, 1] < height)
    crosses_rows &= (ring[:-1, 1] > 0) | (ring[1:, 1] > 0)
    start, stop = ring[:-1][crosses_rows], ring[1:][crosses_rows]
    # Lines are divided where they go from one pixel to another: indices of lines, and shares of their lengths.
    divisions = [(np.arange(len(start)), np.zeros(len(start))), (np.arange(len(start)), np.ones(len(start)))]
    for axis, side in ((0, width), (1, height)):
        low = np.clip(np.ceil(np.minimum(start, stop)[:, axis]), 0, side).astype(int)
        high = np.clip(np.floor(np.maximum(start, stop)[:, axis]), -1, side).astype(int)
        counts = np.maximum(0, high - low + 1)
        line = np.repeat(np.arange(len(start)), counts)
        edge = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + low[line]
        length = (stop - start)[line, axis]
        moves = length != 0
        divisions.append((line[moves], ((edge - start[line, axis])[moves] / length[moves]).clip(0, 1)))
    line, share = (np.concatenate(each) for each in zip(*divisions))
    order = np.lexsort((share, line))
    line, share = line[order], share[order]
    points = start[line] + share[:, np.newaxis] * (stop - start)[line]
    is_piece = line[1:] == line[:-1]
    midpoints, row_steps = ((points[1:] + points[:-1]) / 2)[is_piece], np.diff(points[:, 1])[is_piece]
    in_window = (midpoints[:, 1] > 0) & (midpoints[:, 1] < height) & (row_steps != 0)
    column, row, row_steps = (
        midpoints[in_window, 0].clip(0, width),
        midpoints[in_window, 1].astype(int),
        row_steps[in_window],
    )
    first = column.astype(int)
    np.add.at(coverage, (row, first), row_steps * (first + 1 - column))
    np.add.at(coverage, (row, first + 1), row_steps * (column - first))
    return np.abs(coverage.cumsum(1)[:, :width]).clip(0, 1)
