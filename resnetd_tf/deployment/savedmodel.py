"""From a trained classifier to the SavedModel that TensorFlow Serving runs."""

import pathlib

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

from resnetd_tf import rundir
from resnetd_tf.data import images
from resnetd_tf.deployment import comparison
from resnetd_tf.deployment.folding import folded
from resnetd_tf.errors import damage_told
from resnetd_tf.networks.resizing import Resizing
from resnetd_tf.saved import open_classifier, open_network

WEIGHT = "weight_"  # and a number: the name of a weight in the graph


def write(
    classifier: keras.Model, classes: tuple[str, ...], metadata: dict, path: pathlib.Path, precision: str = "float32"
) -> None:
    """Writes a SavedModel for TensorFlow Serving, whole or not at all.

    Batch normalisation is folded into the convolutions before it, and the weights are constants of the graph.
    What labels.txt and metadata.json of a run hold is in assets.extra/, so that it can be copied alone.

    Signatures:
        serving_default: `pixels` (n, height, width, bands) raw pixels -> `probabilities` (n, classes) float32.
        encoded: `image_bytes` (n,) JPEG or PNG files, of any sizes -> the same. RGB classifiers only.

    Args:
        classifier: As built by `networks.classifier.build`, or its `portable` copy.
        classes: Class names.
        metadata: What is known of how it was trained.
        path: Where; must not exist.
        precision: "float32", or "bfloat16" for the network's weights and activations; probabilities are
            float32.

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
        return {"probabilities": tf.ensure_shape(infer(normalised), (None, len(classes)))}

    def from_pixels(pixels):
        with tf.control_dependencies([_some(pixels, "pixels")]):
            return classify(resizing(normalization(pixels)))

    def from_bytes(image_bytes):
        def decode(encoded):
            return resizing(normalization(images.decode(encoded)[tf.newaxis]))[0]

        with tf.control_dependencies([_some(image_bytes, "image_bytes")]):
            resized = tf.map_fn(decode, image_bytes, fn_output_signature=tf.TensorSpec(shape[1:], tf.float32))
        return classify(resized)

    served = tf.Module()
    served.from_pixels = tf.function(from_pixels, [tf.TensorSpec(pixels.shape, pixels.dtype, name="pixels")])
    # Its parts, for `tflite`, which knows the size of the image and resizes by constant matrices.
    served.normalization = tf.function(normalization.call, [tf.TensorSpec(pixels.shape, pixels.dtype)])
    served.network = tf.function(classify, [tf.TensorSpec(shape, tf.float32)])
    signatures = {"serving_default": served.from_pixels}
    if pixels.shape[-1] == 3:
        served.from_bytes = tf.function(from_bytes, [tf.TensorSpec((None,), tf.string, name="image_bytes")])
        signatures["encoded"] = served.from_bytes
    with rundir.atomic(path) as temporary:
        tf.saved_model.save(served, str(temporary), signatures)
        _fill(temporary / "saved_model.pb", [weight.numpy() for weight in network.trainable_variables])
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


def _fill(path: pathlib.Path, weights: list[np.ndarray]) -> None:
    """Gives the constants of a SavedModel's graph their values."""
    saved = SavedModel.FromString(path.read_bytes())
    for function in saved.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if node.name.startswith(WEIGHT):
                values = weights[int(node.name.removeprefix(WEIGHT))]
                node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values))
    path.write_bytes(saved.SerializeToString())
    write_fingerprint(str(path.parent))


def _some(batch, name: str):
    """An operation that refuses an empty batch by its name: oneDNN's convolutions have another word for it."""
    return tf.debugging.assert_positive(tf.shape(batch)[0], f"{name}: no image is given")


def convert(
    model: str,
    precision: str,
    output: str | None,
    dataset: str | None = None,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
    split_files: str | None = None,
    trust: bool = False,
) -> pathlib.Path:
    """Writes a SavedModel from a .keras file, and compares the two.

    Args:
        model: A path as `saved.open_network` takes it.
        precision: "float32" as training leaves it, or "bfloat16", for processors and GPUs that have instructions for
            it; others compute it slowly.
        output: The folder; `None` for savedmodel-PRECISION in the run's folder.
        dataset: What to compare on; `None` for the dataset the model was trained on.
        data_dir, eurosat_zip, split_files: As for `sources.load`.
        trust: As for `saved.open_classifier`.

    Returns:
        The path of the SavedModel.

    Raises:
        InputError: Something given cannot be used.
    """
    source, network = open_network(model, trust)
    classifier = open_classifier(source, trust=trust)
    path = pathlib.Path(output) if output else classifier.folder / f"savedmodel-{precision}"
    rundir.must_not_exist(path)
    (check,) = comparison.patches(classifier, ("validation",), dataset, data_dir, eurosat_zip, split_files)
    with damage_told(f"{source} is no classifier that `train.py` writes"):  # one that was only trusted can be anything
        write(network, classifier.classes, classifier.metadata, path, precision)
    result = comparison.agreement(open_classifier(path, trust=trust).predict(check), classifier.predict(check))
    print(f"{path}: SavedModel in {precision}\nAgainst {source} on {len(check)} validation images: {result}")
    return path
