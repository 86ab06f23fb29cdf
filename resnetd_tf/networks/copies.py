"""Copies of a model in Keras's own layers, which `keras.saving.load_model` opens without this package."""

import keras


def keras_class(layer: keras.layers.Layer) -> type[keras.layers.Layer]:
    """The layer's class, or the one of Keras's that it speeds up."""
    return next(kind for kind in type(layer).__mro__ if kind.__module__.startswith("keras."))


def with_keras_layers(model: keras.Model, **changes) -> keras.Model:
    """Copies a model, uncompiled, into Keras's own layers with the same weights, for a single device.

    Args:
        model: A network, or a classifier.
        **changes: New values in every layer's configuration, such as its `dtype`.
    """

    def clone(layer):
        config = {**layer.get_config(), **changes}
        if "synchronized" in config:
            config["synchronized"] = False  # on TensorFlow alone can a layer be synchronized
        return keras_class(layer).from_config(config)

    uncompiled = keras.Model(model.input, model.output, name=model.name)  # the optimizer is not copied
    copy = keras.models.clone_model(uncompiled, clone_function=clone, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def portable(model: keras.Model) -> keras.Model:
    """A copy in float32, in Keras's own layers only and none of them frozen, with the same weights.

    This is what is saved: `keras.saving.load_model` opens it without this package, on any backend, and it runs on
    hardware that lacks the precision the model was trained in. `keras_files.save` writes it for earlier Keras too.
    """
    return with_keras_layers(model, dtype="float32", trainable=True)
