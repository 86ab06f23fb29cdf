"""The graph of a SavedModel for other runtimes: raw pixels in, probabilities out, weights and preprocessing inside."""

import pathlib

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from resnetd_tf import metadata
from resnetd_tf.errors import InputError
from resnetd_tf.networks.resizing import Resizing


def function(
    savedmodel: pathlib.Path, shape: tuple[int | None, ...]
) -> tuple[tf.types.experimental.ConcreteFunction, object]:
    """A function from `pixels` to `probabilities`, and what owns its weights.

    Args:
        savedmodel: The folder, which was opened before, and so is known or trusted.
        shape: Of the pixels, (n, height, width, bands). Where height and width are numbers they are resized by constant
            matrices.

    Raises:
        InputError: It is of an older version, or computes in another precision than float32.
    """
    loaded = tf.saved_model.load(str(savedmodel))
    extra = savedmodel / "assets.extra" / "metadata.json"
    if not hasattr(loaded, "network") or not extra.is_file():
        raise InputError(f"{savedmodel} is of an older version: export.py --format=savedmodel makes it anew")
    described = metadata.read(extra, ("exported_precision", "image_size", "interpolation", "antialias"))
    if described["exported_precision"] != "float32":
        raise InputError(f"{savedmodel} computes in {described['exported_precision']}; give a model in float32")
    size, dtype = described["image_size"], loaded.normalization.input_signature[0].dtype
    resizing = Resizing(size, size, described["interpolation"], antialias=described["antialias"], dtype="float32")

    def classify(pixels):
        return loaded.network(resizing(tf.ensure_shape(loaded.normalization(pixels), shape)))

    return tf.function(classify).get_concrete_function(tf.TensorSpec(shape, dtype, name="pixels")), loaded


def graph(savedmodel: pathlib.Path, bands: int) -> tf.Graph:
    """A graph of any number of images of any size, from `pixels:0` to `probabilities:0`, without functions.

    Raises:
        InputError: As for `function`.
    """
    concrete, _owner = function(savedmodel, (None, None, None, bands))
    (given,), (answer,) = concrete.structured_input_signature[0], concrete.structured_outputs.values()

    def constant(pixels):
        # Statistics of the normalisation are captured as tensors, which would become inputs otherwise.
        captured = {inner.name: tf.constant(outer.numpy()) for outer, inner in concrete.graph.captures}
        (found,) = tf.import_graph_def(
            concrete.graph.as_graph_def(), {concrete.inputs[0].name: pixels} | captured, [answer.name], name=""
        )
        return tf.identity(found, name="probabilities")

    wrapped = tf.compat.v1.wrap_function(constant, [tf.TensorSpec(given.shape, given.dtype, name="pixels")])
    return convert_variables_to_constants_v2(wrapped).graph
