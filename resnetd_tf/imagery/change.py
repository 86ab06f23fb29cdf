"""Change of land cover between two scenes of one place: both are mapped on one grid, and the maps are compared."""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Sequence

import matplotlib
import numpy as np
import rasterio
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rasterio.windows import Window

from resnetd_tf import figures, rundir
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import landcover
from resnetd_tf.imagery.grid import Grid
from resnetd_tf.imagery.landcover import NODATA, MapOptions
from resnetd_tf.imagery.products import find_single_source
from resnetd_tf.imagery.scene import Scene
from resnetd_tf.saved import SavedClassifier, open_window_classifier

ALIGNMENT_TOLERANCE = 0.01  # pixels by which two grids may be off
UNCHANGED_COLOUR, OTHER_COLOUR = (225, 225, 225), (90, 90, 90)
MAX_KINDS = 253  # kinds of change in a map of 8 bits; smaller ones are put together
MAX_LEGEND = 20  # kinds of change in the legend of the picture


def map_change(
    classifier: SavedClassifier,
    before: Sequence[str | pathlib.Path],
    after: Sequence[str | pathlib.Path],
    options: MapOptions,
    output: str | pathlib.Path,
    trust: bool = False,
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
        trust: Whether the model may hold what no classifier of this package does.

    Returns:
        The files of the change, by the end of their names.

    Raises:
        InputError: The scenes do not lie on one grid, a scene cannot be mapped, or a file exists.
    """
    base = pathlib.Path(output)
    if not base.name or str(output).endswith("/") or base.is_dir():
        raise InputError(f"--output={output}: give what the names of files begin with, as maps/summer")
    ends = ("_change.tif", "_change.tif.aux.xml", "_change.qml", "_change.sld", "_change.csv", "_change.png")
    targets = {end: base.with_name(base.name + end) for end in ends}
    map_bases = [base.with_name(f"{base.name}_{name}") for name in ("before", "after")]
    for files in (
        targets,
        *(landcover.map_paths(each, options.probabilities, True, options.polygons) for each in map_bases),
    ):
        landcover.require_writable_targets(files, options.overwrite)  # before hours of classifying
    sources = [find_single_source(paths) for paths in (before, after)]
    scenes = align_scenes(*(landcover.open_source_for(classifier, source, options) for source in sources))
    window_classifier = open_window_classifier(classifier, options.runtime, trust)
    maps, valid_pixels = [], []
    for scene, map_base in zip(scenes, map_bases):
        print(f"{scene.name}: {scene.description}; classified {window_classifier.summary}", flush=True)
        result = landcover.write_map(classifier, scene, map_base, options, window_classifier)
        valid_pixels.append(result["valid_pixels"])
        with rasterio.open(map_base.with_name(f"{map_base.name}_landcover.tif")) as file:
            maps.append(file.read(1))
            grid = Grid(file.crs, file.transform, file.width, file.height)
    cell_hectares = scenes[0].grid.pixel_hectares_in_cells(options.stride)
    assert cell_hectares is not None
    hectares = np.minimum(*valid_pixels) * cell_hectares
    is_known = (maps[0] != NODATA) & (maps[1] != NODATA)
    if options.full_resolution:
        hectares = landcover.share_among_pixels(hectares, is_known, options.stride)
    with landcover.write_errors_as_input_errors(base):
        write_change(classifier.classes, maps[0], maps[1], hectares, grid, targets)
    return targets


def align_scenes(before: Scene, after: Scene) -> tuple[Scene, Scene]:
    """Cuts two scenes to the ground that both show.

    Raises:
        InputError: Their pixels do not lie on one grid, or they show no common ground.
    """
    first, second = before.grid, after.grid
    for scene in (before, after):
        if scene.grid.crs is None:
            raise InputError(f"{scene.name}: has no coordinate reference system, by which to compare two dates")
    if first.crs != second.crs:
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
    hectares: np.ndarray,
    grid: Grid,
    targets: dict[str, pathlib.Path],
) -> None:
    """Writes the change between two maps where both have a class.

    Args:
        names: Names of the classes.
        before: (height, width) uint8, classes of the earlier map; `NODATA` where there is none.
        after: (height, width) uint8, classes of the later map.
        hectares: (height, width), the area of each pixel of the maps that both scenes show.
        grid: The pixels of both maps.
        targets: The files, by the end of their names.

    Raises:
        InputError: Nowhere have both a class.
        OSError: A file cannot be written.
    """
    count = len(names)
    is_known = (before != NODATA) & (after != NODATA)
    if not is_known.any():
        raise InputError("nothing to compare: nowhere have both maps a class")
    codes = before.astype("uint16") * count + after
    areas = np.bincount(codes[is_known], hectares[is_known], minlength=count**2)
    kinds = np.flatnonzero(np.bincount(codes[is_known], minlength=count**2))
    is_change = kinds // count != kinds % count
    kinds = np.concatenate((kinds[~is_change], sorted(kinds[is_change], key=lambda kind: -areas[kind]))).astype(int)
    legend = _make_legend(names, kinds[:MAX_KINDS], len(kinds) > MAX_KINDS)
    positions = np.full(count**2, NODATA, "uint8")
    positions[kinds] = np.minimum(np.arange(len(kinds)), MAX_KINDS)  # the smallest kinds are one
    values = np.full(before.shape, NODATA, "uint8")
    values[is_known] = positions[codes[is_known]]
    legend_areas = np.bincount(positions[kinds], areas[kinds], minlength=len(legend))
    tif, table, picture = (targets[end] for end in ("_change.tif", "_change.csv", "_change.png"))
    with tempfile.TemporaryDirectory(dir=tif.parent) as name:
        folder, georeference = pathlib.Path(name), {"crs": grid.crs, "transform": grid.transform}
        tags = {"hectares": json.dumps(dict(zip(legend, legend_areas.round(4).tolist())))}
        landcover.write_classes(folder / tif.name, values, legend, "change of land cover", georeference, tags)
        rows = ([name, *(f"{value:.2f}" for value in row)] for name, row in zip(names, areas.reshape(count, count)))
        rundir.write_csv(folder / table.name, [["before, in hectares", *names], *rows])
        draw_change(folder / picture.name, values, legend)
        landcover.publish_files(folder, {path.name: path for path in targets.values()}, ())
    changed = areas[kinds[kinds // count != kinds % count]].sum() / max(areas.sum(), 1e-9)
    print(f"Written: {', '.join(map(str, targets.values()))}")
    print(
        f"  {100 * changed:.1f} % of the area that both maps show has another class; counted from the maps, with errors"
    )


def _make_legend(names: Sequence[str], kinds: np.ndarray, has_others: bool) -> dict[str, tuple[int, int, int]]:
    """Returns names and colours of kinds of change: grey for what stays, and the strongest for what covers most."""
    palette = matplotlib.colormaps["tab20"]
    legend: dict[str, tuple[int, int, int]] = {}
    changes = 0
    for kind in kinds.tolist():
        old, new = divmod(kind, len(names))
        name = f"{names[old]} stays" if old == new else f"{names[old]} to {names[new]}"
        if name in legend:  # classes may have "to" in their names
            name = f"{name} ({old} to {new})"
        if old == new:
            legend[name] = UNCHANGED_COLOUR
        else:
            # The even colours of the palette are strong, the odd ones pale.
            red, green, blue, _ = palette((2 * changes) % 20 + (changes // 10) % 2)
            legend[name] = (round(255 * red), round(255 * green), round(255 * blue))
            changes += 1
    if has_others:
        legend["other changes"] = OTHER_COLOUR
    return legend


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
    names, all_colours = list(legend), list(legend.values())
    changes = [index for index in np.argsort(-counts) if all_colours[index] != UNCHANGED_COLOUR][:MAX_LEGEND]
    handles = [Patch(color=colours(index), label=figures.escape_mathtext(names[index])) for index in changes]
    handles.append(Patch(color="#{:02x}{:02x}{:02x}".format(*UNCHANGED_COLOUR), label="stays"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize="small")
    figure.savefig(path, dpi=110)
