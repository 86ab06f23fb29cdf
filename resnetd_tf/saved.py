"""Opening a classifier from disk.

classifier = resnetd_tf.open_classifier("saved_models/resnet50d")
probabilities = classifier.predict(images)  # uint8 (n, height, width, 3) -> float32 (n, classes)
"""

import collections
import pathlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.config_pb2 import CallableOptions
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

import resnetd_tf.networks  # noqa: F401 - networks' own files have its layers
from resnetd_tf import rundir, runtimes
from resnetd_tf.data import splits
from resnetd_tf.data.images import convert_dtype, resize_all
from resnetd_tf.environment import release_memory
from resnetd_tf.errors import ForeignModelError, InputError, damage_as_input_error, first_line
from resnetd_tf.metadata import check_metadata, patch_side, read_metadata, summary_line
from resnetd_tf.networks import checkpoints, classifier, pretrained

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
        return read_model_metadata(self.path) if self.told is None else self.told

    @property
    def split_record(self) -> pathlib.Path | None:
        """The table of the images that it was trained, validated and tested on, if it lies in the run's folder."""
        return _find_beside(self.path, splits.RECORD_NAME)

    @property
    def summary(self) -> str:
        """Where it is, with its network, epochs and test accuracy, in one line."""
        name = str(self.folder if self.path.is_dir() and self.folder != self.path.parent else self.path)
        if pretrained.is_packaged(self.path):
            name = f"{pretrained.EUROSAT_NAME}, which comes with resnetd_tf"
        return f"{name}, {summary_line(self.metadata)}"

    @property
    def patch_side(self) -> int:
        return patch_side(self.metadata)

    def check_bands(self, name: str, bands: int) -> None:
        """Raises InputError if images, of the dataset or file of that name, have another number of bands."""
        if bands != self.bands:
            raise InputError(f"{self.path} takes {self.bands} bands, {name} has {bands}")


def read_model_metadata(path: pathlib.Path) -> dict:
    """What metadata.json says of the run that a model is of, or the model's file itself; empty where nothing does.

    Raises:
        InputError: It is damaged.
    """
    if path.suffix == ".safetensors":
        return checkpoints.read_classifier_metadata(path) or {}
    if path.suffix in runtimes.SUFFIXES:
        return check_metadata(runtimes.describe_exported(path)["metadata"] or {}, path)
    file = _find_beside(path, "metadata.json")
    return read_metadata(file) if file else {}


def locate_model(model: str | pathlib.Path) -> pathlib.Path:
    """The model that a path means: a file, a SavedModel, the newest version under a base, or OpenVINO's folder.

    "eurosat" means the classifier that comes with this package, unless there is a model at that path.

    Raises:
        InputError: There is no model at that path.
    """
    path = pathlib.Path(model)
    named = str(model) == pretrained.EUROSAT_NAME and not rundir.savedmodel_versions(path)
    if named or pretrained.is_packaged(path):
        return packaged_model_path()
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
    versions = rundir.savedmodel_versions(path)
    if not versions:
        raise InputError(f"model {path}: holds no SavedModel (1/, 2/, ...) of a finished run")
    return path / str(versions[-1])


def packaged_model_path() -> pathlib.Path:
    """The file of the classifier that ships with this package; InputError if it is missing or damaged."""
    try:
        return pretrained.packaged_weights()
    except pretrained.WeightsUnavailable as error:
        raise InputError(f"model {pretrained.EUROSAT_NAME}: {error}") from error


def eurosat() -> SavedClassifier:
    """The classifier that ships with this package, see its MODEL_CARD.md; InputError if it is missing or damaged."""
    return open_classifier(packaged_model_path())


def open_keras_model(model: str | pathlib.Path, trust: bool = False) -> tuple[pathlib.Path, keras.Model]:
    """The classifier that a path means as a Keras model, and its file: itself, or the one in the SavedModel's run.

    Args:
        model, trust: As for `open_classifier`.

    Raises:
        InputError: There is none, it is damaged, or no classifier of ours.
    """
    found = locate_model(model)
    if found.suffix in runtimes.SUFFIXES:
        raise InputError(f"{found} is an export; give the run or the .keras file that it was made from")
    path = found if found.is_file() else rundir.run_folder_of(found) / "model.keras"
    if not path.is_file():
        raise InputError(f"{found}: its run's model.keras is needed, and {path} is missing")
    with damage_as_input_error(f"model {path}: cannot be loaded"):
        network = classifier.load_classifier(path, trust)
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
    path = locate_model(model)
    try:
        opener = _open_savedmodel if path.is_dir() else _open_file
        opener = _open_exported if path.suffix in runtimes.SUFFIXES else opener
        function, spec, classes = opener(path, trust)
    except Exception as error:  # the loaders raise whatever the damage makes them stumble on
        advice = "; --trust opens it, and runs what is in it" if isinstance(error, ForeignModelError) else ""
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
                pixels = convert_dtype(np.stack([images[index] for index in batch]), spec.shape[-1], np.dtype(dtype))
                try:
                    probabilities[batch] = function(pixels)
                except Exception as error:  # a damaged graph may be found out only here
                    raise InputError(f"model {path}: fails on images {pixels.shape} ({first_line(error)})") from error
        if not np.isfinite(probabilities).all():
            raise InputError(f"model {path}: gives what are no numbers; it is damaged, or its training diverged")
        return probabilities

    run = rundir.run_folder_of(path)
    folder = run if path.is_dir() and run.is_dir() else path.parent
    if path == pretrained.EUROSAT_FILE:
        folder = pathlib.Path()  # nothing is written into the package
    return SavedClassifier(path, folder, _read_class_names(path, classes), spec.shape[-1], predict)


def _open_file(path: pathlib.Path, trust: bool) -> tuple[Callable, keras.KerasTensor, int]:
    """A function from pixels to probabilities, the tensor it takes, and its number of classes."""
    network = classifier.load_classifier(path, trust)
    pixels = network.inputs[0]
    if keras.config.backend() != "tensorflow":
        return network.predict_on_batch, pixels, network.output_shape[-1]
    specification = tf.TensorSpec(pixels.shape, pixels.dtype)  # one graph for all sizes
    function = tf.function(lambda pixels: network(pixels, training=False), [specification])
    return lambda pixels: function(tf.constant(pixels)).numpy(), pixels, network.output_shape[-1]


def _open_savedmodel(path: pathlib.Path, trust: bool) -> tuple[Callable, tf.TensorSpec, int]:
    """The same for the signature `serving_default` of a SavedModel."""
    if not trust:
        return load_signature(path)
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
    described = runtimes.describe_exported(path)
    (given,), (answer,) = described["inputs"].values(), described["outputs"].values()
    spec = tf.TensorSpec([size if size > 0 else None for size in given["shape"]], given["dtype"])

    def function(pixels):
        height, width = spec.shape[1:3]
        if height:
            pixels = resize_all(pixels, height, width)
        return runtimes.run_exported(path, pixels)["probabilities"]

    return function, spec, answer["shape"][-1]


def _find_beside(path: pathlib.Path, name: str) -> pathlib.Path | None:
    """The file of that name that belongs to a model: in its run's folder or in its own assets.extra/."""
    folders = [path.parent] if path.is_file() else [rundir.run_folder_of(path), path / "assets.extra"]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _read_class_names(path: pathlib.Path, classes: int) -> tuple[str, ...]:
    if path.suffix == ".safetensors":
        return tuple((checkpoints.read_classifier_metadata(path) or {})["classes"])
    names = runtimes.describe_exported(path)["classes"] if path.suffix in runtimes.SUFFIXES else None
    labels = path if names else _find_beside(path, "labels.txt")
    if labels is None:
        return tuple(map(str, range(classes)))
    try:
        found = tuple(names or labels.read_text(encoding="utf-8").splitlines())
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{labels}: cannot be read ({first_line(error)}); restore or delete it") from error
    if len(found) != classes or not all(isinstance(name, str) for name in found):
        raise InputError(f"model {path}: {classes} outputs, but {labels} names {len(found)} classes")
    return found


# Opening SavedModels, ours and those from elsewhere, as the graphs that they are.
#
# A SavedModel is a program, which can read and write files. TensorFlow's loader runs parts of it at once, and its own
# scan for dangerous operations knows three of them. So the file is parsed without the loader, and every operation in it
# must be one that our exporters write; of these none touches a file but those that save and restore variables, which our
# exports do not have: they are taken out. What export.py converts, TensorFlow's loader opens after this has looked at it.


KNOWN_OPERATIONS = """
    Abs AddV2 All ArgMax AsString Assert AvgPool BatchDatasetV2 BiasAdd Cast ConcatenateDataset Const Conv2D
    DatasetToSingleElement DecodeJpeg DecodeRaw EnsureShape Equal ExpandDims ExtractJpegShape Fill FloorDiv GatherV2
    Greater Identity If IgnoreErrorsDataset Less LessEqual LogicalAnd LogicalOr MatMul MaxPool Maximum Mean Mul NoOp
    Pack Pad ParallelMapDatasetV2 ParseExampleV2 PartitionedCall Placeholder Range RealDiv Relu Reshape
    ResizeBilinear ScatterNd Select SelectV2 Shape Size Softmax Sqrt Squeeze StatefulPartitionedCall StatelessIf
    StatelessWhile StaticRegexFullMatch StridedSlice StringJoin StringLength Sub Substr Sum TensorDataset
    TensorListFromTensor TensorListGetItem TensorListReserve TensorListSetItem TensorListStack TensorScatterUpdate
    TensorSliceDataset Tile Transpose While
"""  # ResizeBilinear, StatelessWhile and lists of tensors: those of versions before 0.2.0
KNOWN_OBJECTS = {"user_object", "function", "bare_concrete_function", "constant"}
SAVING_OPERATIONS = {"MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename"}


def read_savedmodel(path: pathlib.Path) -> MetaGraphDef:
    """The graph of a SavedModel folder, all of whose operations are known.

    Raises:
        NotOurs: One is not.
        ValueError: TensorFlow 2 did not write it.
        Exception: What protobuf raises for a damaged file.
    """
    saved = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    if len(saved.meta_graphs) != 1 or not saved.meta_graphs[0].HasField("object_graph_def"):
        raise ValueError("not a SavedModel as TensorFlow 2 writes it")
    meta = saved.meta_graphs[0]
    # Among objects a `resource` has a function that TensorFlow's loader runs, and so has one that can be restored.
    objects = {str(node.WhichOneof("kind")) for node in meta.object_graph_def.nodes}
    if any(node.saveable_objects for node in meta.object_graph_def.nodes):
        raise ForeignModelError("has objects that are restored by functions, which no model of ours has")
    found = {node.op for node in _all_nodes(meta)}
    if unknown := sorted((objects - KNOWN_OBJECTS) | (found - set(KNOWN_OPERATIONS.split()) - SAVING_OPERATIONS)):
        raise ForeignModelError(f"has {', '.join(unknown)}, which no model of ours does")
    return meta


def load_signature(path: pathlib.Path) -> tuple[Callable[[np.ndarray], np.ndarray], tf.TensorSpec, int]:
    """The signature `serving_default` of a SavedModel folder.

    Returns:
        A function of one array that gives one, what it takes, and the number of classes that it gives.

    Raises:
        NotOurs: The signature saves or restores files.
        Exception: As `read`, and whatever TensorFlow raises for a graph that is none.
    """
    graph, pixels, probabilities = _import_graph(path)
    release_memory()  # TensorFlow makes further copies of the weights now
    # In a session, because names of functions are the whole process's elsewhere, and other models have the same ones.
    session = tf.compat.v1.Session(graph=graph)
    # `make_callable` looks for names in the messages of errors, for minutes where one holds a network's weights.
    run = session._make_callable_from_options(CallableOptions(feed=[pixels.name], fetch=[probabilities.name]))
    weakref.finalize(run, session.close)  # at the latest before the process ends: afterwards `run` stumbles
    return lambda images: run(images)[0], tf.TensorSpec(pixels.shape, pixels.dtype), probabilities.shape[-1]


def _import_graph(path: pathlib.Path) -> tuple[tf.Graph, tf.Tensor, tf.Tensor]:
    """The graph of a SavedModel folder without what saves and restores, its input and its output."""
    meta = read_savedmodel(path)
    signature, library = meta.signature_def["serving_default"], meta.graph_def.library.function
    saving = {
        function.signature.name
        for function in library
        if any(node.op in SAVING_OPERATIONS for node in function.node_def)
    }
    _remove_where(library, lambda function: function.signature.name in saving)
    _remove_where(
        meta.graph_def.node,
        lambda node: node.op in SAVING_OPERATIONS or ("f" in node.attr and node.attr["f"].func.name in saving),
    )
    if any(value.func.name in saving for node in _all_nodes(meta) for value in node.attr.values()):
        raise ForeignModelError("saves or restores files where it classifies")
    (pixels,), probabilities = signature.inputs.values(), signature.outputs["probabilities"]
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(meta.graph_def, name="")
    given, answer = (graph.get_tensor_by_name(tensor.name) for tensor in (pixels, probabilities))
    answer.set_shape((None, probabilities.tensor_shape.dim[-1].size))
    return graph, given, answer


def _all_nodes(meta: MetaGraphDef) -> Iterator[NodeDef]:
    """All operations of a graph and of the functions in its library."""
    yield from meta.graph_def.node
    for function in meta.graph_def.library.function:
        yield from function.node_def


def _remove_where(some, unwanted) -> None:
    """Takes what is unwanted out of a repeated field of a protobuf, without a copy of the rest."""
    for index in reversed(range(len(some))):
        if unwanted(some[index]):
            del some[index]
