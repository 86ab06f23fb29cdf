"""What a run leaves on disk and where.

    saved_models/resnet50d/       the base path that TensorFlow Serving is pointed at
        1/                        SavedModel of run 1 (published last, whole, by one rename)
            assets.extra/         labels.txt, so that the SavedModel can be copied alone
        run-1/                    model.keras, labels.txt, metadata.json, history.csv, logs/, plots, ...
        2/, run-2/                the next run of that name

Everything is written to a temporary name first; nothing that exists is overwritten.
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from resnetd_tf.errors import InputError, first_line


@contextlib.contextmanager
def atomic(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`; renames it to `path` at the end, deletes it on failure.

    A file that exists is replaced whole, a folder that exists is an error.

    Raises:
        InputError: The disk is full or the place cannot be written.
    """
    # The suffix stays last: writers choose the format by it.
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"cannot write {path}: {reason}; free space or give another place") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text)


def write_json(path: pathlib.Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def new_folder(parent: pathlib.Path, name: Callable[[int], str], first: int = 1) -> tuple[int, pathlib.Path]:
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


def new_evaluation(place: pathlib.Path, name: str, chosen: str | None) -> pathlib.Path:
    """Creates the folder of an evaluation: `chosen`, or the first evaluation-NAME-K under `place` that is free.

    Raises:
        InputError: It exists already or cannot be created.
    """
    if chosen is None:
        name = "".join(letter if letter.isalnum() else "-" for letter in name).strip("-")
        return new_folder(place, f"evaluation-{name}-{{}}".format)[1]
    folder = pathlib.Path(chosen)
    if folder.exists():
        raise InputError(f"output folder {folder} exists already; give another")
    return new_folder(folder.parent, lambda number: folder.name)[1]


def versions(base: pathlib.Path) -> list[int]:
    """Numbers of the SavedModels under a base path, ascending."""
    found = base.iterdir() if base.is_dir() else ()
    return sorted(int(path.name) for path in found if path.name.isdigit() and (path / "saved_model.pb").is_file())


def new_run(base: pathlib.Path) -> tuple[int, pathlib.Path]:
    """Claims the next run number of a base path: the number and its new, empty run-N folder."""
    return new_folder(base, "run-{}".format, first=max(versions(base), default=0) + 1)


@dataclass(frozen=True)
class SavedClassifier:
    """A classifier on disk, opened.

    Attributes:
        path: The SavedModel folder or the .keras file.
        folder: The run folder that belongs to it, or `None`.
        classes: Class names in the order of the probabilities; numbers where no labels.txt was found.
        bands: Bands of the images it takes.
        predict: Raw pixels (n, height, width, bands) to probabilities (n, classes) float32.
    """

    path: pathlib.Path
    folder: pathlib.Path | None
    classes: tuple[str, ...]
    bands: int
    predict: Callable[[np.ndarray], np.ndarray]

    @property
    def metadata(self) -> dict:
        """What metadata.json of its run says; empty without a run."""
        path = self.folder / "metadata.json" if self.folder else None
        return json.loads(path.read_text()) if path and path.is_file() else {}


def locate(model: str | pathlib.Path) -> pathlib.Path:
    """The model that a path means: a .keras file, a SavedModel, or the newest version under a base path.

    Raises:
        InputError: There is no model at that path.
    """
    path = pathlib.Path(model)
    if not path.exists():
        raise InputError(f"model {path}: no such file or folder; train one first, or give --model")
    if path.is_file():
        if path.suffix != ".keras":
            raise InputError(f"model {path}: expected a .keras file, a SavedModel folder or a folder of versions")
        return path
    if (path / "saved_model.pb").is_file():
        return path
    if not versions(path):
        raise InputError(f"model {path}: holds no SavedModel (1/, 2/, ...) of a finished run")
    return path / str(versions(path)[-1])


def open_classifier(model: str | pathlib.Path, batch_size: int = 64) -> SavedClassifier:
    """Opens a classifier; see `locate` for the paths it takes.

    Raises:
        InputError: There is no model there, or it is damaged or not a classifier of images.
    """
    path = locate(model)
    try:
        if path.is_file():
            network = keras.saving.load_model(path, compile=False)
            function = tf.function(lambda pixels: network(pixels, training=False))
            spec, classes = network.inputs[0], network.output_shape[-1]
            folder = path.parent
        else:
            loaded = tf.saved_model.load(str(path))
            signature = loaded.signatures["serving_default"]
            ((key, spec),) = signature.structured_input_signature[1].items()
            ((output, result),) = signature.structured_outputs.items()
            classes = result.shape[-1]
            folder = path.parent / f"run-{path.name}"

            def function(pixels, loaded=loaded):  # `loaded` owns the variables: keep it alive
                return signature(**{key: pixels})[output]

    except Exception as error:  # the loaders raise whatever the damage makes them stumble on
        raise InputError(f"model {path}: cannot be loaded ({first_line(error)})") from error
    if len(spec.shape) != 4:
        raise InputError(f"model {path}: takes input of shape {tuple(spec.shape)}, not images")
    dtype = tf.as_dtype(spec.dtype)

    def predict(images: np.ndarray) -> np.ndarray:
        parts = [
            function(tf.constant(images[start : start + batch_size], dtype)).numpy()
            for start in range(0, len(images), batch_size)
        ]
        return np.concatenate(parts)

    labels = next(
        (file for file in (folder / "labels.txt", path / "assets.extra" / "labels.txt") if file.is_file()), None
    )
    names = tuple(labels.read_text().splitlines()) if labels else tuple(map(str, range(classes)))
    if len(names) != classes:
        raise InputError(f"model {path}: {classes} outputs, but {labels} names {len(names)} classes")
    return SavedClassifier(path, folder if folder.is_dir() else None, names, spec.shape[-1], predict)
