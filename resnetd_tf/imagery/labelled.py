"""Patches of one's own classes, cut from scenes where polygons or points say what is there.

`read_labels` reads polygons or points, `cut_patches` cuts windows of scenes, `split_by_place` keeps neighbours on one
side, and `write_patches` writes a folder that `--dataset=folder:PATH` takes.
"""

import contextlib
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import rasterio
import rasterio.features
import rasterio.warp
from rasterio.windows import Window

from resnetd_tf import rundir
from resnetd_tf.data.splits import OUTLINES_NAME
from resnetd_tf.errors import InputError, damage_as_input_error
from resnetd_tf.imagery.grid import WGS84
from resnetd_tf.imagery.scene import Scene
from resnetd_tf.imagery.sliding_window import render_window
from resnetd_tf.imagery.vectors import read_shapes, write_geopackage
from resnetd_tf.sentinel2 import BANDS

if TYPE_CHECKING:
    import geopandas

SPLIT_SHARES = {"train": 0.7, "validation": 0.2, "test": 0.1}
SPLIT_ORDER = ("train", "test", "validation")  # each class gets a place in every split, in this order
KILOMETRES_PER_DEGREE = 111.2
MAX_OVERLAP = 0.01  # of the smaller of two shapes, by which drawn borders may overlap
SPLIT_ATTEMPTS = 50  # orders in which places are given to splits
FOLDS = 5  # of the comparison of splits by place with random splits
REPETITIONS = 5
MAX_COMPARED = 2000  # patches of that comparison


@dataclass(frozen=True)
class Labels:
    """Labelled polygons or points.

    Attributes:
        frame: Polygons and points in one coordinate reference system, with their class numbers in the column "label".
        classes: Names of the classes.
        left_out: Number of shapes without a class or a place.
    """

    frame: "geopandas.GeoDataFrame"
    classes: tuple[str, ...]
    left_out: int = 0

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north of all shapes in degrees, a little enlarged; west is greater across 180."""
        boxes = self.frame.to_crs(WGS84.to_wkt()).bounds.to_numpy()
        turns = np.rint((boxes[:, 0] - boxes[0, 0]) / 360)[:, np.newaxis] * (360, 0, 360, 0)
        (west, south), (east, north) = (boxes - turns)[:, :2].min(0), (boxes - turns)[:, 2:].max(0)
        west, east = ((float(degrees) + 180) % 360 - 180 for degrees in (west - 0.001, east + 0.001))
        return west, max(-90.0, float(south) - 0.001), east, min(90.0, float(north) + 0.001)


@dataclass
class Losses:
    """What gave no patch, by class.

    Attributes:
        outside: Shapes that no scene shows.
        impure: Polygons in which no window belongs to the class.
        hidden: Windows with clouds or without data.
    """

    outside: list[int]
    impure: list[int]
    hidden: list[int]

    def describe(self, label: int) -> str:
        """Returns what gave no patch of a class as a sentence."""
        return (
            f"{self.outside[label]} shapes lie outside of the scenes, {self.impure[label]} are too small or mixed for "
            f"the size and --purity, and {self.hidden[label]} windows have clouds or no data"
        )


@dataclass
class LabelledPatches:
    """Patches with their classes and places.

    Attributes:
        classes: Names of the classes.
        losses: What gave no patch.
        images: Patches (size, size, bands), as a classifier takes them.
        labels: The class of each patch.
        shapes: The polygon or point of each patch, by its position in the file.
        centres: Longitude and latitude of each patch.
        outlines: The outline of each patch, (4, 2) longitudes and latitudes.
    """

    classes: tuple[str, ...]
    losses: Losses
    images: list[np.ndarray] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    shapes: list[int] = field(default_factory=list)
    centres: list[tuple[float, float]] = field(default_factory=list)
    outlines: list[np.ndarray] = field(default_factory=list)


def read_labels(path: str | pathlib.Path, attribute: str, layer: str | None = None) -> Labels:
    """Reads labelled polygons or points.

    Args:
        path: A file of polygons or points, as `vectors.read_shapes` takes it.
        attribute: The attribute with the classes. Shapes without a class are left out.
        layer: The layer of the file, if it has several.

    Raises:
        InputError: The file cannot be read, has no such attribute, or has shapes that cannot be used.
    """
    import geopandas
    import shapely

    frame = read_shapes(path, attribute, layer)
    texts = frame[attribute].tolist()
    has_shape = ~(frame.geometry.isna() | frame.geometry.is_empty).to_numpy()
    is_labelled = np.array([bool(text) for text in texts]) & has_shape
    classes = tuple(sorted({text for text, is_kept in zip(texts, is_labelled) if is_kept}))
    if len(classes) < 2:
        raise InputError(f"{path}: its attribute {attribute} has {len(classes)} classes; a classifier needs two")
    for name in classes:
        if any(sign in name for sign in "/\\\n") or name in (".", "..") or name[0] == ".":
            raise InputError(f"{path}: the class {name!r} cannot be the name of a folder; rename it")
    labelled_frame = geopandas.GeoDataFrame(
        {"class": texts, "row": range(1, len(frame) + 1)}, geometry=frame.geometry.to_numpy()
    )
    labelled_frame = labelled_frame.set_crs(frame.crs)[is_labelled].explode(
        ignore_index=True
    )  # parts of a shape may lie far apart
    for row, reason in zip(labelled_frame["row"], shapely.is_valid_reason(labelled_frame.geometry.to_numpy())):
        if reason != "Valid Geometry":
            raise InputError(f"{path}: shape {row} is not valid ({reason}); mend it, as QGIS does with Fix geometries")
    if kinds := set(labelled_frame.geom_type) - {"Polygon", "Point"}:
        raise InputError(f"{path}: holds {', '.join(sorted(kinds))}; give polygons or points")
    labelled_frame["label"] = [classes.index(text) for text in labelled_frame["class"]]
    _check_overlaps(path, labelled_frame)
    return Labels(labelled_frame, classes, left_out=int((~is_labelled).sum()))


def _check_overlaps(path: str | pathlib.Path, frame: "geopandas.GeoDataFrame") -> None:
    """Raises InputError if shapes of different classes lie over each other by more than a sliver."""
    import shapely

    shapes, numbers = frame.geometry.to_numpy(), frame["label"].to_numpy()
    pairs = []
    for first, second in shapely.STRtree(shapes).query(shapes, predicate="intersects").T.tolist():
        if numbers[first] >= numbers[second]:
            continue
        smaller_area = min(shapely.area(shapes[first]), shapely.area(shapes[second]))  # 0 for a point
        shared_area = shapely.area(shapely.intersection(shapes[first], shapes[second]))
        if shared_area > MAX_OVERLAP * smaller_area or not smaller_area:
            names = [f"{frame['row'][index]} ({frame['class'][index]})" for index in (first, second)]
            pairs.append(" and ".join(names))
    if pairs:
        rest = f", and {len(pairs) - 3} more pairs" if len(pairs) > 3 else ""
        raise InputError(f"{path}: shapes {'; '.join(pairs[:3])}{rest} overlap; every place has one class")


def cut_patches(labels: Labels, scenes: Sequence[Scene], size: int = 64, purity: float = 0.8) -> LabelledPatches:
    """Cuts windows of scenes inside polygons, and around points.

    Windows of a polygon lie on a lattice of half their size, which is centred on the polygon. A smaller polygon gets
    one window in its middle. A window belongs to the class of its polygon if enough of it lies in polygons of this
    class.

    Args:
        labels: The polygons or points.
        scenes: The scenes. Places that several scenes show give patches of each.
        size: Side of a patch in pixels of 10 m.
        purity: Least share of a window that lies in polygons of its class, from 0 to 1; of no account for points.

    Raises:
        InputError: A scene has no coordinate reference system, or is damaged.
    """
    count = len(labels.classes)
    losses = Losses([0] * count, [0] * count, [0] * count)
    patches = LabelledPatches(labels.classes, losses)
    shown, pure = set(), set()
    for scene in scenes:
        scene_crs = scene.require_crs()
        with damage_as_input_error(f"{scene.name}: the places of the labels cannot be found in it"):
            frame = labels.frame.to_crs(scene_crs.to_wkt())
        shapes, numbers = frame.geometry.to_numpy(), frame["label"].to_numpy()
        outline = (scene.grid.height, scene.grid.width)
        areas = [(shape, number + 1) for shape, number in zip(shapes, numbers) if shape.geom_type != "Point"]
        classes = np.zeros(outline, "uint16")
        if areas:
            rasterio.features.rasterize(areas, out=classes, transform=scene.grid.transform)
        for index, shape, number in zip(frame.index, shapes, numbers.tolist()):
            windows = _lattice_windows(shape, scene, size)
            if windows:
                shown.add(index)
            for window in windows:
                column, row = int(window.col_off), int(window.row_off)
                inside = classes[row : row + size, column : column + size] == number + 1
                if shape.geom_type != "Point" and inside.mean() < purity:
                    continue
                pure.add(index)
                pixels, valid = scene.read(window)
                if not valid.all():
                    losses.hidden[number] += 1
                    continue
                _add_patch(patches, render_window(pixels, scene.is_picture), number, index, window, scene)
    for index, number in zip(labels.frame.index, labels.frame["label"].tolist()):
        if index not in shown:
            losses.outside[number] += 1
        elif index not in pure:
            losses.impure[number] += 1
    return patches


def _lattice_windows(shape, scene: Scene, size: int) -> list[Window]:
    """Returns the windows over a polygon, or around a point, that lie within a scene."""
    import shapely

    columns, rows = ~scene.grid.transform * tuple(shapely.get_coordinates(shape).T)
    if not np.isfinite((columns, rows)).all():  # no place in the scene's projection
        return []
    starts = []
    for positions, side in ((columns, scene.grid.width), (rows, scene.grid.height)):
        low, high = np.clip((positions.min(), positions.max()), 0, side)
        if shape.geom_type == "Point":
            low = high = positions[0]
        steps = max(0, int((high - low - size) // (size // 2)))
        first = (low + high) / 2 - (size + steps * (size // 2)) / 2
        starts.append([round(first + step * (size // 2)) for step in range(steps + 1)])
    return [
        Window(column, row, size, size)
        for row in starts[1]
        for column in starts[0]
        if 0 <= column <= scene.grid.width - size and 0 <= row <= scene.grid.height - size
    ]


def _add_patch(
    patches: LabelledPatches, image: np.ndarray, label: int, shape: int, window: Window, scene: Scene
) -> None:
    """Adds a patch with its place."""
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * window.width + (window.col_off, window.row_off)
    x, y = scene.grid.transform * tuple(corners.T)
    degrees = np.stack(rasterio.warp.transform(scene.grid.crs, WGS84, x, y), axis=-1)
    degrees[:, 0] = degrees[0, 0] + (degrees[:, 0] - degrees[0, 0] + 180) % 360 - 180  # across 180 degrees
    patches.images.append(image)
    patches.labels.append(label)
    patches.shapes.append(shape)
    patches.centres.append(tuple(degrees.mean(0).tolist()))
    patches.outlines.append(degrees)


# Splits by place.


def split_by_place(patches: LabelledPatches, block_km: float = 1.0, seed: int = 0) -> list[str]:
    """Divides patches into train, validation and test, so that neighbours are on one side.

    Patches of one polygon, and of one block of the ground, stay together.

    Args:
        patches: The patches.
        block_km: Side of a block in kilometres; 0 keeps polygons alone together.
        seed: Seed of the random numbers.

    Returns:
        The split of each patch.

    Raises:
        InputError: A class lies in fewer than three places, so that not every split can have it.
    """
    for label, name in enumerate(patches.classes):
        if label not in patches.labels:
            raise InputError(f"{name} has no patch: {patches.losses.describe(label)}")
    try:
        return _divide_places(patches, block_km, seed)
    except InputError as error:
        if not block_km:
            raise
        reason = error
    try:
        _divide_places(patches, 0, seed)
    except InputError as error:
        raise reason from error
    raise InputError(f"{reason}, or give a smaller --block_km; 0 keeps only patches of one polygon together")


def _divide_places(patches: LabelledPatches, block_km: float, seed: int) -> list[str]:
    """Divides places into splits, as `split_by_place` does.

    Raises:
        InputError: Not every split can have every class.
    """
    labels, places = np.array(patches.labels), _find_places(patches, block_km)
    counts = np.zeros((int(places.max()) + 1, len(patches.classes)), int)
    np.add.at(counts, (places, labels), 1)
    for label, number in enumerate((counts > 0).sum(0).tolist()):
        if number < len(SPLIT_SHARES):
            raise InputError(
                f"{patches.classes[label]} lies in {number} place{'' if number == 1 else 's'}; train, validation and "
                "test need one each: draw more polygons elsewhere"
            )
    generator = np.random.default_rng(seed)
    for _ in range(SPLIT_ATTEMPTS):
        splits = _assign_places(counts, generator)
        if splits is not None:
            return [splits[place] for place in places.tolist()]
    raise InputError(
        "the places cannot be divided so that train, validation and test have every class, because places hold several "
        "classes: draw more polygons elsewhere"
    )


def _assign_places(counts: np.ndarray, generator: np.random.Generator) -> dict[int, str] | None:
    """Gives places to splits in a random order; `None` if a split lacks a class then.

    Args:
        counts: (places, classes) patches.
        generator: The random numbers.
    """
    splits: dict[int, str] = {}
    sums = dict.fromkeys(SPLIT_SHARES, 0)

    def assign(place: int, split: str) -> None:
        splits[place] = split
        sums[split] += int(counts[place].sum())

    order = generator.permutation(len(counts)).tolist()
    for label in np.argsort((counts > 0).sum(0)).tolist():
        for split in SPLIT_ORDER:
            if any(counts[place, label] for place, assigned in splits.items() if assigned == split):
                continue
            free = [place for place in order if place not in splits and counts[place, label]]
            if not free:
                return None
            choose = max if split == "train" else min
            assign(choose(free, key=lambda place: counts[place, label]), split)
    for place in order:
        if place not in splits:
            assign(place, min(SPLIT_SHARES, key=lambda split: sums[split] / SPLIT_SHARES[split]))
    return splits


def _find_places(patches: LabelledPatches, block_km: float) -> np.ndarray:
    """Numbers the places of patches, (n,): patches that share a polygon or a block are in one place."""
    import shapely

    _, places = np.unique(patches.shapes, return_inverse=True)
    pairs = []
    if block_km:
        longitudes, latitudes = np.array(patches.centres).T
        scale = KILOMETRES_PER_DEGREE / block_km
        blocks = np.floor(np.stack((longitudes * np.cos(np.radians(latitudes.mean())), latitudes), 1) * scale)
        _, blocks = np.unique(blocks, axis=0, return_inverse=True)
        pairs += list(zip(range(len(blocks)), np.unique(blocks, return_index=True)[1][blocks].tolist()))
    # Windows that show the same ground belong together wherever the blocks end; those that only touch do not.
    corners = np.array(patches.outlines)
    middles = corners.mean(axis=1, keepdims=True)
    outlines = shapely.polygons(middles + 0.999 * (corners - middles))
    pairs += shapely.STRtree(outlines).query(outlines, predicate="intersects").T.tolist()
    for first, second in pairs:
        if places[first] != places[second]:
            places[places == places[first]] = places[second]
    return np.unique(places, return_inverse=True)[1]


def compare_with_random_splits(
    patches: LabelledPatches, features: np.ndarray, block_km: float
) -> tuple[float, float] | None:
    """Measures how much neighbours of training patches would promise.

    A linear classifier of the features is fitted by ridge regression on four fifths of the patches and judged on the
    rest, for every fifth in turn, and for `REPETITIONS` ways to draw the fifths.

    Args:
        patches: The patches.
        features: (n, features) float32, features of the patches.
        block_km: Side of a block in kilometres, as in `split_by_place`.

    Returns:
        Its accuracy on patches in other places, and on patches drawn at random, from 0 to 1; `None` if every place has
        one patch.
    """
    generator = np.random.default_rng(0)
    chosen = generator.permutation(len(patches.labels))[:MAX_COMPARED]
    places, labels = _find_places(patches, block_km)[chosen], np.array(patches.labels)[chosen]
    if len(np.unique(places)) == len(places):
        return None
    accuracies = []
    for _ in range(REPETITIONS):
        fold_of_place = generator.permutation(int(places.max()) + 1) % FOLDS
        random_folds = generator.permutation(len(chosen)) % FOLDS
        predicted = [_predict_folds(features[chosen], labels, folds) for folds in (fold_of_place[places], random_folds)]
        accuracies.append([(classes == labels).mean() for classes in predicted])
    by_place, at_random = np.mean(accuracies, 0).tolist()
    return by_place, at_random


def _predict_folds(features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Predicts the labels of each fold by ridge regression on the other folds."""
    centred = features - features.mean(0)
    kernel = centred @ centred.T
    kernel /= kernel.diagonal().mean()
    targets = np.eye(labels.max() + 1)[labels]
    predicted = np.empty_like(labels)
    for fold in np.unique(folds):
        known, asked = folds != fold, folds == fold
        base = targets[known].mean(0)
        weights = np.linalg.solve(kernel[np.ix_(known, known)] + 0.1 * np.eye(known.sum()), targets[known] - base)
        predicted[asked] = (base + kernel[np.ix_(asked, known)] @ weights).argmax(1)
    return predicted


# The folder.


def write_patches(patches: LabelledPatches, splits: Sequence[str], folder: pathlib.Path) -> None:
    """Writes patches as FOLDER/SPLIT/CLASS/NAME, and their outlines as FOLDER/patches.gpkg.

    Patches of three bands are PNG files, those of 13 bands GeoTIFF files of digital numbers.

    Raises:
        InputError: The folder exists, or cannot be written.
    """
    import geopandas
    import shapely

    rundir.require_absent(folder)
    names = []
    with rundir.write_atomically(folder) as temporary:
        for index, (image, label, split) in enumerate(zip(patches.images, patches.labels, splits)):
            suffix = "png" if image.shape[-1] == 3 else "tif"
            name = f"{split}/{patches.classes[label]}/{patches.shapes[index] + 1}_{index + 1:05}.{suffix}"
            names.append(name)
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            _write_patch(temporary / name, image)
        columns = {
            "name": names,
            "class": [patches.classes[label] for label in patches.labels],
            "split": list(splits),
            "shape": [shape + 1 for shape in patches.shapes],
        }
        outlines = geopandas.GeoSeries(list(shapely.polygons(np.array(patches.outlines))), crs=WGS84.to_wkt())
        write_geopackage(geopandas.GeoDataFrame(columns, geometry=outlines), temporary / OUTLINES_NAME, "patches")


def _write_patch(path: pathlib.Path, image: np.ndarray) -> None:
    if path.suffix == ".png":
        PIL.Image.fromarray(image).save(path)
        return
    height, width, count = image.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": image.dtype}
    with contextlib.suppress(rasterio.errors.NotGeoreferencedWarning), rasterio.open(path, "w", **profile) as file:
        file.write(np.moveaxis(image, -1, 0))
        file.descriptions = BANDS


def format_counts(patches: LabelledPatches, splits: Sequence[str]) -> str:
    """Returns a table of the patches of each class and split, and of what gave none."""
    width = max(5, *map(len, patches.classes))
    header = ("train", "validation", "test", "outside", "too small or mixed", "clouds or no data")
    lines = [f"{'class':{width}}  " + "  ".join(header)]
    labels, splits_array = np.array(patches.labels, int), np.array(splits)
    for label, name in enumerate(patches.classes):
        numbers = [int(((labels == label) & (splits_array == split)).sum()) for split in SPLIT_SHARES]
        numbers += [losses[label] for losses in (patches.losses.outside, patches.losses.impure, patches.losses.hidden)]
        lines.append(f"{name:{width}}  " + "  ".join(f"{n:>{len(title)}}" for n, title in zip(numbers, header)))
    lines.append("outside: shapes that no scene shows; too small or mixed: shapes without a window of their class;")
    lines.append("clouds or no data: windows that were left out")
    return "\n".join(lines)
