"""From a trained classifier to the SavedModel that TensorFlow Serving runs."""

import pathlib

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

from resnetd_tf import rundir
from resnetd_tf.deployment import signatures, warmup
from resnetd_tf.deployment.folding import folded
from resnetd_tf.networks.resizing import Resizing

WEIGHT = "weight_"  # and a number: the name of a weight in the graph


def write(
    classifier: keras.Model,
    classes: tuple[str, ...],
    metadata: dict,
    path: pathlib.Path,
    precision: str = "float32",
    examples: np.ndarray | None = None,
) -> None:
    """Writes a SavedModel for TensorFlow Serving, whole or not at all.

    Batch normalisation is folded into the convolutions before it, and the weights are constants of the graph.
    What labels.txt and metadata.json of a run hold is in assets.extra/, so that it can be copied alone.

    What it answers to, `signatures` says.

    Args:
        classifier: As built by `networks.classifier.build`, or its `portable` copy.
        classes: Class names.
        metadata: What is known of how it was trained.
        path: Where; must not exist.
        precision: "float32", or "bfloat16" for the network's weights and activations; probabilities are
            float32.
        examples: Raw pixels (n, height, width, bands) for the requests that TensorFlow Serving warms up with; `None`
            for no such requests.

    Raises:
        InputError: It cannot be written.
    """
    classifier = folded(classifier, precision)
    pixels = classifier.inputs[0]
    normalization = classifier.get_layer("normalization")
    resizing = Resizing.from_config(classifier.get_layer("resizing").get_config())
    network = classifier.layers[-1]

    shape = (None, *network.inputs[0].shape[1:])

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)])
    def infer(images):
        # Constants of one value take no room: TensorFlow has up to ten copies of a graph while it saves it.
        weights = [
            tf.constant(0, weight.dtype, weight.shape, name=f"{WEIGHT}{index}")
            for index, weight in enumerate(network.trainable_variables)
        ]
        probabilities, _ = network.stateless_call(weights, [], images, training=False)
        return probabilities

    def classify(normalised):
        return tf.ensure_shape(infer(normalised), (None, len(classes)))

    answers = signatures.make(
        classify,
        lambda pixels: resizing(normalization(pixels)),
        classes,
        tf.TensorSpec(pixels.shape, pixels.dtype),
        metadata,
    )
    served = tf.Module()
    # Its parts, for `tflite`, which knows the size of the image and resizes by constant matrices.
    served.normalization = tf.function(normalization.call, [tf.TensorSpec(pixels.shape, pixels.dtype)])
    served.network = tf.function(
        lambda normalised: {"probabilities": classify(normalised)}, [tf.TensorSpec(shape, tf.float32)]
    )
    with rundir.atomic(path) as temporary:
        tf.saved_model.save(served, str(temporary), answers)
        _finish(temporary / "saved_model.pb", [weight.numpy() for weight in network.trainable_variables])
        extra = temporary / "assets.extra"
        extra.mkdir()
        rundir.write_labels(extra / "labels.txt", classes)
        exported = {
            "image_size": resizing.height,
            "interpolation": resizing.interpolation,
            "antialias": resizing.antialias,
            "exported_precision": precision,
        }
        rundir.write_json(extra / "metadata.json", metadata | exported)
        if examples is not None:
            warmup.write(temporary, examples)


def _finish(path: pathlib.Path, weights: list[np.ndarray]) -> None:
    """Gives the constants of a SavedModel's graph their values, and the signature of Classify its method."""
    saved = SavedModel.FromString(path.read_bytes())
    (meta,) = saved.meta_graphs
    if signatures.CLASSIFY in meta.signature_def:
        meta.signature_def[signatures.CLASSIFY].method_name = tf.saved_model.CLASSIFY_METHOD_NAME
    for function in meta.graph_def.library.function:
        for node in function.node_def:
            if node.name.startswith(WEIGHT):
                values = weights[int(node.name.removeprefix(WEIGHT))]
                node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values))
    path.write_bytes(saved.SerializeToString())
    write_fingerprint(str(path.parent))
