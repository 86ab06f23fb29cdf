"""The four ResNet-50 of arXiv 1812.01187, with the arguments of `keras.applications`.

    import numpy as np
    import resnetd_tf

    model = resnetd_tf.ResNet50D(classes=10, weights=None)
    probabilities = model(np.zeros((1, 64, 64, 3)))  # shape (1, 10)
    features = resnetd_tf.ResNet50D(include_top=False, pooling="avg")(np.zeros((1, 64, 64, 3)))  # shape (1, 2048)

All are for images that are normalised already, such as ImageNet's statistics make them (`normalization.IMAGENET`), and
all of `resnetd_tf.resnet`'s arguments can be given by name. Errors are as there.
"""

from typing import Any

import keras

from resnetd_tf.networks.resnet import resnet

Size = tuple[int | None, int | None, int]


def ResNet50(
    include_top: bool = True,
    weights: str | None = None,
    *,
    input_shape: Size | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    **options: Any,
) -> keras.Model:
    """The original ResNet-50: stride in the first 1x1 convolution of a block (arXiv 1512.03385).

    Example:
        resnetd_tf.ResNet50(classes=10, input_shape=(64, 64, 3))

    Args:
        include_top: Whether to end in average pooling and a dense layer of `classes`.
        weights: `None` for random weights, "imagenet" for keras.applications', or the path of a file.
        input_shape: (height, width, bands), `None` for an open side; default (None, None, 3).
        pooling: Without the top: `None` for a feature map, "avg" or "max" for a vector of 2048 features.
        classes: Number of classes.
        classifier_activation: "softmax" for probabilities, `None` for logits.
        **options: `output_stride`, `synchronized`, `name`: see `resnetd_tf.resnet`.

    Returns:
        A functional model of normalised float images (batch, height, width, bands).
    """
    return resnet(
        50,
        "base",
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        **options,
    )


def ResNet50B(
    include_top: bool = True,
    weights: str | None = None,
    *,
    input_shape: Size | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    **options: Any,
) -> keras.Model:
    """ResNet-50-B: stride in the 3x3 convolution (arXiv 1812.01187, figure 2a), as torchvision's and timm's resnet50.

    Example:
        resnetd_tf.ResNet50B(classes=10, input_shape=(64, 64, 3))

    Args:
        include_top: Whether to end in average pooling and a dense layer of `classes`.
        weights: `None` for random weights, "imagenet" for GluonCV's, or the path of a file.
        input_shape: (height, width, bands), `None` for an open side; default (None, None, 3).
        pooling: Without the top: `None` for a feature map, "avg" or "max" for a vector of 2048 features.
        classes: Number of classes.
        classifier_activation: "softmax" for probabilities, `None` for logits.
        **options: `output_stride`, `synchronized`, `name`: see `resnetd_tf.resnet`.

    Returns:
        A functional model of normalised float images (batch, height, width, bands).
    """
    return resnet(
        50,
        "b",
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        **options,
    )


def ResNet50C(
    include_top: bool = True,
    weights: str | None = None,
    *,
    input_shape: Size | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    **options: Any,
) -> keras.Model:
    """ResNet-50-C: B, and a stem of three 3x3 convolutions (arXiv 1812.01187, figure 2b), as timm's resnet50c.

    Example:
        resnetd_tf.ResNet50C(classes=10, input_shape=(64, 64, 3))

    Args:
        include_top: Whether to end in average pooling and a dense layer of `classes`.
        weights: `None` for random weights, "imagenet" for GluonCV's, or the path of a file.
        input_shape: (height, width, bands), `None` for an open side; default (None, None, 3).
        pooling: Without the top: `None` for a feature map, "avg" or "max" for a vector of 2048 features.
        classes: Number of classes.
        classifier_activation: "softmax" for probabilities, `None` for logits.
        **options: `output_stride`, `synchronized`, `name`: see `resnetd_tf.resnet`.

    Returns:
        A functional model of normalised float images (batch, height, width, bands).
    """
    return resnet(
        50,
        "c",
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        **options,
    )


def ResNet50D(
    include_top: bool = True,
    weights: str | None = None,
    *,
    input_shape: Size | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    **options: Any,
) -> keras.Model:
    """ResNet-50-D: C, and average-pooled shortcuts (arXiv 1812.01187, figure 2c), as timm's resnet50d.

    Example:
        resnetd_tf.ResNet50D(classes=10, input_shape=(64, 64, 3))

    Args:
        include_top: Whether to end in average pooling and a dense layer of `classes`.
        weights: `None` for random weights, "imagenet" for GluonCV's, or the path of a file.
        input_shape: (height, width, bands), `None` for an open side; default (None, None, 3).
        pooling: Without the top: `None` for a feature map, "avg" or "max" for a vector of 2048 features.
        classes: Number of classes.
        classifier_activation: "softmax" for probabilities, `None` for logits.
        **options: `output_stride`, `synchronized`, `name`: see `resnetd_tf.resnet`.

    Returns:
        A functional model of normalised float images (batch, height, width, bands).
    """
    return resnet(
        50,
        "d",
        include_top=include_top,
        weights=weights,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        **options,
    )
