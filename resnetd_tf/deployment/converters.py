"""Writes the formats for other runtimes: TFLite, ONNX and OpenVINO from a SavedModel, .safetensors from a network."""

import json
import logging
import pathlib
import warnings
import zipfile

import keras
import numpy as np
import tensorflow as tf
from tensorflow.lite.tools import flatbuffer_utils

from resnetd_tf import rundir
from resnetd_tf.applicability import Applicability, header_entries
from resnetd_tf.deployment.savedmodel import freeze_graph, load_inference_function
from resnetd_tf.errors import InputError, damage_as_input_error
from resnetd_tf.networks import checkpoints
from resnetd_tf.saved import SavedClassifier

ONNX_OPSET = 18  # runtimes of 2023 and later have it
# The number of weights from which on a kernel is halved in "float16". The smaller kernels of ResNet-50-D, nearly all in
# its first half, are 7 % of its weights. They make nearly all of the difference: with them rounded, probabilities of
# validation images differed by up to 2.9e-3, without by 1.6e-4 (recipe `best`, then fifty more epochs).
LARGE_KERNEL = 2**18
LOCAL_METADATA = ("data_dir", "eurosat_zip")  # paths in metadata.json that say nothing on another machine


def write_tflite(
    savedmodel: pathlib.Path,
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    metadata: dict,
    path: pathlib.Path,
    *,
    precision: str = "float32",
    batch: int = 1,
    output_type: str = "float32",
    calibration: np.ndarray | None = None,
) -> None:
    """Writes a TFLite file, which includes the preprocessing.

    Its signature `serving_default` takes `pixels` (batch, height, width, bands), raw, and returns `probabilities`
    (batch, classes), and `dissimilarity` (batch,) if the SavedModel knows it. In int8 there is none: activations
    cannot leave the ranges of training images, so no image would be found unlike them. labels.txt and metadata.json are
    zipped onto the file, which no interpreter minds.

    Args:
        savedmodel: The folder of the SavedModel, as `load_inference_function` takes it. For int8 it should have its
            pools as convolutions.
        shape: Height and width of the images in pixels, and their number of bands.
        classes: Class names in the order of the probabilities.
        metadata: The metadata of the classifier's run, with the precision of the export.
        path: The file to write.
        precision: "float32"; "float16" or "dynamic" for kernels in 16 or 8 bits; "int8" for weights and activations in
            8 bits.
        batch: Number of images at once; zero for any number, to which the interpreter's input is to be resized.
        output_type: "float32" or, in int8, "uint8" for quantised probabilities.
        calibration: For int8, raw pixels (n, height, width, bands) that find the ranges of the activations.

    Raises:
        InputError: The SavedModel is of an older version, or computes in another precision than float32.
    """
    concrete, owner = load_inference_function(
        savedmodel, (batch or None, *shape), with_dissimilarity=precision != "int8"
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        assert calibration is not None
        batch_size = batch or 1
        count = -(-len(calibration) // batch_size)  # the last batch is filled up from the first
        batches = np.resize(calibration, (count, batch_size, *shape))
        converter.representative_dataset = lambda: ([images] for images in batches)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.inference_output_type = tf.as_dtype(output_type)
    path.write_bytes(_put_probabilities_first(converter.convert()))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "\n".join(classes) + "\n")
        archive.writestr("metadata.json", json.dumps(metadata))


def _put_probabilities_first(content: bytes) -> bytes:
    """Orders the outputs of a TFLite file: programs that take the first one want the probabilities."""
    model = flatbuffer_utils.convert_bytearray_to_object(content)
    (graph,) = model.subgraphs
    if len(graph.outputs) == 1:
        return content
    graph.outputs = sorted(graph.outputs, key=lambda index: -len(graph.tensors[index].shape))
    return flatbuffer_utils.convert_object_to_bytearray(model)


def write_onnx(
    savedmodel: pathlib.Path, bands: int, classes: tuple[str, ...], metadata: dict, path: pathlib.Path
) -> None:
    """Writes an ONNX file from `pixels`, any number of images of any size, to the outputs of the SavedModel.

    Args:
        savedmodel: The folder of the SavedModel, as `load_inference_function` takes it.
        bands: Number of bands of the images.
        classes: Class names in the order of the probabilities, which become a property of the file, as JSON.
        metadata: The metadata of the classifier's run, which becomes another property.
        path: The file to write.

    Raises:
        ModuleNotFoundError: tf2onnx is not installed.
        InputError: The SavedModel is of an older version, or computes in another precision than float32.
    """
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    graph, outputs = freeze_graph(savedmodel, bands)
    output_names = [f"{name}:0" for name in outputs]
    with warnings.catch_warnings(action="ignore"):
        model, _ = tf2onnx.convert.from_graph_def(
            graph.as_graph_def(), input_names=["pixels:0"], output_names=output_names, opset=ONNX_OPSET
        )
    model.graph.name = "resnetd_tf"
    for name in ("pixels", *outputs):
        _rename_tensor(model.graph, f"{name}:0", name)
    for key, value in (("classes", classes), ("metadata", metadata)):
        model.metadata_props.add(key=key, value=json.dumps(value))
    path.write_bytes(model.SerializeToString())


def _rename_tensor(graph, old: str, new: str) -> None:
    for tensor in (*graph.input, *graph.output):
        tensor.name = new if tensor.name == old else tensor.name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


def write_openvino(
    savedmodel: pathlib.Path, bands: int, classes: tuple[str, ...], metadata: dict, path: pathlib.Path, precision: str
) -> None:
    """Writes a folder with OpenVINO's model.xml and model.bin, labels.txt and metadata.json.

    OpenVINO chooses the precision where it runs: bfloat16 where a processor has it, unless INFERENCE_PRECISION_HINT is
    f32. The entry `exported_precision` of the metadata says which one was asked for.

    Args:
        savedmodel: The folder of the SavedModel, as `load_inference_function` takes it.
        bands: Number of bands of the images.
        classes: Class names in the order of the probabilities.
        metadata: The metadata of the classifier's run, with the precision of the export.
        path: The folder to write, which must not exist.
        precision: "float32", "float16" for weights in half the bytes, or "bfloat16".

    Raises:
        ModuleNotFoundError: openvino is not installed.
        InputError: The SavedModel is of an older version, or computes in another precision than float32.
    """
    import openvino

    graph, outputs = freeze_graph(savedmodel, bands)
    model = openvino.convert_model(graph)
    for port in (model.inputs[0], *model.outputs):
        (name,) = {"pixels", *outputs}.intersection(name.partition(":")[0] for name in port.get_names())
        port.get_tensor().set_names({name})
    ports = sorted(model.outputs, key=lambda port: outputs.index(port.any_name))
    model = openvino.Model([port.get_node() for port in ports], model.get_parameters())
    for key, value in (("classes", classes), ("metadata", metadata)):
        model.set_rt_info(json.dumps(value), ["resnetd_tf", key])
    path.mkdir()
    openvino.save_model(model, path / "model.xml", compress_to_fp16=precision != "float32")
    rundir.write_labels(path / "labels.txt", classes)
    rundir.write_json(path / "metadata.json", metadata)


def write_safetensors(
    network: keras.Model,
    classifier: SavedClassifier,
    path: pathlib.Path,
    precision: str,
    applicability: Applicability | None = None,
) -> None:
    """Writes a .safetensors file of a classifier: small, without code in it, and read by PyTorch too.

    Weights have the names and the layout that timm gives them. The header has metadata.json, without `LOCAL_METADATA`,
    and the results of the evaluations that lie in the run's folder.

    Args:
        network: The classifier as a Keras model.
        classifier: The same classifier as it was opened from its run.
        path: The file to write.
        precision: "float32", or "float16" for kernels of `LARGE_KERNEL` weights or more, with all else in float32.
        applicability: Where the classifier applies, if that is known.

    Raises:
        InputError: The run does not say how the classifier was trained, or it resizes as version 0.1.0 did.
    """
    if not network.get_layer("resizing").antialias:
        raise InputError(
            f"{classifier.path} resizes without antialiasing, as version 0.1.0 did; --format=savedmodel keeps that"
        )
    header = {**classifier.metadata, "classes": classifier.classes}
    for name in LOCAL_METADATA:
        header.pop(name, None)
    is_run = classifier.path.suffix != ".safetensors" and (classifier.folder / "model.keras").is_file()
    if is_run:
        header["evaluations"] = _read_evaluations(classifier.folder)
    if missing := [name for name in checkpoints.NEEDED_METADATA if name not in header]:
        raise InputError(f"{classifier.path}: its run's metadata.json is needed, which says its {', '.join(missing)}")
    tensors = {}
    for name, variable in checkpoints.pytorch_names(network.layers[-1]).items():
        weight = variable.numpy()
        weight = weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight.T
        is_halved = precision == "float16" and weight.size >= LARGE_KERNEL
        tensors[name] = weight.astype("float16") if is_halved else weight
    checkpoints.write_tensors(tensors, header, path, header_entries(applicability))


def _read_evaluations(folder: pathlib.Path) -> dict[str, dict]:
    """Returns the results of the evaluations in a run's folder, without lists of images, by names of their folders."""
    evaluations = {}
    for path in sorted(folder.glob("evaluation-*/*.json")):
        with damage_as_input_error(f"{path}: cannot be read", "; restore or delete it"):
            result = json.loads(path.read_text(encoding="utf-8"))
            evaluations[path.parent.name] = {name: value for name, value in result.items() if name != "mistakes"}
    return evaluations
