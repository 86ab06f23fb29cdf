"""Accuracy of a map, and the areas of its classes with their uncertainty, from labelled places.

The rules are those of Olofsson et al. 2014 (Remote Sensing of Environment 148, 42-57, doi:10.1016/j.rse.2014.02.015):
places are drawn at random within each class of the map, somebody labels them without seeing the map, and every class of
the map counts by its area.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import PIL.ImageDraw
import rasterio
import rasterio.features
import rasterio.warp
from matplotlib.figure import Figure
from rasterio.windows import Window

from resnetd_tf import figures, rundir
from resnetd_tf.data import rasters
from resnetd_tf.errors import InputError, damage_as_input_error
from resnetd_tf.imagery.grid import WGS84, Grid, file_grid
from resnetd_tf.imagery.scene import Scene, degrees_to_pixels, read_polygons
from resnetd_tf.imagery.vectors import list_layers, read_shapes, write_geopackage

NO_CLASS = 255  # in `ClassMap.classes`
INTERVAL_ERRORS = 1.96  # standard errors to each side in an interval of 95 %
DEFAULT_STANDARD_ERROR = 0.02  # of the overall accuracy
EXPECTED_ACCURACY = 0.8  # of each class, before any place is labelled
MIN_PLACES = 50  # in each class: Olofsson et al. 2014, section 5.1.1
AREA_BLOCK = 64  # pixels a side that have one area
MAX_AREA_RATIO = 1.1  # of the largest to the smallest pixel
CENTRE_TOLERANCE = 0.1  # pixels between a drawn place and the centre of its pixel
SAMPLE_LAYER = "sample"
# The picture of a place: pixels of the scene that it shows at least, and pixels of the picture at most.
PLACE_PIXELS, PLACE_PICTURE_PIXELS = 64, 512
PLACE_SURROUNDINGS = 3  # sides of the map's pixel that the picture shows


@dataclass(frozen=True)
class ClassMap:
    """A map of classes.

    Attributes:
        path: The file.
        names: Names of the classes.
        classes: (height, width) uint8, indices of the names; `NO_CLASS` where there is none.
        grid: The pixels of the map.
        counted_hectares: (classes,) float64, the area of each class as `map.py` counted it, which leaves out what cells
            on the edges show of other ground; `None` if it is not known.
    """

    path: pathlib.Path
    names: tuple[str, ...]
    classes: np.ndarray
    grid: Grid
    counted_hectares: np.ndarray | None = None

    @functools.cached_property
    def pixel_counts(self) -> np.ndarray:
        """Number of pixels of each class, (classes,) int64."""
        return np.bincount(self.classes[self.classes != NO_CLASS], minlength=len(self.names))

    @functools.cached_property
    def areas(self) -> np.ndarray:
        """Area of each class, (classes,) float64, in hectares."""
        if self.counted_hectares is not None:
            return self.counted_hectares
        hectares = self.grid.pixel_hectares_in_cells(AREA_BLOCK)
        assert hectares is not None
        sums = np.zeros(len(self.names))
        for row, row_hectares in enumerate(hectares):
            block = self.classes[row * AREA_BLOCK : (row + 1) * AREA_BLOCK]
            areas = np.broadcast_to(row_hectares.repeat(AREA_BLOCK)[: self.grid.width], block.shape)
            has_class = block != NO_CLASS
            sums += np.bincount(block[has_class], areas[has_class], minlength=len(sums))
        return sums

    @property
    def crs_text(self) -> str:
        """The coordinate reference system as well-known text."""
        assert self.grid.crs is not None
        return self.grid.crs.to_wkt()

    @functools.cached_property
    def digest(self) -> str:
        """Digest of classes and places, by which a sample knows its map."""
        place = json.dumps([self.names, list(self.grid.transform[:6]), str(self.grid.crs)])
        return hashlib.sha256(place.encode() + self.classes.tobytes()).hexdigest()[:16]


def read_class_map(path: str | pathlib.Path, area: str | None = None) -> ClassMap:
    """Reads a map of classes.

    Args:
        path: A raster file of one band of whole numbers, such as `map.py` writes. Names come from its tag "classes" or
            from its category names; without both, the numbers are the names.
        area: The part of the map that counts: "W,S,E,N" in degrees, or a GeoJSON file of polygons; `None` for all.
            Pixels belong to it by their centres.

    Raises:
        InputError: The file is no map of classes, has no coordinate reference system or pixels of unequal area, or none
            of it lies in the area.
    """
    with (
        damage_as_input_error(f"{path}: cannot be read as a map of classes"),
        rasters.ignore_missing_georeference(),
        rasterio.open(path) as file,
    ):
        grid = file_grid(file)
        if file.count != 1 or not np.issubdtype(file.dtypes[0], np.integer):
            raise InputError(
                f"{path}: bands: {file.count}, of type {file.dtypes[0]}; a map of classes has one band of whole "
                "numbers, such as MAP_landcover.tif"
            )
        values, is_mapped, tags = file.read(1), file.read_masks(1) > 0, file.tags()
        names_by_value = (
            _names_in_tag(tags["classes"]) if "classes" in tags else _read_category_names(pathlib.Path(path))
        )
        counted_hectares = json.loads(tags.get("hectares", "null"))
    if grid.crs is None:
        raise InputError(
            f"{path}: has no coordinate reference system, so that its places cannot be found nor its areas measured; "
            "gdal_edit.py -a_srs gives it one"
        )
    _check_pixel_areas(path, grid)
    mapped_values = np.unique(values[is_mapped]).tolist()
    names_by_value = names_by_value or {value: str(value) for value in mapped_values}
    if unknown := [value for value in mapped_values if value not in names_by_value]:
        raise InputError(
            f"{path}: has the value {unknown[0]}, which none of its classes has; if it means no data, say so with "
            f"gdal_edit.py -a_nodata {unknown[0]}"
        )
    if len(names_by_value) >= NO_CLASS:
        raise InputError(f"{path}: has {len(names_by_value)} classes; a map of classes has at most {NO_CLASS - 1}")
    if repeated := [name for name, count in collections.Counter(names_by_value.values()).items() if count > 1]:
        raise InputError(f"{path}: two of its classes have the name {repeated[0]}; give each a name of its own")
    classes = np.full(values.shape, NO_CLASS, "uint8")
    for index, value in enumerate(names_by_value):
        classes[is_mapped & (values == value)] = index
    if area:
        classes[~_pixels_in_area(area, grid)] = NO_CLASS
    if (classes == NO_CLASS).all():
        raise InputError(f"{path}: no pixel has a class" + (f" within --area={area}" if area else ""))
    counted = (
        None if area or not counted_hectares else np.array([counted_hectares[name] for name in names_by_value.values()])
    )
    return ClassMap(pathlib.Path(path), tuple(names_by_value.values()), classes, grid, counted)


def _names_in_tag(tag: str) -> dict[int, str]:
    """Returns the names in the tag "classes" of a map, by the numbers of the classes."""
    return {int(value): name.strip() for value, name in json.loads(tag).items()}


def _check_pixel_areas(path: str | pathlib.Path, grid: Grid) -> None:
    """Raises InputError if some pixels have much more area than others: a sample would favour the small ones."""
    hectares = grid.pixel_hectares_in_cells(max(1, min(grid.width, grid.height) // 8))
    assert hectares is not None
    if hectares.max() > MAX_AREA_RATIO * hectares.min():
        raise InputError(
            f"{path}: its pixels have {hectares.min():.4g} to {hectares.max():.4g} ha, but each is drawn with the same "
            "chance; bring it into an equal-area projection, as with gdalwarp -t_srs EPSG:6933 -r near"
        )


def _read_category_names(path: pathlib.Path) -> dict[int, str]:
    """Reads the category names that GDAL keeps in the .aux.xml beside a file; rasterio has no call for them."""
    from xml.etree import ElementTree

    auxiliary = path.with_name(f"{path.name}.aux.xml")
    if not auxiliary.is_file():
        return {}
    with damage_as_input_error(f"{auxiliary}: cannot be read"):
        categories = ElementTree.parse(auxiliary).iterfind("./PAMRasterBand[@band='1']/CategoryNames/Category")
        return {value: category.text.strip() for value, category in enumerate(categories) if category.text}


def _pixels_in_area(area: str, grid: Grid) -> np.ndarray:
    """Returns which pixels of a grid have their centre in an area, (height, width) bool."""
    polygons = [[degrees_to_pixels(ring, grid).tolist() for ring in rings] for rings in read_polygons(area)]
    shapes = [{"type": "Polygon", "coordinates": rings} for rings in polygons]
    outline = (grid.height, grid.width)
    return rasterio.features.rasterize(shapes, outline, default_value=1, dtype="uint8").astype(bool)


# Drawing a sample.


def choose_sample_sizes(
    class_map: ClassMap, standard_error: float = DEFAULT_STANDARD_ERROR, total: int | None = None
) -> np.ndarray:
    """Chooses how many places are drawn in each class.

    As many are drawn as give the overall accuracy this standard error if every class is `EXPECTED_ACCURACY` accurate
    (equation 13). Each class gets `MIN_PLACES`, but at most half of the places are shared out evenly. The rest goes to
    the classes by their area.

    Args:
        class_map: The map.
        standard_error: Standard error of the overall accuracy, from 0 to 1.
        total: Number of places, in place of the standard error.

    Returns:
        (classes,) int64. No class has more places than pixels.
    """
    pixels = class_map.pixel_counts
    if total is None:
        total = math.ceil(EXPECTED_ACCURACY * (1 - EXPECTED_ACCURACY) / standard_error**2)
    sizes = np.minimum(np.where(pixels > 0, min(MIN_PLACES, total // (2 * max(1, (pixels > 0).sum()))), 0), pixels)
    sizes = np.maximum(sizes, np.minimum(2, pixels))  # a standard error needs two places
    rest = max(0, total - int(sizes.sum()))
    # Classes whose share by area is below their least number keep that; the others share the rest.
    wanted = class_map.areas / class_map.areas.sum() * total
    excess = np.maximum(wanted - sizes, 0)
    if excess.sum():
        shares = rest * excess / excess.sum()
        added = np.floor(shares).astype(int)
        added[np.argsort(added - shares, kind="stable")[: rest - int(added.sum())]] += 1  # the largest remainders
        sizes = np.minimum(sizes + added, pixels)
    return sizes


def draw_places(class_map: ClassMap, sizes: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draws pixels of a map at random within each class, without repetition.

    Args:
        class_map: The map.
        sizes: (classes,) number of places in each class.
        seed: Seed of the random numbers.

    Returns:
        (n, 2) int64, row and column of each place, in an order that tells nothing of their classes.
    """
    generator = np.random.default_rng(seed)
    flat = class_map.classes.ravel()
    chosen = [
        generator.choice(np.flatnonzero(flat == index), size, replace=False)
        for index, size in enumerate(sizes.tolist())
        if size
    ]
    places = generator.permutation(np.concatenate(chosen))
    return np.stack(np.divmod(places, class_map.grid.width), axis=-1)


def pixel_centres(class_map: ClassMap, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns longitudes and latitudes (n,) of the centres of pixels (n, 2), rows and columns."""
    x, y = class_map.grid.transform * (places[:, 1] + 0.5, places[:, 0] + 0.5)
    longitudes, latitudes = rasterio.warp.transform(class_map.grid.crs, WGS84, x, y)
    return np.array(longitudes), np.array(latitudes)


# Estimating from labelled places.


@dataclass(frozen=True)
class MapAccuracy:
    """The accuracy of a map, estimated from labelled places, with standard errors.

    Rows of matrices are classes of the map, columns are reference classes. What cannot be estimated is not a number.

    Attributes:
        names: Names of the classes.
        counts: (classes, classes) int64, labelled places.
        mapped_areas: (classes,) float64, areas of the classes on the map, in hectares.
        shares: (classes, classes) float64, estimated shares of the whole area, which sum to 1.
        areas: (classes,) float64, estimated areas in hectares.
        area_errors: Their standard errors.
        users_accuracies: (classes,) float64, shares of the area mapped as a class that belong to it.
        users_errors: Their standard errors.
        producers_accuracies: (classes,) float64, shares of the area of a class that are mapped as it.
        producers_errors: Their standard errors.
        overall_accuracy: The share of the whole area that is mapped right.
        overall_error: Its standard error.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    mapped_areas: np.ndarray
    shares: np.ndarray
    areas: np.ndarray
    area_errors: np.ndarray
    users_accuracies: np.ndarray
    users_errors: np.ndarray
    producers_accuracies: np.ndarray
    producers_errors: np.ndarray
    overall_accuracy: float
    overall_error: float


def estimate_accuracy(
    names: Sequence[str], counts: np.ndarray, mapped_areas: np.ndarray, pixel_counts: np.ndarray | None = None
) -> MapAccuracy:
    """Estimates the accuracy of a map and the areas of its classes (Olofsson et al. 2014, equations 1 to 11).

    The variances have the finite population correction of Cochran 1977, section 5.3.

    Args:
        names: Names of the classes.
        counts: (classes, classes) places by their class on the map (rows) and their reference class (columns). Places
            are drawn at random within each class of the map.
        mapped_areas: (classes,) areas of the classes on the map, in any unit.
        pixel_counts: (classes,) pixels of the classes on the map, of which each place is another. Errors are smaller
            where many of them are labelled, and zero where all are; `None` for places that may share a pixel, or for a
            map that is much larger than the sample.

    Raises:
        InputError: A class of the map has fewer than two places, and more pixels than places.
    """
    counts, mapped_areas = np.asarray(counts), np.asarray(mapped_areas, "float64")
    totals = counts.sum(1)
    unlabelled_shares = np.ones(len(totals)) if pixel_counts is None else 1 - totals / np.maximum(pixel_counts, 1)
    for name, total, area, unlabelled in zip(names, totals.tolist(), mapped_areas.tolist(), unlabelled_shares.tolist()):
        if area and total < 2 and unlabelled:
            raise InputError(
                f"{name} is {100 * area / mapped_areas.sum():.2g} % of the map and has {total} labelled "
                f"place{'' if total == 1 else 's'}; a standard error needs at least two in every class of the map"
            )
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = mapped_areas / mapped_areas.sum()
        row_shares = np.where(totals[:, np.newaxis] > 0, counts / np.maximum(totals, 1)[:, np.newaxis], 0)
        variances = row_shares * (1 - row_shares) / np.maximum(totals - 1, 1)[:, np.newaxis]
        variances = variances * unlabelled_shares[:, np.newaxis]
        shares = weights[:, np.newaxis] * row_shares
        users = np.where(totals > 0, np.diag(row_shares), np.nan)
        reference_shares = shares.sum(0)
        producers = np.diag(shares) / reference_shares
        off_diagonal = weights[:, np.newaxis] ** 2 * variances * (1 - np.eye(len(weights)))
        producers_variances = (
            weights**2 * (1 - producers) ** 2 * np.diag(variances) + producers**2 * off_diagonal.sum(0)
        ) / reference_shares**2
    return MapAccuracy(
        names=tuple(names),
        counts=counts,
        mapped_areas=mapped_areas,
        shares=shares,
        areas=mapped_areas.sum() * reference_shares,
        area_errors=mapped_areas.sum() * np.sqrt((weights[:, np.newaxis] ** 2 * variances).sum(0)),
        users_accuracies=users,
        users_errors=np.where(totals > 0, np.sqrt(np.diag(variances)), np.nan),
        producers_accuracies=producers,
        producers_errors=np.sqrt(producers_variances),
        overall_accuracy=float(np.diag(shares).sum()),
        overall_error=float(np.sqrt((weights**2 * np.diag(variances)).sum())),
    )


# Samples in files: written for those who label them, and read again.


def write_sample(
    class_map: ClassMap, places: np.ndarray, base: pathlib.Path, scene: Scene | None = None, overwrite: bool = False
) -> list[pathlib.Path]:
    """Writes drawn places with empty labels, as GeoPackage and CSV, and a picture of each if there is a scene.

    Args:
        class_map: The map. Its classes are not written, so that they do not influence who labels.
        places: (n, 2) rows and columns of pixels of the map.
        base: Start of the names: BASE_sample.gpkg, BASE_sample.csv and BASE_places/.
        scene: The scene to draw the pictures from.
        overwrite: Whether an earlier sample may be replaced.

    Returns:
        The files and the folder.

    Raises:
        InputError: A file exists, cannot be written, or a place lies outside of the scene.
    """
    import geopandas

    package, table, folder = (base.with_name(base.name + end) for end in ("_sample.gpkg", "_sample.csv", "_places"))
    written = [package, table, *([folder] if scene else [])]
    for path in (package, table, folder):
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists and may hold labels; give another --output, or --overwrite")
    stray = [path.name for path in folder.glob("*") if not re.fullmatch(r"\d{4,}\.png", path.name)]
    if stray:
        raise InputError(f"{folder} holds {stray[0]}, which is no picture of a place; give another --output")
    longitudes, latitudes = pixel_centres(class_map, places)
    numbers = range(1, len(places) + 1)
    picture_names = [f"{folder.name}/{number:04}.png" for number in numbers] if scene else [""] * len(places)
    columns = {
        "id": list(numbers),
        "reference": [""] * len(places),
        "longitude": longitudes.round(7),
        "latitude": latitudes.round(7),
        "picture": picture_names,
        "map": [class_map.digest] * len(places),
    }
    squares = geopandas.GeoSeries(_pixel_outlines(class_map.grid, places), crs=class_map.crs_text)
    frame = geopandas.GeoDataFrame(columns, geometry=squares)
    with contextlib.ExitStack() as stack:  # either all of them appear or none
        temporaries = [stack.enter_context(rundir.write_atomically(path)) for path in written]
        write_geopackage(frame, temporaries[0], SAMPLE_LAYER)
        frame.drop(columns="geometry").to_csv(temporaries[1], index=False)
        if scene:
            temporaries[2].mkdir()
            for number, place in zip(numbers, places):
                draw_place(class_map, place, scene).save(temporaries[2] / f"{number:04}.png")
        shutil.rmtree(folder, ignore_errors=True)  # pictures of an earlier sample
    return written


def _pixel_outlines(grid: Grid, places: np.ndarray) -> list:
    """Returns the outlines of pixels (n, 2), rows and columns, as polygons in the coordinates of a grid."""
    import shapely

    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])  # columns and rows
    points = places[:, np.newaxis, ::-1] + corners
    x, y = grid.transform * (points[..., 0], points[..., 1])
    return list(shapely.polygons(np.stack((x, y), axis=-1)))


def draw_place(class_map: ClassMap, place: np.ndarray, scene: Scene) -> PIL.Image.Image:
    """Draws the surroundings of a pixel of a map from a scene, with the outline of the pixel.

    Raises:
        InputError: The place lies outside of the scene.
    """
    import shapely

    (square,) = _pixel_outlines(class_map.grid, place[np.newaxis])
    x, y = shapely.get_coordinates(square).T
    longitudes, latitudes = (np.array(each) for each in rasterio.warp.transform(class_map.grid.crs, WGS84, x, y))
    corners = degrees_to_pixels(np.stack((longitudes, latitudes), -1), scene.grid)  # columns and rows
    middle, side = corners[:-1].mean(0), np.ptp(corners, axis=0).max()
    shown = max(PLACE_PIXELS, math.ceil(PLACE_SURROUNDINGS * side))
    start = np.floor(middle - shown / 2).astype(int)
    size = np.array((scene.grid.width, scene.grid.height))
    start = np.clip(start, 0, np.maximum(size - shown, 0))
    stop = np.minimum(start + shown, size)
    if not ((corners.max(0) > 0) & (corners.min(0) < size)).all():
        raise InputError(f"{scene.name} does not show {longitudes[0]:.5f}, {latitudes[0]:.5f}; give the map's scene")
    pixels = scene.read_colours(Window(*start.tolist(), *(stop - start).tolist()))
    factor = max(1, PLACE_PICTURE_PIXELS // shown)
    picture = PIL.Image.fromarray(pixels).resize((pixels.shape[1] * factor, pixels.shape[0] * factor), 0)
    outline = (corners - start) * factor
    draw = PIL.ImageDraw.Draw(picture)
    for colour, width in (("black", 4), ("yellow", 2)):
        draw.line([tuple(point) for point in outline.tolist()], fill=colour, width=width, joint="curve")
        for direction in ((1, 0), (-1, 0), (0, 1), (0, -1)):  # four strokes that point at a small square
            near = outline[:4].mean(0) + np.array(direction) * (np.ptp(outline, axis=0) / 2 + 8)
            draw.line([*near.tolist(), *(near + 16 * np.array(direction)).tolist()], fill=colour, width=width)
    return picture


def read_reference(
    path: str | pathlib.Path, class_map: ClassMap, label: str = "reference", layer: str | None = None
) -> tuple[np.ndarray, bool, str]:
    """Reads labelled places and counts them by their class on the map and their reference class.

    Args:
        path: A file that geopandas reads, such as a GeoPackage, or a CSV with columns longitude and latitude.
        class_map: The map.
        label: The attribute or column with the reference classes: names of the map's classes, or nothing where nobody
            has labelled yet.
        layer: The layer of the file, if it has several.

    Returns:
        counts: (classes, classes) int64, rows are classes of the map.
        is_drawn: Whether `assess.py` has drawn the places, each in a pixel of its own.
        note: What was left out, and how the places were drawn as far as the file tells.

    Raises:
        InputError: The file cannot be read, is of another map, or has labels that are no classes of the map.
    """
    import shapely

    frame = read_shapes(path, label, layer or SAMPLE_LAYER)
    digests = {str(digest).strip() for digest in frame["map"].dropna()} - {""} if "map" in frame.columns else set()
    if digests - {class_map.digest}:
        raise InputError(
            f"{path}: was drawn from another map than {class_map.path}, or from another --area (its map is "
            f"{min(digests - {class_map.digest})}, this one {class_map.digest})"
        )
    index_by_name = {name.casefold(): index for index, name in enumerate(class_map.names)}
    texts = [text.casefold() for text in frame[label]]
    if unknown := sorted({text for text in frame[label] if text and text.casefold() not in index_by_name}):
        raise InputError(
            f"{path}: {', '.join(unknown[:3])} {'is no class' if len(unknown) == 1 else 'are no classes'} of the map, "
            f"which has {', '.join(class_map.names)}; leave places empty that you cannot tell"
        )
    if frame.geometry.isna().any() or frame.geometry.is_empty.any():
        raise InputError(f"{path}: has rows without a place")
    points = shapely.get_coordinates(shapely.centroid(frame.geometry.to_crs(class_map.crs_text).to_numpy()))
    points[~np.isfinite(points)] = -1e18  # no place in the map's reference system, and so outside
    positions = np.stack(~class_map.grid.transform * tuple(points.T), axis=-1)
    columns, rows = np.floor(positions).astype(int).T
    inside = (columns >= 0) & (columns < class_map.grid.width) & (rows >= 0) & (rows < class_map.grid.height)
    mapped = np.full(len(frame), NO_CLASS)
    mapped[inside] = class_map.classes[rows[inside], columns[inside]]
    if digests:
        _check_drawn_places(path, positions, mapped)
    references = np.array([index_by_name.get(text, NO_CLASS) for text in texts], int)
    is_counted = (mapped != NO_CLASS) & (references != NO_CLASS)
    counts = np.zeros((len(class_map.names),) * 2, "int64")
    np.add.at(counts, (mapped[is_counted], references[is_counted]), 1)
    unlabelled, outside = int((references == NO_CLASS).sum()), int(((references != NO_CLASS) & ~is_counted).sum())
    notes = [f"{counts.sum()} labelled places"]
    notes += [f"{unlabelled} without a label"] if unlabelled else []
    notes += [f"{outside} outside of the map or where it is empty"] if outside else []
    if not digests:
        notes.append("not drawn by assess.py: right only if they are a random sample of the map or within each class")
    if not counts.sum():
        layers = list_layers(path)
        unread_layers = [name for name in layers if name != (layer or SAMPLE_LAYER)] if len(layers) > 1 else []
        hint = (
            f"; --layer reads another layer of the file: {', '.join(unread_layers)}"
            if unlabelled and unread_layers
            else ""
        )
        raise InputError(f"{path}: no place counts: {'; '.join(notes[1:])}{hint}")
    return counts, bool(digests), "; ".join(notes)


def _check_drawn_places(path: str | pathlib.Path, positions: np.ndarray, mapped: np.ndarray) -> None:
    """Raises InputError unless drawn places lie on the centres of pixels with a class, each once.

    Args:
        path: Their file.
        positions: (n, 2) columns and rows, with fractions.
        mapped: (n,) classes of the map.
    """
    moved = (np.abs(positions - np.floor(positions) - 0.5).max(1) > CENTRE_TOLERANCE) | (mapped == NO_CLASS)
    if moved.any():
        raise InputError(
            f"{path}: {int(moved.sum())} of {len(moved)} places have been moved since they were drawn, first row "
            f"{int(moved.argmax()) + 1}; have longitude and latitude been rounded? Take them from the drawn sample"
        )
    _, first_rows = np.unique(np.floor(positions), axis=0, return_index=True)
    if len(first_rows) < len(positions):
        repeated = min(set(range(len(positions))) - set(first_rows.tolist()))
        raise InputError(f"{path}: row {repeated + 1} repeats an earlier place; keep one row for each place")


# Results: printed, in files, and on a page.


def format_accuracy(accuracy: MapAccuracy) -> str:
    """Returns overall accuracy, the table of classes and the error matrix, with intervals of 95 %."""
    overall = _format_share(accuracy.overall_accuracy, accuracy.overall_error)
    width = max(map(len, ("class", *accuracy.names)))
    header = ("user's accuracy", "producer's accuracy", "mapped", "estimated area")
    lines = [
        f"overall accuracy: {overall} of the area",
        "{:{}}  {:>16}  {:>19}  {:>16}  {}".format("class", width, *header),
    ]
    for index, name in enumerate(accuracy.names):
        users = _format_share(accuracy.users_accuracies[index], accuracy.users_errors[index])
        producers = _format_share(accuracy.producers_accuracies[index], accuracy.producers_errors[index])
        interval = INTERVAL_ERRORS * accuracy.area_errors[index]
        lines.append(
            f"{name:{width}}  {users:>16}  {producers:>19}  {accuracy.mapped_areas[index]:>13,.1f} ha  "
            f"{accuracy.areas[index]:,.1f} ± {interval:,.1f} ha"
        )
    lines.append("± gives the 95 % confidence interval")
    few = [
        name
        for name, row, area in zip(accuracy.names, accuracy.counts, accuracy.mapped_areas)
        if area and (row.sum() < MIN_PLACES or row.max() == row.sum())
    ]
    if few:
        lines.append(
            f"too narrow for {', '.join(few)}: fewer than {MIN_PLACES} labelled places, or no error among them"
        )
    return "\n".join(lines)


def _format_share(share: float, error: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} ± {100 * INTERVAL_ERRORS * error:.1f} %"


def write_accuracy(
    accuracy: MapAccuracy, class_map: ClassMap, base: pathlib.Path, source: dict, overwrite: bool = False
) -> list[str]:
    """Writes BASE_accuracy.json, .csv (a row for each class) and .png, and BASE_error_matrix.csv (shares of the area).

    Args:
        accuracy: The accuracy.
        class_map: The map.
        base: Start of the names.
        source: Further entries of the JSON file, such as the file of the labels.
        overwrite: Whether earlier files may be replaced.

    Returns:
        The paths of the files.

    Raises:
        InputError: A file exists, or cannot be written.
    """
    ends = ("_accuracy.json", "_accuracy.csv", "_error_matrix.csv", "_accuracy.png")
    paths = [base.with_name(base.name + end) for end in ends]
    for path in paths:
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists; give another --output, or --overwrite")
    content = {"map": str(class_map.path), "map_digest": class_map.digest, **source, **_as_json(accuracy)}
    rows = [["map class", *accuracy.names]]
    rows += [[name, *(f"{share:.6f}" for share in shares)] for name, shares in zip(accuracy.names, accuracy.shares)]
    with contextlib.ExitStack() as stack:  # either all of them appear or none
        temporaries = [stack.enter_context(rundir.write_atomically(path)) for path in paths]
        rundir.write_json(temporaries[0], content)
        rundir.write_csv(temporaries[1], _class_rows(accuracy))
        rundir.write_csv(temporaries[2], rows)
        draw_accuracy(accuracy, class_map.path.name).savefig(temporaries[3], format="png", dpi=120)
    return [str(path) for path in paths]


def _as_json(accuracy: MapAccuracy) -> dict:
    values = dataclasses.asdict(accuracy)
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def _class_rows(accuracy: MapAccuracy) -> list[list]:
    """Returns the rows of a table of the classes, the first one with its titles."""
    header = ["class", "places", "mapped_ha", "estimated_ha", "estimated_ha_error", "users_accuracy"]
    header += ["users_accuracy_error", "producers_accuracy", "producers_accuracy_error"]
    columns = [accuracy.names, accuracy.counts.sum(1), accuracy.mapped_areas, accuracy.areas, accuracy.area_errors]
    columns += [accuracy.users_accuracies, accuracy.users_errors]
    columns += [accuracy.producers_accuracies, accuracy.producers_errors]
    rows = [["" if value != value else value for value in row] for row in zip(*columns)]
    return [header, *([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)]


def draw_accuracy(accuracy: MapAccuracy, title: str) -> Figure:
    """Draws the error matrix in shares of the area, and the mapped and estimated areas with their intervals."""
    names = [figures.escape_mathtext(name) for name in accuracy.names]
    size = 3.0 + 0.5 * len(names)
    figure = Figure(figsize=(2.2 * size, size + 0.6), layout="constrained")
    matrix_axes, area_axes = figure.subplots(1, 2)
    overall = _format_share(accuracy.overall_accuracy, accuracy.overall_error)
    figure.suptitle(figures.escape_mathtext(f"{title}: {overall} of the area is right"))
    row_sums = np.maximum(accuracy.shares.sum(1, keepdims=True), 1e-12)
    matrix_axes.imshow(accuracy.shares / row_sums, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(accuracy.shares):
        if share:
            colour = "white" if share > 0.5 * row_sums[row, 0] else "black"
            matrix_axes.text(column, row, f"{100 * share:.2g}", ha="center", va="center", color=colour, fontsize=8)
    matrix_axes.set(xlabel="reference", ylabel="map", title="% of the area")
    matrix_axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    matrix_axes.set_yticks(range(len(names)), names)
    rows = np.arange(len(names))
    area_axes.barh(rows - 0.2, accuracy.mapped_areas, 0.35, color="0.75", label="mapped")
    intervals = INTERVAL_ERRORS * accuracy.area_errors
    area_axes.barh(rows + 0.2, accuracy.areas, 0.35, xerr=intervals, color="tab:blue", label="estimated, 95 % interval")
    area_axes.set(xlabel="hectares", xlim=(0, None))
    area_axes.set_yticks(rows, names)
    area_axes.invert_yaxis()
    area_axes.legend(frameon=False)
    return figure
