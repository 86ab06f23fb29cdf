"""What a dataset is: splits of labelled images in memory.

A split is decoded once and held once, as raw pixels (uint8 for RGB, uint16 DN for 13 bands): all of EuroSAT RGB is
0.33 GB. Batches are gathered from it, so nothing is decoded or resized again on the host.
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

ALL = "all"  # every image of a dataset, as TFDS calls it


def split_slices(own: Collection[str] = ("train",)) -> dict[str, str]:
    """The slice of a dataset that "train", "validation" and "test" are: its own splits, else parts of its train split.

    Args:
        own: Those of the three names that the dataset has itself.

    Returns:
        A TFDS slice for each of the three: the report's 70/20/10 split where the dataset has only "train".
    """
    cut_off, end = {}, 100  # percent of train that are left
    for name, share in (("test", 10), ("validation", 20)):
        if name in own:
            cut_off[name] = name
        else:
            cut_off[name] = f"train[{end - share}%:{f'{end}%' if end < 100 else ''}]"
            end -= share
    train = f"train[:{end}%]" if end < 100 else "train"
    return {"train": train, "validation": cut_off["validation"], "test": cut_off["test"]}


SPLITS = split_slices()

Shape = tuple[int, int, int]  # (height, width, bands)


@dataclass(frozen=True)
class Split:
    """Labelled images.

    Attributes:
        images: (n, height, width, bands) uint8 or uint16; where their sizes differ, a list of (height, width, bands).
        labels: (n,) int64.
        names: One for each image.
        slice: What it is of the dataset, as TFDS writes it: "train[:70%]".
        digests: `pixel_digest` of each image as it was read, before any resizing; empty where they were not taken.
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
        """(height, width, bands) of the images; `None` for sides that differ."""
        if isinstance(self.images, np.ndarray):
            return self.images.shape[1:]
        return None, None, self.images[0].shape[-1]


@dataclass(frozen=True)
class Dataset:
    """Splits by name, and the class names that labels index."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]

    @property
    def bands(self) -> int:
        """Number of bands of its images."""
        return next(iter(self.splits.values())).shape[-1]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over pixels and labels of every split loaded."""
        digest = hashlib.sha256()
        for name in sorted(self.splits):
            for image in self.splits[name].images:
                digest.update(np.ascontiguousarray(image).data)
            digest.update(np.ascontiguousarray(self.splits[name].labels).data)
        return digest.hexdigest()


def slice_bounds(count: int, slice_name: str) -> slice:
    """Where a slice such as "train[70%:90%]" lies among the images of its split.

    Args:
        count: Number of images of the split, which are in a random but fixed order already.
        slice_name: The slice, as `slices` writes it; a name alone is the whole split.
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


def pixel_digest(image: np.ndarray) -> str:
    """BLAKE2b of the pixels of an image, 32 hexadecimal digits: whether two images are the same."""
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).hexdigest()


def collect_digests(images: Iterable[np.ndarray], digests: list[str]) -> Iterator[np.ndarray]:
    """Yields images as they are, and adds the `pixel_digest` of each to a list."""
    for image in images:
        digests.append(pixel_digest(image))
        yield image


def check_memory(name: str, shapes: Iterable[Shape], dtype: str) -> None:
    """Raises InputError if images of these shapes are more than fits into memory."""
    needed, free = sum(map(math.prod, shapes)) * np.dtype(dtype).itemsize, available_memory_bytes()
    if needed > free:
        raise InputError(
            f"dataset {name}: its images take {needed / 2**30:.1f} GiB of memory, of which {free / 2**30:.1f} GiB are "
            "free; use a part of it or a machine with more"
        )


def stored_shapes(split: str, shapes: list[Shape], image_size: int | None) -> list[Shape]:
    """The shapes that images of a split are held in: their own, or for batches all image_size x image_size.

    Only training needs batches, and only images of differing sizes are resized for them.
    """
    if image_size and split in ("train", "validation") and len(set(shapes)) > 1:
        return [(image_size, image_size, shapes[0][-1])] * len(shapes)
    return shapes


def hold_in_memory(
    pixels: Iterable[np.ndarray], shapes: list[Shape], dtype: str, interpolation: str
) -> np.ndarray | list[np.ndarray]:
    """Images in memory, once: an array where their shapes are equal, otherwise a list.

    Args:
        pixels: The images, taken one by one.
        shapes: What they get; those of another size are resized.
        dtype: Their type.
        interpolation: What they are resized with, "bilinear" or "bicubic".
    """
    resized = (
        images.resize_image(image, *shape[:2], interpolation) for image, shape in zip(pixels, shapes, strict=True)
    )
    if len(set(shapes)) > 1:
        return list(resized)
    array = np.empty((len(shapes), *shapes[0]), dtype)
    for index, image in enumerate(resized):
        array[index] = image
    return array


# Splits as lists of file names, so that anyone's split can be reproduced.


def parse_split_files(split_files: str) -> dict[str, pathlib.Path]:
    """The list of each split, from "TRAIN,VALIDATION,TEST".

    Raises:
        InputError: They are not three.
    """
    paths = [pathlib.Path(path.strip()).expanduser() for path in split_files.split(",")]
    if len(paths) != len(SPLITS) or not all(path.name for path in paths):
        raise InputError(f"--split_files={split_files}: expected three files, TRAIN,VALIDATION,TEST")
    return dict(zip(SPLITS, paths))


def split_files_digest(split_files: str) -> str:
    """SHA-256 of the three lists, in whatever order their lines are; InputError if one cannot be read."""
    lists = ("\n".join(sorted(_read_names(path))) for path in parse_split_files(split_files).values())
    return hashlib.sha256("\0".join(lists).encode()).hexdigest()


RECORD_NAME = "splits.csv"  # of a run: which images its splits had
RECORD_FIELDS = ["name", "split", "blake2b"]


def split_record(dataset: Dataset) -> str:
    """The images of all splits of a dataset as a CSV table: CLASS/NAME or name, split, digest of the pixels."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(RECORD_FIELDS)
    for split, examples in dataset.splits.items():
        for name, pixel_digest in zip(examples.names, examples.digests, strict=True):
            writer.writerow(["/".join(pathlib.PurePath(name).parts[-2:]), split, pixel_digest])
    return table.getvalue()


def read_split_record(path: pathlib.Path) -> dict[str, str]:
    """The split that each image was in, by the digest of its pixels; the training split counts before others.

    Raises:
        InputError: The file cannot be read, or is no such table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        if header != RECORD_FIELDS:
            raise ValueError(f"its first line is {','.join(header)[:50]!r}")
        splits = {pixel_digest: split for _, split, pixel_digest in rows}
        return splits | {pixel_digest: split for _, split, pixel_digest in rows if split == "train"}
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); restore or delete it") from error


def find_positions(split_files: str, dataset: str, names: Sequence[str], splits: Sequence[str]) -> dict[str, list[int]]:
    """Where the images of splits are among those of a dataset, in the dataset's order; says how many are in no list.

    A line of a list is a file name; of a .csv file it is the first column, or the one that its header names. A suffix
    counts only where it tells images apart, because TorchGeo's lists for 13 bands name JPEGs; the folder before it
    where the dataset has folders.

    Args:
        split_files: As for `files`.
        dataset: Name of the dataset.
        names: Its images' file names, or paths.
        splits: The splits wanted.

    Raises:
        InputError: A list cannot be read or is empty, names what is not there or an image twice, or two lists the same.
    """
    known: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
    for position, name in enumerate(names):
        path = pathlib.PurePath(name)
        for kind, key in (("name", path.name), ("stem", path.stem)):
            known[kind, key].append(position)
            known[kind, path.parent.name, key].append(position)
    folders = {pathlib.PurePath(name).parent.name for name in names}
    lists = parse_split_files(split_files)
    for split in splits:
        if split not in lists:
            raise InputError(f"split {split!r} is not one of {', '.join(SPLITS)}, which --split_files lists")
    found = {}
    for split, path in lists.items():
        found[split] = [_find_position(path, line, known, folders, dataset) for line in _read_names(path)]
        twice = [position for position, count in collections.Counter(found[split]).items() if count > 1]
        if twice:
            raise InputError(f"{path}: names {names[twice[0]]} twice")
    for (one, first), (other, second) in itertools.combinations(found.items(), 2):
        if common := sorted(set(first) & set(second)):
            raise InputError(
                f"{lists[one]} and {lists[other]} both name {names[common[0]]} ({len(common)} in all); no image may "
                "be in two splits"
            )
    if left := len(names) - sum(map(len, found.values())):
        print(f"{left} images of {dataset} are in none of the lists")
    return {split: sorted(found[split]) for split in splits}


# How tables call their column of file names, the surest first.
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


def _name_column(header: list[str]) -> int | None:
    """The column that a row names as that of the file names; `None` where the row is no header."""
    names = [cell.strip().lower().replace(" ", "_") for cell in header]
    return next((names.index(name) for name in NAME_COLUMNS if name in names), None)


def _names_in_table(table: list[list[str]]) -> list[str]:
    """The file names of a table, with a header or without."""
    column = _name_column(table[0]) if table else None
    if column is None:
        return [row[0].strip() for row in table]
    return [row[column].strip() for row in table[1:] if column < len(row)]


def _read_names(path: pathlib.Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                rows = _names_in_table([row for row in csv.reader(file) if row])
            else:
                rows = [line.strip() for line in file]
        lines = [row for row in rows if row]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"--split_files: {path} cannot be read ({reason})") from error
    if not lines:
        raise InputError(f"--split_files: {path} names no image")
    return lines


def _find_position(
    path: pathlib.Path, line: str, known: dict[tuple[str, ...], list[int]], folders: set[str], dataset: str
) -> int:
    name = pathlib.PurePosixPath(line.replace("\\", "/"))
    # Its folder counts where the dataset has folders: an image of another class may have the same name.
    within = (name.parent.name,) if name.parent.name and folders != {""} else ()
    found: list[int] = []
    for kind, key in (("name", name.name), ("stem", name.name), ("stem", name.stem)):
        found = found or known.get((kind, *within, key), [])
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} images" if found else "no image"
    raise InputError(
        f"{path}: {line!r} is {what} of {dataset}; a list has a file name a line, CLASS/NAME where names are not unique"
    )
