"""Parts of scenes."""

import dataclasses
import json
import pathlib

import numpy as np
import rasterio
import rasterio.warp
from rasterio.features import bounds

from resnetd_tf.errors import InputError, damage_told
from resnetd_tf.imagery.products import Scene

DEGREES = "EPSG:4326"  # of GeoJSON (RFC 7946, section 4), longitude first


def cut(scene: Scene, area: str) -> Scene:
    """The part of a scene that lies in an area; of its pixels those outside have nothing.

    Args:
        scene: A scene with a georeference.
        area: "W,S,E,N" in degrees, or a GeoJSON file of polygons.

    Raises:
        InputError: The area cannot be read, or lies outside.
    """
    if scene.grid.crs is None:
        raise InputError(f"--area={area}: {scene.name} has no georeference to find it by")
    outlines = tuple(rasterio.warp.transform_geom(DEGREES, scene.grid.crs, shape) for shape in _outlines(area))
    if not scene.grid.transform.is_rectilinear:
        raise InputError(f"--area={area}: {scene.name} is rotated; cut it with gdalwarp first")
    corners = np.array([bounds(outline) for outline in outlines])
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


def _outlines(area: str) -> list[dict]:
    """The polygons of an area, as GeoJSON in degrees."""
    if pathlib.Path(area).suffix.lower() not in (".json", ".geojson"):
        try:
            west, south, east, north = map(float, area.split(","))
        except ValueError:
            west = east = south = north = 0.0
        if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
            raise InputError(f"--area={area}: give west, south, east and north in degrees, or a .geojson file")
        ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
        return [{"type": "Polygon", "coordinates": [ring]}]
    with damage_told(f"--area={area}: cannot be read as GeoJSON"):
        content = json.loads(pathlib.Path(area).read_text(encoding="utf-8"))
        features = content["features"] if content["type"] == "FeatureCollection" else [content]
        shapes = [feature["geometry"] if feature["type"] == "Feature" else feature for feature in features]
        polygons = [shape for shape in shapes if shape["type"] in ("Polygon", "MultiPolygon")]
    if not polygons:
        raise InputError(f"--area={area}: has no polygons")
    return polygons
