"""Parts of scenes."""

import dataclasses
import json
import pathlib

import numpy as np
import rasterio
import rasterio.warp
from rasterio.features import bounds, geometry_mask

from resnetd_tf.errors import InputError, damage_told
from resnetd_tf.imagery.pixels import Scene

DEGREES = "EPSG:4326"  # of GeoJSON (RFC 7946, section 4), longitude first


def cut(scene: Scene, area: str) -> Scene:
    """The part of a scene that lies in an area.

    Args:
        scene: A scene with a georeference.
        area: "W,S,E,N" in degrees, or a GeoJSON file of polygons.

    Raises:
        InputError: The area cannot be read, or lies outside.
    """
    if scene.grid.crs is None:
        raise InputError(f"--area={area}: {scene.name} has no georeference to find it by")
    if not scene.grid.transform.is_rectilinear:
        raise InputError(f"--area={area}: {scene.name} is rotated; cut it with gdalwarp first")
    with damage_told(f"--area={area}: its coordinates are no degrees, longitude first"):
        outlines = tuple(
            rasterio.warp.transform_geom(DEGREES, scene.grid.crs, shape) for shape in _outlines(area, _degrees(scene))
        )
        corners = np.array([bounds(outline) for outline in outlines])
    if not outlines:
        raise InputError(f"--area={area}: {scene.name} does not reach there")
    (west, south), (east, north) = corners[:, :2].min(0), corners[:, 2:].max(0)
    places = [~scene.grid.transform * corner for corner in ((west, north), (east, south))]
    (left, top), (right, bottom) = np.floor(np.min(places, 0)).astype(int), np.ceil(np.max(places, 0)).astype(int)
    left, top = max(0, left), max(0, top)
    right, bottom = min(scene.grid.width, right), min(scene.grid.height, bottom)
    if left >= right or top >= bottom:
        raise InputError(f"--area={area}: {scene.name} does not reach there")
    part = dataclasses.replace(
        scene.grid,
        transform=scene.grid.transform * rasterio.Affine.translation(left, top),
        width=int(right - left),
        height=int(bottom - top),
    )
    words = f"{scene.words}; of it {part.width} x {part.height} pixels"
    return dataclasses.replace(scene, grid=part, left=int(left), top=int(top), outlines=outlines, words=words)


def _degrees(scene: Scene) -> tuple[float, float, float, float]:
    """West, south, east and north of a scene."""
    grid = scene.grid
    corners = [grid.transform * corner for corner in ((0, 0), (grid.width, grid.height))]
    (left, right), (bottom, top) = (sorted(values) for values in zip(*corners))
    return rasterio.warp.transform_bounds(grid.crs, DEGREES, left, bottom, right, top)


def _outlines(area: str, reach: tuple[float, float, float, float]) -> list[dict]:
    """The polygons of an area, as GeoJSON in degrees; a box as far as the scene reaches."""
    if pathlib.Path(area).suffix.lower() not in (".json", ".geojson"):
        try:
            west, south, east, north = map(float, area.split(","))
        except ValueError:
            west = east = south = north = 0.0
        if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
            raise InputError(f"--area={area}: give west, south, east and north in degrees, or a .geojson file")
        (west, south), (east, north) = np.maximum((west, south), reach[:2]), np.minimum((east, north), reach[2:])
        if not (west < east and south < north):
            return []
        # Of many corners: a line along a degree of latitude is curved in the scene.
        x, y = np.linspace(west, east, 100), np.linspace(south, north, 100)
        ring = [*((a, south) for a in x), *((east, b) for b in y), *((a, north) for a in x[::-1])]
        ring += [*((west, b) for b in y[::-1])]
        return [{"type": "Polygon", "coordinates": [[(float(a), float(b)) for a, b in ring]]}]
    with damage_told(f"--area={area}: cannot be read as GeoJSON"):
        content = json.loads(pathlib.Path(area).read_text(encoding="utf-8"))
        features = content["features"] if content["type"] == "FeatureCollection" else [content]
        shapes = [feature["geometry"] if feature["type"] == "Feature" else feature for feature in features]
        parts = [part for shape in shapes if shape for part in shape.get("geometries", [shape])]  # of a collection
        polygons = [part for part in parts if part["type"] in ("Polygon", "MultiPolygon")]
    if not polygons:
        raise InputError(f"--area={area}: has no polygons")
    return polygons


def inside(scene: Scene, shape: tuple[int, int], stride: int) -> np.ndarray:
    """Which cells of a map (rows, columns) lie in the area that is wanted, or touch it."""
    if not scene.outlines:
        return np.ones(shape, bool)
    cells = scene.grid.transform * rasterio.Affine.scale(stride)
    return geometry_mask(scene.outlines, shape, cells, all_touched=True, invert=True)
