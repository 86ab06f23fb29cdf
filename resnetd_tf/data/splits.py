"""Splits of labelled images in memory, and lists of file names that say which images a split has.

A split is decoded once and held once, as raw pixels (uint8 RGB, or uint16 digital numbers of 13 bands). All of EuroSAT
RGB takes 0.33 GB. Batches are gathered from these arrays, so that nothing is decoded or resized again in training.
"""

import collections
import csv
import functools
import hashlib
import io
import itertools
import math
import pathlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from resnetd_tf.data import images
from resnetd_tf.environment import available_memory_bytes
from resnetd_tf.errors import InputError, first_line

OUTLINES_NAME = "patches.gpkg"  # in a folder of patches that were cut from scenes
Shape = tuple[int, int, int]  # (height, width, bands)


@dataclass(frozen=True)
class Split:
    """Labelled images.

    Attributes:
        images: (n, height, width, bands) uint8 or uint16; a list of (height, width, bands) where sizes differ.
        labels: (n,) int64, indices of the dataset's classes.
        names: Name of each image, (n,).
        slice: The part of the dataset that the split is, as TFDS writes it, such as "train[:70%]".
        digests: `pixel_digest` of each image before any resizing, (n,); empty if none were computed.
    """

    images: np.ndarray | list[np.ndarray]
    labels: np.ndarray
    names: tuple[str, ...]
    slice: str
    digests: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int | None, int | None, int]:
        """Shape (height, width, bands) of the images; height and width are `None` where sizes differ."""
        if isinstance(self.images, np.ndarray):
            return self.images.shape[1:]
        return None, None, self.images[0].shape[-1]


@dataclass(frozen=True)
class Dataset:
    """Splits of a dataset.

    Attributes:
        name: Name of the dataset.
        classes: Class names, indexed by the labels.
        splits: The loaded splits by name.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]

    @property
    def bands(self) -> int:
        """Number of bands of the images."""
        return next(iter(self.splits.values())).shape[-1]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of pixels and labels of all loaded splits."""
        digest = hashlib.sha256()
        for name in sorted(self.splits):
            for image in self.splits[name].images:
                digest.update(np.ascontiguousarray(image).data)
            digest.update(np.ascontiguousarray(self.splits[name].labels).data)
        return digest.hexdigest()


# Holding images in memory.


def stored_shapes(split: str, shapes: list[Shape], image_size: int | None) -> list[Shape]:
    """Returns the shapes in which the images of a split are held in memory.

    Only training makes batches of several images, so that only its images are resized, and only if their sizes differ.

    Args:
        split: Name of the split.
        shapes: Shapes of the images in their files.
        image_size: Side in pixels for images of differing sizes; `None` keeps all sizes.
    """
    if image_size and split in ("train", "validation") and len(set(shapes)) > 1:
        return [(image_size, image_size, shapes[0][-1])] * len(shapes)
    return shapes


def check_memory(name: str, shapes: Iterable[Shape], dtype: str) -> None:
    """Checks that images fit into memory.

    Args:
        name: Name of the dataset, for the message.
        shapes: Shapes of the images.
        dtype: Their type.

    Raises:
        InputError: The images do not fit.
    """
    needed, free = sum(map(math.prod, shapes)) * np.dtype(dtype).itemsize, available_memory_bytes()
    if needed > free:
        raise InputError(
            f"dataset {name}: its images take {needed / 2**30:.1f} GiB of memory, of which {free / 2**30:.1f} GiB are "
            "free; use a part of it or a machine with more"
        )


def hold_in_memory(
    pixels: Iterable[np.ndarray], shapes: list[Shape], dtype: str, interpolation: str
) -> np.ndarray | list[np.ndarray]:
    """Collects images in memory without a second copy of all of them.

    Args:
        pixels: The images (height, width, bands), taken one by one.
        shapes: The shape of each image in memory; images of other sizes are resized.
        dtype: Type of the images.
        interpolation: The interpolation for resizing, "bilinear" or "bicubic".

    Returns:
        An array (n, height, width, bands) if all shapes are equal, otherwise a list of arrays (height, width, bands).
    """
    resized_images = (
        images.resize_image(image, *shape[:2], interpolation) for image, shape in zip(pixels, shapes, strict=True)
    )
    if len(set(shapes)) > 1:
        return list(resized_images)
    array = np.empty((len(shapes), *shapes[0]), dtype)
    for index, image in enumerate(resized_images):
        array[index] = image
    return array


def pixel_digest(image: np.ndarray) -> str:
    """Returns the BLAKE2b digest of an image's pixels, 32 hexadecimal digits, which recognises equal images."""
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).hexdigest()


def collect_digests(images: Iterable[np.ndarray], digests: list[str]) -> Iterator[np.ndarray]:
    """Yields images unchanged and appends the `pixel_digest` of each to a list."""
    for image in images:
        digests.append(pixel_digest(image))
        yield image


# Splits as slices of a dataset.

ALL = "all"  # TFDS's name for every image of a dataset


def split_slices(own_splits: Collection[str] = ("train",)) -> dict[str, str]:
    """Returns the TFDS slice of each of "train", "validation" and "test".

    Splits that the dataset has are used whole. Each other split is cut off the end of "train".

    Args:
        own_splits: Names of the splits that the dataset has.

    Returns:
        A slice for each of the three. A dataset with "train" alone is split 70/20/10.
    """
    slices, end = {}, 100  # per cent of train that are not cut off yet
    for name, percent in (("test", 10), ("validation", 20)):
        if name in own_splits:
            slices[name] = name
        else:
            slices[name] = f"train[{end - percent}%:{f'{end}%' if end < 100 else ''}]"
            end -= percent
    train = f"train[:{end}%]" if end < 100 else "train"
    return {"train": train, "validation": slices["validation"], "test": slices["test"]}


SPLITS = split_slices()


def slice_bounds(count: int, slice_name: str) -> slice:
    """Returns the range of images that a slice such as "train[70%:90%]" has.

    Args:
        count: Number of images of the split, whose order is random but fixed.
        slice_name: The slice, as `split_slices` writes it; a name without brackets is the whole split.
    """
    _, _, bounds = slice_name.rstrip("]").partition("[")
    start, _, stop = bounds.replace("%", "").partition(":")
    shares = np.array([int(start or 0) / 100, int(stop or 100) / 100])  # in this order: 0.7 * 45 rounds to 31
    first, last = np.round(shares * count).astype(int).tolist()
    return slice(first, last)


def check_split_name(split: str) -> None:
    """Raises InputError unless a split is "train", "validation", "test" or "all"."""
    if split not in (*SPLITS, ALL):
        raise InputError(f"split {split!r} is not one of {', '.join(SPLITS)}, {ALL}")


# Splits as lists of file names, with which anyone's split can be reproduced.

# Names of the column of file names in tables; the first that a header has counts.
NAME_COLUMNS = [
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "path",
    "file",
    "image_path",
    "image_name",
    "image_id",
    "image",
    "img",
    "name",
    "id",
]


def parse_split_files(split_files: str) -> dict[str, pathlib.Path]:
    """Parses "TRAIN,VALIDATION,TEST" into the path of the list of each split.

    Raises:
        InputError: The text does not name three files.
    """
    paths = [pathlib.Path(path.strip()).expanduser() for path in split_files.split(",")]
    if len(paths) != len(SPLITS) or not all(path.name for path in paths):
        raise InputError(f"--split_files={split_files}: expected three files, TRAIN,VALIDATION,TEST")
    return dict(zip(SPLITS, paths))


def split_files_digest(split_files: str) -> str:
    """Returns the SHA-256 of the names in three lists, whatever the order of their lines.

    Raises:
        InputError: A list cannot be read.
    """
    lists = ("\n".join(sorted(_read_names(path))) for path in parse_split_files(split_files).values())
    return hashlib.sha256("\0".join(lists).encode()).hexdigest()


def find_positions(split_files: str, dataset: str, names: Sequence[str], splits: Sequence[str]) -> dict[str, list[int]]:
    """Finds the images that lists of file names name, and prints how many images are in no list.

    A list has a file name a line. A list that ends in .csv is a table, whose header names the column of file names;
    without a header the first column counts. The suffix of a name counts only where it distinguishes images, because
    TorchGeo's lists for 13 bands name JPEGs. The folder in a name counts only if the dataset has folders.

    Args:
        split_files: The three lists, "TRAIN,VALIDATION,TEST".
        dataset: Name of the dataset, for messages.
        names: File names or paths of the dataset's images.
        splits: The splits to find.

    Returns:
        For each split the indices of its images in `names`, ascending.

    Raises:
        InputError: A list cannot be read or is empty, a name is no image of the dataset, or an image is named twice.
    """
    lists = parse_split_files(split_files)
    for split in splits:
        if split not in lists:
            raise InputError(f"split {split!r} is not one of {', '.join(SPLITS)}, which --split_files lists")
    index = _index_names(names)
    folders = {pathlib.PurePath(name).parent.name for name in names}
    positions = {}
    for split, path in lists.items():
        positions[split] = [_find_position(path, line, index, folders, dataset) for line in _read_names(path)]
        repeated = [position for position, count in collections.Counter(positions[split]).items() if count > 1]
        if repeated:
            raise InputError(f"{path}: names {names[repeated[0]]} twice")
    for first, second in itertools.combinations(lists, 2):
        if common := sorted(set(positions[first]) & set(positions[second])):
            raise InputError(
                f"{lists[first]} and {lists[second]} both name {names[common[0]]} ({len(common)} in all); no image may "
                "be in two splits"
            )
    if unlisted := len(names) - sum(map(len, positions.values())):
        print(f"{unlisted} images of {dataset} are in none of the lists")
    return {split: sorted(positions[split]) for split in splits}


NameIndex = dict[tuple[str, ...], list[int]]  # positions of images by ("name" or "stem", optional folder, file name)


def _index_names(names: Sequence[str]) -> NameIndex:
    """Indexes images by their file name with and without its suffix, each alone and with the folder."""
    index: NameIndex = collections.defaultdict(list)
    for position, name in enumerate(names):
        path = pathlib.PurePath(name)
        for kind, key in (("name", path.name), ("stem", path.stem)):
            index[kind, key].append(position)
            index[kind, path.parent.name, key].append(position)
    return index


def _find_position(path: pathlib.Path, line: str, index: NameIndex, folders: set[str], dataset: str) -> int:
    """Finds the image that a line of a list names.

    Args:
        path: The list, for messages.
        line: The name.
        index: The dataset's images, by `_index_names`.
        folders: Names of the folders that the images are in; only "" if the dataset has no folders.
        dataset: Name of the dataset, for messages.

    Raises:
        InputError: The line names no image, or several.
    """
    name = pathlib.PurePosixPath(line.replace("\\", "/"))
    # An image of another class may have the same name.
    folder = (name.parent.name,) if name.parent.name and folders != {""} else ()
    positions: list[int] = []
    for kind, key in (("name", name.name), ("stem", name.name), ("stem", name.stem)):
        positions = positions or index.get((kind, *folder, key), [])
    if len(positions) == 1:
        return positions[0]
    number = f"{len(positions)} images" if positions else "no image"
    raise InputError(
        f"{path}: {line!r} is {number} of {dataset}; a list has a file name a line, CLASS/NAME where names are not "
        "unique"
    )


def _read_names(path: pathlib.Path) -> list[str]:
    """Reads the file names in a list, one a line, or in the column of a .csv file.

    Raises:
        InputError: The list cannot be read or is empty.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                lines = _names_in_table([row for row in csv.reader(file) if row])
            else:
                lines = [line.strip() for line in file]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"--split_files: {path} cannot be read ({reason})") from error
    if not any(lines):
        raise InputError(f"--split_files: {path} names no image")
    return [line for line in lines if line]


def _names_in_table(table: list[list[str]]) -> list[str]:
    """Returns the file names in the rows of a table, which may begin with a header."""
    header = [cell.strip().lower().replace(" ", "_") for cell in table[0]] if table else []
    column = next((header.index(name) for name in NAME_COLUMNS if name in header), None)
    if column is None:
        return [row[0].strip() for row in table]
    return [row[column].strip() for row in table[1:] if column < len(row)]


# The record of a run: which image was in which split.

RECORD_NAME = "splits.csv"
RECORD_FIELDS = ["name", "split", "blake2b"]


def split_record(dataset: Dataset) -> str:
    """Returns a CSV table with the name (CLASS/NAME in folders), split and `pixel_digest` of every loaded image."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(RECORD_FIELDS)
    for split, examples in dataset.splits.items():
        for name, digest in zip(examples.names, examples.digests, strict=True):
            writer.writerow(["/".join(pathlib.PurePath(name).parts[-2:]), split, digest])
    return table.getvalue()


def read_split_record(path: pathlib.Path) -> dict[str, str]:
    """Reads a table that `split_record` made.

    Returns:
        The split of each image, by the digest of its pixels. An image in several splits counts as "train".

    Raises:
        InputError: The file cannot be read, or is no such table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        if header != RECORD_FIELDS:
            raise ValueError(f"its first line is {','.join(header)[:50]!r}")
        splits = {digest: split for _, split, digest in rows}
        return splits | {digest: split for _, split, digest in rows if split == "train"}
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); restore or delete it") from error
