"""Weights of `keras.applications` in our layout."""

import re

import keras
import numpy as np


def tensors(model: keras.Model) -> dict[str, np.ndarray]:
    """The weights of a `keras.applications` ResNet by the names of our network of the same depth, variant base.

    Its convolutions have biases, which batch normalisation takes away again: they go into the moving means.
    Its epsilon is 1.001e-5 where ours is 1e-5: the rest goes into the moving variances. It takes BGR: the
    first convolution is turned around.
    """
    found: dict[str, np.ndarray] = {}
    array = keras.ops.convert_to_numpy
    for layer in model.layers:
        match = re.fullmatch(r"conv(\d)_(?:block(\d+)_(\d)_)?(conv|bn)", layer.name)
        if not layer.weights:
            continue
        if match is None:
            found |= {f"{layer.name}/{weight.name}": array(weight) for weight in layer.weights}
            continue
        group, block, part, kind = match.groups()
        name = f"stage{int(group) - 1}_block{block}_{'shortcut' if part == '0' else part}" if block else "stem_1"
        if kind == "conv":
            kernel = array(layer.kernel)
            found[f"{name}_conv/kernel"] = kernel if block else kernel[:, :, ::-1]
        else:
            bias = array(model.get_layer(layer.name.removesuffix("bn") + "conv").bias)
            found[f"{name}_bn/gamma"] = array(layer.gamma)
            found[f"{name}_bn/beta"] = array(layer.beta)
            found[f"{name}_bn/moving_mean"] = array(layer.moving_mean) - bias
            found[f"{name}_bn/moving_variance"] = array(layer.moving_variance) + (layer.epsilon - 1e-5)
    return found
