"""Opens classifiers from disk.

classifier = resnetd_tf.open_classifier("saved_models/resnet50d")
probabilities = classifier.predict(images)  # uint8 (n, height, width, 3) -> float32 (n, classes)
"""

import collections
import dataclasses
import pathlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.config_pb2 import CallableOptions
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

import resnetd_tf.networks  # noqa: F401 - registers the layers that files of networks contain
from resnetd_tf import environment, rundir, runtimes
from resnetd_tf import metadata as run_metadata
from resnetd_tf.applicability import FILE_NAME, Applicability, find_applicability
from resnetd_tf.data import splits
from resnetd_tf.data.images import convert_dtype, resize_all
from resnetd_tf.environment import release_memory
from resnetd_tf.errors import ForeignModelError, InputError, damage_as_input_error, first_line
from resnetd_tf.networks import checkpoints, classifier, pretrained
from resnetd_tf.networks.classifier import add_feature_output, make_inference_function
from resnetd_tf.runtimes import FLOAT_OUTPUTS

WINDOW_BATCH = 256  # windows of a scene that are classified at once
NO_APPLICABILITY = "; the model has no applicability score: nothing is left empty as unlike the training images"


@dataclass(frozen=True)
class SavedClassifier:
    """A classifier that is open for predictions.

    Attributes:
        path: The SavedModel folder, or the file: .keras, .safetensors, .tflite, .onnx, or OpenVINO's .xml.
        folder: The folder for results: that of the classifier's run, or else the one that holds the file. It is the
            current folder for the classifier in the package.
        classes: Class names in the order of the probabilities; numbers where there is no labels.txt.
        bands: Number of bands of the images that it takes.
        predict: Function from raw pixels to probabilities (n, classes) float32. It takes an array (n, height, width,
            bands) or a list of images (height, width, bands) of any sizes.
        metadata: The content of the run's metadata.json; empty if it is not known.
        is_served: Whether a server answers, which may replace its model at any time.
        network: The Keras model of a .keras or .safetensors file; `None` for other formats.
        applicability: Where the Keras model applies; `None` if that is not known, and for other formats.
        predict_with_dissimilarity: Function that returns what `classify` returns; `None` for a model that does not know
            the dissimilarity.
    """

    path: pathlib.Path
    folder: pathlib.Path
    classes: tuple[str, ...]
    bands: int
    predict: Callable[[np.ndarray | list[np.ndarray]], np.ndarray]
    metadata: dict = dataclasses.field(default_factory=dict)
    is_served: bool = False
    network: keras.Model | None = None
    applicability: Applicability | None = None
    predict_with_dissimilarity: Callable[[np.ndarray | list[np.ndarray]], tuple[np.ndarray, np.ndarray]] | None = None

    @property
    def split_record(self) -> pathlib.Path | None:
        """The table of the images it was trained, validated and tested on, if it is in the run's folder."""
        return _find_run_file(self.path, splits.RECORD_NAME)

    @property
    def summary(self) -> str:
        """One line with its path, network, epochs and test accuracy."""
        name = str(self.folder if self.path.is_dir() and self.folder != self.path.parent else self.path)
        if pretrained.is_packaged(self.path):
            name = f"{pretrained.EUROSAT_NAME}, which comes with resnetd_tf"
        return f"{name}, {run_metadata.summary_line(self.metadata)}"

    @property
    def patch_side(self) -> int:
        """Side in pixels of the patches that it was trained on."""
        return run_metadata.patch_side(self.metadata)

    @property
    def knows_dissimilarity(self) -> bool:
        """Whether it tells how unlike the training images an image is."""
        return self.predict_with_dissimilarity is not None

    def classify(self, images: np.ndarray | list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns what `predict` returns, and how unlike the training images each image is.

        Args:
            images: The images, as `predict` takes them.

        Returns:
            probabilities: (n, classes) float32, from 0 to 1.
            dissimilarity: (n,) float32, above 1 for unlike; `None` if the classifier does not know it.
        """
        if self.predict_with_dissimilarity is None:
            return self.predict(images), None
        return self.predict_with_dissimilarity(images)

    def check_bands(self, name: str, bands: int) -> None:
        """Raises InputError if the images of a dataset or file have another number of bands.

        Args:
            name: The dataset or file, for the message.
            bands: Its number of bands.
        """
        if bands != self.bands:
            raise InputError(f"{self.path} takes {self.bands} bands, {name} has {bands}")


def eurosat() -> SavedClassifier:
    """Opens the classifier that ships with this package, which its MODEL_CARD.md describes.

    Raises:
        InputError: The file is missing or damaged.
    """
    return _open_located(packaged_model_path(), batch_size=64, trust=False)


def open_classifier(
    model: str | pathlib.Path, batch_size: int = 64, trust: bool = False, *, network: keras.Model | None = None
) -> SavedClassifier:
    """Opens a classifier.

    Args:
        model: A file, a folder, or "eurosat", as `locate_model` takes it.
        batch_size: Number of images that are classified at once.
        trust: Whether the model may hold more than our classifiers do, such as a program, which opening it runs.
        network: The model of a .keras or .safetensors file that `open_keras_model` has opened, to save loading it.

    Raises:
        InputError: There is no model, or the model is damaged or not a classifier of images.
    """
    return _open_located(locate_model(model), batch_size, trust, network)


def open_keras_model(model: str | pathlib.Path, trust: bool = False) -> tuple[pathlib.Path, keras.Model]:
    """Opens a classifier as a Keras model.

    Args:
        model: A file, a folder, or "eurosat", as `locate_model` takes it.
        trust: Whether the model may hold more than our classifiers do.

    Returns:
        The file that was opened, which is model.keras of the run where `model` is a SavedModel, and the model.

    Raises:
        InputError: There is no such file, or it is damaged or not a classifier of ours.
    """
    located = locate_model(model)
    if located.suffix in runtimes.SUFFIXES:
        raise InputError(f"{located} is an export; give the run or the .keras file that it was made from")
    path = located if located.is_file() else rundir.run_folder_of(located) / "model.keras"
    if not path.is_file():
        raise InputError(f"{located}: its run's model.keras is needed, and {path} is missing")
    with damage_as_input_error(f"model {path}: cannot be loaded"):
        network, _ = classifier.load_classifier(path, trust)
    if not checkpoints.is_classifier(network):
        raise InputError(_no_preprocessing_message(path))
    return path, network


def locate_model(model: str | pathlib.Path) -> pathlib.Path:
    """Finds the file or SavedModel folder that a path stands for.

    Args:
        model: A file; a SavedModel folder; a folder of versions, which stands for the newest; or OpenVINO's folder.
            "eurosat" is the classifier that ships with this package, unless there is a model at that path.

    Raises:
        InputError: There is no model at that path.
    """
    path = pathlib.Path(model)
    is_name = str(model) == pretrained.EUROSAT_NAME and not rundir.savedmodel_versions(path)
    if is_name or pretrained.is_packaged(path):
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
    """Returns the file of the classifier that ships with this package.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        return pretrained.packaged_weights()
    except pretrained.WeightsUnavailable as error:
        raise InputError(f"model {pretrained.EUROSAT_NAME}: {error}") from error


def read_model_metadata(path: pathlib.Path) -> dict:
    """Reads the metadata of a model from its file, or from metadata.json of its run; empty if there are none.

    Args:
        path: A file or SavedModel folder, as `locate_model` returns it.

    Raises:
        InputError: The metadata are damaged.
    """
    if path.suffix == ".safetensors":
        return checkpoints.read_classifier_metadata(path) or {}
    if path.suffix in runtimes.SUFFIXES:
        return run_metadata.check_metadata(runtimes.describe_exported(path)["metadata"] or {}, path)
    file = _find_run_file(path, "metadata.json")
    return run_metadata.read_metadata(file) if file else {}


# Classifying the many windows of a scene.


@dataclass(frozen=True)
class WindowClassifier:
    """A classifier of the windows of scenes.

    Attributes:
        classify: Function from raw pixels (n, height, width, bands) to probabilities (n, classes) float32, and to
            dissimilarities (n,) float32, as `Applicability.dissimilarity` returns them; `None` if they are not known.
        summary: A phrase for the user: in which precision it computes, and whether it knows dissimilarities.
        knows_dissimilarity: Whether it returns dissimilarities.
    """

    classify: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
    summary: str
    knows_dissimilarity: bool = False


def open_window_classifier(classifier: SavedClassifier, runtime: str = "auto", trust: bool = False) -> WindowClassifier:
    """Opens a classifier for the windows of a scene, in the fastest way that the machine has.

    Args:
        classifier: The classifier.
        runtime: "auto" for the precision that the hardware computes fastest, "float32", "bfloat16", or "model" for the
            classifier's own format.
        trust: Whether its Keras model may hold more than our classifiers do.

    Raises:
        InputError: The classifier has no Keras model for this runtime, or a file is damaged.
    """
    if runtime not in ("auto", "float32", "bfloat16", "model"):
        raise InputError(f"--runtime={runtime}: must be auto, float32, bfloat16 or model")
    path = None if runtime == "model" else _find_keras_model(classifier)
    network = classifier.network if path and checkpoints.is_classifier(classifier.network) else None
    if path and network is None:
        try:
            network = open_keras_model(path, trust)[1]
        except InputError:  # a model of other layers has predictions, but no features that are known
            if runtime != "auto":
                raise
    if path is None or network is None:
        if runtime not in ("auto", "model"):
            raise InputError(f"--runtime={runtime} needs a .keras or .safetensors file, and {classifier.path} is none")
        knows_dissimilarity = classifier.knows_dissimilarity
        summary = f"by the model as it is{'' if knows_dissimilarity else NO_APPLICABILITY}"
        return WindowClassifier(classifier.classify, summary, knows_dissimilarity)
    precision = runtime
    if runtime == "auto":
        precision = "bfloat16" if environment.fastest_precision() == "bfloat16" else "float32"
    infer = make_inference_function(network, precision)
    dtype = np.dtype(tf.as_dtype(network.inputs[0].dtype).as_numpy_dtype)
    is_open = network is classifier.network
    area = classifier.applicability if is_open else _open_applicability(path, network)

    def classify(images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        images = convert_dtype(images, classifier.bands, dtype)
        batches = [infer(images[start : start + WINDOW_BATCH]) for start in range(0, len(images), WINDOW_BATCH)]
        probabilities, features = (np.concatenate(outputs) for outputs in zip(*batches))
        if not np.isfinite(probabilities).all():
            raise InputError(f"model {path}: gives what are no numbers; it is damaged, or its training diverged")
        return probabilities, area.dissimilarity(features) if area else None

    return WindowClassifier(classify, f"in {precision}{'' if area else NO_APPLICABILITY}", area is not None)


def _open_applicability(path: pathlib.Path, network: keras.Model) -> Applicability | None:
    """Reads where a classifier of ours in a file applies, if that is known.

    Raises:
        InputError: The file is damaged, or of another network.
    """
    area = find_applicability(path)
    feature_count = network.layers[-1].get_layer("predictions").input.shape[-1]
    if area and len(area.mean) != feature_count:
        raise InputError(
            f"model {path}: has {feature_count} features, its score of applicability {len(area.mean)}; delete "
            f"{path.with_name(FILE_NAME)}"
        )
    return area


def _find_keras_model(classifier: SavedClassifier) -> pathlib.Path | None:
    """Finds the file of a classifier's Keras model: its own, or model.keras of the run that it was exported from."""
    if classifier.is_served or classifier.path.suffix in runtimes.SUFFIXES:
        return None
    if classifier.path.is_file():
        return classifier.path
    path = rundir.run_folder_of(classifier.path) / "model.keras"
    return path if path.is_file() else None


# Loading a model, whatever its format.


@dataclass(frozen=True)
class _LoadedModel:
    """A model with the contents of its file.

    Attributes:
        classify: Function from pixels (n, height, width, bands) to outputs by name: `probabilities` (n, classes), and
            `dissimilarity` (n,) if `knows_dissimilarity`.
        pixels: Shape and dtype of the pixels; `None` in the shape for any size.
        class_count: Number of classes.
        class_names: The class names in the file, which are not checked; `None` where it has none.
        metadata: The metadata in the file, which are not checked; `None` where it has none.
        network: The Keras model; `None` for other formats.
        applicability: Where the Keras model applies, if that is known.
        knows_dissimilarity: Whether it tells how unlike the training images an image is.
    """

    classify: Callable[[np.ndarray], dict[str, np.ndarray]]
    pixels: tf.TensorSpec
    class_count: int
    class_names: Sequence[str] | None = None
    metadata: dict | None = None
    network: keras.Model | None = None
    applicability: Applicability | None = None
    knows_dissimilarity: bool = False


def _open_located(
    path: pathlib.Path, batch_size: int, trust: bool, network: keras.Model | None = None
) -> SavedClassifier:
    """Opens the classifier in a file or SavedModel folder; arguments and errors are those of `open_classifier`."""
    load = _load_savedmodel if path.is_dir() else _load_exported if path.suffix in runtimes.SUFFIXES else _load_file
    try:
        loaded = load(path, trust) if network is None else _wrap_network(network, path)
    except Exception as error:  # the libraries have many errors for damaged files
        advice = "; --trust opens it, and runs what is in it" if isinstance(error, ForeignModelError) else ""
        raise InputError(f"model {path}: cannot be loaded ({first_line(error)}){advice}") from error
    shape = tuple(loaded.pixels.shape)
    if len(shape) != 4 or not shape[-1]:
        raise InputError(f"model {path}: takes input of shape {shape}, not images")
    if not isinstance(loaded.class_count, int) or loaded.class_count < 1:
        raise InputError(f"model {path}: its output is not one probability a class")
    dtype = tf.as_dtype(loaded.pixels.dtype).as_numpy_dtype
    if not trust and not np.issubdtype(dtype, np.integer):
        # Raw pixels are whole numbers. A bare network takes floats, and classifies pixels by chance.
        raise InputError(f"{_no_preprocessing_message(path)}, and takes {np.dtype(dtype).name} values")
    run_folder = rundir.run_folder_of(path)
    folder = run_folder if path.is_dir() and run_folder.is_dir() else path.parent
    if path == pretrained.EUROSAT_FILE:
        folder = pathlib.Path()  # nothing is written into the package
    if loaded.metadata is None:
        metadata = read_model_metadata(path)
    else:
        metadata = run_metadata.check_metadata(loaded.metadata, path)
    classify = _make_classify(path, loaded, batch_size)
    return SavedClassifier(
        path,
        folder,
        _find_class_names(path, loaded),
        shape[-1],
        lambda images: classify(images)[0],
        metadata,
        network=loaded.network,
        applicability=loaded.applicability,
        predict_with_dissimilarity=classify if loaded.knows_dissimilarity else None,
    )


def _make_classify(path: pathlib.Path, loaded: _LoadedModel, batch_size: int) -> Callable:
    """Makes the function that classifies images of any sizes in batches of equal size.

    It returns probabilities (n, classes) and dissimilarities (n,), which are NaN if the model does not know them.
    """
    bands, dtype = loaded.pixels.shape[-1], np.dtype(tf.as_dtype(loaded.pixels.dtype).as_numpy_dtype)

    def classify(images: np.ndarray | list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        probabilities = np.empty((len(images), loaded.class_count), "float32")
        dissimilarity = np.full(len(images), np.nan, "float32")
        indices_by_shape: dict[tuple, list[int]] = collections.defaultdict(list)
        for index, image in enumerate(images):
            indices_by_shape[np.shape(image)].append(index)
        for indices in indices_by_shape.values():
            for start in range(0, len(indices), batch_size):
                batch = indices[start : start + batch_size]
                pixels = convert_dtype(np.stack([images[index] for index in batch]), bands, dtype)
                try:
                    outputs = loaded.classify(pixels)
                    probabilities[batch] = outputs["probabilities"]
                    if loaded.knows_dissimilarity:
                        dissimilarity[batch] = outputs["dissimilarity"]
                except Exception as error:  # the damage of a graph may show only here
                    raise InputError(f"model {path}: fails on images {pixels.shape} ({first_line(error)})") from error
        if not np.isfinite(probabilities).all():
            raise InputError(f"model {path}: gives what are no numbers; it is damaged, or its training diverged")
        return probabilities, dissimilarity

    return classify


def _load_file(path: pathlib.Path, trust: bool) -> _LoadedModel:
    """Loads a .keras or .safetensors file."""
    network, metadata = classifier.load_classifier(path, trust)
    return _wrap_network(network, path, metadata)


def _wrap_network(network: keras.Model, path: pathlib.Path, metadata: dict | None = None) -> _LoadedModel:
    """Makes the loaded model of a network that is in a .keras or .safetensors file."""
    if metadata is None:
        metadata = checkpoints.read_classifier_metadata(path) if path.suffix == ".safetensors" else None
    pixels, class_count = network.inputs[0], network.output_shape[-1]
    class_names = metadata["classes"] if metadata else None
    specification = tf.TensorSpec(pixels.shape, pixels.dtype)
    area = _open_applicability(path, network) if checkpoints.is_classifier(network) else None
    model = add_feature_output(network) if area else network
    if keras.config.backend() == "tensorflow":
        function = tf.function(lambda pixels: model(pixels, training=False), [specification])  # one graph for all sizes
    else:
        function = model.predict_on_batch

    def classify(pixels: np.ndarray) -> dict[str, np.ndarray]:
        outputs = function(pixels)
        if area is None:
            return {"probabilities": np.asarray(outputs)}
        probabilities, features = map(np.asarray, outputs)
        return {"probabilities": probabilities, "dissimilarity": area.dissimilarity(features)}

    return _LoadedModel(
        classify, specification, class_count, class_names, metadata, network, area, knows_dissimilarity=area is not None
    )


def _load_savedmodel(path: pathlib.Path, trust: bool) -> _LoadedModel:
    """Loads the signature `serving_default` of a SavedModel folder."""
    if not trust:
        return _load_checked_savedmodel(path)
    savedmodel = tf.saved_model.load(str(path))
    signature = savedmodel.signatures["serving_default"]
    ((name, pixels),) = signature.structured_input_signature[1].items()

    outputs = signature.structured_outputs

    def classify(images, savedmodel=savedmodel):  # `savedmodel` owns the variables, so it must live as long
        answers = signature(**{name: tf.constant(images)})
        return {output: answers[output].numpy() for output in FLOAT_OUTPUTS if output in answers}

    return _LoadedModel(
        classify, pixels, outputs["probabilities"].shape[-1], knows_dissimilarity="dissimilarity" in outputs
    )


def _load_exported(path: pathlib.Path, trust: bool) -> _LoadedModel:
    """Loads a model of another runtime, which opens it anew for each call, in a process of its own.

    A model of one image size gets images of other sizes resized.
    """
    description = runtimes.describe_exported(path)
    (pixels,), outputs = description["inputs"].values(), description["outputs"]
    probabilities = outputs.get("probabilities") or next(iter(outputs.values()))
    specification = tf.TensorSpec([size if size > 0 else None for size in pixels["shape"]], pixels["dtype"])

    def classify(images):
        height, width = specification.shape[1:3]
        if height:
            images = resize_all(images, height, width)
        return runtimes.run_exported(path, images)

    return _LoadedModel(
        classify,
        specification,
        probabilities["shape"][-1],
        description["classes"],
        description["metadata"],
        knows_dissimilarity="dissimilarity" in outputs,
    )


def _no_preprocessing_message(path: pathlib.Path) -> str:
    return f"{path} is no classifier: it lacks the preprocessing that `train.py` puts in front"


def _find_run_file(path: pathlib.Path, name: str) -> pathlib.Path | None:
    """Finds a file that belongs to a model, in its run's folder or in the SavedModel's assets.extra/."""
    folders = [path.parent] if path.is_file() else [rundir.run_folder_of(path), path / "assets.extra"]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _find_class_names(path: pathlib.Path, loaded: _LoadedModel) -> tuple[str, ...]:
    """Returns the class names in the model's file, or in labels.txt, or numbers where there are none."""
    labels_file = path if loaded.class_names else _find_run_file(path, "labels.txt")
    if labels_file is None:
        return tuple(map(str, range(loaded.class_count)))
    try:
        names = tuple(loaded.class_names or labels_file.read_text(encoding="utf-8").splitlines())
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{labels_file}: cannot be read ({first_line(error)}); restore or delete it") from error
    if len(names) != loaded.class_count or not all(isinstance(name, str) for name in names):
        raise InputError(f"model {path}: {loaded.class_count} outputs, but {labels_file} names {len(names)} classes")
    return names


# Loading SavedModels from anywhere without running what they contain.
#
# A SavedModel is a program, which can read and write files. TensorFlow's loader runs parts of it at once, and its own
# scan for dangerous operations knows three of them. So the file is parsed without the loader, and each operation in it
# must be one that our exporters write. Of these, only the operations that save and restore variables touch files. Our
# exports have no variables, and these operations are removed.
#
# The graph then runs in a session. `tf.saved_model.load` after the same check would be simpler, but has 0.6 GB more in
# memory at its first answer (2.8 GB in place of 2.2 for ResNet-50-D), and that answer takes several times as long.


KNOWN_OPERATIONS = """
    Abs AddV2 All ArgMax AsString Assert AvgPool BatchDatasetV2 BiasAdd Cast ConcatenateDataset Const Conv2D
    DatasetToSingleElement DecodeJpeg DecodeRaw EnsureShape Equal ExpandDims ExtractJpegShape Fill FloorDiv GatherV2
    Greater Identity If IgnoreErrorsDataset Less LessEqual LogicalAnd LogicalOr MatMul MaxPool Maximum Mean Mul NoOp
    Pack Pad ParallelMapDatasetV2 ParseExampleV2 PartitionedCall Placeholder Range RealDiv Relu Reshape
    ResizeBilinear ScatterNd Select SelectV2 Shape Size Softmax Sqrt Squeeze StatefulPartitionedCall StatelessIf
    StatelessWhile StaticRegexFullMatch StridedSlice StringJoin StringLength Sub Substr Sum TensorDataset
    TensorListFromTensor TensorListGetItem TensorListReserve TensorListSetItem TensorListStack TensorScatterUpdate
    TensorSliceDataset Tile Transpose While
"""  # versions before 0.2.0 wrote ResizeBilinear, StatelessWhile and lists of tensors
KNOWN_OBJECTS = {"user_object", "function", "bare_concrete_function", "constant"}
SAVING_OPERATIONS = {"MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename"}


def read_savedmodel(path: pathlib.Path) -> MetaGraphDef:
    """Parses the graph of a SavedModel folder, and checks that all its operations are known.

    Raises:
        ForeignModelError: An operation or object is not known.
        ValueError: TensorFlow 2 did not write the file.
        Exception: protobuf finds the file damaged.
    """
    saved = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    if len(saved.meta_graphs) != 1 or not saved.meta_graphs[0].HasField("object_graph_def"):
        raise ValueError("not a SavedModel as TensorFlow 2 writes it")
    meta_graph = saved.meta_graphs[0]
    # TensorFlow's loader runs the functions of objects of kind `resource`, and of objects that can be restored.
    objects = {str(node.WhichOneof("kind")) for node in meta_graph.object_graph_def.nodes}
    if any(node.saveable_objects for node in meta_graph.object_graph_def.nodes):
        raise ForeignModelError("has objects that are restored by functions, which no model of ours has")
    operations = {node.op for node in _all_nodes(meta_graph)}
    known_operations = set(KNOWN_OPERATIONS.split()) | SAVING_OPERATIONS
    if unknown := sorted((objects - KNOWN_OBJECTS) | (operations - known_operations)):
        raise ForeignModelError(f"has {', '.join(unknown)}, which no model of ours does")
    return meta_graph


def _load_checked_savedmodel(path: pathlib.Path) -> _LoadedModel:
    """Loads the signature `serving_default` of a SavedModel folder, all of whose operations are known.

    Raises:
        ForeignModelError: An operation is not known, or the signature saves or restores files.
        Exception: protobuf or TensorFlow finds the file damaged.
    """
    graph, pixels, outputs = _import_graph(path)
    release_memory()  # TensorFlow makes further copies of the weights now
    session = tf.compat.v1.Session(graph=graph)
    # `make_callable` searches the messages of errors for names, for minutes where a message holds a network's weights.
    fetched = [tensor.name for tensor in outputs.values()]
    run = session._make_callable_from_options(CallableOptions(feed=[pixels.name], fetch=fetched))
    weakref.finalize(run, session.close)  # the session must close before the process ends
    specification = tf.TensorSpec(pixels.shape, pixels.dtype)
    return _LoadedModel(
        lambda images: dict(zip(outputs, run(images))),
        specification,
        outputs["probabilities"].shape[-1],
        knows_dissimilarity="dissimilarity" in outputs,
    )


def _import_graph(path: pathlib.Path) -> tuple[tf.Graph, tf.Tensor, dict[str, tf.Tensor]]:
    """Imports the graph of a SavedModel folder without the operations that save and restore variables.

    Returns:
        The graph, its pixels, and its probabilities and dissimilarity by name, the latter if it has them.
    """
    meta_graph = read_savedmodel(path)
    nodes, functions = meta_graph.graph_def.node, meta_graph.graph_def.library.function
    saving_functions = {
        function.signature.name
        for function in functions
        if any(node.op in SAVING_OPERATIONS for node in function.node_def)
    }
    _remove_if(functions, lambda function: function.signature.name in saving_functions)
    _remove_if(
        nodes,
        lambda node: (
            node.op in SAVING_OPERATIONS or ("f" in node.attr and node.attr["f"].func.name in saving_functions)
        ),
    )
    if any(value.func.name in saving_functions for node in _all_nodes(meta_graph) for value in node.attr.values()):
        raise ForeignModelError("saves or restores files where it classifies")
    signature = meta_graph.signature_def["serving_default"]
    (input_info,) = signature.inputs.values()
    output_infos = {name: signature.outputs[name] for name in FLOAT_OUTPUTS if name in signature.outputs}
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(meta_graph.graph_def, name="")
    outputs = {name: graph.get_tensor_by_name(info.name) for name, info in output_infos.items()}
    outputs["probabilities"].set_shape((None, output_infos["probabilities"].tensor_shape.dim[-1].size))
    return graph, graph.get_tensor_by_name(input_info.name), outputs


def _all_nodes(meta_graph: MetaGraphDef) -> Iterator[NodeDef]:
    """Yields the operations of a graph and of the functions in its library."""
    yield from meta_graph.graph_def.node
    for function in meta_graph.graph_def.library.function:
        yield from function.node_def


def _remove_if(elements, is_unwanted: Callable[..., bool]) -> None:
    """Removes elements from a repeated field of a protobuf, without a copy of the others."""
    for index in reversed(range(len(elements))):
        if is_unwanted(elements[index]):
            del elements[index]
