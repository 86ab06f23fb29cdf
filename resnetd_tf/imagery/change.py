"""Change of land cover between two scenes of one place: both are mapped on one grid, and the maps are compared."""

import csv
import dataclasses
import io
import json
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np
import rasterio
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rasterio.windows import Window

from resnetd_tf import figures
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import landcover
from resnetd_tf.imagery.grid import Grid
from resnetd_tf.imagery.landcover import NODATA, MapOptions
from resnetd_tf.imagery.products import find_single_source
from resnetd_tf.imagery.scene import Scene
from resnetd_tf.saved import SavedClassifier, open_window_classifier

ALIGNMENT_TOLERANCE = 0.01  # pixels by which two grids may be off
UNCHANGED_LIGHTNESS = 0.65  # share of white in the colours of what has not changed
MAX_CHANGES = 254  # kinds of change in a map of 8 bits
MAX_LEGEND = 20  # kinds of change in the legend of the picture


def map_change(
    classifier: SavedClassifier,
    before: Sequence[str | pathlib.Path],
    after: Sequence[str | pathlib.Path],
    options: MapOptions,
    output: str | pathlib.Path,
) -> dict[str, pathlib.Path]:
    """Maps two scenes of one place, and writes what has changed from the one to the other.

    Writes the files of a map under OUTPUT_before and OUTPUT_after, and of the change OUTPUT_change.tif with its
    .aux.xml, .qml and .sld, OUTPUT_change.csv (hectares from each class to each) and OUTPUT_change.png.

    Args:
        classifier: A classifier of the scenes' bands.
        before: The earlier scene, as `landcover.open_scene_for` takes it.
        after: The later scene.
        options: How both are opened and mapped.
        output: What the names of all files begin with.

    Returns:
        The files of the change, by the end of their names.

    Raises:
        InputError: The scenes do not lie on one grid, a scene cannot be mapped, or a file exists.
    """
    base = pathlib.Path(output)
    ends = ("_change.tif", "_change.tif.aux.xml", "_change.qml", "_change.sld", "_change.csv", "_change.png")
    targets = {end: base.with_name(base.name + end) for end in ends}
    for path in targets.values():
        if path.exists() and not options.overwrite:
            raise InputError(f"{path} exists; give another --output, or --overwrite")
    scenes = align_scenes(
        *(landcover.open_source_for(classifier, find_single_source(paths), options) for paths in (before, after))
    )
    window_classifier = open_window_classifier(classifier, options.runtime)
    maps = []
    for scene, name in zip(scenes, ("before", "after")):
        print(f"{scene.name}: {scene.description}; classified {window_classifier.summary}", flush=True)
        map_base = base.with_name(f"{base.name}_{name}")
        landcover.write_map(classifier, scene, map_base, options, window_classifier)
        with rasterio.open(map_base.with_name(f"{map_base.name}_landcover.tif")) as file:
            maps.append(file.read(1))
            grid = Grid(file.crs, file.transform, file.width, file.height)
    stride = 1 if options.full_resolution else options.stride
    # The last cells of a map reach beyond the scene.
    sides = [
        np.minimum(stride, side - stride * np.arange(-(-side // stride))) / stride
        for side in (scene.grid.height, scene.grid.width)
    ]
    write_change(classifier.classes, maps[0], maps[1], grid, targets, np.outer(*sides))
    return targets


def align_scenes(before: Scene, after: Scene) -> tuple[Scene, Scene]:
    """Cuts two scenes to the ground that both show.

    Raises:
        InputError: Their pixels do not lie on one grid, or they show no common ground.
    """
    first, second = before.grid, after.grid
    if first.crs is None or first.crs != second.crs:
        raise InputError(
            f"{after.name} is in {second.crs}, {before.name} in {first.crs}; bring one onto the grid of the other with "
            "gdalwarp"
        )
    shift = ~first.transform * second.transform  # from pixels of the second to pixels of the first
    offset = np.array((shift.c, shift.f))
    linear = np.array([shift.a - 1, shift.b, shift.d, shift.e - 1]) * max(second.width, second.height)
    if np.abs(offset - np.rint(offset)).max() > ALIGNMENT_TOLERANCE or np.abs(linear).max() > ALIGNMENT_TOLERANCE:
        raise InputError(
            f"the pixels of {after.name} do not lie on those of {before.name}; bring one onto the grid of the other "
            "with gdalwarp -tap -tr 10 10"
        )
    column, row = np.rint(offset).astype(int).tolist()
    left, top = max(0, column), max(0, row)
    right, bottom = min(first.width, column + second.width), min(first.height, row + second.height)
    if left >= right or top >= bottom:
        raise InputError(f"{before.name} and {after.name} show no common ground")
    window = Window(left, top, right - left, bottom - top)
    return _cut(before, window), _cut(after, Window(left - column, top - row, window.width, window.height))


def _cut(scene: Scene, window: Window) -> Scene:
    """Returns a window of a scene as a scene."""
    grid = scene.grid
    if (window.width, window.height) == (grid.width, grid.height):
        return scene
    return dataclasses.replace(
        scene,
        grid=Grid(
            grid.crs,
            grid.transform * rasterio.Affine.translation(window.col_off, window.row_off),
            window.width,
            window.height,
        ),
        column_offset=scene.column_offset + window.col_off,
        row_offset=scene.row_offset + window.row_off,
        description=f"{scene.description}; of it {window.width} x {window.height} pixels, which both scenes show",
    )


def write_change(
    names: Sequence[str],
    before: np.ndarray,
    after: np.ndarray,
    grid: Grid,
    targets: dict[str, pathlib.Path],
    cell_shares: np.ndarray,
) -> None:
    """Writes the change between two maps where both have a class.

    Args:
        names: Names of the classes.
        before: (height, width) uint8, classes of the earlier map; `NODATA` where there is none.
        after: (height, width) uint8, classes of the later map.
        grid: The pixels of both maps.
        targets: The files, by the end of their names.
        cell_shares: (height, width) float64, the share of each pixel of the maps that lies within the scenes.

    Raises:
        InputError: Nowhere have both a class, or there are too many kinds of change.
    """
    is_known = (before != NODATA) & (after != NODATA)
    if not is_known.any():
        raise InputError("nothing to compare: nowhere have both maps a class")
    codes = before.astype(int) * len(names) + after
    change_codes = np.unique(codes[is_known])
    is_change = change_codes // len(names) != change_codes % len(names)
    change_codes = np.concatenate((change_codes[~is_change], change_codes[is_change]))
    if len(change_codes) > MAX_CHANGES:
        raise InputError(
            f"{len(change_codes)} kinds of change, of which a map can hold {MAX_CHANGES}; use fewer classes"
        )
    colours = landcover.class_colours(names)
    legend = {}
    for code in change_codes.tolist():
        old, new = divmod(code, len(names))
        light = tuple(round(value + UNCHANGED_LIGHTNESS * (255 - value)) for value in colours[new])
        name = f"{names[old]} stays" if old == new else f"{names[old]} to {names[new]}"
        legend[name] = light if old == new else colours[new]
    positions = np.full(len(names) ** 2, NODATA, "uint8")
    positions[change_codes] = np.arange(len(change_codes))
    values = np.where(is_known, positions[np.where(is_known, codes, 0)], NODATA).astype("uint8")
    hectares = _hectares(grid, np.where(is_known, codes, -1), cell_shares, len(names))
    tif, table, picture = (targets[end] for end in ("_change.tif", "_change.csv", "_change.png"))
    with tempfile.TemporaryDirectory(dir=tif.parent) as name:
        folder, georeference = pathlib.Path(name), {"crs": grid.crs, "transform": grid.transform}
        kinds = zip(legend, hectares.ravel()[change_codes].round(4).tolist())
        tags = {"hectares": json.dumps(dict(kinds))}
        landcover.write_classes(folder / tif.name, values, legend, "change of land cover", georeference, tags)
        (folder / table.name).write_text(_as_csv(names, hectares), encoding="utf-8")
        draw_change(folder / picture.name, values, legend)
        landcover.publish_files(folder, {path.name: path for path in targets.values()}, ())
    changed = 100 * (hectares.sum() - np.trace(hectares)) / hectares.sum()
    print(f"Written: {', '.join(map(str, targets.values()))}")
    print(
        f"  {changed:.1f} % of the area that both maps show has another class; counted from the maps with their errors"
    )


def _hectares(grid: Grid, codes: np.ndarray, cell_shares: np.ndarray, count: int) -> np.ndarray:
    """Returns the area from each class to each, (classes, classes) float64, in hectares."""
    pixel_hectares = grid.pixel_hectares
    assert pixel_hectares is not None
    shares = np.bincount(codes[codes >= 0], cell_shares[codes >= 0], minlength=count**2)
    return shares.reshape(count, count) * pixel_hectares


def _as_csv(names: Sequence[str], hectares: np.ndarray) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["before, in hectares", *names])
    writer.writerows([name, *(f"{value:.2f}" for value in row)] for name, row in zip(names, hectares))
    return text.getvalue()


def draw_change(path: pathlib.Path, values: np.ndarray, legend: dict[str, tuple[int, int, int]]) -> None:
    """Draws a map of change with the kinds of change that cover most."""
    step = max(1, max(values.shape) // landcover.MAX_PICTURE_SIDE)
    shown = values[::step, ::step]
    # Beside the map, which is 6 inches wide, there is room for the legend.
    height = 6 * min(2.0, values.shape[0] / values.shape[1]) + 0.5
    figure = Figure(figsize=(9.8, max(4.5, height)), layout="constrained")
    axes = figure.subplots()
    colours = ListedColormap([*(np.array(list(legend.values())) / 255), (1, 1, 1)])
    axes.imshow(np.where(shown == NODATA, len(legend), shown), cmap=colours, vmin=-0.5, vmax=len(legend) + 0.5)
    axes.set(xticks=[], yticks=[], title="change of land cover")
    counts = np.bincount(values[values != NODATA], minlength=len(legend))
    largest = np.argsort(-counts)[:MAX_LEGEND]
    handles = [Patch(color=colours(index), label=figures.escape_mathtext(list(legend)[index])) for index in largest]
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=110)
