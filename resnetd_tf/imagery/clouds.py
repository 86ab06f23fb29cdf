"""Clouds, cloud shadows and snow, as a Sentinel-2 product's own mask shows them."""

import contextlib
import pathlib
import re
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import rasterio
import rasterio.features
import rasterio.transform
import rasterio.warp
import rasterio.windows
from rasterio.crs import CRS
from rasterio.windows import Window

from resnetd_tf.data import rasters
from resnetd_tf.errors import InputError, damage_as_input_error
from resnetd_tf.imagery.grid import Grid, warp_to_grid

# Classes of L2A's scene classification: cloud shadow, cloud of medium and high probability, thin cirrus, snow.
HIDDEN_CLASSES = (3, 8, 9, 10, 11)
LAST_CLASS = 11
CLOUDS_TAG = "clouds"  # tag of a file from which clouds are taken out already; it says how
ROWS_AT_ONCE = 1024  # rows that are read at once to measure a share
# Patterns of the masks' files, the best first, with what each mask shows and what it lacks.
SCENE_CLASSIFICATION = re.compile(r"_SCL_[26]0m\.jp2$")
MASKS = (
    (SCENE_CLASSIFICATION, "clouds, their shadows and snow", ""),
    (re.compile(r"MSK_CLASSI_(.*_)?B00(_.*)?\.jp2$"), "clouds and snow", "cloud shadows"),  # L1C since 04.00
    (re.compile(r"MSK_CLOUDS_(.*_)?B00(_.*)?\.gml$"), "clouds", "cloud shadows and snow"),  # L1C before 04.00
)
TILE_METADATA = re.compile(r"[^/]*MTD_(L1C_|L2A_)?TL[^/]*\.xml$")


class CloudMask(Protocol):
    """The clouds of a scene, on its grid."""

    @property
    def path(self) -> str:
        """The mask's file, as GDAL names it."""
        ...

    def read_hidden(self, window: Window) -> np.ndarray:
        """Returns the hidden pixels of a window of the files' grid, (height, width) bool.

        Raises:
            InputError: The mask is damaged.
        """
        ...


def find_mask_files(files: Iterable[str]) -> tuple[str, ...]:
    """Finds the best cloud mask of each granule of a product; none if a granule has none.

    Args:
        files: The product's files, as GDAL lists them.
    """
    names = sorted(set(files))
    classification = [file for file in names if SCENE_CLASSIFICATION.search(file) and _gdal_path(file).exists()]
    masks: list[str] = []
    for folder in [TILE_METADATA.sub("QI_DATA", file) for file in names if TILE_METADATA.search(file)]:
        path = _gdal_path(folder)
        candidates = sorted(f"{folder}/{entry.name}" for entry in path.iterdir()) if path.is_dir() else []
        candidates += classification if len(classification) == 1 else []
        best = next((file for pattern, *_ in MASKS for file in candidates if pattern.search(file)), None)
        if best is None:
            return ()
        masks.append(best)
    return tuple(masks) or tuple(classification[:1])


def _gdal_path(file: str) -> pathlib.Path | zipfile.Path:
    """Returns the path of a file in a folder or in a zip that GDAL's name means."""
    zip_match = re.fullmatch(r"/vsizip/\{(.*)\}/(.*)", file)
    return zipfile.Path(zip_match[1]) / zip_match[2] if zip_match else pathlib.Path(file)


def open_mask(paths: Sequence[str], grid: Grid) -> CloudMask | None:
    """Opens the cloud mask of a scene on its grid; `None` where there is none.

    Args:
        paths: The masks of its granules, as `find_mask_files` returns them.
        grid: The scene's grid.

    Raises:
        InputError: A mask is damaged or lies elsewhere.
    """
    masks = [_open_granule_mask(path, grid) for path in paths]
    if len(masks) < 2:
        return next(iter(masks), None)
    polygon_masks = [mask for mask in masks if isinstance(mask, PolygonMask)]
    if len(polygon_masks) < len(masks):
        raise InputError(f"{paths[1]}: rasters of clouds for several granules are not read; --clouds=keep maps without")
    polygons = tuple(polygon for mask in polygon_masks for polygon in mask.polygons)
    return PolygonMask(paths[0], grid, polygons, np.concatenate([mask.extents for mask in polygon_masks]))


def _open_granule_mask(path: str, grid: Grid) -> "RasterMask | PolygonMask":
    """Opens one mask on a scene's grid."""
    with _mask_damage_as_input_error(path):
        if path.endswith(".gml"):
            return _read_polygon_mask(path, grid)
        with rasters.ignore_missing_georeference():
            dataset = rasterio.open(path)
        if dataset.crs != grid.crs:
            raise ValueError(f"its coordinate reference system is {dataset.crs}, the scene's is {grid.crs}")
        extent = np.array(rasterio.transform.array_bounds(grid.height, grid.width, grid.transform))
        gaps = (np.array(dataset.bounds) - extent) * (1, 1, -1, -1)
        if (gaps > max(dataset.res)).any():
            raise ValueError(f"its extent {tuple(dataset.bounds)} does not cover the scene's {tuple(extent.tolist())}")
        return RasterMask(path, warp_to_grid(dataset, grid, nearest=True))


@contextlib.contextmanager
def _mask_damage_as_input_error(path: str) -> Iterator[None]:
    """Turns errors of a mask into an InputError that names the flag to do without it."""
    with damage_as_input_error(f"{path}: the cloud mask cannot be used", "; --clouds=keep maps without it"):
        yield


@dataclass(frozen=True)
class RasterMask:
    """A mask of pixels: L2A's scene classification, or L1C's bands of opaque cloud, cirrus and snow since 04.00.

    Attributes:
        path: The mask's file.
        dataset: Its bands on the scene's grid.
    """

    path: str
    dataset: rasterio.DatasetReader

    def read_hidden(self, window: Window) -> np.ndarray:
        with _mask_damage_as_input_error(self.path):
            values = self.dataset.read(window=window)
            if not SCENE_CLASSIFICATION.search(self.path):
                return (values > 0).any(axis=0)
            if values.max() > LAST_CLASS:
                raise ValueError(f"it has a class {values.max()}, scene classifications end at {LAST_CLASS}")
            return np.isin(values[0], HIDDEN_CLASSES)


@dataclass(frozen=True)
class PolygonMask:
    """A mask of polygons around opaque clouds and cirrus, which L1C has before 04.00.

    Attributes:
        path: The mask's file.
        grid: The scene's grid.
        polygons: GeoJSON geometries in the grid's coordinates.
        extents: West, south, east and north of each polygon, (n, 4) float64.
    """

    path: str
    grid: Grid
    polygons: tuple[dict, ...]
    extents: np.ndarray

    def read_hidden(self, window: Window) -> np.ndarray:
        shape = (int(window.height), int(window.width))
        # A tile can have thousands of polygons: only those near a window are drawn in it.
        is_near = _overlaps(self.extents, rasterio.windows.bounds(window, self.grid.transform))
        if not is_near.any():
            return np.zeros(shape, bool)
        transform = rasterio.windows.transform(window, self.grid.transform)
        near_polygons = [self.polygons[index] for index in np.flatnonzero(is_near)]
        with _mask_damage_as_input_error(self.path):
            return rasterio.features.geometry_mask(near_polygons, shape, transform, invert=True)


def _overlaps(extents: np.ndarray, bounds: tuple[float, float, float, float]) -> np.ndarray:
    """Returns which extents (n, 4) overlap with bounds west, south, east and north, (n,) bool."""
    west, south, east, north = bounds
    return (extents[:, 0] < east) & (extents[:, 2] > west) & (extents[:, 1] < north) & (extents[:, 3] > south)


def _read_polygon_mask(path: str, grid: Grid) -> PolygonMask:
    """Reads a GML file of polygons in the coordinates of a grid."""
    root = ElementTree.fromstring(_gdal_path(path).read_bytes())
    if not root.tag.endswith("}Mask"):
        raise ValueError(f"it is <{root.tag}>, not a <Mask>")
    polygons = [_read_polygon(element) for element in root.iterfind(".//{*}Polygon")]
    feature_count = len(list(root.iterfind(".//{*}MaskFeature")))
    if len(polygons) < feature_count:
        raise ValueError(f"it has {len(polygons)} polygons for {feature_count} clouds")
    envelope = root.find(".//{*}Envelope")
    code = re.search(r"EPSG:.*?(\d+)$", "" if envelope is None else envelope.get("srsName", ""))
    if code and grid.crs and (crs := CRS.from_epsg(int(code[1]))) != grid.crs:
        polygons = [rasterio.warp.transform_geom(crs, grid.crs, polygon) for polygon in polygons]
    extents = np.array([rasterio.features.bounds(polygon) for polygon in polygons]).reshape(-1, 4)
    scene_extent = rasterio.transform.array_bounds(grid.height, grid.width, grid.transform)
    if polygons and not _overlaps(extents, scene_extent).any():
        raise ValueError(f"none of its {len(polygons)} polygons lies in the scene")
    return PolygonMask(path, grid, tuple(polygons), extents)


def _read_polygon(element: ElementTree.Element) -> dict:
    """Returns a <gml:Polygon> as GeoJSON: its exterior, then its holes."""
    rings = []
    for positions in element.iterfind(".//{*}posList"):
        numbers = np.array((positions.text or "").split(), "float64")
        ring = numbers.reshape(-1, int(positions.get("srsDimension", 2)))[:, :2]
        if len(ring) < 4 or not np.isfinite(ring).all():
            raise ValueError(f"a ring of {len(ring)} corners, or one that is no number")
        rings.append(ring.tolist())
    if not rings:
        raise ValueError("a polygon without corners")
    return {"type": "Polygon", "coordinates": rings}


def describe_clouds(mask: CloudMask | None, window: Window, keep: bool, note: str = "") -> str:
    """Says whether clouds of a scene are mapped, and which share of it a mask hides.

    Args:
        mask: The scene's mask; `None` where it has none.
        window: The pixels that are mapped, in the files' grid.
        keep: Whether the user wants clouds mapped.
        note: What the scene's file says of clouds that are taken out already.

    Raises:
        InputError: The mask is damaged.
    """
    if note:
        return note
    if keep:
        return "clouds are mapped like land, as --clouds=keep says"
    if mask is None:
        return "no cloud mask: clouds are mapped like land"
    masked_kinds, unmasked_kinds = next(kinds for pattern, *kinds in MASKS if pattern.search(mask.path))
    hidden_pixels = 0
    for row in range(0, int(window.height), ROWS_AT_ONCE):
        height = min(ROWS_AT_ONCE, int(window.height) - row)
        hidden_pixels += int(mask.read_hidden(Window(window.col_off, window.row_off + row, window.width, height)).sum())
    share = f"{100 * hidden_pixels / (window.width * window.height):.1f} % of the scene"
    return f"{masked_kinds} left out ({share}){f', {unmasked_kinds} not' if unmasked_kinds else ''}"
