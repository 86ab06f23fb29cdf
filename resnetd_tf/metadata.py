"""Reads and checks metadata.json, which says how a classifier was trained."""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from resnetd_tf.errors import InputError, first_line

LARGEST_SIDE = 2**14  # largest side in pixels of an image that a classifier takes


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= LARGEST_SIDE


def _is_positive(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_share(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= 1)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(number, int | float) for number in value)


# The entries that code reads, each with a function that says whether a value is valid. All others are for people.
VALIDATORS: dict[str, Callable[[Any], bool]] = {
    "antialias": lambda value: isinstance(value, bool),
    "best_epoch": _is_positive,
    "bands": lambda value: value is None or _is_text(value),
    "classes": lambda value: isinstance(value, list) and bool(value) and all(map(_is_text, value)),
    "command": _is_text,
    "data_dir": lambda value: value is None or _is_text(value),
    "data_sha256": _is_text,
    "dataset": _is_text,
    "depth": _is_count,
    "epochs": _is_positive,
    "exported_precision": _is_text,
    "image_size": _is_count,
    "interrupted": lambda value: isinstance(value, bool),
    "interpolation": lambda value: value in ("bilinear", "bicubic"),
    "largest_patch": _is_count,
    "normalization": lambda value: (
        isinstance(value, dict)
        and _is_text(value.get("of", ""))  # version 0.1.0 did not write this entry
        and _are_numbers(value.get("mean"))
        and _are_numbers(value.get("std"))
    ),
    "offset": lambda value: value is None or isinstance(value, int | float),
    "patch_shape": lambda value: isinstance(value, list) and len(value) == 3 and all(map(_is_count, value)),
    "replicas": _is_count,
    "split_sizes": lambda value: isinstance(value, dict) and all(map(_is_positive, value.values())),
    "scale": lambda value: value is None or isinstance(value, int | float),
    "split_files": lambda value: value is None or _is_text(value),
    "split_files_sha256": lambda value: value is None or _is_text(value),
    "test_accuracy": _is_share,
    "variant": _is_text,
    "weights_source": _is_text,
}


def patch_side(metadata: dict[str, Any]) -> int:
    """Returns the side in pixels of the training patches, or EuroSAT's 64 where it is not known."""
    return (metadata.get("patch_shape") or [0])[0] or 64


def largest_patch(metadata: dict[str, Any]) -> int:
    """Returns the side in pixels up to which an image is a patch, which gets one label. A larger image is a scene."""
    has_mixed_sizes = str(metadata.get("dataset")).startswith("folder:")  # a user's pictures may differ in size
    return metadata.get("largest_patch") or max(2 * patch_side(metadata), 512 if has_mixed_sizes else 0)


def summary_line(metadata: dict[str, Any]) -> str:
    """Describes a classifier in one line: "ResNet-50-D, 1 epoch, 71.20 % on eurosat/rgb test".

    Args:
        metadata: The content of metadata.json. A missing network or number of epochs is left out; a missing accuracy
            is reported as not known.
    """
    parts = []
    if depth := metadata.get("depth"):
        variant = metadata.get("variant", "base").removeprefix("base").upper()
        parts.append(f"ResNet-{depth}" + f"-{variant}" * bool(variant))
    if epochs := metadata.get("epochs"):
        interrupted = metadata.get("interrupted") and metadata.get("best_epoch")
        parts.append(f"epoch {interrupted} of {epochs}" if interrupted else f"{epochs} epoch{'s' * (epochs > 1)}")
    accuracy, precision = metadata.get("test_accuracy"), metadata.get("exported_precision", "float32")
    if accuracy is None:
        parts.append("test accuracy not known")
    else:
        parts.append(f"{100 * accuracy:.2f} % on {metadata.get('dataset', 'an unknown dataset')} test")
        if precision not in ("float32", "float16"):
            parts.append(f"measured before its export in {precision}")
    return ", ".join(parts)


def read_metadata(path: pathlib.Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a metadata.json file.

    Args:
        path: The file.
        needed: Names of the entries that it must have.

    Raises:
        InputError: The file cannot be read, lacks a needed entry, or has an invalid one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); restore or delete it") from error
    return check_metadata(content, path, needed)


def check_metadata(metadata: dict[str, Any], path: pathlib.Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """Returns metadata unchanged once every entry in `VALIDATORS` is valid.

    Args:
        metadata: The metadata, as JSON has them.
        path: The file that they come from, for messages.
        needed: Names of the entries that must be there.

    Raises:
        InputError: A needed entry is missing, or an entry is invalid.
    """
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: its metadata cannot be {str(metadata)[:50]!r}; restore or delete it")
    for name in [*needed, *(VALIDATORS.keys() & metadata.keys())]:
        if name not in metadata:
            raise InputError(f"{path}: does not say {name}; restore or delete it")
        if not VALIDATORS[name](metadata[name]):
            raise InputError(f"{path}: {name} cannot be {str(metadata[name])[:50]!r}; restore or delete it")
    return metadata
