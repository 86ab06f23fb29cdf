"""Land-cover maps of scenes, and the files that a map is written to.

`map_scenes` is what `map.py` calls: it finds scenes, opens each, and writes its map. `map_scene` maps one scene to
arrays, `write_map` to files. The functions that write each file follow: the map of classes, the probabilities, the
table of areas and the picture.
"""

import collections
import contextlib
import csv
import dataclasses
import io
import json
import os
import pathlib
import re
import shutil
import tempfile
import time
import typing
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import filelock
import matplotlib
import numpy as np
import rasterio
import rasterio.errors
import rasterio.features
import rasterio.io
import rasterio.shutil
import rasterio.warp
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from rasterio.windows import Window

from resnetd_tf import figures, metadata
from resnetd_tf.data import digital_numbers, images, rasters
from resnetd_tf.data.rasters import AS_STORED, RasterOptions
from resnetd_tf.errors import InputError, first_line
from resnetd_tf.imagery import clouds, gradcam, patches, readings, sliding_window
from resnetd_tf.imagery.grid import WGS84, Grid, grid_centre, grid_outline
from resnetd_tf.imagery.products import Source, classify_source, find_single_source, find_sources, open_source
from resnetd_tf.imagery.scene import SAMPLE_PIXELS, Scene, crop_to_area, degrees_to_pixels
from resnetd_tf.imagery.vectors import write_geopackage
from resnetd_tf.imagery.water import has_eurosat_water, water_class_mask
from resnetd_tf.process import silence_stderr
from resnetd_tf.saved import SavedClassifier, WindowClassifier, open_window_classifier
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS, parse_band_name

if typing.TYPE_CHECKING:
    import xarray

NODATA = 255  # the class of cells without a class, in maps of 8 bits
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
UNLIKE_COLOUR = "#c8c8c8"  # cells that are unlike the training images
SAMPLE_WINDOWS_PER_SIDE = 8  # windows a side that are looked at before a scene is mapped
WARNING_SHARE = 1 / 3  # of the sampled windows that are unlike the training images: it is said first
REFUSAL_SHARE = 0.9  # of the sampled windows: the scene is refused
ROWS_AT_ONCE = 64  # rows of a map that are written together
LETTERS_PER_INCH = 8  # of the title over a map
ACQUISITION_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})T\d{6}")  # in the names of products
AREA_METHOD = "pixel count; assess.py estimates areas"
MAX_PICTURE_SIDE = 900  # pixels of a scene in its picture


@dataclass(frozen=True)
class MapOptions:
    """Options that say how scenes are opened and mapped.

    Attributes:
        window: Side of the classified windows in pixels.
        stride: Side of the map's cells in pixels. The side of a window is a multiple of it.
        min_probability: Cells whose most probable class is less probable stay empty; from 0 to 1.
        full_resolution: Whether the map has the pixels of the scene instead of cells.
        probabilities: Whether the probabilities of all classes are written too.
        polygons: Whether the classes are written as polygons too, which needs the extra "geo".
        overwrite: Whether files of an earlier map are replaced.
        area: The part of each scene to map, "W,S,E,N" in degrees or a GeoJSON file; `None` for all of it.
        keep_clouds: Whether clouds, their shadows and snow are mapped like land.
        use_water_index: Whether an index of two bands tells water from land, if the scene has bands for it.
        applicability: What becomes of cells that are unlike the training images: "mask" leaves them empty, "mark" keeps
            their class and marks them in the picture, "off" does not look for them.
        runtime: How windows are classified, as `saved.open_window_classifier` takes it.
        missing: "refuse" refuses scenes that lack a band, "mean" fills the band with the training's mean.
        raster_options: Names of the bands, scale and offset, for files that do not say them.

    Raises:
        InputError: A number is outside its range.
    """

    window: int = 64
    stride: int = 32
    min_probability: float = 0.0
    full_resolution: bool = False
    probabilities: bool = False
    polygons: bool = False
    overwrite: bool = False
    area: str | None = None
    keep_clouds: bool = False
    use_water_index: bool = True
    applicability: str = "mask"
    runtime: str = "auto"
    missing: str = "refuse"
    raster_options: RasterOptions = AS_STORED

    @classmethod
    def for_classifier(
        cls, classifier: SavedClassifier, window: int | None = None, stride: int | None = None, **attributes
    ) -> "MapOptions":
        """Returns options whose windows have the size of the training's patches, unless another size is given.

        Args:
            classifier: The classifier that maps the scenes.
            window: Side of the windows in pixels; `None` for the side of the training's patches.
            stride: Side of the cells in pixels; `None` for half a window, or for a window whose side is odd.
            attributes: The other attributes, by name.
        """
        window = classifier.patch_side if window is None else window
        if stride is None:
            stride = window if window % 2 else window // 2
        return cls(window=window, stride=stride, **attributes)

    def __post_init__(self) -> None:
        if self.stride < 1 or self.window < 1 or self.window % self.stride:
            raise InputError(f"--window={self.window} must be a multiple of --stride={self.stride}")
        if self.applicability not in ("mask", "mark", "off"):
            raise InputError(f"--applicability={self.applicability}: must be mask, mark or off")
        if not 0 <= self.min_probability <= 1:
            raise InputError(f"--min_probability={self.min_probability}: must be from 0 to 1")


# Scenes are opened with the bands that a classifier takes.


def open_scene_for(
    classifier: SavedClassifier,
    paths: Sequence[str | pathlib.Path],
    missing: str = "refuse",
    area: str | None = None,
    *,
    bands: Sequence[str] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    level: str | None = None,
    keep_clouds: bool = False,
    use_water_index: bool = True,
    rendering: str | None = None,
) -> Scene:
    """Opens a scene with the bands that a classifier takes.

    Args:
        classifier: A classifier of RGB, or of EuroSAT's 13 bands.
        paths: A product, a folder or file, or one file for each band.
        missing: "refuse" refuses a scene that lacks a band, "mean" fills the band with the training's mean.
        area: The part to open, "W,S,E,N" in degrees or a GeoJSON file; `None` for all of the scene.
        bands: Names of the bands of a file, in its order, where the file does not say them.
        scale: Digital numbers for each stored unit, after the offset; `None` for what the file says.
        offset: What is added to stored numbers first; `None` for what the file says.
        level: "L1C" or "L2A"; `None` for what the product, its name or its dark pixels say.
        keep_clouds: Whether clouds, their shadows and snow are data, where a product has a mask of them.
        use_water_index: Whether an index of two bands tells water from land, if the scene has bands for it.
        rendering: How the producer stores reflectances, one of `sentinel2.RENDERINGS`, in place of scale and offset;
            `None` for what the file tells.

    Raises:
        InputError: The scene cannot be opened, or not for this classifier.
    """
    raster_options = RasterOptions(tuple(bands) if bands else None, scale, offset, level=level, rendering=rendering)
    options = MapOptions(
        missing=missing,
        area=area,
        keep_clouds=keep_clouds,
        use_water_index=use_water_index,
        raster_options=raster_options,
    )
    return open_source_for(classifier, find_single_source(paths), options)


def open_source_for(classifier: SavedClassifier, source: Source, options: MapOptions) -> Scene:
    """Opens one of the scenes that `find_sources` returns, as `open_scene_for` does."""
    fill = patches.missing_band_values(classifier, options.missing)
    if classifier.bands not in (3, len(BANDS)):
        raise InputError(f"{classifier.path} takes {classifier.bands} bands, neither RGB nor EuroSAT's 13")
    raster_options = dataclasses.replace(options.raster_options, fill=fill)
    # A classifier of somebody's own pictures takes them as they were in its training.
    dataset = str(classifier.metadata.get("dataset", ""))
    is_own = dataset.startswith("folder:")
    scene = open_source(
        source,
        RGB_BANDS if classifier.bands == 3 else BANDS,
        raster_options,
        options.keep_clouds,
        keep_levels=is_own and not classifier.metadata.get("rendering"),
        adds_air=classifier.bands == 3 and dataset.startswith("eurosat"),
        use_water_index=options.use_water_index and has_eurosat_water(classifier.classes),
    )
    if options.area is not None:
        scene = crop_to_area(scene, options.area)
    summary = clouds.describe_clouds(scene.cloud_mask, scene.window, options.keep_clouds, scene.cloud_note)
    return dataclasses.replace(scene, description=f"{scene.description}; {summary}")


# Several scenes are mapped to files, as `map.py` does it.


def map_scenes(
    classifier: SavedClassifier,
    paths: Sequence[str | pathlib.Path],
    options: MapOptions,
    *,
    output: str | None = None,
    explain: str | None = None,
    trust: bool = False,
    include_patches: bool = False,
) -> None:
    """Maps scenes to files, and prints how each was read and the areas of its classes.

    A scene that cannot be mapped does not stop the others. The error at the end names each of them.

    Args:
        classifier: A classifier of RGB, or of EuroSAT's 13 bands.
        paths: Scenes, or folders of them: products, raster files, pictures, one file for each band.
        options: How scenes are opened and mapped.
        output: What the names of a map's files begin with, or a folder if it ends with /; `None` for the name of each
            scene, in the current folder.
        explain: Where to draw the window that speaks most for each class of a single map; `None` for no picture.
        trust: Whether a model for `explain` may hold what no classifier of this package does.
        include_patches: Whether images of the size of a patch are mapped too, rather than refused.

    Raises:
        InputError: A scene cannot be mapped, an image has the size of a patch, or a file cannot be written.
    """
    if explain:
        figures.check_picture_path(explain, options.overwrite)
    largest_patch = metadata.largest_patch(classifier.metadata)
    sources, patch_names, failures = [], [], []
    for source in find_sources(paths):
        kind = classify_source(source, largest_patch)
        if kind == "patch" and not include_patches:
            patch_names.append(source.name)
            continue
        try:
            if kind == "unreadable":  # before maps are named: a file that is no scene gets no map
                open_source_for(classifier, source, options)
            sources.append(source)
        except InputError as error:
            failures.append(str(error))
    if patch_names:
        failures.append(_format_patch_refusal(patch_names, largest_patch))
    outputs = _name_maps(sources, output)
    if explain and sources:
        _check_explanation_path(explain, outputs, options.probabilities)
    cam = gradcam.open_gradcam(classifier, trust) if explain and sources else None
    window_classifier = open_window_classifier(classifier, options.runtime, trust) if sources else None
    for source, name in zip(sources, outputs):
        try:
            scene = open_source_for(classifier, source, options)
            assert window_classifier is not None
            print(f"{scene.name}: {scene.description}; classified {window_classifier.summary}", flush=True)
            result = write_map(classifier, scene, name, options, window_classifier)
            if cam:
                _draw_explanation(str(explain), cam, classifier, scene, result["most_probable_cells"], options)
        except InputError as error:
            failures.append(str(error))
    if failures:
        raise InputError("; ".join(failures))


def _format_patch_refusal(names: list[str], largest_patch: int) -> str:
    """Formats the line that says which program labels images of the size of a patch."""
    suffix = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"{names[0]}{suffix}: not larger than a patch ({largest_patch} pixels a side); predict.py labels patches, "
        "--window maps them"
    )


def _name_maps(sources: list[Source], output: str | None) -> list[str]:
    """Returns for each scene what the names of its map's files begin with.

    Raises:
        InputError: Several maps would have one name.
    """
    folder = output if output and output.endswith(("/", os.sep)) else ""
    if output and not folder and len(sources) > 1:
        raise InputError(
            f"--output={output} names one map, but {len(sources)} scenes are given; --output={output}/ is a folder"
        )
    names = [output if output and not folder else folder + scene_name(source.name) for source in sources]
    if repeated_names := sorted(name for name, count in collections.Counter(names).items() if count > 1):
        raise InputError(
            f"several scenes would be called {', '.join(repeated_names)}; map one at a time, with --output"
        )
    return names


def scene_name(path: str) -> str:
    """Returns the name of a scene without its folder and suffix, for its map."""
    file = pathlib.Path(path)
    name = (file.resolve() if file.exists() else file).name
    for suffix in (".zip", ".SAFE", ".xml", file.suffix if file.is_file() else ""):
        name = name.removesuffix(suffix)
    return name.lstrip(".") or "scene"


def _check_explanation_path(explain: str, outputs: list[str], probabilities: bool) -> None:
    """Raises InputError if --explain cannot be drawn: of several scenes, or over a file of the map."""
    if len(outputs) > 1:
        raise InputError(f"--explain draws one scene, but {len(outputs)} are given; map one at a time")
    files = map_paths(pathlib.Path(outputs[0]), probabilities, applicability=True).values()
    if pathlib.Path(explain).absolute() in {file.absolute() for file in files}:
        raise InputError(f"--explain={explain} is a file of the map; give another name")


def _draw_explanation(
    path: str,
    cam: gradcam.GradCam,
    classifier: SavedClassifier,
    scene: Scene,
    cells: dict[str, tuple[int, int]],
    options: MapOptions,
) -> None:
    """Draws for each class the window that speaks most for it.

    Args:
        path: The picture.
        cam: Grad-CAM of the classifier.
        classifier: The classifier.
        scene: The scene that was mapped.
        cells: Row and column of the cell in which each class is most probable, by class name.
        options: The window and the stride of the map.
    """
    examples = []
    for name, cell in cells.items():
        windows = sliding_window.windows_over_cell(scene, cell, options.window, options.stride)
        best = classifier.predict(windows)[:, classifier.classes.index(name)].argmax()
        examples.append((f"row {cell[0]}, column {cell[1]}", windows[best]))
    gradcam.draw_gradcam(path, cam, classifier.classes, examples, list(cells))


# One scene is mapped to arrays, for notebooks.


@dataclass(frozen=True)
class LandCover:
    """The land cover of a scene.

    Attributes:
        classes: (rows, columns) uint8, the index of each cell's class; `NODATA`, 255, where there is none.
        probabilities: (rows, columns, classes) float32, from 0 to 1.
        dissimilarity: (rows, columns) float32, how unlike the training images each cell is, above 1 for unlike; NaN
            where it is not known.
        class_names: Names of the classes in the order of their indices.
        grid: The cells of the map.
    """

    classes: np.ndarray
    probabilities: np.ndarray
    dissimilarity: np.ndarray
    class_names: tuple[str, ...]
    grid: Grid

    def to_xarray(self) -> "xarray.Dataset":
        """Returns the arrays with the coordinates of their cells, as rioxarray keeps them.

        The flags of "classes" have the names of the classes, as the CF conventions define them.

        Raises:
            InputError: The scene is rotated.
        """
        import rioxarray  # noqa: F401 - adds `rio` to datasets
        import xarray

        if self.grid.transform.b or self.grid.transform.d:
            raise InputError("the map is rotated, so that its rows and columns have no coordinates; use write_map")
        columns, rows = np.arange(self.grid.width) + 0.5, np.arange(self.grid.height) + 0.5
        x, _ = self.grid.transform * (columns, np.full(len(columns), 0.5))
        _, y = self.grid.transform * (np.full(len(rows), 0.5), rows)
        flags = {
            "flag_values": np.arange(len(self.class_names), dtype="uint8"),
            "flag_meanings": " ".join(name.replace(" ", "_") for name in self.class_names),
            "_FillValue": np.uint8(NODATA),
        }
        dataset = xarray.Dataset(
            {
                "classes": (("y", "x"), self.classes, flags),
                "probabilities": (("class", "y", "x"), np.moveaxis(self.probabilities, -1, 0)),
                "dissimilarity": (("y", "x"), self.dissimilarity),
            },
            coords={"class": list(self.class_names), "y": y, "x": x},
        )
        dataset = dataset.rio.write_transform(self.grid.transform)
        return dataset.rio.write_crs(self.grid.crs.to_wkt()) if self.grid.crs else dataset


def map_scene(
    classifier: SavedClassifier,
    scene: "Scene | np.ndarray | xarray.DataArray | str | pathlib.Path",
    *,
    window: int | None = None,
    stride: int | None = None,
    min_probability: float = 0.0,
    applicability: str = "mask",
    checked: bool = True,
) -> LandCover:
    """Maps a scene to arrays, with the classes that `write_map` writes.

    Args:
        classifier: A classifier of RGB, or of EuroSAT's 13 bands.
        scene: A scene that `open_scene_for` opened, a path for it, or pixels of 10 m as `patches.select_bands` takes
            them. Pixels of an array have no data where all bands are 0, or where the mask of a masked array is set. Or
            a `DataArray` (band, y, x) with rioxarray's coordinates, whose bands have names; it is read as a GeoTIFF is.
        window: Side of the classified windows in pixels; `None` for the side of the training's patches.
        stride: Side of the map's cells in pixels, a divisor of the window's side; `None` for half a window.
        min_probability: Cells whose most probable class is less probable have none; from 0 to 1.
        applicability: "mask" leaves cells empty that are unlike the training images, "off" does not.
        checked: Whether a NumPy array of uint16 is refused if its numbers can hardly be digital numbers, such as grey
            levels or numbers with an offset in them.

    Raises:
        InputError: The classifier cannot map the scene, or a number is outside its range.
    """
    check_class_count(classifier.classes)
    with contextlib.ExitStack() as exit_stack:
        if hasattr(scene, "dims"):
            scene = exit_stack.enter_context(_open_data_array(classifier, typing.cast("xarray.DataArray", scene)))
        if isinstance(scene, str | pathlib.Path):
            scene = open_scene_for(classifier, [scene])
        source = _scene_from_array(classifier, scene, checked) if isinstance(scene, np.ndarray) else scene
        return _map_source(classifier, source, window, stride, min_probability, applicability)


def _map_source(
    classifier: SavedClassifier,
    source: "Scene | _ArrayScene",
    window: int | None,
    stride: int | None,
    min_probability: float,
    applicability: str,
) -> LandCover:
    """Maps an open scene to arrays, as `map_scene` does."""
    options = MapOptions.for_classifier(classifier, window, stride, min_probability=min_probability)
    shape = sliding_window.map_shape(source, options.stride)
    probabilities, valid = np.empty((*shape, len(classifier.classes)), "float32"), np.empty(shape, "bool")
    dissimilarity = np.empty(shape, "float32")
    window_classifier = open_window_classifier(classifier)
    rows = sliding_window.classify_rows(
        window_classifier.classify,
        len(classifier.classes),
        source,
        options.window,
        options.stride,
        is_water_class=water_class_mask(classifier.classes, source.water_index),
    )
    for row, (row_probabilities, valid_pixels, row_dissimilarity) in enumerate(rows):
        probabilities[row], valid[row], dissimilarity[row] = row_probabilities, valid_pixels > 0, row_dissimilarity
    classes = most_probable_classes(probabilities, valid, min_probability)
    if applicability == "mask":
        classes[_find_unlike_cells(source, classifier.classes, probabilities, dissimilarity)] = NODATA
    georeference = _georeference(source.grid, options.stride)
    grid = Grid(georeference["crs"], georeference["transform"], shape[1], shape[0])
    return LandCover(classes, probabilities, dissimilarity, classifier.classes, grid)


@contextlib.contextmanager
def _open_data_array(classifier: SavedClassifier, array: "xarray.DataArray") -> Iterator[Scene]:
    """Opens an array (band, y, x) as a scene, by way of a GeoTIFF.

    Raises:
        InputError: The array has no such dimensions, uneven coordinates, or cannot be opened as a GeoTIFF.
    """
    import rioxarray  # noqa: F401 - adds `rio` to arrays

    names = [str(name) for name in array.dims]
    if len(names) != 3 or not {"y", "x"} < set(names):
        raise InputError(f"the scene: an array of {' x '.join(names)}; give band x y x x")
    array = array.transpose(..., "y", "x")
    for name in ("y", "x"):
        steps = np.diff(array[name].values.astype(float)) if name in array.coords else np.ones(1)
        if len(steps) and not np.allclose(steps, steps[0], rtol=1e-3, atol=0):
            raise InputError(f"the scene: its coordinates {name} are uneven; resample it to a grid first")
    array = array.assign_attrs(long_name=_band_names(array))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "scene.tif")
        try:
            array.rio.to_raster(path)
            scene = open_scene_for(classifier, [path])
        except InputError as error:
            raise InputError(str(error).replace(str(path), "the scene")) from error
        yield dataclasses.replace(scene, name="the scene")


def _band_names(array: "xarray.DataArray") -> tuple[str, ...]:
    """Returns the names of the bands of an array: its coordinates, or the file's names at the numbers they are."""
    coordinates = [str(name) for name in array[array.dims[0]].values.tolist()]
    file_names = array.attrs.get("long_name")
    if any(map(parse_band_name, coordinates)) or isinstance(file_names, str) or file_names is None:
        return tuple(coordinates)
    is_selection = all(name.isdigit() and 0 < int(name) <= len(file_names) for name in coordinates)
    return tuple(file_names[int(name) - 1] for name in coordinates) if is_selection else tuple(coordinates)


class _ArrayScene:
    """An array from which windows are read as from a scene, a `sliding_window.PixelSource`."""

    margins = (0, 0, 0, 0)
    outlines = ()
    water_index = None

    def __init__(self, pixels: np.ndarray, valid: np.ndarray):
        self.pixels, self.valid = pixels, valid
        self.grid = Grid(None, rasterio.Affine.identity(), pixels.shape[1], pixels.shape[0])
        self.is_picture = pixels.dtype == "uint8"

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = window.toslices()
        return self.pixels[rows, columns], self.valid[rows, columns]

    def read_water(self, window: Window) -> None:
        return None


def _scene_from_array(classifier: SavedClassifier, array: np.ndarray, checked: bool) -> _ArrayScene:
    """Makes a scene of an array; raises InputError if its numbers can hardly be digital numbers."""
    pixels = patches.select_bands("the scene", np.asarray(array), classifier)
    valid = (pixels != 0).any(-1)
    if isinstance(array, np.ma.MaskedArray):
        valid &= ~np.ma.getmaskarray(array).any(axis=-1)
    if pixels.dtype == "uint16":
        valid &= ~digital_numbers.impossible_mask(pixels)
        sample = tuple(slice(None, None, max(1, side // SAMPLE_PIXELS)) for side in valid.shape)
        if checked and (fault := patches.patch_from_array(np.asarray(array)[sample]).fault):
            raise InputError(f"the scene: {fault.text}; {patches.UNCHECKED_ADVICE}")
    return _ArrayScene(pixels, valid)


def most_probable_classes(probabilities: np.ndarray, valid: np.ndarray, min_probability: float) -> np.ndarray:
    """Returns the most probable class of each cell.

    Args:
        probabilities: (..., classes) float32.
        valid: (...,) bool, whether anything is known of a cell.
        min_probability: Cells whose most probable class is less probable get `NODATA`.

    Returns:
        (...,) uint8, indices of classes; `NODATA` where there is none.
    """
    classes = probabilities.argmax(-1).astype("uint8")
    classes[~valid | (probabilities.max(-1) < min_probability)] = NODATA
    return classes


def check_class_count(classes: Sequence[str]) -> None:
    """Raises InputError for more classes than a map's 8 bits can number beside `NODATA`."""
    if len(classes) > NODATA:
        raise InputError(
            f"the classifier has {len(classes)} classes, a map at most {NODATA} (its pixels have 8 bits); give a "
            "--model of fewer classes"
        )


# One scene is mapped to files. Either every file is written or none is.


@dataclass(frozen=True)
class _ClassifiedScene:
    """A scene and what its windows were classified as.

    Attributes:
        scene: The scene.
        names: Class names.
        stride: Side of the cells in pixels.
        probabilities: (rows, columns, classes) float32.
        valid_pixels: (rows, columns) float32, pixels of each cell that are data and lie in the wanted area.
        classes: (rows, columns) uint8, the class of each cell; `NODATA` where there is none.
        dissimilarity: (rows, columns) float32, how unlike the training images each cell is; NaN where it is not known.
        is_unlike: (rows, columns) bool, the cells that are unlike the training images.
        pixel_classes: (height, width) uint8, the classes of the scene's pixels; `None` for a map of cells.
        model: Name of the classifier.
    """

    scene: Scene
    names: tuple[str, ...]
    stride: int
    probabilities: np.ndarray
    valid_pixels: np.ndarray
    classes: np.ndarray
    dissimilarity: np.ndarray
    is_unlike: np.ndarray
    pixel_classes: np.ndarray | None = None
    model: str = ""

    @property
    def unlike_share(self) -> float:
        """Share of the cells with data that are unlike the training images."""
        return float(self.is_unlike.sum() / max(1, (self.valid_pixels > 0).sum()))


def write_map(
    classifier: SavedClassifier,
    scene: Scene,
    output: str | pathlib.Path,
    options: MapOptions = MapOptions(),
    window_classifier: WindowClassifier | None = None,
) -> dict:
    """Maps a scene, and writes OUTPUT_landcover.tif, its .aux.xml, .qml, .sld and .png, and OUTPUT_areas.csv.

    `options.probabilities` adds OUTPUT_probability.tif, `options.polygons` OUTPUT_landcover.gpkg, and a classifier with
    an applicability score OUTPUT_applicability.tif. Either every file is written or none is. Classified rows are
    kept in the folder OUTPUT.unfinished meanwhile: where an earlier call was interrupted, the same call resumes it.

    Args:
        classifier: A classifier of the scene's bands.
        scene: A scene that `open_scene_for` opened.
        output: What the names of the files begin with.
        options: How the scene is mapped. Options that say how scenes are opened have no effect here.
        window_classifier: The same classifier, open for windows; `None` opens it.

    Returns:
        "cells", the number of cells with a class; "unlike_share", the share of the cells with data that are unlike the
        training images; "seconds"; "valid_pixels", (rows, columns), pixels of each cell that are data; "shares" of the
        mapped area by class name; and "most_probable_cells", row and column of the cell in which each class of the map
        is most probable.

    Raises:
        InputError: A file exists or cannot be written, a scene cannot be read, or there are too many classes.
    """
    check_class_count(classifier.classes)
    base = pathlib.Path(output)
    window_classifier = window_classifier or open_window_classifier(classifier, options.runtime)
    knows_dissimilarity = window_classifier.knows_dissimilarity and options.applicability != "off"
    targets = map_paths(base, options.probabilities, knows_dissimilarity, options.polygons)
    if options.polygons:
        import geopandas  # noqa: F401 - classifying may take hours before it is missed
    start_time = time.monotonic()
    with write_errors_as_input_errors(base):
        require_writable_targets(targets, options.overwrite)
        with _lock_unfinished_folder(base) as folder:
            if knows_dissimilarity:
                _check_applicability(window_classifier, scene, options)
            classified = _classify_scene(classifier, window_classifier, scene, options, folder)
            classes, unlike_share = classified.classes, classified.unlike_share
            if (classes == NODATA).all():
                (folder / sliding_window.STATE_NAME).unlink()  # so that the folder goes
                raise InputError(
                    f"{scene.name}: nothing to map: everywhere no data, clouds, less than --min_probability, or unlike "
                    f"the training images ({100 * unlike_share:.0f} %)"
                )
            # libtiff prints what it also raises; `silence_stderr` drops that of an InputError alone.
            with silence_stderr(), write_errors_as_input_errors(base):
                areas = _write_map_files(folder, classified, options)
            cells = _most_probable_cells(classified.probabilities, classes)
            require_writable_targets(targets, options.overwrite)  # classifying may have taken hours
            all_targets = map_paths(base, probabilities=True, applicability=True, polygons=True)
            obsolete = set(all_targets.values()).difference(targets.values())
            publish_files(folder, targets, obsolete if options.overwrite else ())
    print(f"Written: {', '.join(str(path) for path in targets.values())}")
    print(format_areas(areas, classifier.classes, scene.grid.crs is not None), flush=True)
    if knows_dissimilarity:
        treatment = "left empty" if options.applicability == "mask" else "marked in the picture"
        print(f"  {100 * unlike_share:.1f} % of the cells are unlike the training images and {treatment}", flush=True)
    return {
        "cells": int((classes != NODATA).sum()),
        "unlike_share": unlike_share,
        "seconds": time.monotonic() - start_time,
        "valid_pixels": np.array(classified.valid_pixels),
        "shares": dict(zip(classifier.classes, (areas / areas.sum()).tolist())),
        "most_probable_cells": {classifier.classes[index]: cell for index, cell in sorted(cells.items())},
    }


def map_paths(
    base: pathlib.Path, probabilities: bool, applicability: bool, polygons: bool = False
) -> dict[str, pathlib.Path]:
    """Returns the files of a map, by their names in its working folder.

    Args:
        base: The path that the files' paths begin with.
        probabilities: Whether the probabilities of all classes are among them.
        applicability: Whether the dissimilarity from the training images is among them.
        polygons: Whether the polygons of the classes are among them.

    Raises:
        InputError: The path has no name.
    """
    if not base.name:
        raise InputError(f"--output={base}: give what the names of files begin with, as maps/june")
    names = ["landcover.tif", "landcover.tif.aux.xml", "landcover.png", "areas.csv", "landcover.qml", "landcover.sld"]
    names += ["probability.tif"] if probabilities else []
    names += ["applicability.tif"] if applicability else []
    names += ["landcover.gpkg"] if polygons else []
    return {name: base.with_name(f"{base.name}_{name}") for name in names}


def require_writable_targets(targets: dict[str, pathlib.Path], overwrite: bool) -> None:
    """Raises InputError if a file exists and must not be replaced."""
    for path in targets.values():
        if path.is_dir() or (path.exists() and not overwrite):
            raise InputError(f"{path} exists; give another --output, or --overwrite")


@contextlib.contextmanager
def _lock_unfinished_folder(base: pathlib.Path) -> Iterator[pathlib.Path]:
    """Holds the folder OUTPUT.unfinished for one process; only a map that was interrupted leaves it behind.

    Raises:
        InputError: Another process holds the folder, or it is no map's.
    """
    folder = base.with_name(f"{base.name}.unfinished")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "lock").exists():
        raise InputError(f"{folder} is there already, and no map's; give another --output")
    new_parents = [parent for parent in base.parents if not parent.exists()]  # the innermost first
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise InputError(f"{folder} is in use by another process; give another --output") from None
    is_finished = False
    try:
        yield folder
        is_finished = True
    finally:
        if is_finished or not (folder / sliding_window.STATE_NAME).exists():  # no rows are kept in it
            shutil.rmtree(folder, ignore_errors=True)  # Windows keeps the lock's file
            with contextlib.suppress(OSError):  # the files of the map are in it
                for parent in new_parents:
                    parent.rmdir()
        else:
            print(f"{folder} keeps the finished rows: the same command goes on", flush=True)
        lock.release()


@contextlib.contextmanager
def write_errors_as_input_errors(base: pathlib.Path) -> Iterator[None]:
    """Turns errors of writing, such as a full disk, into an InputError of one line."""
    try:
        yield
    except (OSError, rasterio.errors.RasterioError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"cannot write {base}_*: {reason}; free space or give another --output") from error


def _classify_scene(
    classifier: SavedClassifier,
    window_classifier: WindowClassifier,
    scene: Scene,
    options: MapOptions,
    folder: pathlib.Path,
) -> _ClassifiedScene:
    """Classifies the cells of a scene, and leaves those empty that the options do not want.

    Args:
        classifier: The classifier.
        window_classifier: The same classifier, open for windows.
        scene: The scene.
        options: How it is mapped.
        folder: The folder in which classified rows are kept.
    """
    probabilities, valid_pixels, dissimilarity = sliding_window.classify_scene(
        classifier, window_classifier, scene, options.window, options.stride, folder
    )
    classes = _most_probable_classes_by_row(probabilities, valid_pixels, options.min_probability)
    is_unlike = np.zeros(classes.shape, bool)
    if options.applicability != "off":
        is_unlike = _find_unlike_cells(scene, classifier.classes, probabilities, dissimilarity) & (valid_pixels > 0)
    if options.applicability == "mask":
        classes[is_unlike] = NODATA
    classified = _ClassifiedScene(
        scene,
        classifier.classes,
        options.stride,
        probabilities,
        valid_pixels,
        classes,
        dissimilarity,
        is_unlike,
        model=classifier.summary.partition(",")[0],
    )
    if not options.full_resolution:
        return classified
    shape = (scene.grid.height, scene.grid.width)
    pixel_classes = sliding_window.open_array(folder / "pixel_classes.npy", shape, create=True, dtype="uint8")
    for row in range(len(classes)):
        rows = slice(row * options.stride, min((row + 1) * options.stride, scene.grid.height))
        window = Window(0, rows.start, scene.grid.width, rows.stop - rows.start)
        pixel_classes[rows] = _classify_pixels(classified, row, window)
    return dataclasses.replace(classified, pixel_classes=pixel_classes)


def _find_unlike_cells(
    scene: sliding_window.PixelSource, names: Sequence[str], probabilities: np.ndarray, dissimilarity: np.ndarray
) -> np.ndarray:
    """Returns the cells that are unlike the training images, (rows, columns) bool.

    A cell of which an index makes most water is water, whatever the classifier has seen.

    Args:
        scene: The scene.
        names: Class names.
        probabilities: (rows, columns, classes) float32.
        dissimilarity: (rows, columns) float32; NaN where it is not known.
    """
    is_unlike = np.nan_to_num(dissimilarity) > 1
    is_water_class = water_class_mask(names, scene.water_index)
    if is_water_class is not None:
        is_water = np.stack([row[:, is_water_class].sum(1) > 0.5 for row in probabilities])
        is_unlike &= ~is_water
    return is_unlike


def _check_applicability(window_classifier: WindowClassifier, scene: Scene, options: MapOptions) -> None:
    """Looks at windows all over a scene, and says which reading of its numbers would be more like the training images.

    Args:
        window_classifier: A classifier with an applicability score.
        scene: The scene.
        options: The window and the stride of the map.

    Raises:
        InputError: Nearly all windows are unlike the training images.
    """
    pixels = sliding_window.sample_windows(scene, options.window, SAMPLE_WINDOWS_PER_SIDE)
    if not len(pixels):
        return

    def unlike_share(windows: np.ndarray) -> float:
        images = [sliding_window.render_window(window, scene.is_picture) for window in windows]
        _, dissimilarity = window_classifier.classify(np.stack(images))
        assert dissimilarity is not None
        return float((dissimilarity > 1).mean())

    share = unlike_share(pixels)
    if share <= WARNING_SHARE:
        return
    text = f"{100 * share:.0f} % of {len(pixels)} windows all over it are unlike the training images"
    if pixels.shape[-1] == 3:
        candidates = [(unlike_share(windows), flags) for flags, windows in readings.other_readings(scene, pixels)]
        best_share, flags = min(candidates, default=(1.0, ""))
        if best_share <= share / 2:
            text += f"; with {flags} {100 * best_share:.0f} % would be"
    if share >= REFUSAL_SHARE:
        raise InputError(f"{scene.name}: {text}; --applicability=off maps it nevertheless")
    print(f"{scene.name}: {text}", flush=True)


def _most_probable_classes_by_row(
    probabilities: np.ndarray, valid_pixels: np.ndarray, min_probability: float
) -> np.ndarray:
    """Returns the classes of all cells; row by row, since the probabilities lie in a file."""
    rows = zip(probabilities, valid_pixels)
    return np.stack([most_probable_classes(row, pixels > 0, min_probability) for row, pixels in rows])


def _most_probable_cells(probabilities: np.ndarray, classes: np.ndarray) -> dict[int, tuple[int, int]]:
    """Returns for each class of a map row and column of the cell in which the class is most probable."""
    best: dict[int, tuple[float, tuple[int, int]]] = {}
    for row, (row_probabilities, row_classes) in enumerate(zip(probabilities, classes)):
        for index in np.unique(row_classes[row_classes != NODATA]).tolist():
            candidates = np.where(row_classes == index, row_probabilities[:, index], -1)
            column = int(candidates.argmax())
            if candidates[column] > best.get(index, (-1,))[0]:
                best[index] = float(candidates[column]), (row, column)
    return {index: cell for index, (_, cell) in best.items()}


def _write_map_files(folder: pathlib.Path, classified: _ClassifiedScene, options: MapOptions) -> np.ndarray:
    """Writes all files of a map into its working folder; returns the areas of the classes as `class_areas` does."""
    scene, names, classes = classified.scene, classified.names, classified.classes
    if classified.pixel_classes is None:
        areas = class_areas(scene.grid, classes, classified.valid_pixels, classified.stride, len(names))
    else:
        areas = class_areas_of_pixels(classified, classified.pixel_classes)
    write_class_map(folder / "landcover.tif", classified, areas)
    draw_map(folder / "landcover.png", classified)
    images.verify_picture(str(folder / "landcover.png"))
    counts = np.bincount(classes[classes != NODATA], minlength=len(names))
    table = areas_table(counts, areas, names, scene.grid.crs is not None)
    (folder / "areas.csv").write_text(table, encoding="utf-8")
    if options.probabilities:
        write_probability_map(folder / "probability.tif", classified)
    if options.applicability != "off" and not np.isnan(classified.dissimilarity).all():
        write_applicability_map(folder / "applicability.tif", classified)
    if options.polygons:
        write_polygons(folder / "landcover.gpkg", classified)
    return areas


def publish_files(folder: pathlib.Path, targets: dict[str, pathlib.Path], obsolete: Collection[pathlib.Path]) -> None:
    """Gives every file of a map its name or none: after a failure every earlier file has its name again.

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
    with contextlib.ExitStack() as undo_stack:
        for path in (*targets.values(), *obsolete):
            if path.exists():
                backup_path = folder / f"earlier-{path.name}"
                path.replace(backup_path)
                undo_stack.callback(backup_path.replace, path)
        for name, path in targets.items():
            (folder / name).replace(path)
            undo_stack.callback(path.unlink, missing_ok=True)
        undo_stack.pop_all()


# The maps of classes and of probabilities are cloud-optimised GeoTIFFs that QGIS opens with names and colours.


def write_class_map(path: pathlib.Path, classified: _ClassifiedScene, areas: np.ndarray) -> None:
    """Writes the map of classes, with names, colours and styles.

    Args:
        path: The file.
        classified: The scene and the classes of its cells.
        areas: (classes,) float64, as `class_areas` returns them.
    """
    grid, stride, classes = classified.scene.grid, classified.stride, classified.classes
    if classified.pixel_classes is not None:
        stride, classes = 1, classified.pixel_classes
    legend = dict(zip(classified.names, class_colours(classified.names)))
    tags = {"hectares": json.dumps(dict(zip(classified.names, areas.round(4).tolist())))} if grid.crs else {}
    write_classes(path, classes, legend, "land cover", _georeference(grid, stride), tags)


def write_classes(
    path: pathlib.Path,
    classes: np.ndarray,
    legend: dict[str, tuple[int, int, int]],
    description: str,
    georeference: dict,
    tags: dict[str, str],
) -> None:
    """Writes classes as a cloud-optimised GeoTIFF; their names go into the .aux.xml beside it, styles into two files.

    Args:
        path: The file.
        classes: (height, width) uint8, positions in the legend; `NODATA` where there is none.
        legend: Names of the classes, with red, green and blue from 0 to 255.
        description: Name of the band.
        georeference: Coordinate reference system and transform, as `rasterio.open` takes them.
        tags: Further tags of the file; "hectares" says the area of each class, for `assess.py`.
    """
    names = list(legend)

    def add_colours_and_names(file: rasterio.io.DatasetWriter) -> None:
        file.write_colormap(1, {index: (*rgb, 255) for index, rgb in enumerate(legend.values())})
        file.update_tags(classes=json.dumps(dict(enumerate(names))), **tags)
        file.set_band_description(1, description)

    def rows() -> Iterator[tuple[Window, np.ndarray]]:
        for start in range(0, len(classes), ROWS_AT_ONCE):
            values = classes[start : start + ROWS_AT_ONCE]
            yield Window(0, start, values.shape[1], len(values)), values[np.newaxis]

    profile = {"height": classes.shape[0], "width": classes.shape[1], "count": 1, "dtype": "uint8", "nodata": NODATA}
    # Compressed, the classes of all pixels of a whole Sentinel-2 tile take two megabytes.
    _write_cog(path, profile | georeference, "MODE", add_colours_and_names, rows, in_memory=True)
    _write_category_names(path, legend)
    _write_styles(path, legend)


def _classify_pixels(classified: _ClassifiedScene, row: int, window: Window) -> np.ndarray:
    """Returns the classes of a row of cells in the scene's pixels, (height, width) uint8.

    Where an index tells water from land, each pixel gets the most probable class of its kind in its cell.

    Args:
        classified: The scene and the classes of its cells.
        row: The row of cells.
        window: Its pixels in the scene's grid.
    """
    scene, stride, classes = classified.scene, classified.stride, classified.classes[row]
    pixels = np.broadcast_to(classes.repeat(stride)[: window.width], (window.height, window.width))
    is_water_class = water_class_mask(classified.names, scene.water_index)
    if is_water_class is None:
        return pixels
    water = scene.read_water(window)
    result = pixels.copy()
    for value, is_member in ((0, ~is_water_class), (1, is_water_class)):
        best = np.where(is_member, classified.probabilities[row], -1).argmax(-1).astype("uint8")
        is_kind = (water == value) & (pixels != NODATA)
        result[is_kind] = np.broadcast_to(best.repeat(stride)[: window.width], pixels.shape)[is_kind]
    return result


def write_probability_map(path: pathlib.Path, classified: _ClassifiedScene) -> None:
    """Writes the probabilities of all classes, a band for each class."""
    rows_count, columns, _ = classified.probabilities.shape

    def add_names(file: rasterio.io.DatasetWriter) -> None:
        for index, name in enumerate(classified.names, 1):
            file.set_band_description(index, name)

    def rows() -> Iterator[tuple[Window, np.ndarray]]:
        for row, valid_pixels in enumerate(classified.valid_pixels):
            valid = (valid_pixels > 0)[:, np.newaxis]
            probabilities = np.where(valid, classified.probabilities[row], np.float32(np.nan))
            yield Window(0, row, columns, 1), np.moveaxis(probabilities, -1, 0)[:, np.newaxis]

    profile = {"height": rows_count, "width": columns, "count": len(classified.names)}
    profile |= {"dtype": "float32", "nodata": np.nan, **_georeference(classified.scene.grid, classified.stride)}
    # With a short stride, probabilities can be larger than memory: they lie in a file, and so does their copy.
    _write_cog(path, profile, "AVERAGE", add_names, rows, in_memory=False)


def write_applicability_map(path: pathlib.Path, classified: _ClassifiedScene) -> None:
    """Writes how unlike the training images each cell is: above 1 for unlike, NaN where it is not known."""
    shape = classified.dissimilarity.shape

    def add_name(file: rasterio.io.DatasetWriter) -> None:
        file.set_band_description(1, "dissimilarity from the training images, above 1: unlike")

    def rows() -> Iterator[tuple[Window, np.ndarray]]:
        for row, values in enumerate(classified.dissimilarity):
            valid = classified.valid_pixels[row] > 0
            yield Window(0, row, shape[1], 1), np.where(valid, values, np.float32(np.nan))[np.newaxis, np.newaxis]

    profile = {"height": shape[0], "width": shape[1], "count": 1, "dtype": "float32", "nodata": np.nan}
    profile |= _georeference(classified.scene.grid, classified.stride)
    _write_cog(path, profile, "AVERAGE", add_name, rows, in_memory=True)


def write_polygons(path: pathlib.Path, classified: _ClassifiedScene) -> None:
    """Writes neighbouring pixels of one class as a polygon, with the name of the class and the hectares.

    The hectares count pixels with data, as those of the table of areas do, though a cell on the edge may have others.
    """
    import geopandas
    import shapely.geometry

    pixel_classes, grid = classified.pixel_classes, classified.scene.grid
    classes, stride = (classified.classes, classified.stride) if pixel_classes is None else (pixel_classes, 1)
    transform = _georeference(grid, stride)["transform"]
    classes = np.ascontiguousarray(classes)
    shapes = list(rasterio.features.shapes(classes, classes != NODATA, transform=transform))
    # Cells on the edge reach beyond the scene, or beyond the wanted area.
    extent = shapely.geometry.Polygon([grid.transform * point for point in grid_outline(grid.width, grid.height, 1)])
    if classified.scene.outlines:
        extent = extent.intersection(_outlines_as_polygons(classified.scene))
    polygons = [shapely.geometry.shape(geometry).intersection(extent) for geometry, _ in shapes]
    columns: dict[str, list] = {"class": [classified.names[int(value)] for _, value in shapes]}
    if grid.pixel_hectares is not None:
        areas = _cell_areas(grid, classified.valid_pixels, classified.stride)
        if pixel_classes is not None:
            areas = share_among_pixels(areas, classes != NODATA, classified.stride)
        numbered = ((geometry, number) for number, (geometry, _) in enumerate(shapes))
        numbers = rasterio.features.rasterize(numbered, classes.shape, len(shapes), transform=transform, dtype="int32")
        sums = np.zeros(len(shapes) + 1)
        for row_numbers, row_areas in zip(numbers, areas):
            np.add.at(sums, row_numbers, row_areas)
        columns["hectares"] = sums[:-1].round(4).tolist()
    crs = grid.crs.to_wkt() if grid.crs else None
    frame = geopandas.GeoDataFrame(columns, geometry=geopandas.GeoSeries(polygons, crs=crs))
    write_geopackage(frame[~frame.geometry.is_empty], path, "landcover")


def _outlines_as_polygons(scene: Scene):
    """Returns the outlines of a part of a scene as one shape in the coordinates of its grid."""
    import shapely

    to_grid = scene.grid.transform * rasterio.Affine.translation(-scene.column_offset, -scene.row_offset)
    rings = [[np.stack(to_grid * tuple(ring.T), -1) for ring in each["coordinates"]] for each in scene.outlines]
    return shapely.union_all([shapely.Polygon(outer, holes).buffer(0) for outer, *holes in rings])


def class_colours(classes: Sequence[str]) -> list[tuple[int, int, int]]:
    """Returns red, green and blue, 0 to 255, for each class; EuroSAT's classes have colours of their own."""
    palette = matplotlib.colormaps["tab20"]
    colours = [to_rgb(CLASS_COLOURS.get(name, palette(index % palette.N))) for index, name in enumerate(classes)]
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in colours]


def _georeference(grid: Grid, stride: int) -> dict:
    """Returns coordinate reference system and transform of a map whose pixels have stride x stride pixels of a grid."""
    return {"crs": grid.crs, "transform": grid.transform * rasterio.Affine.scale(stride)}


def _write_cog(
    path: pathlib.Path,
    profile: dict,
    overview_resampling: str,
    add_metadata: Callable[[rasterio.io.DatasetWriter], None],
    rows: Callable[[], Iterable[tuple[Window, np.ndarray]]],
    *,
    in_memory: bool,
) -> None:
    """Writes a cloud-optimised GeoTIFF and reads it back, since GDAL does not report every error of a full disk.

    GDAL makes such a file by copying another one, a compressed GeoTIFF.

    Args:
        path: The file.
        profile: Size, bands, dtype, nodata and georeference, as `rasterio.open` takes them.
        overview_resampling: GDAL's name of the way in which overviews are made.
        add_metadata: Gives the file its colours, tags and names of bands.
        rows: Returns the windows of the file from the top, each with its values (bands, height, width).
        in_memory: Whether the GeoTIFF that is copied lies in memory, or else in a file in the same folder.

    Raises:
        OSError: The file cannot be written, or has other values than were written.
    """
    try:
        with rasters.ignore_missing_georeference(), contextlib.ExitStack() as stack:
            if in_memory:
                plain_path = stack.enter_context(rasterio.MemoryFile()).name
            else:
                plain_path = f"{stack.enter_context(tempfile.TemporaryDirectory(dir=path.parent))}/plain.tif"
            with rasterio.open(
                plain_path, "w", driver="GTiff", compress="deflate", bigtiff="if_safer", **profile
            ) as file:
                add_metadata(file)
                for window, values in rows():
                    file.write(values, window=window)
            options = {"compress": "DEFLATE", "overview_resampling": overview_resampling}
            rasterio.shutil.copy(plain_path, path, driver="COG", **options)
            intact = _file_has_values(path, rows())
    except Exception as error:  # rasterio passes on errors of GDAL that have no public class
        raise OSError(f"GDAL could not write {path.name} ({first_line(error).rstrip('.')})") from error
    if not intact:
        raise OSError(f"{path.name} has other values than were written")


def _file_has_values(path: pathlib.Path, rows: Iterable[tuple[Window, np.ndarray]]) -> bool:
    """Returns whether a file has these values (bands, height, width) in its windows; reads its overviews too."""
    with rasterio.open(path) as file:
        levels = len(file.overviews(1))
        if not all(np.array_equal(file.read(window=window), values, equal_nan=True) for window, values in rows):
            return False
    for level in range(levels):
        with rasterio.open(path, overview_level=level) as file:
            for _, window in file.block_windows(1):
                file.read(window=window)
    return True


def _write_category_names(path: pathlib.Path, legend: dict[str, tuple[int, int, int]]) -> None:
    """Writes names and colours of the classes into the .aux.xml of a map, where GDAL looks for them first.

    A GeoTIFF has no place for names, and always 256 colours, which QGIS would list.
    """
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    names = ElementTree.SubElement(band, "CategoryNames")
    for name in legend:
        ElementTree.SubElement(names, "Category").text = name
    table = ElementTree.SubElement(band, "ColorTable")
    for red, green, blue in legend.values():
        ElementTree.SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4="255")
    text = ElementTree.tostring(root, encoding="unicode")
    path.with_name(f"{path.name}.aux.xml").write_text(text + "\n", encoding="utf-8")


def _write_styles(path: pathlib.Path, legend: dict[str, tuple[int, int, int]]) -> None:
    """Writes the styles of a map: a .qml, which QGIS applies to the map beside it, and a .sld for map servers.

    The legends have the classes alone; that of the GeoTIFF's colour table would have 256 rows.
    """
    style = ElementTree.Element("qgis", styleCategories="Symbology")
    pipe = ElementTree.SubElement(style, "pipe")
    renderer = ElementTree.SubElement(pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1")
    palette = ElementTree.SubElement(renderer, "colorPalette")
    descriptor = ElementTree.Element("StyledLayerDescriptor", version="1.0.0", xmlns="http://www.opengis.net/sld")
    layer = ElementTree.SubElement(descriptor, "NamedLayer")
    ElementTree.SubElement(layer, "Name").text = path.stem
    rule = ElementTree.SubElement(
        ElementTree.SubElement(ElementTree.SubElement(layer, "UserStyle"), "FeatureTypeStyle"), "Rule"
    )
    symbolizer = ElementTree.SubElement(rule, "RasterSymbolizer")
    colour_map = ElementTree.SubElement(symbolizer, "ColorMap", type="values")
    for index, (name, rgb) in enumerate(legend.items()):
        colour = "#{:02x}{:02x}{:02x}".format(*rgb)
        ElementTree.SubElement(palette, "paletteEntry", value=str(index), color=colour, alpha="255", label=name)
        ElementTree.SubElement(colour_map, "ColorMapEntry", color=colour, quantity=str(index), label=name, opacity="1")
    for suffix, root in ((".qml", style), (".sld", descriptor)):
        ElementTree.indent(root)
        text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
        path.with_suffix(suffix).write_text(text + "\n", encoding="utf-8")


# The areas of the classes, in a file and as printed.


def class_areas(grid: Grid, classes: np.ndarray, valid_pixels: np.ndarray, stride: int, class_count: int) -> np.ndarray:
    """Returns how much of the ground each class has in a map of cells.

    Args:
        grid: The scene's grid.
        classes: (rows, columns) uint8, the classes of its cells.
        valid_pixels: (rows, columns) float32, pixels of each cell that are data and lie in the wanted area.
        stride: Side of a cell in pixels.
        class_count: Number of classes.

    Returns:
        (classes,) float64, in hectares, or in pixels where their place on the ground is unknown.
    """
    areas = _cell_areas(grid, valid_pixels, stride)
    has_class = classes != NODATA
    return np.bincount(classes[has_class], areas[has_class], minlength=class_count)


def class_areas_of_pixels(classified: _ClassifiedScene, pixel_classes: np.ndarray) -> np.ndarray:
    """Returns the same of a map of the scene's pixels, which may have other classes than their cell.

    Args:
        classified: The scene.
        pixel_classes: (height, width) uint8, the classes of its pixels; `NODATA` where there is none.
    """
    grid, stride = classified.scene.grid, classified.stride
    sums = np.zeros(len(classified.names))
    cell_columns = np.arange(grid.width) // stride
    for row, areas in enumerate(_cell_areas(grid, classified.valid_pixels, stride)):
        pixels = pixel_classes[row * stride : (row + 1) * stride]
        columns = np.broadcast_to(cell_columns, pixels.shape)
        has_class = pixels != NODATA
        counts = np.zeros((len(areas), len(sums)))
        np.add.at(counts, (columns[has_class], pixels[has_class]), 1)
        sums += areas @ (counts / np.maximum(counts.sum(1, keepdims=True), 1))
    return sums


def share_among_pixels(cell_areas: np.ndarray, is_known: np.ndarray, stride: int) -> np.ndarray:
    """Shares the area of each cell among its pixels that are known, (height, width) float32."""
    width = is_known.shape[1]
    shares = np.zeros(is_known.shape, "float32")
    for row, areas in enumerate(cell_areas):
        known = is_known[row * stride : (row + 1) * stride]
        counts = np.add.reduceat(known.sum(0), np.arange(0, width, stride))
        shares[row * stride : (row + 1) * stride] = known * (areas / np.maximum(counts, 1)).repeat(stride)[:width]
    return shares


def _cell_areas(grid: Grid, valid_pixels: np.ndarray, stride: int) -> np.ndarray:
    """Returns the area of each cell's data, (rows, columns), in hectares or in pixels."""
    pixel_hectares = grid.pixel_hectares_in_cells(stride)
    return valid_pixels if pixel_hectares is None else valid_pixels * pixel_hectares


def areas_table(counts: np.ndarray, areas: np.ndarray, classes: Sequence[str], has_hectares: bool) -> str:
    """Returns the areas as CSV: cells and hectares of each class, its share of the area that is mapped, and the method.

    Args:
        counts: (classes,) int64, cells of each class.
        areas: (classes,) float64, as `class_areas` returns them.
        classes: Class names.
        has_hectares: Whether the areas are hectares.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "cells", "hectares", "share", "method"])
    for name, count, area in zip(classes, counts.tolist(), areas.tolist()):
        writer.writerow([name, count, f"{area:.2f}" if has_hectares else "", f"{area / areas.sum():.6f}", AREA_METHOD])
    return text.getvalue()


def format_areas(areas: np.ndarray, classes: Sequence[str], has_hectares: bool) -> str:
    """Returns the areas and shares of the classes as lines of text, and their sum.

    Args:
        areas: (classes,) float64, as `class_areas` returns them.
        classes: Class names.
        has_hectares: Whether the areas are hectares.
    """
    rows = [(name, area) for name, area in zip(classes, areas.tolist()) if area]
    rows.append(("all", areas.sum()))
    name_width = max(len(name) for name, _ in rows)
    number = "{:>14,.2f} ha" if has_hectares else "{:>14,.0f} pixels"
    lines = [f"  {name:{name_width}}{number.format(area)}{100 * area / areas.sum():>7.1f} %" for name, area in rows]
    if has_hectares:
        lines.append("  counted from the map with its errors; assess.py estimates areas with their uncertainty")
    else:
        lines.append("  no hectares: the scene has no coordinate reference system (gdal_edit.py -a_srs gives it one)")
    return "\n".join(lines)


# The picture: scene and map side by side, with a legend and a scale bar.


def draw_map(path: pathlib.Path, classified: _ClassifiedScene) -> None:
    """Draws scene and map side by side, with a legend and a scale bar.

    Args:
        path: The picture, a PNG.
        classified: The scene and the classes of its cells.
    """
    scene, names = classified.scene, classified.names
    # No more cells than can be seen.
    step = max(1, max(classified.classes.shape) // MAX_PICTURE_SIDE)
    classes, stride = classified.classes[::step, ::step], classified.stride * step
    is_unlike = classified.is_unlike[::step, ::step]
    figure, (scene_axes, map_axes) = _make_map_figure(scene.grid.width / scene.grid.height)
    scene_extent = (0, scene.grid.width, scene.grid.height, 0)
    map_extent = (0, classes.shape[1] * stride, classes.shape[0] * stride, 0)
    scene_axes.imshow(_scene_overview(scene), extent=scene_extent)
    colours = ListedColormap([*(np.array(class_colours(names)) / 255), (1, 1, 1)])
    values = np.where(classes == NODATA, len(names), classes)
    map_axes.imshow(values, cmap=colours, vmin=-0.5, vmax=len(names) + 0.5, extent=map_extent, interpolation="nearest")
    if classified.pixel_classes is not None:
        pixel_step = -(-max(scene.grid.height, scene.grid.width) // MAX_PICTURE_SIDE)
        pixels = classified.pixel_classes[::pixel_step, ::pixel_step]
        shown = np.where(pixels == NODATA, len(names), pixels)
        map_axes.imshow(
            shown, cmap=colours, vmin=-0.5, vmax=len(names) + 0.5, extent=scene_extent, interpolation="nearest"
        )
    unlike_colour = ListedColormap([UNLIKE_COLOUR])
    if is_unlike.any():  # over a class that is kept, the colour lets the class through
        opacity = np.where(classes == NODATA, 1.0, 0.6)
        map_axes.imshow(
            np.ma.masked_where(~is_unlike, is_unlike.astype("uint8")),
            cmap=unlike_colour,
            alpha=opacity,
            extent=map_extent,
            interpolation="nearest",
        )
    for axes in (scene_axes, map_axes):
        axes.set(xticks=[], yticks=[], xlim=scene_extent[:2], ylim=scene_extent[2:])
    drawn_classes = np.unique(values if classified.pixel_classes is None else shown)
    handles = [
        Patch(color=colours(index), label=figures.escape_mathtext(names[index]))
        for index in drawn_classes[drawn_classes < len(names)]
    ]
    if is_unlike.any():
        handles.append(Patch(color=UNLIKE_COLOUR, label="unlike the training images"))
    if ((classes == NODATA) & ~is_unlike).any():
        handles.append(Patch(facecolor="white", edgecolor="0.6", label="no data, clouds or below\n--min_probability"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    date = ACQUISITION_DATE.search(scene.name)
    date_text = f", {'-'.join(date.groups())}" if date else ""
    letters = int(LETTERS_PER_INCH * figure.get_figwidth()) - len(date_text)
    figure.suptitle(figures.escape_mathtext(pathlib.Path(scene.name).name[:letters] + date_text), fontsize="medium")
    map_title = f"land cover by {pathlib.Path(classified.model).name}"
    figure.text(0.99, 0.01, figures.escape_mathtext(map_title), ha="right", va="bottom", fontsize="x-small")
    _draw_scale_bar(scene_axes, scene.grid)
    if scene.grid.crs is not None:
        _draw_coordinates(scene_axes, scene.grid)
        _draw_north(scene_axes, scene.grid)
    figure.savefig(path, dpi=110)


def _draw_coordinates(axes: Axes, grid: Grid) -> None:
    """Writes longitudes below and latitudes left of a scene, for its corners at the lower left and upper right."""
    x, y = grid.transform * (np.array([0, grid.width]), np.array([grid.height, 0]))
    longitudes, latitudes = rasterio.warp.transform(grid.crs, WGS84, x, y)
    east_west = [f"{abs(value):.3f}° {'W' if value < 0 else 'E'}" for value in longitudes]
    north_south = [f"{abs(value):.3f}° {'S' if value < 0 else 'N'}" for value in latitudes]
    # On a narrow side there is room for one coordinate.
    columns = slice(0, 2 if 3 * grid.width > grid.height else 1)
    rows = slice(0, 2 if 3 * grid.height > grid.width else 1)
    axes.set_xticks([0, grid.width][columns], east_west[columns], fontsize="x-small")
    axes.set_yticks([grid.height, 0][rows], north_south[rows], fontsize="x-small", rotation=90)
    for labels, sides in ((axes.get_xticklabels(), ("left", "right")), (axes.get_yticklabels(), ("bottom", "top"))):
        for label, side in zip(labels, sides):
            label.set(**{"ha" if side in ("left", "right") else "va": side})


def _draw_north(axes: Axes, grid: Grid) -> None:
    """Draws an arrow to the north in the upper right corner of a scene."""
    longitude, latitude = grid_centre(grid)
    south, north = degrees_to_pixels(np.array([(longitude, latitude - 0.01), (longitude, latitude)]), grid)
    direction = (north - south) / np.hypot(*(north - south))
    length = 0.08 * min(grid.width, grid.height)
    if not np.isfinite(direction).all():  # at a pole
        return
    middle = np.array((grid.width - 1.2 * length, 1.2 * length))
    start, end = middle - direction * length / 2, middle + direction * length / 2
    for colour, width in (("black", 5), ("white", 2)):
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", end, start, arrowprops=arrow)
    edge = [withStroke(linewidth=2.5, foreground="black")]
    x, y = start - direction * length / 3
    axes.text(x, y, "N", color="white", ha="center", va="center", path_effects=edge)


def _make_map_figure(aspect: float) -> tuple[Figure, np.ndarray]:
    """Returns a figure with two axes for pictures of an aspect, width over height; wide pictures are stacked."""
    is_stacked = aspect > 1.5
    width = min(9.0 if is_stacked else 5.4, 8 * aspect)  # inches
    height = max(0.4, width / aspect)
    columns, rows = (1, 2) if is_stacked else (2, 1)
    size = (max(1.5, width) * columns + 2.2, max(3.2, rows * height + 0.3))  # with room for the legend
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns)


def _scene_overview(scene: Scene) -> np.ndarray:
    """Returns a scene's colours, (height, width, 3) uint8, with at most `MAX_PICTURE_SIDE` pixels a side."""
    factor = max(1, max(scene.grid.height, scene.grid.width) / MAX_PICTURE_SIDE)
    shape = (max(1, round(scene.grid.height / factor)), max(1, round(scene.grid.width / factor)))
    return scene.read_colours(Window(0, 0, scene.grid.width, scene.grid.height), shape)


def _draw_scale_bar(axes: Axes, grid: Grid) -> None:
    """Draws a bar of a round length, at most a third of the scene's width, that is seen on dark and bright ground."""
    if grid.pixel_hectares is None:
        return
    metres = (grid.pixel_hectares * 10_000) ** 0.5
    length = round_scale_length(grid.width * metres / 3)
    start, bottom = 0.03 * grid.width, 0.97 * grid.height
    bar_edge = [withStroke(linewidth=6, foreground="black")]
    axes.plot([start, start + length / metres], [bottom] * 2, color="white", lw=3, path_effects=bar_edge)
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    label_edge = [withStroke(linewidth=2.5, foreground="black")]
    axes.annotate(
        label, (start, bottom), xytext=(0, 5), textcoords="offset points", color="white", path_effects=label_edge
    )


def round_scale_length(longest: float) -> float:
    """Returns the longest length of up to `longest` that is 1, 2 or 5 times a power of ten."""
    power = 10 ** np.floor(np.log10(longest))
    return max(step * power for step in (1, 2, 5) if step * power <= longest)
