"""Weights in .safetensors files, timm's, torchvision's and ours.

Ours have in their header what a classifier is beside its weights, so that the file alone is one.
"""

import json
import pathlib

import numpy as np
import safetensors.numpy

from resnetd_tf import metadata

KEY = "resnetd_tf"  # of the header; its value is JSON, as in metadata.json
NEEDED = ("classes", "depth", "image_size", "interpolation", "normalization", "variant")


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors by name.

    Raises:
        Exception: What safetensors raises for a damaged file.
    """
    return safetensors.numpy.load_file(path)


def description(path: pathlib.Path) -> dict | None:
    """What the header of a classifier's file says of it; `None` for other files.

    Raises:
        InputError: It lacks what a classifier needs, or says what cannot be.
        Exception: What safetensors and json raise for a damaged file.
    """
    text = _header(path).get(KEY)
    return None if text is None else metadata.check(json.loads(text), path, NEEDED)


def band_names(path: pathlib.Path) -> tuple[str, ...] | None:
    """The names of the bands that whoever wrote a state dict put under "bands"; `None` where nobody did."""
    text = _header(path).get("bands")
    return None if text is None else tuple(text.replace(",", " ").split())


def _header(path: pathlib.Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def write(tensors: dict[str, np.ndarray], described: dict, path: pathlib.Path) -> None:
    """Writes a classifier's file.

    Args:
        tensors: Its weights, as timm names them.
        described: What metadata.json of its run says, with `NEEDED`.
        path: The file.
    """
    content = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    path.write_bytes(safetensors.numpy.save(content, {KEY: json.dumps(described)}))
