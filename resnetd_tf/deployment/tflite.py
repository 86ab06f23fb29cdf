"""From a SavedModel to TFLite, for devices and for the LiteRT interpreter."""

import pathlib

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from resnetd_tf import rundir
from resnetd_tf.deployment import comparison
from resnetd_tf.errors import InputError
from resnetd_tf.saved import open_classifier


def convert(
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
        model: A path as `saved.locate` takes it, of a SavedModel.
        precision: "float32", or "int8" for weights and activations in 8 bits, calibrated on the training
            split.
        output: The file; `None` for model-PRECISION.tflite in the run's folder.
        dataset: For int8: what to calibrate on; `None` for the dataset the model was trained on.
        data_dir, eurosat_zip: As for `sources.load`.

    Returns:
        The path of the file.

    Raises:
        InputError: Something given cannot be used, or the converted model disagrees with the SavedModel.
    """
    classifier = open_classifier(model)
    if classifier.path.is_file():
        raise InputError(f"{classifier.path}: TFLite is made from a SavedModel; give its folder")
    path = pathlib.Path(output) if output else (classifier.folder or pathlib.Path()) / f"model-{precision}.tflite"
    rundir.must_not_exist(path)
    shape = comparison.patch_shape(classifier)
    if precision == "int8":
        loaded = comparison.load_splits(classifier, ("train", "validation"), dataset, data_dir, eurosat_zip)
        shape = loaded.patch_shape
        calibration, check = (loaded.splits[name].images[: comparison.IMAGES] for name in ("train", "validation"))
    else:
        calibration = None
        dtype = "uint8" if classifier.bands == 3 else "uint16"
        check = np.random.default_rng(0).integers(0, 256, (16, *shape)).astype(dtype)

    content = _flatbuffer(classifier.path, shape, calibration)
    probabilities = run(content, check)
    expected = classifier.predict(check)
    difference = float(np.abs(probabilities - expected).max())
    if precision == "float32" and difference > 1e-4:
        raise InputError(f"{path} not written: its probabilities differ from the SavedModel's by {difference:.1e}")
    with rundir.atomic(path) as temporary:
        temporary.write_bytes(content)
    print(f"{path}: {len(content) / 1e6:.1f} MB, input {'x'.join(map(str, (1, *shape)))}")
    images = "validation images" if calibration is not None else "random images"
    print(f"Against the SavedModel on {len(check)} {images}: {comparison.agreement(probabilities, expected)}")
    return path


def _flatbuffer(savedmodel_path: pathlib.Path, shape, calibration: np.ndarray | None) -> bytes:
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


def run(content: bytes, images: np.ndarray) -> np.ndarray:
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
