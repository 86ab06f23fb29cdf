"""Copies of a model: portable, for saving, and folded, for inference."""

import keras
import numpy as np


def kerass_own(layer: keras.layers.Layer) -> type[keras.layers.Layer]:
    """The layer's class, or the one of Keras's that it speeds up."""
    return next(kind for kind in type(layer).__mro__ if kind.__module__.startswith("keras."))


def of_kerass_layers(model: keras.Model, **changes) -> keras.Model:
    """An uncompiled copy of Keras's own layers only, with the same weights.

    Args:
        model: A network, or a classifier.
        **changes: Of every layer's configuration, such as its `dtype`.
    """

    def clone(layer):
        return kerass_own(layer).from_config({**layer.get_config(), **changes})

    uncompiled = keras.Model(model.inputs, model.outputs, name=model.name)  # the optimizer is not copied
    copy = keras.models.clone_model(uncompiled, clone_function=clone, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def portable(model: keras.Model) -> keras.Model:
    """A copy in float32, of Keras's own layers only and none of them frozen, with the same weights.

    This is what is saved: `keras.saving.load_model` opens it without this package, and it runs on hardware
    that lacks the precision the model was trained in.
    """
    return of_kerass_layers(model, dtype="float32", trainable=True)


def folded(model: keras.Model, precision: str = "float32") -> keras.Model:
    """A copy for inference: every batch normalisation is part of the convolution before it.

    With g = gamma / sqrt(moving variance + epsilon), kernels become kernel * g and biases
    beta - moving mean * g. In every network here a normalisation `X_bn` follows the convolution `X_conv`.

    Args:
        model: A network, or a classifier.
        precision: Of the network's weights and activations, its head's excepted: "float32" or "bfloat16".
    """
    float32 = ("pixels", "normalization", "resizing", "predictions")

    def clone(layer):
        biased = {"use_bias": True} if isinstance(layer, keras.layers.Conv2D) else {}
        dtype = "float32" if layer.name in float32 else precision
        return kerass_own(layer).from_config({**layer.get_config(), **biased, "dtype": dtype})

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
