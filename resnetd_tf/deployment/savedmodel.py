"""From a trained classifier to what is deployed: SavedModel and TFLite."""

import pathlib

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from resnetd_tf import rundir
from resnetd_tf.data import splits as data
from resnetd_tf.errors import InputError
from resnetd_tf.networks.copies import folded


def savedmodel(
    classifier: keras.Model, classes: tuple[str, ...], path: pathlib.Path, precision: str = "float32"
) -> None:
    """Writes a SavedModel for TensorFlow Serving, whole or not at all.

    Batch normalisation is folded into the convolutions before it, and the weights are constants of the graph.

    Signatures:
        serving_default: `pixels` (n, height, width, bands) raw pixels -> `probabilities` (n, classes) float32.
        encoded: `image_bytes` (n,) JPEG or PNG files, of any sizes -> the same. RGB classifiers only.

    Args:
        classifier: As built by `resnetd_tf.classifier.build`, or its `portable` copy.
        classes: Class names; stored in assets.extra/labels.txt.
        path: Where; must not exist.
        precision: "float32", or "bfloat16" for the network's weights and activations; probabilities are
            float32.

    Raises:
        InputError: It cannot be written.
    """
    classifier = folded(classifier, precision)
    pixels = classifier.inputs[0]
    preprocessing = [classifier.get_layer(name) for name in ("normalization", "resizing")]
    network = classifier.layers[-1]

    shape = (None, *network.inputs[0].shape[1:])
    infer = tf.function(lambda images: network(images, training=False))
    infer = convert_variables_to_constants_v2(infer.get_concrete_function(tf.TensorSpec(shape, tf.float32)))

    def classify(images):
        (probabilities,) = infer(images)
        return {"probabilities": tf.ensure_shape(probabilities, (None, len(classes)))}

    def preprocess(x):
        for layer in preprocessing:
            x = layer(x)
        return x

    def from_bytes(image_bytes):
        def decode(encoded):
            return preprocess(data.decode(encoded)[tf.newaxis])[0]

        return classify(tf.map_fn(decode, image_bytes, fn_output_signature=tf.TensorSpec(shape[1:], tf.float32)))

    served = tf.Module()
    served.from_pixels = tf.function(
        lambda pixels: classify(preprocess(pixels)), [tf.TensorSpec(pixels.shape, pixels.dtype, name="pixels")]
    )
    signatures = {"serving_default": served.from_pixels}
    if pixels.shape[-1] == 3:
        served.from_bytes = tf.function(from_bytes, [tf.TensorSpec((None,), tf.string, name="image_bytes")])
        signatures["encoded"] = served.from_bytes
    with rundir.atomic(path) as temporary:
        tf.saved_model.save(served, str(temporary), signatures)
        extra = temporary / "assets.extra"
        extra.mkdir()
        (extra / "labels.txt").write_text("\n".join(classes) + "\n")


def bfloat16(
    model: str,
    output: str | None,
    dataset: str | None = None,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
) -> pathlib.Path:
    """Writes a SavedModel that computes in bfloat16, and compares it with the float32 model it is made from.

    For processors and GPUs that have bfloat16 instructions; others compute it slowly.

    Args:
        model: A .keras file of a run, or a path as `rundir.locate` takes it of the SavedModel of a run.
        output: The folder; `None` for savedmodel-bfloat16 in the run's folder.
        dataset: What to compare on; `None` for the dataset the model was trained on.
        data_dir, eurosat_zip: As for `data.load`.

    Returns:
        The path of the SavedModel.

    Raises:
        InputError: Something given cannot be used.
    """
    found = rundir.locate(model)
    source = found if found.is_file() else found.parent / f"run-{found.name}" / "model.keras"
    if not source.is_file():
        raise InputError(f"{found}: bfloat16 is made from the run's model.keras, and {source} is missing")
    path = pathlib.Path(output) if output else source.parent / "savedmodel-bfloat16"
    _must_not_exist(path)
    classifier = rundir.open_classifier(source)
    images = _dataset_of(classifier, dataset, ("validation",), data_dir, eurosat_zip).splits["validation"].images[:200]
    savedmodel(keras.saving.load_model(source, compile=False), classifier.classes, path, "bfloat16")
    probabilities = rundir.open_classifier(path).predict(images)
    result = agreement(probabilities, classifier.predict(images))
    print(f"{path}: SavedModel in bfloat16\nAgainst {source} on {len(images)} validation images: {result}")
    return path


def _must_not_exist(path: pathlib.Path) -> None:
    if path.exists():
        raise InputError(f"{path} exists already; give another --output")


def _dataset_of(classifier: rundir.SavedClassifier, dataset, splits, data_dir, eurosat_zip) -> data.Dataset:
    """Splits of the named dataset, or of the one that the classifier was trained on."""
    dataset = dataset or classifier.metadata.get("dataset")
    if dataset is None:
        raise InputError(f"{classifier.path} does not say what it was trained on; give --dataset")
    size = classifier.metadata.get("patch_shape", [64])[0]
    loaded = data.load(dataset, splits, data_dir=data_dir, eurosat_zip=eurosat_zip, image_size=size)
    if loaded.patch_shape[-1] != classifier.bands:
        raise InputError(f"{classifier.path} takes {classifier.bands} bands, {dataset} has {loaded.patch_shape[-1]}")
    return loaded


def agreement(probabilities: np.ndarray, expected: np.ndarray) -> str:
    """In words, how well probabilities (n, classes) agree with those expected."""
    same = 100 * (probabilities.argmax(1) == expected.argmax(1)).mean()
    difference = np.abs(probabilities - expected).max()
    return f"same class for {same:.1f} %, largest difference of a probability {difference:.1e}"


def tflite(
    model: str,
    precision: str,
    output: str | None,
    dataset: str | None = None,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
) -> pathlib.Path:
    """Converts a SavedModel to TFLite, preprocessing included, and checks it in the LiteRT interpreter.

    The file takes one image: (1, height, width, bands) raw pixels, of the size the model was trained on. It
    returns (1, classes) float32 probabilities.

    Args:
        model: A path as `rundir.locate` takes it, of a SavedModel.
        precision: "float32", or "int8" for weights and activations in 8 bits, calibrated on the training
            split.
        output: The file; `None` for model-PRECISION.tflite in the run's folder.
        dataset: For int8: what to calibrate on; `None` for the dataset the model was trained on.
        data_dir, eurosat_zip: As for `data.load`.

    Returns:
        The path of the file.

    Raises:
        InputError: Something given cannot be used, or the converted model disagrees with the SavedModel.
    """
    classifier = rundir.open_classifier(model)
    if classifier.path.is_file():
        raise InputError(f"{classifier.path}: TFLite is made from a SavedModel; give its folder")
    path = pathlib.Path(output) if output else (classifier.folder or pathlib.Path()) / f"model-{precision}.tflite"
    _must_not_exist(path)
    shape = classifier.metadata.get("patch_shape", [64, 64, classifier.bands])
    if precision == "int8":
        loaded = _dataset_of(classifier, dataset, ("train", "validation"), data_dir, eurosat_zip)
        shape = loaded.patch_shape
        calibration, check = loaded.splits["train"].images[:200], loaded.splits["validation"].images[:200]
    else:
        calibration = None
        dtype = "uint8" if classifier.bands == 3 else "uint16"
        check = np.random.default_rng(0).integers(0, 256, (16, *shape)).astype(dtype)

    content = _convert(classifier.path, shape, calibration)
    probabilities = run_tflite(content, check)
    expected = classifier.predict(check)
    difference = float(np.abs(probabilities - expected).max())
    if precision == "float32" and difference > 1e-4:
        raise InputError(f"{path} not written: its probabilities differ from the SavedModel's by {difference:.1e}")
    with rundir.atomic(path) as temporary:
        temporary.write_bytes(content)
    print(f"{path}: {len(content) / 1e6:.1f} MB, input {'x'.join(map(str, (1, *shape)))}")
    images = "validation images" if calibration is not None else "random images"
    print(f"Against the SavedModel on {len(check)} {images}: {agreement(probabilities, expected)}")
    return path


def _convert(savedmodel_path: pathlib.Path, shape, calibration: np.ndarray | None) -> bytes:
    """TFLite flatbuffer for one image of `shape`, quantised to int8 if there are images to calibrate on."""
    loaded = tf.saved_model.load(str(savedmodel_path))
    signature = loaded.signatures["serving_default"]
    ((key, spec),) = signature.structured_input_signature[1].items()
    function = tf.function(lambda pixels: signature(**{key: pixels}))
    concrete = function.get_concrete_function(tf.TensorSpec((1, *shape), spec.dtype, name="pixels"))
    concrete = _without_bicubic(concrete)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], loaded)
    if calibration is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[np.newaxis]] for image in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter.convert()


def _without_bicubic(concrete):
    """A function of an image whose bicubic resizing, which TFLite lacks, is two products with its matrices."""
    frozen = convert_variables_to_constants_v2(concrete)
    graph = frozen.graph.as_graph_def()
    found = [node for node in graph.node if node.op == "ResizeBicubic"]
    if not found:
        return concrete
    (node,) = found
    (pixels,), (probabilities,) = frozen.inputs, frozen.outputs
    source, target = f"{node.input[0]}:0", f"{node.name}:0"
    (_, *before, bands), (_, *after, _) = (frozen.graph.get_tensor_by_name(name).shape for name in (source, target))
    # Resizing is linear in each direction: its matrix is what it makes of the unit vectors.
    rows, columns = (
        tf.image.resize(tf.eye(old)[..., tf.newaxis], (new, old), "bicubic")[..., 0] for old, new in zip(before, after)
    )

    def function(x):
        x = tf.graph_util.import_graph_def(graph, {pixels.name: x}, [source])[0]
        x = tf.matmul(rows, tf.reshape(x, (before[0], before[1] * bands)))
        x = tf.matmul(columns, tf.reshape(x, (after[0], before[1], bands)))
        x = tf.reshape(x, (1, *after, bands))
        return tf.graph_util.import_graph_def(graph, {target: x}, [probabilities.name])[0]

    return tf.function(function).get_concrete_function(tf.TensorSpec(pixels.shape, pixels.dtype, name="pixels"))


def run_tflite(content: bytes, images: np.ndarray) -> np.ndarray:
    """Probabilities (n, classes) of images, one at a time, in the LiteRT interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (input_,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    results = []
    for image in images:
        interpreter.set_tensor(input_["index"], image[np.newaxis].astype(input_["dtype"]))
        interpreter.invoke()
        results.append(interpreter.get_tensor(output["index"])[0])
    return np.stack(results)
