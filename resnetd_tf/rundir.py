"""What a run leaves on disk and where.

    saved_models/resnet50d/       the base path that TensorFlow Serving is pointed at
        1/                        SavedModel of run 1 (published last, whole, by one rename)
            assets.extra/         labels.txt and metadata.json, so that the SavedModel can be copied alone
        run-1/                    model.keras, labels.txt, metadata.json, history.csv, logs/, plots, ...
        2/, run-2/                the next run of that name

Everything is written to a temporary name first; nothing that exists is overwritten.
"""

import contextlib
import json
import math
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator

import tensorflow as tf

from resnetd_tf.errors import InputError, first_line


def temporary_path(path: pathlib.Path) -> pathlib.Path:
    """Where this process writes what becomes `path`, beside it."""
    # The suffix stays last: writers choose the format by it.
    return path.with_name(f".{os.getpid()}.tmp.{path.name}")


def temporary_paths(folder: pathlib.Path) -> dict[pathlib.Path, int]:
    """What lies in a folder under temporary names, and the number of the process that wrote each."""
    found = {path: re.match(r"\.(\d+)\.tmp\.", path.name) for path in folder.glob(".*.tmp.*")}
    return {path: int(match[1]) for path, match in found.items() if match}


@contextlib.contextmanager
def write_atomically(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`; renames it to `path` at the end, deletes it on failure.

    A file that exists is replaced whole, a folder that exists is an error. Folders that `path` lies in are created.

    Raises:
        InputError: The disk is full or the place cannot be written.
    """
    temporary = temporary_path(path)
    created: list[pathlib.Path] = []
    try:
        created += [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or first_line(error).rsplit("; ", 1)[-1]
        raise InputError(f"cannot write {path}: {reason}; free space or give another place") from error
    finally:
        with contextlib.suppress(OSError):  # a name that is too long
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # of a folder that is not empty: another process has written there too
            for folder in [] if path.exists() else created:
                folder.rmdir()


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: pathlib.Path, content: dict) -> None:
    """Writes a JSON file, whole or not at all; numbers that are not finite, which JSON lacks, become null."""
    write_text(path, json.dumps(_without_non_finite(content), indent=2, allow_nan=False) + "\n")


def _without_non_finite(value):
    if isinstance(value, dict):
        return {key: _without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_labels(path: pathlib.Path, classes: tuple[str, ...]) -> None:
    """Writes class names, one a line in the order of the probabilities."""
    write_text(path, "\n".join(classes) + "\n")


def require_absent(path: pathlib.Path) -> None:
    """Raises InputError if there is something at `path`, or a file where a folder that it lies in must be."""
    if path.exists():
        raise InputError(f"{path} exists already; give another --output")
    nearest = next((folder for folder in path.parents if folder.exists()), path.parent)
    if nearest.exists() and not nearest.is_dir():
        raise InputError(f"{nearest} is a file, not a folder that {path} could lie in; give another --output")


def create_numbered_folder(
    parent: pathlib.Path, name: Callable[[int], str], first: int = 1
) -> tuple[int, pathlib.Path]:
    """Creates the first of name(first), name(first + 1), ... that does not exist yet.

    Raises:
        InputError: `parent` cannot be written.
    """
    number = first
    while True:
        folder = parent / name(number)
        try:
            folder.mkdir(parents=True)
            return number, folder
        except FileExistsError:
            if not folder.is_dir():
                raise InputError(f"cannot create {folder}: {folder} is a file") from None
            number += 1
        except OSError as error:
            raise InputError(f"cannot create {folder}: {error.strerror}; give another place") from error


@contextlib.contextmanager
def create_evaluation_folder(place: pathlib.Path, name: str, chosen: str | None = None) -> Iterator[pathlib.Path]:
    """Creates the folder of an evaluation, and removes it again if the evaluation fails before anything is in it.

    It is `chosen`, or the first evaluation-NAME-K under `place` that is free.

    Raises:
        InputError: It exists already or cannot be created.
    """
    if chosen is None:
        name = "".join(letter if letter.isalnum() else "-" for letter in name).strip("-")
        folder = create_numbered_folder(place, f"evaluation-{name}-{{}}".format)[1]
    else:
        folder = pathlib.Path(chosen)
        if folder.exists():
            raise InputError(f"output folder {folder} exists already; give another")
        folder = create_numbered_folder(folder.parent, lambda number: folder.name)[1]
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def savedmodel_versions(base: pathlib.Path) -> list[int]:
    """Numbers of the SavedModels under a base path, ascending."""
    return [number for number in _numbers(base) if (base / str(number) / "saved_model.pb").is_file()]


def _numbers(base: pathlib.Path, prefix: str = "") -> list[int]:
    found = base.iterdir() if base.is_dir() else ()
    names = (path.name for path in found if re.fullmatch(f"{prefix}[1-9][0-9]*", path.name))
    return sorted(int(name.removeprefix(prefix)) for name in names)


def run_folders(base: pathlib.Path) -> list[pathlib.Path]:
    """The run-N folders under a base path, by ascending number."""
    folders = (base / f"run-{number}" for number in _numbers(base, "run-"))
    return [folder for folder in folders if folder.is_dir()]


def create_run_folder(base: pathlib.Path) -> tuple[int, pathlib.Path]:
    """Claims the next run number of a base path: the number and its new, empty run-N folder.

    Whatever is called N/ counts as taken, a SavedModel or not.
    """
    return create_numbered_folder(base, "run-{}".format, first=max(_numbers(base), default=0) + 1)


def savedmodel_path(folder: pathlib.Path) -> pathlib.Path:
    """Where the SavedModel of the run run-N/ is: N/."""
    return folder.parent / folder.name.removeprefix("run-")


def run_folder_of(savedmodel: pathlib.Path) -> pathlib.Path:
    """Where all else of the run is that a SavedModel N/ belongs to: run-N/."""
    return savedmodel.parent / f"run-{savedmodel.name}"
