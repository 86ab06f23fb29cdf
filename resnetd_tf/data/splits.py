"""What a dataset is: splits of labelled images in memory.

A split is decoded once and held once, as raw pixels (uint8 for RGB, uint16 DN for 13 bands): all of EuroSAT RGB is
0.33 GB. Batches are gathered from it, so nothing is decoded or resized again on the host.
"""

import functools
import hashlib
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from resnetd_tf.data import images
from resnetd_tf.environment import available_memory
from resnetd_tf.errors import InputError

ALL = "all"  # every image of a dataset, as TFDS calls it


def slices(own: Collection[str] = ("train",)) -> dict[str, str]:
    """The slice of a dataset that "train", "validation" and "test" are: its own splits, else parts of its train split.

    Args:
        own: Those of the three names that the dataset has itself.

    Returns:
        A TFDS slice for each of the three: the report's 70/20/10 split where the dataset has only "train".
    """
    cut_off, end = {}, 100  # percent of train that are left
    for name, share in (("test", 10), ("validation", 20)):
        if name in own:
            cut_off[name] = name
        else:
            cut_off[name] = f"train[{end - share}%:{f'{end}%' if end < 100 else ''}]"
            end -= share
    train = f"train[:{end}%]" if end < 100 else "train"
    return {"train": train, "validation": cut_off["validation"], "test": cut_off["test"]}


SPLITS = slices()

Shape = tuple[int, int, int]  # (height, width, bands)


@dataclass(frozen=True)
class Split:
    """Labelled images.

    Attributes:
        images: (n, height, width, bands) uint8 or uint16; where their sizes differ, a list of (height, width, bands).
        labels: (n,) int64.
        names: One for each image.
        slice: What it is of the dataset, as TFDS writes it: "train[:70%]".
        digests: `pixel_digest` of each image as it was read, before any resizing; empty where they were not taken.
    """

    images: np.ndarray | list[np.ndarray]
    labels: np.ndarray
    names: tuple[str, ...]
    slice: str
    digests: tuple[str, ...] = ()

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


def cut(count: int, slice_name: str) -> slice:
    """Where a slice such as "train[70%:90%]" lies among the images of its split.

    Args:
        count: Number of images of the split, which are in a random but fixed order already.
        slice_name: The slice, as `slices` writes it; a name alone is the whole split.
    """
    _, _, bounds = slice_name.rstrip("]").partition("[")
    start, _, stop = bounds.replace("%", "").partition(":")
    shares = np.array([int(start or 0) / 100, int(stop or 100) / 100])  # in this order: 0.7 * 45 rounds to 31
    first, last = np.round(shares * count).astype(int).tolist()
    return slice(first, last)


def check_name(split: str) -> None:
    """Raises InputError unless a split is "train", "validation", "test" or "all"."""
    if split not in (*SPLITS, ALL):
        raise InputError(f"split {split!r} is not one of {', '.join(SPLITS)}, {ALL}")


def pixel_digest(image: np.ndarray) -> str:
    """BLAKE2b of the pixels of an image, 32 hexadecimal digits: whether two images are the same."""
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).hexdigest()


def digested(images: Iterable[np.ndarray], digests: list[str]) -> Iterator[np.ndarray]:
    """Yields images as they are, and adds the `pixel_digest` of each to a list."""
    for image in images:
        digests.append(pixel_digest(image))
        yield image


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
