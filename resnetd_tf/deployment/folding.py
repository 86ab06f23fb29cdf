"""Batch normalisation folded into the convolutions before it: the network that is deployed."""

import keras
import numpy as np

from resnetd_tf.networks.copies import keras_class


def folded(model: keras.Model, precision: str = "float32") -> keras.Model:
    """A copy for inference: every batch normalisation is part of the convolution before it.

    With g = gamma / sqrt(moving variance + epsilon), kernels become kernel * g and biases
    beta - moving mean * g. In every network here a normalisation `X_bn` follows the convolution `X_conv`.

    Args:
        model: A network, or a classifier.
        precision: Type of the network's weights and activations, all but its head's: "float32" or "bfloat16".
    """
    float32 = ("pixels", "normalization", "resizing", "predictions")

    def clone(layer):
        biased = {"use_bias": True} if isinstance(layer, keras.layers.Conv2D) else {}
        dtype = "float32" if layer.name in float32 else precision
        return keras_class(layer).from_config({**layer.get_config(), **biased, "dtype": dtype})

    def call(layer, inputs, **kwargs):
        return inputs if isinstance(layer, keras.layers.BatchNormalization) else layer(inputs, **kwargs)

    def fill(copy, original):
        for layer in original.layers:
            if isinstance(layer, keras.Model):
                fill(copy.get_layer(layer.name), layer)
            elif isinstance(layer, keras.layers.Conv2D):
                norm = original.get_layer(layer.name.removesuffix("conv") + "bn")
                gamma, beta, mean, variance = (np.asarray(weight, "float64") for weight in norm.get_weights())
                scale = gamma / np.sqrt(variance + norm.epsilon)
                copy.get_layer(layer.name).set_weights([layer.get_weights()[0] * scale, beta - mean * scale])
            elif layer.get_weights() and not isinstance(layer, keras.layers.BatchNormalization):
                copy.get_layer(layer.name).set_weights(layer.get_weights())

    copy = keras.models.clone_model(model, clone_function=clone, call_function=call, recursive=True)
    fill(copy, model)
    return copy
