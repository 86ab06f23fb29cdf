"""What a dataset is: splits of labelled images in memory.

A split is decoded once and held as one array of raw pixels (uint8 for RGB, uint16 DN for 13 bands): all of
EuroSAT RGB is 0.33 GB. Batches are gathered from it, so nothing is decoded, copied or resized again on the
host.
"""

import functools
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resnetd_tf.errors import InputError

# The report's 70/20/10 split, as slices of TFDS's only split.
SPLITS = {"train": "train[:70%]", "validation": "train[70%:90%]", "test": "train[90%:]"}


@dataclass(frozen=True)
class Split:
    """Images (n, height, width, bands) uint8 or uint16, labels (n,) int64 and a name for each."""

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Splits by name, and the class names that labels index."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]

    @property
    def patch_shape(self) -> tuple[int, int, int]:
        """(height, width, bands) of the images."""
        return next(iter(self.splits.values())).images.shape[1:]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over pixels and labels of every split loaded."""
        digest = hashlib.sha256()
        for name in sorted(self.splits):
            digest.update(np.ascontiguousarray(self.splits[name].images).data)
            digest.update(np.ascontiguousarray(self.splits[name].labels).data)
        return digest.hexdigest()


def cut(images: np.ndarray, labels: np.ndarray, names: Sequence[str], splits: Sequence[str]) -> dict[str, Split]:
    """Cuts examples, which are in a random but fixed order already, into 70, 20 and 10 %, as `SPLITS` does.

    Args:
        images, labels, names: As in `Split`, of all examples.
        splits: Those wanted of "train", "validation" and "test".

    Raises:
        InputError: A split has another name.
    """
    bounds = np.round(np.array([0, 0.7, 0.9, 1]) * len(labels)).astype(int)
    ranges = dict(zip(SPLITS, itertools.pairwise(bounds)))
    chosen = {}
    for split in splits:
        if split not in ranges:
            raise InputError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        start, stop = ranges[split]
        chosen[split] = Split(images[start:stop], labels[start:stop], tuple(names[start:stop]))
    return chosen
