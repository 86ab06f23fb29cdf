"""Reading metadata.json, which tells how a classifier was trained."""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from resnetd_tf.errors import InputError, first_line

LARGEST_SIDE = 2**14  # pixels, of an image that a classifier takes


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


# What other code reads of it, and what that may be; all else is only told to people.
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
        and _is_text(value.get("of", ""))  # which 0.1.0 did not write
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


def patch_side(described: dict[str, Any]) -> int:
    """Side in pixels of the patches that a classifier was trained on, EuroSAT's where that is not known."""
    return (described.get("patch_shape") or [0])[0] or 64


def largest_patch(described: dict[str, Any]) -> int:
    """Side in pixels up to which an image is a patch, and gets a label; what is larger is a scene."""
    of_any_size = str(described.get("dataset")).startswith("folder:")  # whose pictures may differ
    return described.get("largest_patch") or max(2 * patch_side(described), 512 if of_any_size else 0)


def summary_line(described: dict[str, Any]) -> str:
    """A classifier's network, epochs and test accuracy: "ResNet-50-D, 1 epoch, 71.20 % on eurosat/rgb test".

    Args:
        described: What metadata.json says; what it does not say is left out, but for the accuracy.
    """
    parts = []
    if depth := described.get("depth"):
        variant = described.get("variant", "base").removeprefix("base").upper()
        parts.append(f"ResNet-{depth}" + f"-{variant}" * bool(variant))
    if epochs := described.get("epochs"):
        interrupted = described.get("interrupted") and described.get("best_epoch")
        parts.append(f"epoch {interrupted} of {epochs}" if interrupted else f"{epochs} epoch{'s' * (epochs > 1)}")
    accuracy, precision = described.get("test_accuracy"), described.get("exported_precision", "float32")
    if accuracy is None:
        parts.append("test accuracy not known")
    else:
        parts.append(f"{100 * accuracy:.2f} % on {described.get('dataset', 'an unknown dataset')} test")
        if precision not in ("float32", "float16"):
            parts.append(f"measured before its export in {precision}")
    return ", ".join(parts)


def read_metadata(path: pathlib.Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """What a metadata.json says.

    Args:
        path: The file.
        needed: What it must say.

    Raises:
        InputError: It cannot be read, lacks what is needed, or says what cannot be.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); restore or delete it") from error
    return check_metadata(found, path, needed)


def check_metadata(found: dict[str, Any], path: pathlib.Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """What a file says, if it says all that is needed and nothing that cannot be.

    Raises:
        InputError: It does not.
    """
    if not isinstance(found, dict):
        raise InputError(f"{path}: its metadata cannot be {str(found)[:50]!r}; restore or delete it")
    for name in [*needed, *(VALIDATORS.keys() & found.keys())]:
        if name not in found:
            raise InputError(f"{path}: does not say {name}; restore or delete it")
        if not VALIDATORS[name](found[name]):
            raise InputError(f"{path}: {name} cannot be {str(found[name])[:50]!r}; restore or delete it")
    return found
