"""Opening a classifier from disk.

classifier = resnetd_tf.open_classifier("saved_models/resnet50d")
probabilities = classifier.predict(images)  # uint8 (n, height, width, 3) -> float32 (n, classes)
"""

import collections
import pathlib
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

import resnetd_tf.networks  # noqa: F401 - networks' own files have its layers
from resnetd_tf import graphs, metadata, rundir, runtimes
from resnetd_tf.data import split_files
from resnetd_tf.data.images import of_one_size, of_type
from resnetd_tf.errors import InputError, NotOurs, damage_told, first_line
from resnetd_tf.networks import checkpoints, classifier_files, pretrained, safetensors_files

NO_PREPROCESSING = "{path} is no classifier: it lacks the preprocessing that `train.py` puts in front"


@dataclass(frozen=True)
class SavedClassifier:
    """A classifier on disk, opened.

    Attributes:
        path: The SavedModel folder, or the file: .keras, .safetensors, .tflite, .onnx, or OpenVINO's .xml.
        folder: Where all else of its run is; else the folder that it lies in; for the package's own the current one.
        classes: Class names in the order of the probabilities; numbers where no labels.txt was found.
        bands: Number of bands of the images it takes.
        predict: Raw pixels (n, height, width, bands), or a list of images (height, width, bands) of any sizes, to
            probabilities (n, classes) float32.
        told: What is known of its run, where no file says it: of one on a server.
    """

    path: pathlib.Path
    folder: pathlib.Path
    classes: tuple[str, ...]
    bands: int
    predict: Callable[[np.ndarray | list[np.ndarray]], np.ndarray]
    told: dict | None = None

    @property
    def metadata(self) -> dict:
        """What is known of its run: `told`, or what `metadata_of` finds."""
        return metadata_of(self.path) if self.told is None else self.told

    @property
    def split_record(self) -> pathlib.Path | None:
        """The table of the images that it was trained, validated and tested on, if it lies in the run's folder."""
        return _beside(self.path, split_files.RECORD)

    @property
    def summary(self) -> str:
        """Where it is, with its network, epochs and test accuracy, in one line."""
        name = str(self.folder if self.path.is_dir() and self.folder != self.path.parent else self.path)
        if pretrained.is_shipped(self.path):
            name = f"{pretrained.EUROSAT}, which comes with resnetd_tf"
        return f"{name}, {metadata.summary(self.metadata)}"

    @property
    def patch_side(self) -> int:
        return metadata.patch_side(self.metadata)

    def check_bands(self, name: str, bands: int) -> None:
        """Raises InputError if images, of the dataset or file of that name, have another number of bands."""
        if bands != self.bands:
            raise InputError(f"{self.path} takes {self.bands} bands, {name} has {bands}")


def metadata_of(path: pathlib.Path) -> dict:
    """What metadata.json says of the run that a model is of, or the model's file itself; empty where nothing does.

    Raises:
        InputError: It is damaged.
    """
    if path.suffix == ".safetensors":
        return safetensors_files.description(path) or {}
    if path.suffix in runtimes.SUFFIXES:
        return metadata.check(runtimes.describe(path)["metadata"] or {}, path)
    file = _beside(path, "metadata.json")
    return metadata.read(file) if file else {}


def locate(model: str | pathlib.Path) -> pathlib.Path:
    """The model that a path means: a file, a SavedModel, the newest version under a base, or OpenVINO's folder.

    "eurosat" means the classifier that comes with this package, unless there is a model at that path.

    Raises:
        InputError: There is no model at that path.
    """
    path = pathlib.Path(model)
    named = str(model) == pretrained.EUROSAT and not rundir.versions(path)
    if named or pretrained.is_shipped(path):
        return shipped()
    if not path.exists():
        raise InputError(f"model {path}: no such file or folder; train one first, or give --model=eurosat")
    if path.is_file():
        if path.suffix not in (".keras", ".safetensors", *runtimes.SUFFIXES):
            raise InputError(f"model {path}: expected a .keras, .safetensors, .tflite, .onnx or .xml file, or a folder")
        return path
    if (path / "model.xml").is_file():
        return path / "model.xml"
    if (path / "saved_model.pb").is_file():
        return path
    versions = rundir.versions(path)
    if not versions:
        raise InputError(f"model {path}: holds no SavedModel (1/, 2/, ...) of a finished run")
    return path / str(versions[-1])


def shipped() -> pathlib.Path:
    """The file of the classifier that ships with this package; InputError if it is missing or damaged."""
    try:
        return pretrained.shipped()
    except pretrained.Unavailable as error:
        raise InputError(f"model {pretrained.EUROSAT}: {error}") from error


def eurosat() -> SavedClassifier:
    """The classifier that ships with this package, see its MODEL_CARD.md; InputError if it is missing or damaged."""
    return open_classifier(shipped())


def open_network(model: str | pathlib.Path, trust: bool = False) -> tuple[pathlib.Path, keras.Model]:
    """The classifier that a path means as a Keras model, and its file: itself, or the one in the SavedModel's run.

    Args:
        model, trust: As for `open_classifier`.

    Raises:
        InputError: There is none, it is damaged, or no classifier of ours.
    """
    found = locate(model)
    if found.suffix in runtimes.SUFFIXES:
        raise InputError(f"{found} is an export; give the run or the .keras file that it was made from")
    path = found if found.is_file() else rundir.run_folder(found) / "model.keras"
    if not path.is_file():
        raise InputError(f"{found}: its run's model.keras is needed, and {path} is missing")
    with damage_told(f"model {path}: cannot be loaded"):
        network = classifier_files.load(path, trust)
    if not checkpoints.is_classifier(network):
        raise InputError(NO_PREPROCESSING.format(path=path))
    return path, network


def open_classifier(model: str | pathlib.Path, batch_size: int = 64, trust: bool = False) -> SavedClassifier:
    """Opens a classifier.

    Args:
        model: A path as `locate` takes it.
        batch_size: Images that are classified at once.
        trust: Whether a model may hold what no classifier of ours does: a program, which opening it runs.

    Raises:
        InputError: There is no model, or it is damaged or no classifier of images.
    """
    path = locate(model)
    try:
        opener = _open_savedmodel if path.is_dir() else _open_file
        opener = _open_exported if path.suffix in runtimes.SUFFIXES else opener
        function, spec, classes = opener(path, trust)
    except Exception as error:  # the loaders raise whatever the damage makes them stumble on
        advice = "; --trust opens it, and runs what is in it" if isinstance(error, NotOurs) else ""
        raise InputError(f"model {path}: cannot be loaded ({first_line(error)}){advice}") from error
    if len(spec.shape) != 4 or not spec.shape[-1]:
        raise InputError(f"model {path}: takes input of shape {tuple(spec.shape)}, not images")
    if not isinstance(classes, int) or classes < 1:
        raise InputError(f"model {path}: its output is not one probability a class")
    dtype = tf.as_dtype(spec.dtype).as_numpy_dtype
    if not trust and not np.issubdtype(dtype, np.integer):
        # Raw pixels are whole numbers; floats are what a bare network takes, and pixels make it answer by chance.
        raise InputError(NO_PREPROCESSING.format(path=path) + f", and takes {np.dtype(dtype).name} values")

    def predict(images: np.ndarray | list[np.ndarray]) -> np.ndarray:
        probabilities = np.empty((len(images), classes), "float32")
        sizes: dict[tuple, list[int]] = collections.defaultdict(list)
        for index, image in enumerate(images):
            sizes[np.shape(image)].append(index)
        for equal in sizes.values():
            for start in range(0, len(equal), batch_size):
                batch = equal[start : start + batch_size]
                pixels = of_type(np.stack([images[index] for index in batch]), spec.shape[-1], np.dtype(dtype))
                try:
                    probabilities[batch] = function(pixels)
                except Exception as error:  # a damaged graph may be found out only here
                    raise InputError(f"model {path}: fails on images {pixels.shape} ({first_line(error)})") from error
        if not np.isfinite(probabilities).all():
            raise InputError(f"model {path}: gives what are no numbers; it is damaged, or its training diverged")
        return probabilities

    run = rundir.run_folder(path)
    folder = run if path.is_dir() and run.is_dir() else path.parent
    if path == pretrained.EUROSAT_FILE:
        folder = pathlib.Path()  # nothing is written into the package
    return SavedClassifier(path, folder, _class_names(path, classes), spec.shape[-1], predict)


def _open_file(path: pathlib.Path, trust: bool) -> tuple[Callable, keras.KerasTensor, int]:
    """A function from pixels to probabilities, the tensor it takes, and its number of classes."""
    network = classifier_files.load(path, trust)
    pixels = network.inputs[0]
    if keras.config.backend() != "tensorflow":
        return network.predict_on_batch, pixels, network.output_shape[-1]
    specification = tf.TensorSpec(pixels.shape, pixels.dtype)  # one graph for all sizes
    function = tf.function(lambda pixels: network(pixels, training=False), [specification])
    return lambda pixels: function(tf.constant(pixels)).numpy(), pixels, network.output_shape[-1]


def _open_savedmodel(path: pathlib.Path, trust: bool) -> tuple[Callable, tf.TensorSpec, int]:
    """The same for the signature `serving_default` of a SavedModel."""
    if not trust:
        return graphs.load(path)
    loaded = tf.saved_model.load(str(path))
    signature, output = loaded.signatures["serving_default"], "probabilities"
    ((key, spec),) = signature.structured_input_signature[1].items()
    result = signature.structured_outputs[output]

    def function(pixels, loaded=loaded):  # `loaded` owns the variables: keep it alive
        return signature(**{key: tf.constant(pixels)})[output].numpy()

    return function, spec, result.shape[-1]


def _open_exported(path: pathlib.Path, trust: bool) -> tuple[Callable, tf.TensorSpec, int]:
    """The same for what another runtime runs, which opens it anew for each call, in a process of its own.

    What takes images of one size gets others resized.
    """
    described = runtimes.describe(path)
    (given,), (answer,) = described["inputs"].values(), described["outputs"].values()
    spec = tf.TensorSpec([size if size > 0 else None for size in given["shape"]], given["dtype"])

    def function(pixels):
        height, width = spec.shape[1:3]
        if height:
            pixels = of_one_size(pixels, height, width)
        return runtimes.run(path, pixels)["probabilities"]

    return function, spec, answer["shape"][-1]


def _beside(path: pathlib.Path, name: str) -> pathlib.Path | None:
    """The file of that name that belongs to a model: in its run's folder or in its own assets.extra/."""
    folders = [path.parent] if path.is_file() else [rundir.run_folder(path), path / "assets.extra"]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _class_names(path: pathlib.Path, classes: int) -> tuple[str, ...]:
    if path.suffix == ".safetensors":
        return tuple((safetensors_files.description(path) or {})["classes"])
    names = runtimes.describe(path)["classes"] if path.suffix in runtimes.SUFFIXES else None
    labels = path if names else _beside(path, "labels.txt")
    if labels is None:
        return tuple(map(str, range(classes)))
    try:
        found = tuple(names or labels.read_text(encoding="utf-8").splitlines())
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{labels}: cannot be read ({first_line(error)}); restore or delete it") from error
    if len(found) != classes or not all(isinstance(name, str) for name in found):
        raise InputError(f"model {path}: {classes} outputs, but {labels} names {len(found)} classes")
    return found
