"""The land-cover classifier: preprocessing, network and head as one functional model.

The same model is trained and served: raw pixels of any size go in, probabilities come out.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import layers

from resnetd_tf.networks import checkpoints
from resnetd_tf.networks.layers import Resizing, fold_batch_norm
from resnetd_tf.networks.resnet import resnet
from resnetd_tf.normalization import Statistics


def build_classifier(
    depth: int,
    variant: str,
    *,
    classes: int,
    statistics: Statistics,
    image_size: int = 224,
    interpolation: str = "bilinear",
    checkpoint: checkpoints.Checkpoint | None = None,
    keep_classes: bool = False,
    synchronized: bool = False,
) -> keras.Model:
    """Builds a classifier from raw pixels to class probabilities.

    Args:
        depth: Depth of the network, as in `resnetd_tf.resnet`.
        variant: Variant of the network, as in `resnetd_tf.resnet`.
        classes: Number of classes.
        statistics: Mean and standard deviation of each band, which also set the number of bands. With a checkpoint
            they should be those of its training.
        image_size: Side in pixels to which images are resized before the network; at least 32.
        interpolation: Filter that images are resized with, "bilinear" or "bicubic". A checkpoint's own takes its place.
        checkpoint: Weights for the network, or `None` for random ones.
        keep_classes: Whether the checkpoint's classes are the first ones of the classifier, and keep their weights in
            the head.
        synchronized: Whether batch normalisation computes statistics over all replicas, as in `resnetd_tf.resnet`.

    Returns:
        A functional model. It takes pixels (batch, height, width, bands) of any height and width in `statistics.dtype`:
        uint8 for RGB, uint16 DN for 13 bands. It returns probabilities (batch, classes) in float32. Its layers are
        "pixels", "normalization", "resizing" and the network.

    Raises:
        ValueError: An argument is out of range, or the checkpoint does not fit.
    """
    shape = (image_size, image_size, len(statistics.mean))
    network = resnet(depth, variant, input_shape=shape, classes=classes, synchronized=synchronized)
    if checkpoint:
        interpolation = checkpoint.interpolation
        checkpoints.assign_weights(network, checkpoint)
        if keep_classes:
            checkpoints.assign_head(network, checkpoint)
    return add_preprocessing(network, statistics, interpolation)


def add_preprocessing(network: keras.Model, statistics: Statistics, interpolation: str) -> keras.Model:
    """Puts the preprocessing in front of a network, as in `build_classifier`.

    Args:
        network: A model from normalised images of a fixed size to probabilities.
        statistics: Mean and standard deviation of each band.
        interpolation: Filter that images are resized with, "bilinear" or "bicubic".
    """
    _, height, width, bands = network.input_shape
    pixels = keras.Input((None, None, bands), dtype=statistics.dtype, name="pixels")
    # Normalisation is in float32 under any policy, because bfloat16 cannot tell neighbouring grey levels apart.
    x = layers.Normalization(
        mean=statistics.mean,
        variance=[std**2 for std in statistics.std],
        dtype="float32",
        name="normalization",
    )(pixels)
    # Pillow and timm antialias too. Without it, a picture that shrinks keeps only some of its pixels.
    resizing = Resizing(height, width, interpolation, antialias=True, dtype="float32", name="resizing")
    # Resizing sets `training` to True by default and passes it on to the layers after it. Without this argument, a
    # plain call of the classifier would compute, and change, batch-norm statistics.
    x = resizing(x, training=False)
    return keras.Model(pixels, network(x), name=f"{network.name}_classifier")


def freeze_layers(classifier: keras.Model, part: str) -> None:
    """Freezes part of the network: training changes neither its weights nor its batch-norm statistics.

    Args:
        classifier: A classifier that `build_classifier` built.
        part: "none", "stem", or "backbone" for all but the head.
    """
    for layer in classifier.layers[-1].layers:
        is_stem, is_head = layer.name.startswith("stem_"), layer.name == "predictions"
        layer.trainable = {"none": True, "stem": not is_stem, "backbone": is_head}[part]


def divide_logits(classifier: keras.Model, temperature: float) -> None:
    """Divides the logits by a temperature, by dividing the weights of the head.

    Args:
        classifier: A classifier that `build_classifier` built.
        temperature: The divisor, above 0; a temperature above 1 makes the probabilities less certain.
    """
    head = classifier.layers[-1].get_layer("predictions")
    head.set_weights([weight / temperature for weight in head.get_weights()])


def add_feature_output(classifier: keras.Model) -> keras.Model:
    """Returns a model with the same layers that also returns the features before the head.

    Args:
        classifier: A classifier that `build_classifier` built.

    Returns:
        A model from raw pixels to probabilities (n, classes) and to pooled features (n, features).
    """
    with_features = network_with_features(classifier.layers[-1])
    return keras.Model(classifier.inputs, with_features(classifier.layers[-2].output))


def network_with_features(network: keras.Model) -> keras.Model:
    """Returns a model with a network's layers, from its inputs to probabilities and to the features before its head."""
    return keras.Model(network.inputs, [network.outputs[0], network.get_layer("predictions").input])


def make_inference_function(
    classifier: keras.Model, precision: str = "float32"
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Makes the fastest function of a classifier: batch normalisation is folded, and the weights are constants.

    Args:
        classifier: A classifier that `build_classifier` built, on the TensorFlow backend.
        precision: "float32" or "bfloat16", the type of the network's weights and activations.

    Returns:
        Function from raw pixels (n, height, width, bands) to probabilities (n, classes) and to the pooled features
        (n, features) before the head, both float32.
    """
    import tensorflow as tf

    folded = fold_batch_norm(classifier, precision)
    normalization, resizing, network = (folded.get_layer("normalization"), folded.layers[2], folded.layers[-1])
    resizing = Resizing.from_config(resizing.get_config())
    outputs = network_with_features(network)
    trainable, frozen = (
        [tf.constant(weight.numpy()) for weight in weights]
        for weights in (outputs.trainable_variables, outputs.non_trainable_variables)
    )
    pixels = folded.inputs[0]

    @tf.function(input_signature=[tf.TensorSpec(pixels.shape, pixels.dtype)])
    def infer(pixels):
        (probabilities, features), _ = outputs.stateless_call(trainable, frozen, resizing(normalization(pixels)))
        return probabilities, tf.cast(features, tf.float32)

    return lambda images: tuple(output.numpy() for output in infer(tf.constant(images)))


# Loading a classifier's file as a Keras model.


def load_classifier(path: pathlib.Path, trust: bool = False) -> tuple[keras.Model, dict | None]:
    """Loads the classifier in a .keras or .safetensors file, not compiled.

    Args:
        path: The file.
        trust: Whether a .keras file may hold layers and functions that our networks do not contain.

    Returns:
        The model, and the metadata in a .safetensors file; `None` for a .keras file, which has none.

    Raises:
        ForeignModelError: A .keras file holds more than our networks contain.
        InputError: The metadata of a .safetensors file are incomplete or invalid.
        ValueError: A .safetensors file has no classifier, or one whose weights do not fit its metadata.
        Exception: A library finds the file damaged.
    """
    if path.suffix == ".keras":
        return checkpoints.load_keras(path, trust), None
    checkpoint = checkpoints.read_classifier(path)
    assert checkpoint.metadata is not None and checkpoint.statistics is not None and checkpoint.image_size is not None
    with _float32_policy():
        model = build_classifier(
            checkpoint.depth,
            checkpoint.variant,
            classes=len(checkpoint.metadata["classes"]),
            statistics=checkpoint.statistics,
            image_size=checkpoint.image_size,
            interpolation=checkpoint.interpolation,
        )
    checkpoints.assign_weights(model.layers[-1], checkpoint, exact=True)
    return model, checkpoint.metadata


@contextlib.contextmanager
def _float32_policy() -> Iterator[None]:
    """Has Keras build layers in float32, whatever policy the caller has set."""
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
