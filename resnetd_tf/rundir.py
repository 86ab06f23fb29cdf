"""The files of a run, and how they are written.

    saved_models/resnet50d/       the base path that TensorFlow Serving is pointed at
        1/                        SavedModel of run 1, published last and by one rename
            assets.extra/         labels.txt and metadata.json, so that the SavedModel can be copied alone
        run-1/                    model.keras, labels.txt, metadata.json, history.csv, logs/, plots, ...
        2/, run-2/                the next run with that base path

Every file gets a temporary name first. Nothing that exists is overwritten.
"""

import contextlib
import csv
import io
import json
import math
import pathlib
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator

from resnetd_tf.errors import InputError, first_line


def temporary_path(path: pathlib.Path) -> pathlib.Path:
    """Returns an unused path beside `path`, under which its content can be written first."""
    # The suffix stays last: writers choose the format by it.
    return path.with_name(f".{secrets.token_hex(4)}.tmp.{path.name}")


def remove_temporaries(folder: pathlib.Path) -> None:
    """Removes what killed processes left in a folder under temporary names; no other process may write there."""
    for path in folder.glob(".*.tmp.*"):
        _remove(path)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def write_atomically(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`; renames it to `path` at the end, deletes it on failure.

    An existing file is replaced in one step. An existing folder is an error. Missing parent folders are created.

    Raises:
        InputError: The disk is full or the place cannot be written.
    """
    temporary = temporary_path(path)
    created_folders: list[pathlib.Path] = []
    try:
        created_folders += [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except Exception as error:
        tensorflow = sys.modules.get("tensorflow")  # its own errors occur only if it is imported
        if not isinstance(error, (OSError, tensorflow.errors.OpError) if tensorflow else OSError):
            raise
        reason = getattr(error, "strerror", None) or first_line(error).rsplit("; ", 1)[-1]
        raise InputError(f"cannot write {path}: {reason}; free space or give another place") from error
    finally:
        with contextlib.suppress(OSError):  # The name is too long.
            _remove(temporary)
        with contextlib.suppress(OSError):  # The folder is not empty: another process has written there too.
            for folder in [] if path.exists() else created_folders:
                folder.rmdir()


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file; on failure nothing changes on disk."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_csv(path: pathlib.Path, rows: Iterable[Iterable]) -> None:
    """Writes a table as CSV; on failure nothing changes on disk."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: pathlib.Path, content: dict) -> None:
    """Writes a JSON file; on failure nothing changes on disk. Infinities and NaN, which JSON lacks, become null."""
    write_text(path, json.dumps(_without_non_finite(content), indent=2, allow_nan=False) + "\n")


def _without_non_finite(value):
    if isinstance(value, dict):
        return {key: _without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_labels(path: pathlib.Path, classes: tuple[str, ...]) -> None:
    """Writes class names, one per line, in the order of the probabilities."""
    write_text(path, "\n".join(classes) + "\n")


def require_absent(path: pathlib.Path) -> None:
    """Raises InputError if `path` exists, or if one of its parent folders is a file."""
    if path.exists():
        raise InputError(f"{path} exists already; give another --output")
    parent = next((folder for folder in path.parents if folder.exists()), path.parent)
    if parent.exists() and not parent.is_dir():
        raise InputError(f"{parent} is a file, not a folder that {path} could lie in; give another --output")


def create_numbered_folder(
    parent: pathlib.Path, name: Callable[[int], str], first: int = 1
) -> tuple[int, pathlib.Path]:
    """Creates the first of the folders name(first), name(first + 1), ... that does not exist yet.

    Args:
        parent: Where the folder is created.
        name: Makes the folder's name from a number.
        first: The lowest number.

    Returns:
        The number and the path of the folder.

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
def create_evaluation_folder(parent: pathlib.Path, name: str, output_dir: str | None = None) -> Iterator[pathlib.Path]:
    """Creates the folder of an evaluation, and removes it again if the evaluation fails before anything is in it.

    Args:
        parent: Where the folder is created if `output_dir` is `None`, as the first free evaluation-NAME-K.
        name: What was evaluated; characters other than letters and digits become hyphens.
        output_dir: The folder to create instead.

    Raises:
        InputError: The folder exists already or cannot be created.
    """
    if output_dir is None:
        name = "".join(letter if letter.isalnum() else "-" for letter in name).strip("-")
        folder = create_numbered_folder(parent, f"evaluation-{name}-{{}}".format)[1]
    else:
        folder = pathlib.Path(output_dir)
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
    """Returns the numbers of the SavedModels under a base path, ascending."""
    return [number for number in _numbers(base) if (base / str(number) / "saved_model.pb").is_file()]


def _numbers(base: pathlib.Path, prefix: str = "") -> list[int]:
    paths = base.iterdir() if base.is_dir() else ()
    names = (path.name for path in paths if re.fullmatch(f"{prefix}[1-9][0-9]*", path.name))
    return sorted(int(name.removeprefix(prefix)) for name in names)


def run_folders(base: pathlib.Path) -> list[pathlib.Path]:
    """Returns the run-N folders under a base path, by ascending number."""
    folders = (base / f"run-{number}" for number in _numbers(base, "run-"))
    return [folder for folder in folders if folder.is_dir()]


def create_run_folder(base: pathlib.Path) -> tuple[int, pathlib.Path]:
    """Creates the next run-N folder under a base path, and returns N and the folder.

    Every file or folder called N counts as taken, even if it is no SavedModel.
    """
    return create_numbered_folder(base, "run-{}".format, first=max(_numbers(base), default=0) + 1)


def savedmodel_path(folder: pathlib.Path) -> pathlib.Path:
    """Returns the path N/ of the SavedModel that belongs to the folder run-N/."""
    return folder.parent / folder.name.removeprefix("run-")


def run_folder_of(savedmodel: pathlib.Path) -> pathlib.Path:
    """Returns the folder run-N/ that belongs to the SavedModel N/."""
    return savedmodel.parent / f"run-{savedmodel.name}"
