"""What a map is written as: GeoTIFFs that QGIS opens with names and colours, a picture, a table of areas."""

import csv
import io
import json
import pathlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator

import matplotlib
import numpy as np
import rasterio
import rasterio.io
import rasterio.shutil
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from rasterio.windows import Window

from resnetd_tf import figures
from resnetd_tf.data import rasters, rendering
from resnetd_tf.errors import InputError, first_line
from resnetd_tf.imagery.grid import Grid
from resnetd_tf.imagery.pixels import Scene
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS

NODATA = 255  # of maps of classes
COLOURS = {
    "AnnualCrop": "#f5d76e",
    "Forest": "#1b6b2c",
    "HerbaceousVegetation": "#8fbf5a",
    "Highway": "#707070",
    "Industrial": "#8e44ad",
    "Pasture": "#c5e384",
    "PermanentCrop": "#d9822b",
    "Residential": "#d7263d",
    "River": "#4fb3ff",
    "SeaLake": "#1f4e9e",
}
SIDE = 900  # pixels of a scene in its picture


def colours(classes: tuple[str, ...]) -> list[tuple[int, int, int]]:
    """A colour for each class, 0 to 255: EuroSAT's have their own."""
    others = matplotlib.colormaps["tab20"]
    chosen = [to_rgb(COLOURS.get(name, others(index % others.N))) for index, name in enumerate(classes)]
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in chosen]


def check_classes(classes: tuple[str, ...]) -> None:
    """Raises InputError for more classes than a map's 8 bits can number beside `NODATA`."""
    if len(classes) > NODATA:
        raise InputError(
            f"the classifier has {len(classes)} classes, a map at most {NODATA} (its pixels have 8 bits); give a "
            "--model of fewer classes"
        )


def best(probabilities: np.ndarray, there: np.ndarray, least: float) -> np.ndarray:
    """The most probable classes (...,) uint8; `NODATA` where there is nothing, or none is as probable as `least`."""
    found = probabilities.argmax(-1).astype("uint8")
    found[~there | (probabilities.max(-1) < least)] = NODATA
    return found


def write_classes(
    path: pathlib.Path, scene: Scene, mapped: np.ndarray, stride: int, classes: tuple[str, ...], whole: bool
) -> None:
    """Writes the map of classes as a cloud-optimised GeoTIFF.

    Args:
        path: The file; class names go into its .aux.xml, where GDAL and QGIS look for them.
        scene: What was mapped.
        mapped: (rows, columns) uint8, the classes of its cells.
        stride: Side of a cell in the scene's pixels.
        classes: Class names.
        whole: Whether the file has the scene's pixels, rather than cells.
    """
    grid = scene.grid
    size = (grid.height, grid.width) if whole else mapped.shape

    def describe(file: rasterio.io.DatasetWriter) -> None:
        file.write_colormap(1, {index: (*colour, 255) for index, colour in enumerate(colours(classes))})
        file.update_tags(classes=json.dumps(dict(enumerate(classes))))
        file.set_band_description(1, "land cover")

    def rows() -> Iterator[tuple[Window, np.ndarray]]:
        for row in range(len(mapped)):
            if whole:
                height = min(stride, grid.height - row * stride)
                values = mapped[row].repeat(stride)[: grid.width]
                yield Window(0, row * stride, grid.width, height), np.broadcast_to(values, (1, height, grid.width))
            else:
                yield Window(0, row, size[1], 1), mapped[np.newaxis, row : row + 1]

    profile = {"count": 1, "dtype": "uint8", "nodata": NODATA, "compress": "deflate"}
    _write_cog(path, scene, size, 1 if whole else stride, "MODE", describe, rows, **profile)
    _name_classes(path, classes)


def _write_cog(
    path: pathlib.Path,
    scene: Scene,
    shape: tuple[int, ...],
    stride: int,
    resampling: str,
    describe: Callable[[rasterio.io.DatasetWriter], None],
    rows: Callable[[], Iterable[tuple[Window, np.ndarray]]],
    **profile,
) -> None:
    """Writes a cloud-optimised GeoTIFF and reads it back: GDAL does not report every error of a full disk.

    A plain GeoTIFF is filled first, on disk because of its size, as a cloud-optimised one is only made by copying.

    Args:
        path: The file.
        scene: What was mapped.
        shape: Rows and columns.
        stride: Side of one of its pixels in those of the scene.
        resampling: GDAL's name of the way in which overviews are made.
        describe: Gives the file its tags and names.
        rows: Returns the windows of the file from the top, each with its values (bands, height, width).
        profile: Count, dtype and nodata, as `rasterio.open` takes them.

    Raises:
        OSError: The file cannot be written, or has other values than were written.
    """
    plain = path.with_name(f"{path.stem}-plain.tif")
    place = {"crs": scene.grid.crs, "transform": scene.grid.transform * rasterio.Affine.scale(stride)}
    try:
        with rasters.without_warnings():
            with rasterio.open(plain, "w", driver="GTiff", height=shape[0], width=shape[1], **place, **profile) as file:
                describe(file)
                for window, values in rows():
                    file.write(values, window=window)
            rasterio.shutil.copy(plain, path, driver="COG", compress="DEFLATE", overview_resampling=resampling)
            intact = _has_values(path, rows())
    except Exception as error:  # rasterio passes on errors of GDAL that have no public class
        raise OSError(f"GDAL could not write {path.name} ({first_line(error).rstrip('.')})") from error
    finally:
        plain.unlink(missing_ok=True)
    if not intact:
        raise OSError(f"{path.name} has other values than were written")


def _has_values(path: pathlib.Path, rows: Iterable[tuple[Window, np.ndarray]]) -> bool:
    """Whether a file has these values (bands, height, width) in its windows, and overviews that can be read."""
    with rasterio.open(path) as file:
        levels = len(file.overviews(1))
        if not all(np.array_equal(file.read(window=window), values, equal_nan=True) for window, values in rows):
            return False
    for level in range(levels):
        with rasterio.open(path, overview_level=level) as file:
            for _, window in file.block_windows(1):
                file.read(window=window)
    return True


def _name_classes(path: pathlib.Path, classes: tuple[str, ...]) -> None:
    """Writes names and colours of the classes where GDAL looks for them first.

    A GeoTIFF has no place for names, and always 256 colours, which QGIS would list.
    """
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    names = ElementTree.SubElement(band, "CategoryNames")
    for name in classes:
        ElementTree.SubElement(names, "Category").text = name
    table = ElementTree.SubElement(band, "ColorTable")
    for red, green, blue in colours(classes):
        ElementTree.SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4="255")
    text = ElementTree.tostring(root, encoding="unicode")
    path.with_name(f"{path.name}.aux.xml").write_text(text + "\n", encoding="utf-8")


def write_probabilities(
    path: pathlib.Path, scene: Scene, found: np.ndarray, there: np.ndarray, stride: int, classes: tuple[str, ...]
) -> None:
    """Writes probabilities (rows, columns, classes) as a cloud-optimised GeoTIFF with a band a class."""

    def describe(file: rasterio.io.DatasetWriter) -> None:
        for index, name in enumerate(classes, 1):
            file.set_band_description(index, name)

    def rows() -> Iterator[tuple[Window, np.ndarray]]:
        for row in range(len(found)):
            values = np.where(there[row][:, np.newaxis], found[row], np.float32(np.nan))
            yield Window(0, row, found.shape[1], 1), np.moveaxis(values, -1, 0)[:, np.newaxis]

    profile = {"count": len(classes), "dtype": "float32", "nodata": np.nan}
    _write_cog(path, scene, found.shape, stride, "AVERAGE", describe, rows, **profile)


def areas_of_classes(grid: Grid, mapped: np.ndarray, pixels: np.ndarray, stride: int, classes: int) -> np.ndarray:
    """How much of the ground each class has.

    Args:
        grid: The scene's.
        mapped: (rows, columns) uint8, the classes of its cells.
        pixels: (rows, columns) float32, pixels of each cell that are data and wanted.
        stride: Side of a cell in pixels.
        classes: Number of classes.

    Returns:
        (classes,) float64, in hectares, or in pixels where their place is unknown.
    """
    hectares = grid.hectares_in_cells(stride)
    sizes = pixels if hectares is None else pixels * hectares
    known = mapped != NODATA
    return np.bincount(mapped[known], sizes[known], minlength=classes)


def table_of_areas(counts: np.ndarray, sizes: np.ndarray, classes: tuple[str, ...], has_hectares: bool) -> str:
    """A table as CSV: cells of each class, hectares where pixels have a size, share of the area that is mapped.

    Args:
        counts: (classes,) cells.
        sizes: (classes,) areas, as `areas_of_classes` measures them.
        classes: Their names.
        has_hectares: Whether the areas are in hectares.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "cells", "hectares", "share"])
    for name, count, size in zip(classes, counts.tolist(), sizes.tolist()):
        writer.writerow([name, count, f"{size:.2f}" if has_hectares else "", f"{size / sizes.sum():.6f}"])
    return text.getvalue()


def areas_as_text(sizes: np.ndarray, classes: tuple[str, ...], has_hectares: bool) -> str:
    """The classes of a map with their areas and shares, a line each, and their sum; arguments as `table_of_areas`."""
    rows = [(name, size) for name, size in zip(classes, sizes.tolist()) if size]
    rows.append(("all", sizes.sum()))
    wide = max(len(name) for name, _ in rows)
    number = "{:>14,.2f} ha" if has_hectares else "{:>14,.0f} pixels"
    lines = [f"  {name:{wide}}{number.format(size)}{100 * size / sizes.sum():>7.1f} %" for name, size in rows]
    if not has_hectares:
        lines.append("  no hectares: the scene has no coordinate reference system (gdal_edit.py -a_srs gives it one)")
    return "\n".join(lines)


def draw(path: pathlib.Path, scene: Scene, classes_of_cells: np.ndarray, stride: int, classes: tuple[str, ...]) -> None:
    """Draws scene and map side by side, with a legend and a scale."""
    # As many cells as can be seen.
    shown, step = _overview(scene), max(1, max(classes_of_cells.shape) // SIDE)
    mapped, stride = classes_of_cells[::step, ::step], stride * step
    figure, (left, right) = _sheet(scene.grid.width / scene.grid.height)
    extent = (0, scene.grid.width, scene.grid.height, 0)
    left.imshow(shown, extent=extent)
    table = ListedColormap([*(np.array(colours(classes)) / 255), (1, 1, 1)])
    values = np.where(mapped == NODATA, len(classes), mapped)
    whole = (0, mapped.shape[1] * stride, mapped.shape[0] * stride, 0)
    right.imshow(values, cmap=table, vmin=-0.5, vmax=len(classes) + 0.5, extent=whole, interpolation="nearest")
    for axes in (left, right):
        axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
    handles = [
        Patch(color=table(index), label=figures.plain(classes[index])) for index in np.unique(mapped[mapped != NODATA])
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    _draw_scale(left, scene.grid)
    figure.savefig(path, dpi=110)


def _sheet(aspect: float) -> tuple[Figure, np.ndarray]:
    """A figure with two axes for pictures of an aspect (width over height): side by side, or wide ones stacked."""
    stacked = aspect > 1.5
    width = min(9.0 if stacked else 5.4, 8 * aspect)  # inches
    height = max(0.4, width / aspect)
    columns, rows = (1, 2) if stacked else (2, 1)
    size = (max(1.5, width) * columns + 2.2, max(3.2, rows * height + 0.3))  # with room for the legend
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns)


def round_length(longest: float) -> float:
    """The longest length of up to `longest` that is 1, 2 or 5 times a power of ten."""
    power = 10 ** np.floor(np.log10(longest))
    return max(step * power for step in (1, 2, 5) if step * power <= longest)


def _draw_scale(axes, grid: Grid) -> None:
    """Draws a bar of a round length of up to a third of the scene's width, seen on dark and on bright ground."""
    if grid.hectares is None:
        return
    metres = (grid.hectares * 10_000) ** 0.5
    length = round_length(grid.width * metres / 3)
    start, bottom = 0.03 * grid.width, 0.97 * grid.height
    edge = [withStroke(linewidth=6, foreground="black")]
    axes.plot([start, start + length / metres], [bottom] * 2, color="white", lw=3, path_effects=edge)
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    edge = [withStroke(linewidth=2.5, foreground="black")]
    offset = {"xytext": (0, 5), "textcoords": "offset points"}
    axes.annotate(label, (start, bottom), **offset, color="white", path_effects=edge)


def _overview(scene: Scene) -> np.ndarray:
    """The scene's colours, (height, width, 3) uint8, of at most `SIDE` pixels a side; grey where one is missing."""
    by_band = dict(zip(RGB_BANDS if len(scene.layers) == 3 else BANDS, scene.layers))
    shown = [layer for name in RGB_BANDS if (layer := by_band[name])]
    shown = shown if len(shown) == 3 else [next(layer for layer in scene.layers if layer)] * 3
    factor = max(1, max(scene.grid.height, scene.grid.width) / SIDE)
    shape = (max(1, round(scene.grid.height / factor)), max(1, round(scene.grid.width / factor)))
    window = Window(scene.left, scene.top, scene.grid.width, scene.grid.height)
    pixels = rasters.read(shown, window, shape)
    if scene.picture:
        return pixels
    dn = [layer.digital_numbers(pixels[..., place]) for place, layer in enumerate(shown)]
    return rendering.rendered(np.stack(dn, axis=-1))
