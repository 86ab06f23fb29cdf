"""What a dataset is: splits of labelled images in memory.

A split is decoded once and held once, as raw pixels (uint8 for RGB, uint16 DN for 13 bands): all of EuroSAT RGB is
0.33 GB. Batches are gathered from it, so nothing is decoded or resized again on the host.
"""

import functools
import hashlib
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from resnetd_tf.data import images
from resnetd_tf.environment import available_memory
from resnetd_tf.errors import InputError

# The report's 70/20/10 split, as slices of TFDS's only split.
SPLITS = {"train": "train[:70%]", "validation": "train[70%:90%]", "test": "train[90%:]"}

Shape = tuple[int, int, int]  # (height, width, bands)


@dataclass(frozen=True)
class Split:
    """Labelled images.

    Attributes:
        images: (n, height, width, bands) uint8 or uint16; where their sizes differ, a list of (height, width, bands).
        labels: (n,) int64.
        names: One for each image.
        slice: What it is of the dataset, as TFDS writes it: "train[:70%]".
    """

    images: np.ndarray | list[np.ndarray]
    labels: np.ndarray
    names: tuple[str, ...]
    slice: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int | None, int | None, int]:
        """(height, width, bands) of the images; `None` for sides that differ."""
        if isinstance(self.images, np.ndarray):
            return self.images.shape[1:]
        return None, None, self.images[0].shape[-1]


@dataclass(frozen=True)
class Dataset:
    """Splits by name, and the class names that labels index."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]

    @property
    def bands(self) -> int:
        """Number of bands of its images."""
        return next(iter(self.splits.values())).shape[-1]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over pixels and labels of every split loaded."""
        digest = hashlib.sha256()
        for name in sorted(self.splits):
            for image in self.splits[name].images:
                digest.update(np.ascontiguousarray(image).data)
            digest.update(np.ascontiguousarray(self.splits[name].labels).data)
        return digest.hexdigest()


def cut(count: int, splits: Iterable[str]) -> dict[str, slice]:
    """Where splits lie among examples that are in a random but fixed order already: 70, 20 and 10 %, as in `SPLITS`.

    Args:
        count: Number of examples.
        splits: Those wanted of "train", "validation" and "test".

    Raises:
        InputError: A split has another name.
    """
    bounds = np.round(np.array([0, 0.7, 0.9, 1]) * count).astype(int).tolist()
    places = {name: slice(*pair) for name, pair in zip(SPLITS, itertools.pairwise(bounds))}
    for split in splits:
        if split not in places:
            raise InputError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    return {split: places[split] for split in splits}


def must_fit(name: str, shapes: Iterable[Shape], dtype: str) -> None:
    """Raises InputError if images of these shapes are more than fits into memory."""
    needed, free = sum(map(math.prod, shapes)) * np.dtype(dtype).itemsize, available_memory()
    if needed > free:
        raise InputError(
            f"dataset {name}: its images take {needed / 2**30:.1f} GiB of memory, of which {free / 2**30:.1f} GiB are "
            "free; use a part of it or a machine with more"
        )


def shapes_in_memory(split: str, shapes: list[Shape], image_size: int | None) -> list[Shape]:
    """The shapes that images of a split are held in: their own, or for batches all image_size x image_size.

    Only training needs batches, and only images of differing sizes are resized for them.
    """
    if image_size and split in ("train", "validation") and len(set(shapes)) > 1:
        return [(image_size, image_size, shapes[0][-1])] * len(shapes)
    return shapes


def hold(
    pixels: Iterable[np.ndarray], shapes: list[Shape], dtype: str, interpolation: str
) -> np.ndarray | list[np.ndarray]:
    """Images in memory, once: an array where their shapes are equal, otherwise a list.

    Args:
        pixels: The images, taken one by one.
        shapes: What they get; those of another size are resized.
        dtype: Their type.
        interpolation: What they are resized with, "bilinear" or "bicubic".
    """
    resized = (images.resize(image, *shape[:2], interpolation) for image, shape in zip(pixels, shapes, strict=True))
    if len(set(shapes)) > 1:
        return list(resized)
    array = np.empty((len(shapes), *shapes[0]), dtype)
    for index, image in enumerate(resized):
        array[index] = image
    return array
