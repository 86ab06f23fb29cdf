"""A scene: bands on one grid, read by windows, and the part of it that lies in an area."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
import rasterio
import rasterio.warp
from rasterio.windows import Window

from resnetd_tf.data import rasters
from resnetd_tf.data.rasters import Band
from resnetd_tf.errors import InputError, damage_as_input_error
from resnetd_tf.imagery.clouds import CloudMask
from resnetd_tf.imagery.grid import WGS84, Grid, grid_centre, grid_outline

SAMPLE_PIXELS = 512  # pixels on a side that are looked at before a scene is mapped
MIN_CACHE_BYTES = 2**25  # bytes


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
        cache_bytes = max(MIN_CACHE_BYTES, rasters.block_row_bytes(bands) * 3 // 2)
        with rasterio.Env(GDAL_CACHEMAX=cache_bytes):
            stored = rasters.read_bands(bands, place)
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


# Parts of scenes: outlines of areas, and how much of each pixel lies in them.


STEP_DEGREES = 0.01  # degrees, of the pieces of a line: what is straight in degrees is curved in a scene
EDGE_TOLERANCE = 0.02  # pixels by which an outline may lie over the edge of one, as rounded degrees do
MIN_COVERAGE = 1e-6  # share of a pixel that is more than rounding


def crop_to_area(scene: Scene, area: str) -> Scene:
    """The part of a scene that lies in an area.

    Args:
        scene: A scene with a georeference.
        area: "W,S,E,N" in degrees, or a GeoJSON file of polygons. Both may lie across 180 degrees.

    Raises:
        InputError: The area cannot be read, or lies outside.
    """
    if scene.grid.crs is None:
        raise InputError(f"--area={area}: {scene.name} has no coordinate reference system to find it by")
    if scene.outlines:
        raise InputError(f"--area={area}: {scene.name} is a part of a scene already; cut the whole scene")
    grid, reach = scene.grid, _grid_extent(scene.grid)
    outlines = []
    for polygon in _read_polygons(area):
        for turn in range(-720, 721, 360):
            rings = [_clip_ring(ring + np.array((turn, 0)), reach) for ring in polygon]
            if len(rings[0]):
                pixels = [_degrees_to_pixels(ring, grid) for ring in rings if len(ring)]
                box = [*pixels[0].min(0).tolist(), *pixels[0].max(0).tolist()]
                outlines.append({"coordinates": pixels, "bbox": box})
    # A field that is given twice has its area once.
    outlines = list({b"".join(ring.tobytes() for ring in each["coordinates"]): each for each in outlines}.values())
    boxes = np.array([outline["bbox"] for outline in outlines]).reshape(-1, 4)
    size = (grid.width, grid.height)
    start = np.clip(np.floor(boxes[:, :2].min(0, initial=np.inf) + EDGE_TOLERANCE), 0, size)
    stop = np.clip(np.ceil(boxes[:, 2:].max(0, initial=-np.inf) - EDGE_TOLERANCE), 0, size)
    if not (start < stop).all():
        raise InputError(f"--area={area}: {scene.name} does not reach there")
    (left, top), (width, height) = start.astype(int).tolist(), (stop - start).astype(int).tolist()
    part = Grid(grid.crs, grid.transform * rasterio.Affine.translation(left, top), width, height)
    words = f"{scene.words}; of it {part.width} x {part.height} pixels"
    return dataclasses.replace(scene, grid=part, left=left, top=top, outlines=tuple(outlines), words=words)


def _grid_extent(grid: Grid) -> tuple[float, float, float, float]:
    """West, south, east and north of a grid in degrees, a little more; west may be below -180, east above 180."""
    longitude, _ = grid_centre(grid)
    x, y = grid.transform * grid_outline(grid.width, grid.height, 100).T
    longitudes, latitudes = map(np.array, rasterio.warp.transform(grid.crs, WGS84, x, y))
    longitudes = longitude + (longitudes - longitude + 180) % 360 - 180
    west, south, east, north = longitudes.min(), latitudes.min(), longitudes.max(), latitudes.max()
    for pole in (-90, 90):
        column, row = _degrees_to_pixels(np.array([(longitude, pole)], "float64"), grid)[0]
        if 0 <= column <= grid.width and 0 <= row <= grid.height:
            west, east = longitude - 180, longitude + 180
            south, north = min(south, pole), max(north, pole)
    return west - STEP_DEGREES, max(-90, south - STEP_DEGREES), east + STEP_DEGREES, min(90, north + STEP_DEGREES)


def _degrees_to_pixels(points: np.ndarray, grid: Grid) -> np.ndarray:
    """Columns and rows (n, 2) of points (n, 2) in degrees."""
    x, y = rasterio.warp.transform(WGS84, grid.crs, *points.T)
    return np.stack(~grid.transform * (np.array(x), np.array(y)), axis=-1)


def _read_polygons(area: str) -> list[list[np.ndarray]]:
    """The polygons of an area, each its rings (n, 2) of longitude and latitude, of which the first is the outer one."""
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
        return [[_closed_ring(points) for points in polygon] for polygon in polygons]


def _box_ring(area: str) -> np.ndarray:
    """The ring of a box given as west, south, east and north in degrees; west of 180 degrees and east of it too."""
    try:
        west, south, east, north = map(float, area.split(","))
    except ValueError:
        west = east = south = north = np.nan
    if -180 <= east < west <= 180 and east + 360 - west < 180:
        east += 360
    if not (-360 <= west < east <= min(540, west + 360) and -90 <= south < north <= 90):
        raise InputError(f"--area={area}: give west, south, east and north in degrees, or a .geojson file")
    return _divide_lines(np.array([(west, south), (east, south), (east, north), (west, north), (west, south)]))


def _closed_ring(points: list) -> np.ndarray:
    """A closed ring (n, 2) of lines that go the short way around the Earth; heights are left out."""
    ring = np.array([point[:2] for point in points], "float64")
    if len(ring) < 3 or not (np.abs(ring) <= (540, 90)).all():
        raise ValueError(f"a ring of {len(ring)} points goes from {ring.min():g} to {ring.max():g}")
    ring = ring if (ring[0] == ring[-1]).all() else np.concatenate((ring, ring[:1]))
    jumps = np.diff(ring[:, 0])
    if (np.abs(jumps) < 360).all():  # else it goes around the Earth
        ring[1:, 0] = ring[0, 0] + np.cumsum((jumps + 180) % 360 - 180)
    return _divide_lines(ring)


def _divide_lines(ring: np.ndarray) -> np.ndarray:
    """A ring whose lines are divided into pieces of at most `STEP` degrees."""
    counts = np.maximum(1, np.ceil(np.abs(np.diff(ring, axis=0)).max(1) / STEP_DEGREES)).astype(int)
    at = np.repeat(np.arange(len(counts)), counts) + np.concatenate([np.arange(count) / count for count in counts])
    at = np.append(at, len(counts))
    return np.stack([np.interp(at, np.arange(len(ring)), ring[:, axis]) for axis in (0, 1)], axis=1)


def _clip_ring(ring: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The part of a closed ring (n, 2) within a box, by Sutherland and Hodgman's algorithm; (0, 2) if there is none."""
    for axis, sign, limit in ((0, 1, box[0]), (1, 1, box[1]), (0, -1, box[2]), (1, -1, box[3])):
        if not len(ring):
            break
        depths = sign * (ring[:, axis] - limit)
        inside = depths >= 0
        crossing = inside[:-1] != inside[1:]
        before, after = depths[:-1][crossing], depths[1:][crossing]
        share = (before / (before - after))[:, np.newaxis]
        crossings = ring[:-1][crossing] * (1 - share) + ring[1:][crossing] * share
        at = np.concatenate((np.flatnonzero(inside), np.flatnonzero(crossing) + 0.5))
        ring = np.concatenate((ring[inside], crossings))[np.argsort(at)]
        ring = np.concatenate((ring, ring[:1]))
    return ring


def area_coverage(outlines: Sequence[dict], window: Window) -> np.ndarray:
    """How much of each pixel lies in polygons.

    Args:
        outlines: Polygons with their boxes, as `Scene.outlines` has them.
        window: Pixels of the scene's files.

    Returns:
        (height, width) float64, shares from 0 to 1. They are exact, but for pixels on the edges of several polygons
        that lie over each other.
    """
    covered = np.zeros((window.height, window.width))
    for outline in outlines:
        west, north, east, south = outline["bbox"]
        first, last = max(0, floor(west - window.col_off)), min(window.width, ceil(east - window.col_off))
        top, bottom = max(0, floor(north - window.row_off)), min(window.height, ceil(south - window.row_off))
        if first < last and top < bottom:
            origin, shape = (window.col_off + first, window.row_off + top), (bottom - top, last - first)
            outer, *holes = (_ring_coverage(ring - origin, shape) for ring in outline["coordinates"])
            covered[top:bottom, first:last] += np.maximum(outer - sum(holes), 0)
    return np.where(covered < MIN_COVERAGE, 0, np.minimum(covered, 1))


def _ring_coverage(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Share of each pixel, (height, width), that lies within a closed ring (n, 2) of columns and rows.

    Each line covers what lies right of it, downwards once and upwards taken away again, as renderers of fonts do.
    """
    height, width = shape
    covered = np.zeros((height, width + 2))
    near = (ring[:-1, 1] < height) | (ring[1:, 1] < height)
    near &= (ring[:-1, 1] > 0) | (ring[1:, 1] > 0)
    start, stop = ring[:-1][near], ring[1:][near]
    # Lines are divided where they go from one pixel to another.
    parts = [(np.arange(len(start)), np.zeros(len(start))), (np.arange(len(start)), np.ones(len(start)))]
    for axis, side in ((0, width), (1, height)):
        low = np.clip(np.ceil(np.minimum(start, stop)[:, axis]), 0, side).astype(int)
        high = np.clip(np.floor(np.maximum(start, stop)[:, axis]), -1, side).astype(int)
        counts = np.maximum(0, high - low + 1)
        line = np.repeat(np.arange(len(start)), counts)
        edge = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + low[line]
        length = (stop - start)[line, axis]
        moving = length != 0
        parts.append((line[moving], ((edge - start[line, axis])[moving] / length[moving]).clip(0, 1)))
    line, share = (np.concatenate(each) for each in zip(*parts))
    order = np.lexsort((share, line))
    line, share = line[order], share[order]
    points = start[line] + share[:, np.newaxis] * (stop - start)[line]
    same = line[1:] == line[:-1]
    middles, down = ((points[1:] + points[:-1]) / 2)[same], np.diff(points[:, 1])[same]
    in_window = (middles[:, 1] > 0) & (middles[:, 1] < height) & (down != 0)
    column, row, down = middles[in_window, 0].clip(0, width), middles[in_window, 1].astype(int), down[in_window]
    first = column.astype(int)
    np.add.at(covered, (row, first), down * (first + 1 - column))
    np.add.at(covered, (row, first + 1), down * (column - first))
    return np.abs(covered.cumsum(1)[:, :width]).clip(0, 1)
