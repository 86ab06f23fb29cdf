"""ResNet and its B, C and D refinements as Keras functional models, for every Keras backend.

The networks follow He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), and section 4 of He et
al., "Bag of Tricks for Image Classification with Convolutional Neural Networks" (arXiv 1812.01187). They take images
that are normalised already. `classifier` puts the preprocessing in front.

Layer names are stable. The stem, `stem_*`, is the first convolutions, which shrink the image to a quarter of its side.
The blocks are `stage{s}_block{b}_*`, and the output of stage s (1 to 4) is `stage{s}`. The head, `predictions`, is the
last layer, which gives one value a class.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from resnetd_tf.networks import checkpoints
from resnetd_tf.networks.layers import BatchNormalization, Conv2D


@dataclass(frozen=True)
class Variant:
    """The three differences between the four networks (arXiv 1812.01187, figure 2)."""

    stride_in_3x3: bool  # B: a bottleneck strides in its 3x3 convolution, not in its first 1x1 convolution
    deep_stem: bool  # C: three 3x3 convolutions (32, 32, 64) replace one 7x7 convolution
    pooled_shortcut: bool  # D: a strided shortcut is a 2x2 average pool and an unstrided 1x1 convolution


VARIANTS = {
    "base": Variant(stride_in_3x3=False, deep_stem=False, pooled_shortcut=False),
    "b": Variant(stride_in_3x3=True, deep_stem=False, pooled_shortcut=False),
    "c": Variant(stride_in_3x3=True, deep_stem=True, pooled_shortcut=False),
    "d": Variant(stride_in_3x3=True, deep_stem=True, pooled_shortcut=True),
}


def conv(x, filters: int, kernel: int, name: str, stride: int = 1, dilation: int = 1):
    """Applies a convolution without bias, padded by the same amount on all sides.

    Published weights were trained with symmetric padding. Keras's "same" padding is symmetric only at stride 1: at
    stride 2 TensorFlow pads the end alone.

    Args:
        x: Feature maps (batch, height, width, channels), as in all functions below.
        filters: Number of output channels.
        kernel: Side of the kernel in pixels, odd.
        name: Name of the layer.
        stride: Step between output pixels, in input pixels.
        dilation: Distance between the pixels that neighbouring kernel positions multiply.
    """
    if stride > 1 and kernel > 1:
        x = layers.ZeroPadding2D(dilation * (kernel // 2), name=f"{name}_pad")(x)
    return Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="valid" if stride > 1 else "same",
        dilation_rate=dilation,
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=name,
    )(x)


def norm(x, name: str, gamma: str = "ones"):
    """Normalises by batch. The scale starts as `gamma`, "ones" or "zeros"."""
    return BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=gamma, name=name)(x)


def relu(x, name: str):
    return layers.ReLU(name=name)(x)


def conv_norm_relu(x, filters: int, kernel: int, name: str, stride: int = 1, dilation: int = 1):
    x = conv(x, filters, kernel, f"{name}_conv", stride, dilation)
    return relu(norm(x, f"{name}_bn"), f"{name}_relu")


def stem(x, variant: Variant):
    """Turns images (height, width) into feature maps (height / 4, width / 4) of 64 channels."""
    if variant.deep_stem:
        for index, (filters, stride) in enumerate([(32, 2), (32, 1), (64, 1)], start=1):
            x = conv_norm_relu(x, filters, 3, f"stem_{index}", stride)
    else:
        x = conv_norm_relu(x, 64, 7, "stem_1", stride=2)
    # Zeros pad as minus infinity would, because the ReLU leaves no value below them.
    x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    return layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)


def shortcut(x, filters: int, variant: Variant, stride: int, dilation: int, name: str):
    """Projects a block's input to the shape of its output, which has `filters` channels."""
    if variant.pooled_shortcut and stride > 1:
        x = layers.AveragePooling2D(2, stride, padding="same", name=f"{name}_pool")(x)
        stride = 1
    elif variant.pooled_shortcut and dilation > 1:
        # timm's AvgPool2dSame counts the zeros beyond the edge at stride 1.
        x = layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pool_pad")(x)
        x = layers.AveragePooling2D(2, 1, name=f"{name}_pool")(x)
    return norm(conv(x, filters, 1, f"{name}_conv", stride), f"{name}_bn")


def bottleneck(x, width: int, variant: Variant, stride: int, dilations: tuple[int, int], name: str):
    """Applies the residual branch of three convolutions: 1x1, 3x3, and a 1x1 that widens four times.

    Args:
        x: Input of the block.
        width: Filters of the first two convolutions.
        variant: The variant of the network.
        stride: Stride of the block.
        dilations: Dilations of the first and, in `basic`, of the second 3x3 convolution.
        name: Start of the names of the layers.
    """
    strides = (1, stride) if variant.stride_in_3x3 else (stride, 1)
    x = conv_norm_relu(x, width, 1, f"{name}_1", strides[0])
    x = conv_norm_relu(x, width, 3, f"{name}_2", strides[1], dilations[0])
    return norm(conv(x, 4 * width, 1, f"{name}_3_conv"), f"{name}_3_bn", gamma="zeros")


def basic(x, width: int, variant: Variant, stride: int, dilations: tuple[int, int], name: str):
    """Applies the residual branch of two 3x3 convolutions, with the arguments of `bottleneck`.

    The first convolution has the stride in every variant, so that `b` and `base` are the same.
    """
    x = conv_norm_relu(x, width, 3, f"{name}_1", stride, dilations[0])
    return norm(conv(x, width, 3, f"{name}_2_conv", dilation=dilations[1]), f"{name}_2_bn", gamma="zeros")


DEPTHS = {  # residual branch, its widening, blocks in each stage
    10: (basic, 1, (1, 1, 1, 1)),  # the smallest, for quick tests; no weights of it are published
    18: (basic, 1, (2, 2, 2, 2)),
    34: (basic, 1, (3, 4, 6, 3)),
    50: (bottleneck, 4, (3, 4, 6, 3)),
    101: (bottleneck, 4, (3, 4, 23, 3)),
    152: (bottleneck, 4, (3, 8, 36, 3)),
}


def stages(x, depth: int, variant: Variant, output_stride: int):
    """Applies the four stages. Beyond `output_stride`, dilations replace strides, placed as in timm."""
    branch, expansion, blocks = DEPTHS[depth]
    current_stride, dilation = 4, 1
    for stage, count in enumerate(blocks):
        width, stride, previous = 64 * 2**stage, 1, dilation
        if stage > 0 and current_stride < output_stride:
            stride, current_stride = 2, current_stride * 2
        elif stage > 0:
            dilation *= 2
        for block in range(count):
            name = f"stage{stage + 1}_block{block + 1}"
            residual = branch(x, width, variant, stride, (previous, dilation), name)
            if stride > 1 or x.shape[-1] != expansion * width:
                x = shortcut(x, expansion * width, variant, stride, dilation, f"{name}_shortcut")
            x = layers.Add(name=f"{name}_add")([x, residual])
            x = relu(x, f"stage{stage + 1}" if block == count - 1 else f"{name}_out")
            stride, previous = 1, dilation
    return x


def resnet(
    depth: int,
    variant: str,
    *,
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    output_stride: int = 32,
    synchronized: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Builds a ResNet of any depth and variant, without preprocessing.

    Random weights follow arXiv 1812.01187, section 3.1: He initialisation, and a scale of zero in the last batch
    normalisation of each residual branch, so that every block begins as the identity.

    Args:
        depth: 18, 34, 50, 101 or 152.
        variant: "base", "b", "c" or "d". For the basic blocks of depths 18 and 34, "b" equals "base".
        include_top: Whether to end in global average pooling and a dense layer.
        weights: `None` for random weights, a name of published weights ("imagenet" or one of
            `pretrained.SENTINEL2_NAMES`), or a path as `checkpoints.read_checkpoint` takes it. A head of another size
            stays random. A first convolution of 3 bands is adapted to another number of bands
            (`checkpoints.adapt_bands`). `resnetd_tf.statistics` gives the mean and standard deviation to normalise
            images with.
        input_tensor: Normalised float images (batch, height, width, bands) from `keras.Input` or from layers, which
            the returned model then contains; `None` for an input of its own.
        input_shape: (height, width, bands), `None` for a size left open. At least 32 pixels; default
            (None, None, 3).
        pooling: Without the top: `None` for the feature map (batch, height / output_stride, width /
            output_stride, features), "avg" or "max" for (batch, features).
        classes: Number of classes of the top.
        classifier_activation: Activation of the top; `None` gives logits.
        output_stride: Side of the input over side of the last feature map: 32, 16 or 8. Below 32 the last stages are
            dilated instead of strided.
        synchronized: Whether batch normalisation computes the statistics of a training step over all replicas of
            `tf.distribute` instead of each replica's own. It helps where each replica has a small batch, and needs
            TensorFlow.
        name: Name of the model; default "resnet50d" and so on.

    Returns:
        A functional model from normalised float images (batch, height, width, bands).

    Raises:
        ValueError: An argument has a value that is not listed, or `weights` cannot be fetched, read or fitted.
    """
    _check_arguments(depth, variant, pooling, output_stride)
    images = keras.Input(input_shape or (None, None, 3), name="images") if input_tensor is None else input_tensor
    _check_images(images, input_shape)
    x = stages(stem(images, VARIANTS[variant]), depth, VARIANTS[variant], output_stride)
    if include_top or pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="average_pool")(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling2D(name="max_pool")(x)
    if include_top:
        # Logits and probabilities in float32 under any precision policy.
        x = layers.Dense(classes, classifier_activation, dtype="float32", name="predictions")(x)
    name = name or f"resnet{depth}{variant.removeprefix('base')}"
    model = keras.Model(images, x, name=name)
    for layer in model.layers:
        if isinstance(layer, BatchNormalization):
            layer.synchronized = synchronized
    if weights is not None:
        checkpoint = checkpoints.read_checkpoint(weights, depth, variant, images.shape[-1])
        checkpoints.assign_weights(model, checkpoint)
    if input_tensor is None:
        return model
    sources = keras.utils.get_source_inputs(input_tensor)
    return keras.Model(sources[0] if len(sources) == 1 else sources, x, name=name)


def _check_arguments(depth: int, variant: str, pooling: str | None, output_stride: int) -> None:
    if keras.config.image_data_format() != "channels_last":
        raise ValueError("images have their channels last here: keras.config.set_image_data_format('channels_last')")
    if depth not in DEPTHS:
        raise ValueError(f"depth {depth} is not one of 18, 34, 50, 101, 152")
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is not one of {', '.join(VARIANTS)}")
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output stride {output_stride} is not one of 8, 16, 32")
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"pooling {pooling!r} is not one of None, 'avg', 'max'")


def _check_images(images: keras.KerasTensor, input_shape: tuple | None) -> None:
    """Raises ValueError if a network cannot take these images, or if `input_shape` contradicts them."""
    if not keras.utils.is_keras_tensor(images):
        raise ValueError(f"input_tensor is of type {type(images).__name__}; give the output of keras.Input or a layer")
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[3] is None:
        raise ValueError(f"input_tensor has shape {shape}; expected (batch, height, width, bands) with known bands")
    if "float" not in images.dtype:
        raise ValueError(f"input_tensor holds {images.dtype}, raw pixels; the network takes normalised float images")
    if input_shape and tuple(input_shape) != shape[1:]:
        raise ValueError(
            f"input_shape {tuple(input_shape)} contradicts input_tensor, of shape {shape[1:]}; leave one out"
        )
    if any(size is not None and size < 32 for size in shape[1:3]):
        raise ValueError(f"input size {shape[1]}x{shape[2]} is below the smallest, 32x32")


# The four ResNet-50 of arXiv 1812.01187, with the arguments of `keras.applications`.
#
#     import numpy as np
#     import resnetd_tf
#
#     model = resnetd_tf.ResNet50D(classes=10, weights=None)
#     probabilities = model(np.zeros((1, 64, 64, 3)))  # shape (1, 10)
#     features = resnetd_tf.ResNet50D(include_top=False, pooling="avg")(np.zeros((1, 64, 64, 3)))  # shape (1, 2048)
#
# All take normalised images. Each checkpoint needs its own statistics, `resnetd_tf.statistics`:
#
#     images = resnetd_tf.statistics("imagenet", depth=50, variant="d").normalize(pixels)  # pixels: RGB from 0 to 255
#     probabilities = resnetd_tf.ResNet50D(weights="imagenet")(images)
#
# Arguments stand in the order of `keras.applications.ResNet50`; errors are those of `resnetd_tf.resnet`.


Size = tuple[int | None, int | None, int]

BUILDER_DOCSTRING = """{summary}

    {normalization}

    Example:
        resnetd_tf.{name}(classes=10, input_shape=(64, 64, 3))

    Args:
        include_top: Whether to end in average pooling and a dense layer of `classes`.
        weights: `None` for random weights, "imagenet" for {publisher}, a name of published Sentinel-2
            weights (`pretrained.SENTINEL2_NAMES`), or the path of a file.
        input_tensor: Normalised images from `keras.Input` or from layers; `None` for an input of its own.
        input_shape: (height, width, bands), `None` for an open side; default (None, None, 3).
        pooling: Without the top: `None` for a feature map, "avg" or "max" for a vector of 2048 features.
        classes: Number of classes.
        classifier_activation: "softmax" for probabilities, `None` for logits.
        name: Name of the model; default "{model_name}".
        **options: `output_stride`, `synchronized`: see `resnetd_tf.resnet`.

    Returns:
        A functional model of normalised float images (batch, height, width, bands).
    """
IMAGENET_NORMALIZATION = """\
"imagenet" needs `resnetd_tf.statistics("imagenet", 50, "{variant}")`: RGB grey levels (0 to 255) less mean (123.675,
    116.28, 103.53), divided by standard deviation (58.395, 57.12, 57.375)."""
CAFFE_NORMALIZATION = """\
"imagenet" needs Caffe's statistics, `resnetd_tf.statistics("imagenet", 50, "base")`: RGB grey levels (0 to 255)
    less mean (123.68, 116.779, 103.939), not divided. The statistics of the other networks give wrong answers."""


def _make_builder(
    variant: str, summary: str, publisher: str = "GluonCV's", normalization: str = IMAGENET_NORMALIZATION
) -> Callable[..., keras.Model]:
    """Makes the builder of a ResNet-50 variant, with a name, signature and docstring of its own.

    Args:
        variant: A key of `VARIANTS`.
        summary: First line of the docstring.
        publisher: Whose weights "imagenet" stands for, for the docstring.
        normalization: The docstring's paragraph on how images are normalised for those weights.
    """

    def build(
        include_top: bool = True,
        weights: str | None = None,
        input_tensor: keras.KerasTensor | None = None,
        input_shape: Size | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation: str | None = "softmax",
        name: str | None = None,
        **options: Any,
    ) -> keras.Model:
        return resnet(
            50,
            variant,
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            name=name,
            **options,
        )

    build.__name__ = build.__qualname__ = f"ResNet50{variant.removeprefix('base').upper()}"
    build.__doc__ = BUILDER_DOCSTRING.format(
        summary=summary,
        normalization=normalization.format(variant=variant),
        publisher=publisher,
        name=build.__name__,
        model_name=build.__name__.lower(),
    )
    return build


ResNet50 = _make_builder(
    "base",
    "The original ResNet-50: stride in the first 1x1 convolution of a block (arXiv 1512.03385).",
    "keras.applications'",
    CAFFE_NORMALIZATION,
)
ResNet50B = _make_builder(
    "b",
    "ResNet-50-B: stride in the 3x3 convolution (arXiv 1812.01187, figure 2a), as torchvision's and timm's resnet50.",
)
ResNet50C = _make_builder(
    "c", "ResNet-50-C: B, and a stem of three 3x3 convolutions (arXiv 1812.01187, figure 2b), as timm's resnet50c."
)
ResNet50D = _make_builder(
    "d", "ResNet-50-D: C, and average-pooled shortcuts (arXiv 1812.01187, figure 2c), as timm's resnet50d."
)
