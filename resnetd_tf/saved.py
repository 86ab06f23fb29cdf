"""Opening a classifier from disk.

import resnetd_tf

classifier = resnetd_tf.open_classifier("saved_models/resnet50d")
probabilities = classifier.predict(images)  # uint8 (n, height, width, 3) -> float32 (n, classes)
print([classifier.classes[index] for index in probabilities.argmax(axis=1)])
"""

import json
import pathlib
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

import resnetd_tf.networks  # noqa: F401 - networks' own files have its layers
from resnetd_tf import rundir
from resnetd_tf.errors import InputError, first_line


@dataclass(frozen=True)
class SavedClassifier:
    """A classifier on disk, opened.

    Attributes:
        path: The SavedModel folder or the .keras file.
        folder: The run folder that belongs to it, or `None`.
        classes: Class names in the order of the probabilities; numbers where no labels.txt was found.
        bands: Number of bands of the images it takes.
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
        return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}

    def dataset(self, chosen: str | None) -> str:
        """The name of a dataset to use it with: the chosen one, or the one it was trained on.

        Raises:
            InputError: Neither is known.
        """
        name = chosen or self.metadata.get("dataset")
        if name is None:
            raise InputError(f"{self.path} does not say what it was trained on; give --dataset")
        return name

    def check_bands(self, name: str, bands: int) -> None:
        """Raises InputError if images, of the dataset or file of that name, have another number of bands."""
        if bands != self.bands:
            raise InputError(f"{self.path} takes {self.bands} bands, {name} has {bands}")


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
    versions = rundir.versions(path)
    if not versions:
        raise InputError(f"model {path}: holds no SavedModel (1/, 2/, ...) of a finished run")
    return path / str(versions[-1])


def keras_file(model: str | pathlib.Path) -> pathlib.Path:
    """The .keras file of the model that a path means: itself, or the one in the SavedModel's run.

    Raises:
        InputError: There is none.
    """
    found = locate(model)
    path = found if found.is_file() else rundir.run_folder(found) / "model.keras"
    if not path.is_file():
        raise InputError(f"{found}: its run's model.keras is needed, and {path} is missing")
    return path


def open_classifier(model: str | pathlib.Path, batch_size: int = 64) -> SavedClassifier:
    """Opens a classifier.

    Args:
        model: A path as `locate` takes it.
        batch_size: Images that are classified at once.

    Raises:
        InputError: There is no model there, or it is damaged or not a classifier of images.
    """
    path = locate(model)
    try:
        function, spec, classes = _open_keras(path) if path.is_file() else _open_savedmodel(path)
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

    folder = path.parent if path.is_file() else rundir.run_folder(path)
    names = _class_names(path, folder, classes)
    return SavedClassifier(path, folder if folder.is_dir() else None, names, spec.shape[-1], predict)


def _open_keras(path: pathlib.Path) -> tuple[Callable, keras.KerasTensor, int]:
    """A function from pixels to probabilities, the tensor it takes, and its number of classes."""
    network = keras.saving.load_model(path, compile=False)
    function = tf.function(lambda pixels: network(pixels, training=False))
    return function, network.inputs[0], network.output_shape[-1]


def _open_savedmodel(path: pathlib.Path) -> tuple[Callable, tf.TensorSpec, int]:
    """The same for the signature `serving_default` of a SavedModel."""
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    ((key, spec),) = signature.structured_input_signature[1].items()
    ((output, result),) = signature.structured_outputs.items()

    def function(pixels, loaded=loaded):  # `loaded` owns the variables: keep it alive
        return signature(**{key: pixels})[output]

    return function, spec, result.shape[-1]


def _class_names(path: pathlib.Path, folder: pathlib.Path, classes: int) -> tuple[str, ...]:
    places = (folder / "labels.txt", path / "assets.extra" / "labels.txt")
    labels = next((file for file in places if file.is_file()), None)
    if labels is None:
        return tuple(map(str, range(classes)))
    names = tuple(labels.read_text(encoding="utf-8").splitlines())
    if len(names) != classes:
        raise InputError(f"model {path}: {classes} outputs, but {labels} names {len(names)} classes")
    return names
