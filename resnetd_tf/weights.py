"""Weights from files into our networks: our own, and PyTorch state dicts of the same architecture."""

import pathlib
import re

import keras
import numpy as np


def load(model: keras.Model, path: str | pathlib.Path) -> None:
    """Loads weights of the same architecture into `model`.

    Args:
        model: A network or classifier of this package; a network for a state dict.
        path: A `.weights.h5` or `.keras` file of ours, or a `.safetensors` state dict of timm's or
            torchvision's ResNet.

    Raises:
        ValueError: The file is missing, cannot be read or does not fit the model.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"weights {path}: no such file")
    if path.suffix in (".pth", ".pt", ".bin"):
        raise ValueError(
            f"weights {path}: loading a pickle runs code in it; convert it where you trust it: "
            'safetensors.torch.save_file(torch.load(path, weights_only=True), "weights.safetensors")'
        )
    if not path.name.endswith((".weights.h5", ".keras", ".safetensors")):
        raise ValueError(f"weights {path}: expected a .keras, .weights.h5 or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            load_state_dict(model, load_file(path))
        else:
            model.load_weights(path)
    except Exception as error:  # h5py, zipfile and safetensors each have their own for a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"weights {path} do not fit {model.name}: {reason}") from error


def state_dict_names(model: keras.Model) -> dict[str, str]:
    """The name that timm and torchvision give each layer of `model` that has weights, by our name."""
    layers = {layer.name for layer in model.layers if layer.weights}
    pooled = any(layer.name.endswith("_shortcut_pool") for layer in model.layers)
    names = {"predictions": "fc"}
    if "stem_3_conv" in layers:
        names |= {"stem_1_conv": "conv1.0", "stem_1_bn": "conv1.1", "stem_2_conv": "conv1.3", "stem_2_bn": "conv1.4"}
        names |= {"stem_3_conv": "conv1.6", "stem_3_bn": "bn1"}
    else:
        names |= {"stem_1_conv": "conv1", "stem_1_bn": "bn1"}
    for name in layers - names.keys():
        stage, block, part, kind = re.fullmatch(r"stage(\d)_block(\d+)_(\w+)_(conv|bn)", name).groups()
        # A shortcut is a sequence; D's has a pool, or nothing, before the convolution.
        place = f"downsample.{(kind == 'bn') + pooled}" if part == "shortcut" else kind + part
        names[name] = f"layer{stage}.{int(block) - 1}.{place}"
    return {name: names[name] for name in layers}


def load_state_dict(model: keras.Model, tensors: dict[str, np.ndarray]) -> None:
    """Assigns the tensors of a timm or torchvision state dict to a network of the same architecture.

    Args:
        model: A network of `resnetd_tf.resnet`.
        tensors: Convolutions (out, in, height, width), dense layers (out, in), the rest (channels,).

    Raises:
        ValueError: Tensors are missing, left over or of another shape; nothing is assigned then.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    attributes = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    attributes |= {"kernel": "weight", "bias": "bias"}
    expected = {
        f"{name}.{attributes[weight.name]}": weight
        for layer, name in state_dict_names(model).items()
        for weight in model.get_layer(layer).weights
    }
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} is not in the network" for name in tensors if name not in expected]
    values = {}
    for name in expected.keys() & tensors.keys():
        tensor = tensors[name]
        values[name] = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
        if values[name].shape != expected[name].shape:
            problems.append(f"{name} becomes {values[name].shape}, expected {tuple(expected[name].shape)}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError("; ".join(problems[:3]) + more)
    for name, weight in expected.items():
        weight.assign(values[name])
