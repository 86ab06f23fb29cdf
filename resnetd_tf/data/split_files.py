"""Splits as lists of file names, so that anyone's split can be reproduced."""

import collections
import csv
import hashlib
import io
import itertools
import pathlib
from collections.abc import Sequence

from resnetd_tf.data.splits import SPLITS, Dataset
from resnetd_tf.errors import InputError, first_line


def files(split_files: str) -> dict[str, pathlib.Path]:
    """The list of each split, from "TRAIN,VALIDATION,TEST".

    Raises:
        InputError: They are not three.
    """
    paths = [pathlib.Path(path.strip()).expanduser() for path in split_files.split(",")]
    if len(paths) != len(SPLITS) or not all(path.name for path in paths):
        raise InputError(f"--split_files={split_files}: expected three files, TRAIN,VALIDATION,TEST")
    return dict(zip(SPLITS, paths))


def digest(split_files: str) -> str:
    """SHA-256 of the three lists, in whatever order their lines are; InputError if one cannot be read."""
    lists = ("\n".join(sorted(_lines(path))) for path in files(split_files).values())
    return hashlib.sha256("\0".join(lists).encode()).hexdigest()


RECORD = "splits.csv"  # of a run: which images its splits had
FIELDS = ["name", "split", "blake2b"]


def record(dataset: Dataset) -> str:
    """The images of all splits of a dataset as a CSV table: CLASS/NAME or name, split, digest of the pixels."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(FIELDS)
    for split, examples in dataset.splits.items():
        for name, pixel_digest in zip(examples.names, examples.digests, strict=True):
            writer.writerow(["/".join(pathlib.PurePath(name).parts[-2:]), split, pixel_digest])
    return table.getvalue()


def read_record(path: pathlib.Path) -> dict[str, str]:
    """The split that each image was in, by the digest of its pixels; the training split counts before others.

    Raises:
        InputError: The file cannot be read, or is no such table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        if header != FIELDS:
            raise ValueError(f"its first line is {','.join(header)[:50]!r}")
        splits = {pixel_digest: split for _, split, pixel_digest in rows}
        return splits | {pixel_digest: split for _, split, pixel_digest in rows if split == "train"}
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); restore or delete it") from error


def positions(split_files: str, dataset: str, names: Sequence[str], splits: Sequence[str]) -> dict[str, list[int]]:
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
    lists = files(split_files)
    for split in splits:
        if split not in lists:
            raise InputError(f"split {split!r} is not one of {', '.join(SPLITS)}, which --split_files lists")
    found = {}
    for split, path in lists.items():
        found[split] = [_position(path, line, known, folders, dataset) for line in _lines(path)]
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
COLUMNS = [
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


def _column(header: list[str]) -> int | None:
    """The column that a row names as that of the file names; `None` where the row is no header."""
    names = [cell.strip().lower().replace(" ", "_") for cell in header]
    return next((names.index(name) for name in COLUMNS if name in names), None)


def _rows(table: list[list[str]]) -> list[str]:
    """The file names of a table, with a header or without."""
    column = _column(table[0]) if table else None
    if column is None:
        return [row[0].strip() for row in table]
    return [row[column].strip() for row in table[1:] if column < len(row)]


def _lines(path: pathlib.Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                rows = _rows([row for row in csv.reader(file) if row])
            else:
                rows = [line.strip() for line in file]
        lines = [row for row in rows if row]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"--split_files: {path} cannot be read ({reason})") from error
    if not lines:
        raise InputError(f"--split_files: {path} names no image")
    return lines


def _position(
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
