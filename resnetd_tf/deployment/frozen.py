"""The graph of a SavedModel for other runtimes: raw pixels in, probabilities out, weights and preprocessing inside."""

import pathlib

import numpy as np
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
    # Normalisation as a convolution of each band by itself: in int8 a tenth of the time of a difference and a product.
    # Digital numbers one band after the other: quantised together, dark bands would have no levels.
    assert shape[-1]
    parts = 1 if dtype == tf.uint8 else shape[-1]
    at_zero, at_largest = (
        loaded.normalization(tf.fill((1, 1, 1, shape[-1]), tf.constant(value, dtype)))[0] for value in (0, dtype.max)
    )
    kernel, bias = ((at_largest - at_zero) / dtype.max)[..., tf.newaxis].numpy(), at_zero.numpy()
    lines = list(zip(np.split(kernel, parts, axis=2), np.split(bias, parts, axis=-1)))

    def classify(pixels):
        bands = [pixels] if parts == 1 else tf.split(tf.cast(pixels, tf.int32), parts, axis=-1)
        normalised = tf.concat(
            [
                tf.nn.depthwise_conv2d(tf.cast(band, tf.float32), kernel, [1] * 4, "VALID") + bias
                for band, (kernel, bias) in zip(bands, lines)
            ],
            axis=-1,
        )
        answer = loaded.network(resizing(tf.ensure_shape(normalised, shape)))
        return {"probabilities": tf.identity(answer["probabilities"], name="probabilities")}

    return tf.function(classify).get_concrete_function(tf.TensorSpec(shape, dtype, name="pixels")), loaded


def with_pools_as_convolutions(
    concrete: tf.types.experimental.ConcreteFunction,
) -> tf.types.experimental.ConcreteFunction:
    """The same function with means of 2 x 2 pixels as convolutions of each channel by itself.

    In int8 XNNPACK, which runs TFLite, has no other pooling: without, the graph falls into parts. Where a side is odd,
    and the mean at the edge one of fewer pixels, pooling stays.
    """
    graph = convert_variables_to_constants_v2(concrete).graph
    definition = graph.as_graph_def()
    for node in [node for node in definition.node if node.op == "AvgPool"]:
        _, height, width, channels = graph.get_tensor_by_name(f"{node.input[0]}:0").shape
        side = node.attr["ksize"].list.i[1]
        if height % side or width % side:
            continue
        kernel = definition.node.add(name=f"{node.name}/kernel", op="Const")
        kernel.attr["dtype"].type = tf.float32.as_datatype_enum
        mean = np.full((side, side, channels, 1), 1 / side**2, "float32")
        kernel.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(mean))
        node.op = "DepthwiseConv2dNative"
        node.input.append(kernel.name)
        del node.attr["ksize"]
    (pixels,), (name,) = concrete.inputs, concrete.structured_outputs
    answer = graph.outputs[0].name

    def classify(pixels):
        return {name: tf.graph_util.import_graph_def(definition, {"pixels": pixels}, [answer])[0]}

    return tf.function(classify).get_concrete_function(tf.TensorSpec(pixels.shape, pixels.dtype, name="pixels"))


def graph(savedmodel: pathlib.Path, bands: int) -> tf.Graph:
    """A graph of any number of images of any size, from `pixels:0` to `probabilities:0`, without functions.

    Raises:
        InputError: As for `function`.
    """
    concrete, _owner = function(savedmodel, (None, None, None, bands))
    return convert_variables_to_constants_v2(concrete).graph
