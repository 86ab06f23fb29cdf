"""The land-cover classifier: preprocessing, network and head as one functional model.

What is trained is what is served: raw pixels of any size go in, probabilities come out.
"""

import contextlib
import pathlib
from collections.abc import Iterator

import keras
from keras import layers

from resnetd_tf.networks import checkpoints
from resnetd_tf.networks.layers import Resizing
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
    synchronized: bool = False,
) -> keras.Model:
    """Classifier from raw pixels to class probabilities.

    Args:
        depth, variant: As for `resnetd_tf.resnet`.
        classes: Number of classes.
        statistics: Mean and standard deviation of each band; their number is the number of bands. With a checkpoint
            they should be those that it was trained with.
        image_size: Side in pixels to which images are resized before the network; at least 32.
        interpolation: What images are resized with, "bilinear" or "bicubic".
        checkpoint: Weights for the network, or `None` for random ones. Its own interpolation is taken then.
        synchronized: As for `resnetd_tf.resnet`.

    Returns:
        A functional model: (batch, height, width, bands) of `statistics.dtype` (uint8 for RGB, uint16 DN
        for 13 bands), any height and width, to (batch, classes) float32 probabilities. Its layers are
        "pixels", "normalization", "resizing" and the network.

    Raises:
        ValueError: An argument is outside its range, or the checkpoint does not fit.
    """
    shape = (image_size, image_size, len(statistics.mean))
    network = resnet(depth, variant, input_shape=shape, classes=classes, synchronized=synchronized)
    if checkpoint:
        interpolation = checkpoint.interpolation
        checkpoints.assign_weights(network, checkpoint)
    return add_preprocessing(network, statistics, interpolation)


def add_preprocessing(network: keras.Model, statistics: Statistics, interpolation: str) -> keras.Model:
    """A classifier as `build` returns it, of a network from normalised images to probabilities."""
    _, height, width, bands = network.input_shape
    pixels = keras.Input((None, None, bands), dtype=statistics.dtype, name="pixels")
    # In float32 under any policy: bfloat16 cannot tell neighbouring grey levels apart.
    x = layers.Normalization(
        mean=statistics.mean,
        variance=[std**2 for std in statistics.std],
        dtype="float32",
        name="normalization",
    )(pixels)
    # Antialiased, as Pillow and timm resize: without, a picture that shrinks keeps only some of its pixels.
    resizing = Resizing(height, width, interpolation, antialias=True, dtype="float32", name="resizing")
    # `training` is True by Resizing's own default and passes to the layers after it: a plain call of the
    # classifier would compute, and change, batch-norm statistics.
    x = resizing(x, training=False)
    return keras.Model(pixels, network(x), name=f"{network.name}_classifier")


def freeze_layers(classifier: keras.Model, part: str) -> None:
    """Keeps part of the network as it is in training: its weights, and its batch-norm statistics too.

    Args:
        classifier: As built here.
        part: "none", "stem", or "backbone" for all but the head.
    """
    for layer in classifier.layers[-1].layers:
        stem, head = layer.name.startswith("stem_"), layer.name == "predictions"
        layer.trainable = {"none": True, "stem": not stem, "backbone": head}[part]


# A classifier's file as a Keras model.


def load_classifier(path: pathlib.Path, trust: bool = False) -> keras.Model:
    """The classifier in a .keras or .safetensors file, not compiled.

    Args:
        path: The file.
        trust: As for `keras_files.load`.

    Raises:
        NotOurs: As for `keras_files.load`.
        ValueError: A .safetensors file has no classifier, or one whose weights do not fit its header.
        Exception: What the libraries raise for a damaged file.
    """
    return checkpoints.load_keras(path, trust) if path.suffix == ".keras" else _load_safetensors(path)


def _load_safetensors(path: pathlib.Path) -> keras.Model:
    described = checkpoints.read_classifier_metadata(path)
    if described is None:
        raise ValueError("it has weights alone, no classifier; `train.py --weights` can start from it")
    depth, variant, classes = (described[name] for name in ("depth", "variant", "classes"))
    checkpoint = checkpoints.read_checkpoint(path, depth, variant)
    assert checkpoint.statistics is not None
    with _float32_policy():
        model = build_classifier(
            depth,
            variant,
            classes=len(classes),
            statistics=checkpoint.statistics,
            image_size=described["image_size"],
            interpolation=checkpoint.interpolation,
        )
    checkpoints.assign_weights(model.layers[-1], checkpoint, exact=True)
    return model


@contextlib.contextmanager
def _float32_policy() -> Iterator[None]:
    """Builds layers in float32, whatever policy the caller has set for models of its own."""
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def divide_logits(classifier: keras.Model, by: float) -> None:
    """Divides the weights of the head, and with them the logits.

    Args:
        classifier: As built by `networks.classifier.build`.
        by: A temperature.
    """
    head = classifier.layers[-1].get_layer("predictions")
    head.set_weights([weight / by for weight in head.get_weights()])
