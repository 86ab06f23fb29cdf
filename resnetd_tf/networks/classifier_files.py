"""A classifier's file as a Keras model."""

import pathlib

import keras
import numpy as np

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
    if not all(np.isfinite(tensor).all() for tensor in checkpoint.tensors.values()):
        raise ValueError("not all of its weights are finite numbers")
    assert checkpoint.statistics is not None
    model = classifier.build(
        depth,
        variant,
        classes=len(classes),
        statistics=checkpoint.statistics,
        image_size=described["image_size"],
        interpolation=checkpoint.interpolation,
    )
    checkpoints.assign(model.layers[-1], checkpoint, whole=True)
    return model
