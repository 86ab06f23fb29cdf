"""State dicts as timm, torchvision and those who train with them write them: what their names and shapes tell."""

import re

import numpy as np

from resnetd_tf.errors import NotOurs
from resnetd_tf.sentinel2 import BANDS

ANCHOR = "layer1.0.conv1.weight"  # every ResNet of timm's and torchvision's has a tensor of this name


def without_prefix(tensors: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Takes off what stands before every name, such as "module." or "model.vision_encoder.".

    Returns:
        The tensors by the names that timm gives them, and the prefix.

    Raises:
        NotOurs: There is no ResNet, there are several, or tensors outside of it.
    """
    prefixes = sorted(name.removesuffix(ANCHOR) for name in tensors if name.endswith(ANCHOR))
    if not prefixes:
        example = f"; its first is {min(tensors)}" if tensors else ""
        raise NotOurs(f"none of its {len(tensors)} tensors is {ANCHOR}, which timm's and torchvision's have{example}")
    if len(prefixes) > 1:
        named = " and ".join(map(repr, prefixes))
        raise NotOurs(f"holds {len(prefixes)} networks, under the prefixes {named}; save the tensors of one alone")
    prefix = prefixes[0]
    if outside := [name for name in tensors if not name.startswith(prefix)]:
        raise NotOurs(
            f"its network is under the prefix {prefix!r}, {len(outside)} tensors such as {outside[0]} are not; save "
            f"{{name: tensor for name, tensor in tensors.items() if name.startswith({prefix!r})}}"
        )
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, prefix


def architecture(tensors: dict[str, np.ndarray]) -> tuple[int, str]:
    """Depth and variant; "b" stands for "base" too, whose tensors have the same names and shapes."""
    convolutions = sum(bool(re.fullmatch(r"layer\d\.\d+\.conv\d\.weight", name)) for name in tensors)
    # The shortcut of D is a pool, a convolution and a normalisation; others lack the pool.
    second = tensors.get("layer2.0.downsample.1.weight")
    pooled = second is not None and second.ndim == 4
    return 2 + convolutions, "d" if pooled else "c" if "conv1.0.weight" in tensors else "b"


def bands(tensors: dict[str, np.ndarray]) -> int:
    """The number of bands that the first convolution takes."""
    return tensors[_stem(tensors)].shape[1]


def in_eurosat_order(tensors: dict[str, np.ndarray], names: tuple[str, ...] | None) -> dict[str, np.ndarray]:
    """Puts the 13 bands of the first convolution into the order of EuroSAT's files, where B8A is last.

    Args:
        tensors: The state dict. One band and three, which are red, green and blue, stay as they are.
        names: Names of the bands in the order of the channels; `None` if the file does not tell. Fewer than 13 named
            bands stay in that order.

    Raises:
        NotOurs: Several bands are without names, or the names are not those of so many bands.
    """
    count = bands(tensors)
    if count in (1, 3):
        return tensors
    if names is None:
        raise NotOurs(
            f"its first convolution takes {count} bands, in an order that the file does not tell (B8A is last in "
            "EuroSAT, after B08 in TorchGeo); save it with their names in the order of the channels: "
            "safetensors.torch.save_file(tensors, path, {'bands': 'B01 B02 B03 ...'})"
        )
    padded = tuple(re.sub(r"^B(\d)$", r"B0\1", name) for name in names)
    if len(padded) != count or len(set(padded)) != count or not set(padded) <= set(BANDS):
        raise NotOurs(
            f"its first convolution takes {count} bands, its header names {len(names)}: {' '.join(names)}; "
            f"name each once, as {' '.join(BANDS)}"
        )
    if count < len(BANDS):
        return tensors
    order = [padded.index(band) for band in BANDS]
    return {**tensors, _stem(tensors): tensors[_stem(tensors)][:, order]}


def _stem(tensors: dict[str, np.ndarray]) -> str:
    names = [name for name in ("conv1.weight", "conv1.0.weight") if name in tensors and tensors[name].ndim == 4]
    if not names:
        raise NotOurs("has no first convolution, conv1.weight or conv1.0.weight of four dimensions")
    return names[0]
