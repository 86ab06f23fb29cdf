"""Land-cover maps of scenes, and the files that they are written to."""

import contextlib
import csv
import dataclasses
import functools
import io
import json
import os
import pathlib
import shutil
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import filelock
import matplotlib
import numpy as np
import rasterio
import rasterio.errors
import rasterio.io
import rasterio.shutil
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from rasterio.windows import Window

from resnetd_tf import figures, metadata, sentinel2
from resnetd_tf.data import digital_numbers, images, rasters
from resnetd_tf.data.rasters import RasterOptions
from resnetd_tf.errors import InputError, first_line
from resnetd_tf.imagery import clouds, gradcam, patches, sliding_window
from resnetd_tf.imagery.grid import Grid, common_grid
from resnetd_tf.imagery.products import BAND_FILE_SUFFIXES, Source, find_single_source, find_sources, open_source
from resnetd_tf.imagery.scene import SAMPLE_PIXELS, Scene, crop_to_area
from resnetd_tf.process import silence_stderr
from resnetd_tf.saved import SavedClassifier, open_classifier, open_keras_model
from resnetd_tf.sentinel2 import BANDS, BRIGHTEST_DN, RENDERED_LEVELS, RGB_BANDS


def label_or_map(
    model: str | SavedClassifier,
    paths: Sequence[str],
    *,
    top: int = 3,
    format: str = "table",
    picture: str | None = None,
    explain: str | None = None,
    trust: bool = False,
    window: int | None = None,
    stride: int | None = None,
    output: str | None = None,
    bands: Sequence[str] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    missing: str = "refuse",
    area: str | None = None,
    keep_clouds: bool = False,
    **options,
) -> None:
    """Labels patches, or maps scenes.

    Args:
        model, trust: As for `saved.open_classifier`; or a server's classifier.
        paths: Images, or folders of them; scenes, as `products.open_scene` takes each; the files of one scene's bands.
        top, format, picture: As for `patches.label`.
        explain: Where to draw what in the images speaks for their label, or in a scene for each class of its map.
        window: As in `scenes.Options`; `None` for the side of the training's patches, and for labels where images are
            not much larger.
        stride: As in `scenes.Options`; `None` for half a window.
        output: As for `scenes.write_map`, of one scene; with a / at its end a folder for scenes' names; `None` for
            their names in the current folder.
        bands, scale, offset, keep_clouds: As for `products.open_scene`.
        missing, area: As for `scenes.scene_for`.
        options: As in `scenes.Options`.

    Raises:
        InputError: Something given cannot be used.
    """
    pictures = [path for path in (picture, explain) if path]
    for path in pictures:
        figures.check_picture_path(path, bool(options.get("overwrite")))
    if len({pathlib.Path(path).absolute() for path in pictures}) < len(pictures):
        raise InputError(f"--picture and --explain are both {picture}; give another name to one")
    classifier = model if isinstance(model, SavedClassifier) else open_classifier(model, trust=trust)
    raster_options = RasterOptions(
        tuple(bands) if bands else None, scale, offset, missing_band_values(classifier, missing)
    )
    largest = metadata.largest_patch(classifier.metadata)
    small: list[pathlib.Path] = []
    large: list[Source] = []
    for source in find_sources(paths):
        if window is None and is_patch(source, largest):
            small += source.files
        else:
            large.append(source)
    of_scenes = {"output": output, "area": area, "stride": stride}
    of_scenes |= {name: options.get(name) for name in ("probabilities", "min_probability")}
    of_scenes |= {"resolution": options.get("whole"), "clouds": keep_clouds}
    if not large and any(of_scenes.values()):
        name = next(name for name, value in of_scenes.items() if value)
        raise InputError(f"--{name} is of maps, and no image has more than {largest} pixels a side; --window maps them")
    if not small and (picture or format != "table"):
        raise InputError(f"--{'picture' if picture else 'format'} is of labels, and only scenes are given")
    draw = None
    if explain:
        if small and large:
            raise InputError(f"--explain is of patches or of one scene: leave out {small[0]} or {large[0].name}")
        draw = functools.partial(
            gradcam.draw_gradcam,
            explain,
            gradcam.GradCam(open_keras_model(classifier.path, trust)[1]),
            classifier.classes,
        )
    failed = patches.label_patches(classifier, small, top, format, picture, draw, raster_options) if small else []
    if large:
        options |= {"window": window, "stride": stride}
        # Labels as JSON or CSV are to stay such.
        with contextlib.redirect_stdout(sys.stdout if format == "table" else sys.stderr):
            failed += _map_sources(classifier, large, output, draw, raster_options, area, keep_clouds, options)
    if failed:
        raise InputError("; ".join(failed))


def _map_sources(
    classifier: SavedClassifier,
    sources: list[Source],
    output: str | None,
    explain: functools.partial | None,
    raster_options: RasterOptions,
    area: str | None,
    keep_clouds: bool,
    options: dict,
) -> list[str]:
    """Maps scenes; what went wrong with those that could not be, told when all others are done."""
    chosen = MapOptions.of(classifier, **options)
    folder = output if output and output.endswith(("/", os.sep)) else ""
    if output and not folder and len(sources) > 1:
        raise InputError(
            f"--output={output} is of one map, {len(sources)} scenes are given; --output={output}/ is a folder"
        )
    if explain and len(sources) > 1:
        raise InputError(f"--explain is of one scene, {len(sources)} are given; map one at a time")
    outputs = [output if output and not folder else folder + scene_name(source.name) for source in sources]
    targets = map_paths(pathlib.Path(outputs[0]), chosen.probabilities).values()
    if explain and pathlib.Path(explain.args[0]).absolute() in {path.absolute() for path in targets}:
        raise InputError(f"--explain={explain.args[0]} is a file of the map; give another name")
    if twice := {name for name in outputs if outputs.count(name) > 1}:
        raise InputError(f"several scenes would be called {', '.join(sorted(twice))}; map one at a time, with --output")
    failed = []
    for source, name in zip(sources, outputs):
        try:
            scene = open_source_for(classifier, source, raster_options, area, keep_clouds)
            print(f"{scene.name}: {scene.words}", flush=True)
            mapped = write_map(classifier, scene, name, chosen)
            if explain:
                shown = []
                for kind, cell in mapped["strongest"].items():
                    over = sliding_window.windows_over_cell(scene, cell, chosen.window, chosen.stride)
                    surest = classifier.predict(over)[:, classifier.classes.index(kind)].argmax()
                    shown.append((f"row {cell[0]}, column {cell[1]}", over[surest]))
                explain(shown, list(mapped["strongest"]))
        except InputError as error:
            failed.append(str(error))
    return failed


def is_patch(source: Source, largest: int) -> bool:
    """Whether a source is an image of at most `largest` pixels of 10 m a side.

    So is what is no image at all: `patches` says what is wrong with it.
    """
    if source.metadata or len(source.files) > 1:
        return False
    (file,) = source.files
    try:
        (height, width, _), _ = images.read_header(file, max_pixels=2**62)
    except InputError:  # its bands are not known, if it is an image
        height = width = 0
    if height and file.suffix.lower() not in BAND_FILE_SUFFIXES:
        return max(height, width) <= largest
    try:
        dataset = rasters.open_raster(str(file))
        height, width = max(height, dataset.height), max(width, dataset.width)
        if dataset.crs or dataset.gcps[0]:  # pixels of 20 m are no patch of half the side
            grid = common_grid([dataset])
            height, width = max(height, grid.height), max(width, grid.width)
    except InputError:
        pass
    return max(height, width) <= largest


def scene_name(name: str) -> str:
    """What a map is called if that is not said: its scene's name without suffix; it goes into the current folder."""
    path = pathlib.Path(name)
    name = (path.resolve() if path.exists() else path).name
    for suffix in (".zip", ".SAFE", ".xml", path.suffix if path.is_file() else ""):
        name = name.removesuffix(suffix)
    return name.lstrip(".") or "scene"


# Land-cover maps of whole scenes.


@dataclass(frozen=True)
class MapOptions:
    """How a scene is mapped.

    Attributes:
        window: Side in pixels of the windows that are classified.
        stride: Side of the map's cells, of which the window's is a multiple.
        min_probability: Cells whose best class is less probable stay empty.
        whole: Whether the map has the scene's pixels, rather than cells.
        probabilities: Whether the probabilities of all classes are written too.
        overwrite: Whether maps of the same name are replaced.
    """

    window: int = 64
    stride: int = 32
    min_probability: float = 0.0
    whole: bool = False
    probabilities: bool = False
    overwrite: bool = False

    @classmethod
    def of(cls, classifier: SavedClassifier, window: int | None, stride: int | None, **others) -> "MapOptions":
        """Those given; else windows of the size of the training's patches, and half a window as the stride."""
        window = classifier.patch_side if window is None else window
        half = window if window % 2 else window // 2
        return cls(window=window, stride=half if stride is None else stride, **others)

    def __post_init__(self) -> None:
        if self.stride < 1 or self.window < 1 or self.window % self.stride:
            raise InputError(f"--window={self.window} must be a multiple of --stride={self.stride}")
        if not 0 <= self.min_probability <= 1:
            raise InputError(f"--min_probability={self.min_probability}: must be from 0 to 1")


def missing_band_values(classifier: SavedClassifier, missing: str) -> tuple[float, ...] | None:
    """Digital numbers that stand for missing bands, the means of the training; `None` where scenes are refused.

    Raises:
        InputError: `missing` is neither "refuse" nor "mean", or the classifier does not say its means.
    """
    if missing not in ("refuse", "mean"):
        raise InputError(f"--missing={missing}: must be refuse or mean")
    if missing == "refuse":
        return None
    means = classifier.metadata.get("normalization", {}).get("mean")
    if means is None:
        raise InputError(f"{classifier.path} does not say the means of its training, for --missing=mean")
    if len(means) == len(BANDS):
        return tuple(means)
    return tuple((mean - 1) * BRIGHTEST_DN / RENDERED_LEVELS for mean in means)  # from grey levels


def open_scene_for(
    classifier: SavedClassifier,
    paths: Sequence[str | pathlib.Path],
    missing: str = "refuse",
    area: str | None = None,
    *,
    bands: Sequence[str] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    keep_clouds: bool = False,
) -> Scene:
    """A scene with the bands that a classifier takes.

    Args:
        classifier: Of RGB, or of EuroSAT's 13 bands.
        paths: As for `products.open_scene`.
        missing: "refuse" scenes that lack a band, or fill in the training's "mean".
        area: The part that is wanted, as for `areas.cut`.
        bands, scale, offset, keep_clouds: As for `products.open_scene`.

    Raises:
        InputError: It cannot be opened, or not for this classifier.
    """
    raster_options = RasterOptions(
        tuple(bands) if bands else None, scale, offset, missing_band_values(classifier, missing)
    )
    return open_source_for(classifier, find_single_source(paths), raster_options, area, keep_clouds)


def open_source_for(
    classifier: SavedClassifier, source: Source, raster_options: RasterOptions, area: str | None, keep_clouds: bool
) -> Scene:
    """Opens a scene that was found, as `scene_for` does."""
    if classifier.bands not in (3, len(BANDS)):
        raise InputError(f"{classifier.path} takes {classifier.bands} bands, neither RGB nor EuroSAT's 13")
    scene = open_source(source, RGB_BANDS if classifier.bands == 3 else BANDS, raster_options, keep_clouds)
    scene = scene if area is None else crop_to_area(scene, area)
    pixels = Window(scene.left, scene.top, scene.grid.width, scene.grid.height)
    summary = clouds.describe_clouds(scene.clouds, pixels, keep_clouds)
    return dataclasses.replace(scene, words=f"{scene.words}; {summary}")


def write_map(
    classifier: SavedClassifier, scene: Scene, output: str | pathlib.Path, options: MapOptions = MapOptions()
) -> dict:
    """Maps a scene, and writes OUTPUT_landcover.tif, .png, OUTPUT_areas.csv and, if asked for, OUTPUT_probability.tif.

    All of them are written, or none. Rows that are done are kept in OUTPUT.unfinished meanwhile: the same call goes on
    with them where it was interrupted.

    Args:
        classifier: Of the scene's bands.
        scene: As `scene_for` opens it.
        output: What the files' names begin with.
        options: How.

    Returns:
        Cells, seconds, the share of each class in the area that is mapped, and row and column of the cell where it is
        most probable.

    Raises:
        InputError: A file is there already, or cannot be written or read; or the classifier has too many classes.
    """
    check_class_count(classifier.classes)
    base = pathlib.Path(output)
    if not base.name:
        raise InputError(f"--output={output}: give what the names of files begin with, as maps/june")
    targets = map_paths(base, options.probabilities)
    started = time.monotonic()
    folder = base.with_name(f"{base.name}.unfinished")
    with _write_errors_named(base):
        _require_absent_or_overwrite(targets, options.overwrite)
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "lock").exists():
            raise InputError(f"{folder} is there already, and no map's; give another --output")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = filelock.FileLock(folder / "lock", timeout=0).acquire()
        except filelock.Timeout:
            raise InputError(f"{folder} is in use by another process; give another --output") from None
        with lock, _remove_folder_without_progress(folder):
            probabilities, pixels = sliding_window.classify_scene(
                classifier, scene, options.window, options.stride, folder
            )
            with silence_stderr(), _write_errors_named(base):  # libtiff prints what it also raises
                mapped, counts, sizes = _write_map_files(
                    folder, scene, probabilities, pixels, options, classifier.classes
                )
            strongest = _most_probable_cells(probabilities, mapped)
            _require_absent_or_overwrite(targets, options.overwrite)  # it may have taken hours
            obsolete = set(map_paths(base, probabilities=True).values()).difference(targets.values())
            _publish_files(folder, targets, obsolete if options.overwrite else ())
            shutil.rmtree(folder, ignore_errors=True)  # Windows keeps the lock's file
    print(f"Written: {', '.join(str(path) for path in targets.values())}")
    print(format_areas(sizes, classifier.classes, scene.grid.crs is not None), flush=True)
    shares = sizes / sizes.sum()
    return {
        "cells": int(counts.sum()),
        "seconds": time.monotonic() - started,
        "shares": dict(zip(classifier.classes, shares.tolist())),
        "strongest": {classifier.classes[index]: cell for index, cell in sorted(strongest.items())},
    }


def _most_probable_cells(found: np.ndarray, mapped: np.ndarray) -> dict[int, tuple[int, int]]:
    """For each class of a map the cell in which it is most probable."""
    highest: dict[int, tuple[float, tuple[int, int]]] = {}
    for row, (values, classes) in enumerate(zip(found, mapped)):
        for index in np.unique(classes[classes != NODATA]).tolist():
            of_class = np.where(classes == index, values[:, index], -1)
            column = int(of_class.argmax())
            if of_class[column] > highest.get(index, (-1,))[0]:
                highest[index] = float(of_class[column]), (row, column)
    return {index: cell for index, (_, cell) in highest.items()}


def map_paths(base: pathlib.Path, probabilities: bool) -> dict[str, pathlib.Path]:
    """The files that a map is written to."""
    names = ["landcover.tif", "landcover.tif.aux.xml", "landcover.png", "areas.csv"]
    names += ["probability.tif"] if probabilities else []
    return {name: base.with_name(f"{base.name}_{name}") for name in names}


def _require_absent_or_overwrite(targets: dict[str, pathlib.Path], overwrite: bool) -> None:
    for path in targets.values():
        if path.is_dir() or (path.exists() and not overwrite):
            raise InputError(f"{path} exists; give another --output, or --overwrite")


@contextlib.contextmanager
def _remove_folder_without_progress(folder: pathlib.Path) -> Iterator[None]:
    """Removes the folder of an unfinished map that fails before any rows are kept in it."""
    try:
        yield
    except BaseException:
        if not (folder / "state.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _publish_files(folder: pathlib.Path, targets: dict[str, pathlib.Path], obsolete: Collection[pathlib.Path]) -> None:
    """Gives all files of a map their names, or none: after a failure every earlier file has its name again.

    Args:
        folder: The folder in which the files lie, on the file system of the targets.
        targets: Where each file goes, by its name in the folder.
        obsolete: Files of an earlier map that have no successor.

    Raises:
        OSError: A file cannot be stored or renamed.
    """
    for name in targets:
        with (folder / name).open("r+b") as file:
            os.fsync(file.fileno())  # a full network drive may say so only here
    with contextlib.ExitStack() as undo:
        for path in (*targets.values(), *obsolete):
            if path.exists():
                earlier = folder / f"earlier-{path.name}"
                path.replace(earlier)
                undo.callback(earlier.replace, path)
        for name, path in targets.items():
            (folder / name).replace(path)
            undo.callback(path.unlink, missing_ok=True)
        undo.pop_all()


@contextlib.contextmanager
def _write_errors_named(base: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (OSError, rasterio.errors.RasterioError) as error:
        what = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"cannot write {base}_*: {what}; free space or give another --output") from error


def _write_map_files(
    folder: pathlib.Path,
    scene: Scene,
    found: np.ndarray,
    pixels: np.ndarray,
    options: MapOptions,
    classes: tuple[str, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Writes all files of a map into a folder.

    Args:
        folder: Where they go.
        scene: What was mapped.
        found: (rows, columns, classes) float32, probabilities.
        pixels: (rows, columns) float32, pixels of each cell that are data and wanted.
        options: Stride and output settings.
        classes: Class names.

    Returns:
        The classes (rows, columns) of the cells, and (classes,) the cells of each class and their area, as
        `maps.areas_of_classes` measures it.
    """
    known = pixels > 0
    mapped = np.stack(
        [most_probable_classes(values, valid, options.min_probability) for values, valid in zip(found, known)]
    )
    stride = options.stride
    if (mapped == NODATA).all():
        shutil.rmtree(folder)
        raise InputError(f"{scene.name}: nothing to map: everywhere no data, clouds, or less than --min_probability")
    write_class_map(folder / "landcover.tif", scene, mapped, stride, classes, options.whole)
    draw_map(folder / "landcover.png", scene, mapped, stride, classes)
    images.verify_picture(str(folder / "landcover.png"))
    counts = np.bincount(mapped[mapped != NODATA], minlength=len(classes))
    sizes = class_areas(scene.grid, mapped, pixels, stride, len(classes))
    table = areas_table(counts, sizes, classes, scene.grid.crs is not None)
    (folder / "areas.csv").write_text(table, encoding="utf-8")
    if options.probabilities:
        write_probability_map(folder / "probability.tif", scene, found, known, stride, classes)
    return mapped, counts, sizes


# Land cover of scenes as NumPy arrays, for notebooks.


@dataclass(frozen=True)
class LandCover:
    """A map.

    Attributes:
        classes: (rows, columns) uint8, the index of each cell's class; `maps.NODATA`, 255, where there is none.
        probabilities: (rows, columns, classes) float32.
    """

    classes: np.ndarray
    probabilities: np.ndarray


class _ArrayScene:
    """An array as windows are read from it."""

    def __init__(self, pixels: np.ndarray, valid: np.ndarray):
        self.pixels, self.valid = pixels, valid
        self.grid = Grid(None, rasterio.Affine.identity(), pixels.shape[1], pixels.shape[0])
        self.picture = pixels.dtype == "uint8"
        self.margins, self.outlines = (0, 0, 0, 0), ()

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = window.toslices()
        return self.pixels[rows, columns], self.valid[rows, columns]


def map_scene(
    classifier: SavedClassifier,
    scene: Scene | np.ndarray | str | pathlib.Path,
    *,
    window: int | None = None,
    stride: int | None = None,
    min_probability: float = 0.0,
    checked: bool = True,
) -> LandCover:
    """The land cover of a scene, as `scenes.write_map` writes it.

    Args:
        classifier: Of RGB, or of EuroSAT's 13 bands.
        scene: As `scenes.scene_for` opens it, or a path for it; or its pixels of 10 m as `patches.check_array` takes
            them. There is nothing where all bands are 0 or a masked array's mask says so.
        window: Side in pixels of the windows that are classified; default the side of the training's patches.
        stride: Side of a cell, of which the window's is a multiple; default half a window.
        min_probability: Cells whose best class is less probable have none.
        checked: Whether an array of uint16 is refused if its numbers can hardly be digital numbers, such as grey levels
            or numbers that still have an offset in them.

    Raises:
        InputError: It cannot be mapped by this classifier, or a number is outside its range.
    """
    check_class_count(classifier.classes)
    if isinstance(scene, str | pathlib.Path):
        scene = open_scene_for(classifier, [scene])
    pixels = _array_scene(classifier, scene, checked) if isinstance(scene, np.ndarray) else scene
    options = MapOptions.of(classifier, window=window, stride=stride, min_probability=min_probability)
    shape = sliding_window.map_shape(pixels, options.stride)
    probabilities, mapped = np.empty((*shape, len(classifier.classes)), "float32"), np.empty(shape, "bool")
    rows = sliding_window.classify_rows(
        classifier.predict, len(classifier.classes), pixels, options.window, options.stride
    )
    for row, (values, valid_pixels) in enumerate(rows):
        probabilities[row], mapped[row] = values, valid_pixels > 0
    return LandCover(most_probable_classes(probabilities, mapped, min_probability), probabilities)


def _array_scene(classifier: SavedClassifier, pixels: np.ndarray, checked: bool) -> _ArrayScene:
    all_bands, pixels = pixels, patches.select_bands("the scene", np.asarray(pixels), classifier)
    valid = (pixels != 0).any(-1)
    if isinstance(all_bands, np.ma.MaskedArray):
        valid &= ~np.ma.getmaskarray(all_bands).any(axis=-1)
    if pixels.dtype == "uint16":
        valid &= ~digital_numbers.impossible_mask(pixels)
        step = tuple(slice(None, None, max(1, side // SAMPLE_PIXELS)) for side in valid.shape)
        if checked and (fault := patches.patch_from_array(np.asarray(all_bands)[step]).fault):
            raise InputError(f"the scene: {fault.text}; {patches.UNCHECKED_ADVICE}")
    return _ArrayScene(pixels, valid)


# What a map is written as: GeoTIFFs that QGIS opens with names and colours, a picture, a table of areas.


NODATA = 255  # of maps of classes
CLASS_COLOURS = {
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
PICTURE_SIDE = 900  # pixels of a scene in its picture


def class_colours(classes: tuple[str, ...]) -> list[tuple[int, int, int]]:
    """A colour for each class, 0 to 255: EuroSAT's have their own."""
    others = matplotlib.colormaps["tab20"]
    chosen = [to_rgb(CLASS_COLOURS.get(name, others(index % others.N))) for index, name in enumerate(classes)]
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in chosen]


def check_class_count(classes: tuple[str, ...]) -> None:
    """Raises InputError for more classes than a map's 8 bits can number beside `NODATA`."""
    if len(classes) > NODATA:
        raise InputError(
            f"the classifier has {len(classes)} classes, a map at most {NODATA} (its pixels have 8 bits); give a "
            "--model of fewer classes"
        )


def most_probable_classes(probabilities: np.ndarray, there: np.ndarray, least: float) -> np.ndarray:
    """The most probable classes (...,) uint8; `NODATA` where there is nothing, or none is as probable as `least`."""
    found = probabilities.argmax(-1).astype("uint8")
    found[~there | (probabilities.max(-1) < least)] = NODATA
    return found


def write_class_map(
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
        file.write_colormap(1, {index: (*colour, 255) for index, colour in enumerate(class_colours(classes))})
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
    _write_category_names(path, classes)


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
        with rasters.ignore_missing_georeference():
            with rasterio.open(plain, "w", driver="GTiff", height=shape[0], width=shape[1], **place, **profile) as file:
                describe(file)
                for window, values in rows():
                    file.write(values, window=window)
            rasterio.shutil.copy(plain, path, driver="COG", compress="DEFLATE", overview_resampling=resampling)
            intact = _file_has_values(path, rows())
    except Exception as error:  # rasterio passes on errors of GDAL that have no public class
        raise OSError(f"GDAL could not write {path.name} ({first_line(error).rstrip('.')})") from error
    finally:
        plain.unlink(missing_ok=True)
    if not intact:
        raise OSError(f"{path.name} has other values than were written")


def _file_has_values(path: pathlib.Path, rows: Iterable[tuple[Window, np.ndarray]]) -> bool:
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


def _write_category_names(path: pathlib.Path, classes: tuple[str, ...]) -> None:
    """Writes names and colours of the classes where GDAL looks for them first.

    A GeoTIFF has no place for names, and always 256 colours, which QGIS would list.
    """
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    names = ElementTree.SubElement(band, "CategoryNames")
    for name in classes:
        ElementTree.SubElement(names, "Category").text = name
    table = ElementTree.SubElement(band, "ColorTable")
    for red, green, blue in class_colours(classes):
        ElementTree.SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4="255")
    text = ElementTree.tostring(root, encoding="unicode")
    path.with_name(f"{path.name}.aux.xml").write_text(text + "\n", encoding="utf-8")


def write_probability_map(
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


def class_areas(grid: Grid, mapped: np.ndarray, pixels: np.ndarray, stride: int, classes: int) -> np.ndarray:
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


def areas_table(counts: np.ndarray, sizes: np.ndarray, classes: tuple[str, ...], has_hectares: bool) -> str:
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


def format_areas(sizes: np.ndarray, classes: tuple[str, ...], has_hectares: bool) -> str:
    """The classes of a map with their areas and shares, a line each, and their sum; arguments as `table_of_areas`."""
    rows = [(name, size) for name, size in zip(classes, sizes.tolist()) if size]
    rows.append(("all", sizes.sum()))
    wide = max(len(name) for name, _ in rows)
    number = "{:>14,.2f} ha" if has_hectares else "{:>14,.0f} pixels"
    lines = [f"  {name:{wide}}{number.format(size)}{100 * size / sizes.sum():>7.1f} %" for name, size in rows]
    if not has_hectares:
        lines.append("  no hectares: the scene has no coordinate reference system (gdal_edit.py -a_srs gives it one)")
    return "\n".join(lines)


def draw_map(
    path: pathlib.Path, scene: Scene, classes_of_cells: np.ndarray, stride: int, classes: tuple[str, ...]
) -> None:
    """Draws scene and map side by side, with a legend and a scale."""
    # As many cells as can be seen.
    shown, step = _scene_overview(scene), max(1, max(classes_of_cells.shape) // PICTURE_SIDE)
    mapped, stride = classes_of_cells[::step, ::step], stride * step
    figure, (left, right) = _make_map_figure(scene.grid.width / scene.grid.height)
    extent = (0, scene.grid.width, scene.grid.height, 0)
    left.imshow(shown, extent=extent)
    table = ListedColormap([*(np.array(class_colours(classes)) / 255), (1, 1, 1)])
    values = np.where(mapped == NODATA, len(classes), mapped)
    whole = (0, mapped.shape[1] * stride, mapped.shape[0] * stride, 0)
    right.imshow(values, cmap=table, vmin=-0.5, vmax=len(classes) + 0.5, extent=whole, interpolation="nearest")
    for axes in (left, right):
        axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
    handles = [
        Patch(color=table(index), label=figures.escape_mathtext(classes[index]))
        for index in np.unique(mapped[mapped != NODATA])
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    _draw_scale(left, scene.grid)
    figure.savefig(path, dpi=110)


def _make_map_figure(aspect: float) -> tuple[Figure, np.ndarray]:
    """A figure with two axes for pictures of an aspect (width over height): side by side, or wide ones stacked."""
    stacked = aspect > 1.5
    width = min(9.0 if stacked else 5.4, 8 * aspect)  # inches
    height = max(0.4, width / aspect)
    columns, rows = (1, 2) if stacked else (2, 1)
    size = (max(1.5, width) * columns + 2.2, max(3.2, rows * height + 0.3))  # with room for the legend
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns)


def round_scale_length(longest: float) -> float:
    """The longest length of up to `longest` that is 1, 2 or 5 times a power of ten."""
    power = 10 ** np.floor(np.log10(longest))
    return max(step * power for step in (1, 2, 5) if step * power <= longest)


def _draw_scale(axes, grid: Grid) -> None:
    """Draws a bar of a round length of up to a third of the scene's width, seen on dark and on bright ground."""
    if grid.hectares is None:
        return
    metres = (grid.hectares * 10_000) ** 0.5
    length = round_scale_length(grid.width * metres / 3)
    start, bottom = 0.03 * grid.width, 0.97 * grid.height
    edge = [withStroke(linewidth=6, foreground="black")]
    axes.plot([start, start + length / metres], [bottom] * 2, color="white", lw=3, path_effects=edge)
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    edge = [withStroke(linewidth=2.5, foreground="black")]
    offset = {"xytext": (0, 5), "textcoords": "offset points"}
    axes.annotate(label, (start, bottom), **offset, color="white", path_effects=edge)


def _scene_overview(scene: Scene) -> np.ndarray:
    """The scene's colours, (height, width, 3) uint8, of at most `SIDE` pixels a side; grey where one is missing."""
    by_band = dict(zip(RGB_BANDS if len(scene.layers) == 3 else BANDS, scene.layers))
    shown = [layer for name in RGB_BANDS if (layer := by_band[name])]
    shown = shown if len(shown) == 3 else [next(layer for layer in scene.layers if layer)] * 3
    factor = max(1, max(scene.grid.height, scene.grid.width) / PICTURE_SIDE)
    shape = (max(1, round(scene.grid.height / factor)), max(1, round(scene.grid.width / factor)))
    window = Window(scene.left, scene.top, scene.grid.width, scene.grid.height)
    pixels = rasters.read_bands(shown, window, shape)
    if scene.picture:
        return pixels
    dn = [layer.digital_numbers(pixels[..., place]) for place, layer in enumerate(shown)]
    return sentinel2.render_colours(np.stack(dn, axis=-1))
