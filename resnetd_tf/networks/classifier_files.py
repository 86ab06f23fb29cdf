"""A classifier's file as a Keras model."""

import contextlib
import pathlib
from collections.abc import Iterator

import keras

from resnetd_tf.networks import checkpoints, classifier, keras_files, safetensors_files


def load(path: pathlib.Path, trust: bool = False) -> keras.Model:
    """The classifier in a .keras or .safetensors file, not compiled.

    Args:
        path: The file.
        trust: As for `keras_files.load`.

    Raises:
        NotOurs: As for `keras_files.load`.
        ValueError: A .safetensors file has no classifier, or one whose weights do not fit its header.
        Exception: What the libraries raise for a damaged file.
    """
    return keras_files.load(path, trust) if path.suffix == ".keras" else _from_safetensors(path)


def _from_safetensors(path: pathlib.Path) -> keras.Model:
    described = safetensors_files.description(path)
    if described is None:
        raise ValueError("it has weights alone, no classifier; `train.py --weights` can start from it")
    depth, variant, classes = (described[name] for name in ("depth", "variant", "classes"))
    checkpoint = checkpoints.read(path, depth, variant)
    assert checkpoint.statistics is not None
    with _float32():
        model = classifier.build(
            depth,
            variant,
            classes=len(classes),
            statistics=checkpoint.statistics,
            image_size=described["image_size"],
            interpolation=checkpoint.interpolation,
        )
    checkpoints.assign(model.layers[-1], checkpoint, exact=True)
    return model


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """Builds layers in float32, whatever policy the caller has set for models of its own."""
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
