"""Datasets that are a folder of one folder of images a class."""

import collections
import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np

from resnetd_tf.data import images
from resnetd_tf.data.splits import Dataset, cut
from resnetd_tf.errors import InputError


def load(root: str, splits: Sequence[str], image_size: int) -> Dataset:
    """Loads splits of the images ROOT/CLASS/IMAGE; arguments and errors are as for `sources.load`."""
    name, folder = f"folder:{root}", pathlib.Path(root)
    if not folder.is_dir():
        raise InputError(f"dataset {name}: {folder} is not a folder")
    visible = [path for path in folder.glob("*/*") if not path.parent.name.startswith(".") and path.name[0] != "."]
    paths = [path for path in visible if path.suffix.lower() in images.SUFFIXES]
    counts = collections.Counter(path.parent.name for path in paths)
    classes = tuple(sorted(counts))
    if not paths:
        expected = f"{folder}/CLASS/IMAGE with {', '.join(sorted(images.SUFFIXES))}"
        raise InputError(f"dataset {name}: no images; expected {expected}")
    if len(classes) == 1:
        raise InputError(f"dataset {name}: only one class, {classes[0]}; a classifier needs at least two")
    if len(paths) < 10:
        raise InputError(f"dataset {name}: {len(paths)} images; a 70/20/10 split needs at least 10")
    print(f"Classes of {folder}:", ", ".join(f"{name} {counts[name]}" for name in classes))
    if skipped := sorted({path.suffix or path.name for path in set(visible) - set(paths)}):
        print(f"Skipped {len(visible) - len(paths)} that are no images by their names: {', '.join(skipped)}")
    # By a hash of the name: random, yet the same on every machine. TFDS orders its examples alike.
    paths.sort(key=lambda path: hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest())
    pixels = [images.read(path) for path in paths]
    if len({(image.shape[-1], image.dtype) for image in pixels}) > 1:
        raise InputError(f"dataset {name}: RGB and 13-band images are mixed")
    if len({image.shape for image in pixels}) > 1:
        pixels = [images.resize(image, image_size) for image in pixels]
    labels = np.array([classes.index(path.parent.name) for path in paths])
    return Dataset(name, classes, cut(np.stack(pixels), labels, [str(path) for path in paths], splits))
