"""From a SavedModel to TFLite, ONNX and OpenVINO, and from a network to a .safetensors file."""

import json
import logging
import pathlib
import warnings
import zipfile

import keras
import numpy as np
import tensorflow as tf

from resnetd_tf import rundir
from resnetd_tf.deployment.savedmodel import frozen_graph, load_inference_function, replace_pools_by_convolutions
from resnetd_tf.errors import InputError, damage_as_input_error
from resnetd_tf.networks import checkpoints
from resnetd_tf.saved import SavedClassifier


def write_tflite(
    savedmodel: pathlib.Path,
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    metadata: dict,
    path: pathlib.Path,
    precision: str = "float32",
    batch: int = 1,
    output_type: str = "float32",
    calibration: np.ndarray | None = None,
) -> None:
    """Writes a TFLite file, preprocessing included.

    Its signature `serving_default` takes `pixels` (batch, height, width, bands), raw, and returns `probabilities`
    (batch, classes). labels.txt and metadata.json are zipped onto it, which the interpreter does not mind.

    Args:
        savedmodel: The folder, as `frozen.function` takes it.
        shape: Height, width and bands of the images.
        classes: Class names.
        metadata: What is known of how it was trained.
        path: The file.
        precision: "float32"; "float16" and "dynamic" for kernels in 16 or 8 bits; or "int8" for weights and
            activations in 8 bits.
        batch: Images at once; zero for any number, to which the interpreter's input is to be resized.
        output_type: "float32" or, of int8, "uint8", quantised probabilities.
        calibration: For int8, raw pixels (n, height, width, bands) to find the ranges of the activations with.

    Raises:
        InputError: As for `frozen.function`.
    """
    concrete, owner = load_inference_function(savedmodel, (batch or None, *shape))
    if precision == "int8":
        concrete = replace_pools_by_convolutions(concrete)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        assert calibration is not None
        step = batch or 1
        count = -(-len(calibration) // step)  # the last batch is filled up from the first
        batches = np.resize(calibration, (count, step, *shape))
        converter.representative_dataset = lambda: ([images] for images in batches)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.inference_output_type = tf.as_dtype(output_type)
    path.write_bytes(converter.convert())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "\n".join(classes) + "\n")
        archive.writestr("metadata.json", json.dumps(metadata))


# From a SavedModel to ONNX, for servers and programs that have no TensorFlow.


ONNX_OPSET = 18  # which runtimes of 2023 and later have


def write_onnx(
    savedmodel: pathlib.Path, bands: int, classes: tuple[str, ...], metadata: dict, path: pathlib.Path
) -> None:
    """Writes an ONNX file from `pixels`, any number of images of any size, to `probabilities`.

    Class names and metadata are in its properties, as JSON.

    Raises:
        ModuleNotFoundError: tf2onnx is not installed.
        InputError: As for `frozen.graph`.
    """
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    graph = frozen_graph(savedmodel, bands).as_graph_def()
    with warnings.catch_warnings(action="ignore"):
        model, _ = tf2onnx.convert.from_graph_def(
            graph, input_names=["pixels:0"], output_names=["probabilities:0"], opset=ONNX_OPSET
        )
    model.graph.name = "resnetd_tf"
    for name in ("pixels", "probabilities"):
        _rename_tensor(model.graph, f"{name}:0", name)
    for key, value in (("classes", classes), ("metadata", metadata)):
        model.metadata_props.add(key=key, value=json.dumps(value))
    path.write_bytes(model.SerializeToString())


def _rename_tensor(graph, old: str, new: str) -> None:
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


# From a SavedModel to OpenVINO, for Intel's and others' processors.


def write_openvino(
    savedmodel: pathlib.Path, bands: int, classes: tuple[str, ...], metadata: dict, path: pathlib.Path, precision: str
) -> None:
    """Writes a folder with OpenVINO's model.xml and model.bin, labels.txt and metadata.json.

    The precision is chosen where it runs: OpenVINO takes bfloat16 where a processor has it, unless its setting
    INFERENCE_PRECISION_HINT is f32. Which was asked for, the metadata's exported_precision says.

    Args:
        savedmodel, bands, classes, metadata: As for `onnx.write`.
        path: The folder; must not exist.
        precision: "float32", "float16" for weights in half the bytes, or "bfloat16".

    Raises:
        ModuleNotFoundError: openvino is not installed.
        InputError: As for `frozen.graph`.
    """
    import openvino

    model = openvino.convert_model(frozen_graph(savedmodel, bands))
    for port, name in ((model.inputs[0], "pixels"), (model.outputs[0], "probabilities")):
        port.get_tensor().set_names({name})
    for key, value in (("classes", classes), ("metadata", metadata)):
        model.set_rt_info(json.dumps(value), ["resnetd_tf", key])
    path.mkdir()
    openvino.save_model(model, path / "model.xml", compress_to_fp16=precision != "float32")
    rundir.write_labels(path / "labels.txt", classes)
    rundir.write_json(path / "metadata.json", metadata)


# From a trained classifier to a .safetensors file: small, without code in it, and read by PyTorch too.


# Numbers in a kernel from which on "float16" halves it. The smaller ones of ResNet-50-D, nearly all in its first half,
# are 7 % of its weights and make nearly all of what rounding changes: of a run of `best` and fifty epochs more, up to
# 2.9e-3 of a probability of validation images with them, 1.6e-4 without.
LARGE_KERNEL = 2**18
LOCAL_METADATA = ("data_dir", "eurosat_zip")  # of metadata.json: paths that say nothing elsewhere


def write_safetensors(network: keras.Model, classifier: SavedClassifier, path: pathlib.Path, precision: str) -> None:
    """Writes a .safetensors file of a classifier.

    Weights have the names and the layout that timm gives them. The header has metadata.json, but for `data_dir` and
    `eurosat_zip`, and the results of the evaluations that lie in the run's folder.

    Args:
        network: The classifier as a Keras model.
        classifier: The same, opened, of a run.
        path: The file.
        precision: "float32", or "float16" for kernels that are `LARGE`; all else is float32.

    Raises:
        InputError: It is not known how it was trained, or it resizes as version 0.1.0 did.
    """
    if not network.get_layer("resizing").antialias:
        raise InputError(
            f"{classifier.path} resizes without antialiasing, as version 0.1.0 did; --format=savedmodel keeps that"
        )
    described = {**classifier.metadata, "classes": classifier.classes}
    for name in LOCAL_METADATA:
        described.pop(name, None)
    if classifier.path.suffix != ".safetensors" and (classifier.folder / "model.keras").is_file():  # a run's
        described["evaluations"] = _read_evaluations(classifier.folder)
    if missing := [name for name in checkpoints.NEEDED_METADATA if name not in described]:
        raise InputError(f"{classifier.path}: its run's metadata.json is needed, which says its {', '.join(missing)}")
    tensors = {}
    for name, weight in checkpoints.pytorch_names(network.layers[-1]).items():
        value = weight.numpy()
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        tensors[name] = value.astype("float16") if precision == "float16" and value.size >= LARGE_KERNEL else value
    checkpoints.write_tensors(tensors, described, path)


def _read_evaluations(folder: pathlib.Path) -> dict[str, dict]:
    """What the evaluations in a run's folder found, by the names of their folders, without the names of images."""
    found = {}
    for path in sorted(folder.glob("evaluation-*/*.json")):
        with damage_as_input_error(f"{path}: cannot be read", "; restore or delete it"):
            result = json.loads(path.read_text(encoding="utf-8"))
            found[path.parent.name] = {name: value for name, value in result.items() if name != "mistakes"}
    return found
