"""The four ResNet-50 of arXiv 1812.01187, with the arguments of `keras.applications`.

    import numpy as np
    import resnetd_tf

    model = resnetd_tf.ResNet50D(classes=10, weights=None)
    probabilities = model(np.zeros((1, 64, 64, 3)))  # shape (1, 10)
    features = resnetd_tf.ResNet50D(include_top=False, pooling="avg")(np.zeros((1, 64, 64, 3)))  # shape (1, 2048)

All take images that are normalised already. Each checkpoint needs its own statistics, `resnetd_tf.statistics`:

    images = resnetd_tf.statistics("imagenet", depth=50, variant="d").normalize(pixels)  # pixels: RGB from 0 to 255
    probabilities = resnetd_tf.ResNet50D(weights="imagenet")(images)

Arguments stand in the order of `keras.applications.ResNet50`; errors are those of `resnetd_tf.resnet`.
"""

from typing import Any

import keras

from resnetd_tf.networks.resnet import resnet

Size = tuple[int | None, int | None, int]


def ResNet50(
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
    """The original ResNet-50: stride in the first 1x1 convolution of a block (arXiv 1512.03385).

    "imagenet" needs Caffe's statistics, `resnetd_tf.statistics("imagenet", 50, "base")`: RGB grey levels (0 to 255)
    less mean (123.68, 116.779, 103.939), not divided. With those of the other networks its answers are wrong.

    Example:
        resnetd_tf.ResNet50(classes=10, input_shape=(64, 64, 3))

    Args:
        include_top: Whether to end in average pooling and a dense layer of `classes`.
        weights: `None` for random weights, "imagenet" for keras.applications', or the path of a file.
        input_tensor: Normalised images from `keras.Input` or from layers; `None` for an input of its own.
        input_shape: (height, width, bands), `None` for an open side; default (None, None, 3).
        pooling: Without the top: `None` for a feature map, "avg" or "max" for a vector of 2048 features.
        classes: Number of classes.
        classifier_activation: "softmax" for probabilities, `None` for logits.
        name: Name of the model; default "resnet50".
        **options: `output_stride`, `synchronized`: see `resnetd_tf.resnet`.

    Returns:
        A functional model of normalised float images (batch, height, width, bands).
    """
    return resnet(
        50,
        "base",
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


def ResNet50B(
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
    """ResNet-50-B: stride in the 3x3 convolution (arXiv 1812.01187, figure 2a), as torchvision's and timm's resnet50.

    "imagenet" needs `resnetd_tf.statistics("imagenet", 50, "b")`: RGB grey levels (0 to 255) less mean (123.675,
    116.28, 103.53), divided by standard deviation (58.395, 57.12, 57.375).

    Example:
        resnetd_tf.ResNet50B(classes=10, input_shape=(64, 64, 3))

    Args:
        include_top: Whether to end in average pooling and a dense layer of `classes`.
        weights: `None` for random weights, "imagenet" for GluonCV's, or the path of a file.
        input_tensor: Normalised images from `keras.Input` or from layers; `None` for an input of its own.
        input_shape: (height, width, bands), `None` for an open side; default (None, None, 3).
        pooling: Without the top: `None` for a feature map, "avg" or "max" for a vector of 2048 features.
        classes: Number of classes.
        classifier_activation: "softmax" for probabilities, `None` for logits.
        name: Name of the model; default "resnet50b".
        **options: `output_stride`, `synchronized`: see `resnetd_tf.resnet`.

    Returns:
        A functional model of normalised float images (batch, height, width, bands).
    """
    return resnet(
        50,
        "b",
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


def ResNet50C(
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
    """ResNet-50-C: B, and a stem of three 3x3 convolutions (arXiv 1812.01187, figure 2b), as timm's resnet50c.

    "imagenet" needs `resnetd_tf.statistics("imagenet", 50, "c")`: RGB grey levels (0 to 255) less mean (123.675,
    116.28, 103.53), divided by standard deviation (58.395, 57.12, 57.375).

    Example:
        resnetd_tf.ResNet50C(classes=10, input_shape=(64, 64, 3))

    Args:
        include_top: Whether to end in average pooling and a dense layer of `classes`.
        weights: `None` for random weights, "imagenet" for GluonCV's, or the path of a file.
        input_tensor: Normalised images from `keras.Input` or from layers; `None` for an input of its own.
        input_shape: (height, width, bands), `None` for an open side; default (None, None, 3).
        pooling: Without the top: `None` for a feature map, "avg" or "max" for a vector of 2048 features.
        classes: Number of classes.
        classifier_activation: "softmax" for probabilities, `None` for logits.
        name: Name of the model; default "resnet50c".
        **options: `output_stride`, `synchronized`: see `resnetd_tf.resnet`.

    Returns:
        A functional model of normalised float images (batch, height, width, bands).
    """
    return resnet(
        50,
        "c",
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


def ResNet50D(
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
    """ResNet-50-D: C, and average-pooled shortcuts (arXiv 1812.01187, figure 2c), as timm's resnet50d.

    "imagenet" needs `resnetd_tf.statistics("imagenet", 50, "d")`: RGB grey levels (0 to 255) less mean (123.675,
    116.28, 103.53), divided by standard deviation (58.395, 57.12, 57.375).

    Example:
        resnetd_tf.ResNet50D(classes=10, input_shape=(64, 64, 3))

    Args:
        include_top: Whether to end in average pooling and a dense layer of `classes`.
        weights: `None` for random weights, "imagenet" for GluonCV's, or the path of a file.
        input_tensor: Normalised images from `keras.Input` or from layers; `None` for an input of its own.
        input_shape: (height, width, bands), `None` for an open side; default (None, None, 3).
        pooling: Without the top: `None` for a feature map, "avg" or "max" for a vector of 2048 features.
        classes: Number of classes.
        classifier_activation: "softmax" for probabilities, `None` for logits.
        name: Name of the model; default "resnet50d".
        **options: `output_stride`, `synchronized`: see `resnetd_tf.resnet`.

    Returns:
        A functional model of normalised float images (batch, height, width, bands).
    """
    return resnet(
        50,
        "d",
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
