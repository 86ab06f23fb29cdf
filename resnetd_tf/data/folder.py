"""Datasets that are a folder of one folder of images a class."""

import collections
import hashlib
import itertools
import pathlib
from collections.abc import Sequence

import numpy as np

from resnetd_tf.data import images
from resnetd_tf.data.split_files import files, positions
from resnetd_tf.data.splits import SPLITS, Dataset, Split, cut, hold, must_fit, shapes_in_memory
from resnetd_tf.errors import InputError


def load(
    root: str, splits: Sequence[str], split_files: str | None, image_size: int | None, interpolation: str
) -> Dataset:
    """Loads splits of the images ROOT/CLASS/IMAGE; arguments and errors are as for `sources.load`.

    Only the splits asked for are decoded, after a look at the size of each of their images.
    """
    name, folder = f"folder:{root}", pathlib.Path(root)
    paths, classes = _find(name, folder)
    if split_files:
        places = positions(split_files, name, list(map(str, paths)), splits)
        chosen = {split: [paths[position] for position in places[split]] for split in splits}
        slices = {split: str(path) for split, path in files(split_files).items()}
    else:
        if len(paths) < 10:
            raise InputError(f"dataset {name}: {len(paths)} images; a 70/20/10 split needs at least 10")
        chosen = {split: paths[place] for split, place in cut(len(paths), splits).items()}
        slices = SPLITS
    headers = {split: list(map(images.header, images_of)) for split, images_of in chosen.items()}
    kinds = {(shape[-1], dtype) for found in headers.values() for shape, dtype in found}
    if len(kinds) > 1:
        raise InputError(f"dataset {name}: RGB and 13-band images are mixed")
    ((_, dtype),) = kinds
    shapes = {
        split: shapes_in_memory(split, [shape for shape, _ in found], image_size) for split, found in headers.items()
    }
    must_fit(name, itertools.chain(*shapes.values()), dtype)
    loaded = {
        split: Split(
            hold((images.read(path) for path in images_of), shapes[split], dtype, interpolation),
            np.array([classes.index(path.parent.name) for path in images_of]),
            tuple(map(str, images_of)),
            slices[split],
        )
        for split, images_of in chosen.items()
    }
    return Dataset(name, classes, loaded)


def _check_name(path: pathlib.Path) -> None:
    """Raises InputError if labels.txt cannot hold the name of the class, or no text file that of the image."""
    try:
        path.name.encode()
        if len(path.parent.name.splitlines()) == 1 and path.parent.name.encode():
            return
    except UnicodeEncodeError:
        pass
    raise InputError(f"{str(path)!a}: its name is not UTF-8, or its class's has a line break; rename it")


def _find(name: str, folder: pathlib.Path) -> tuple[list[pathlib.Path], tuple[str, ...]]:
    """The image files in their order, and the classes; says which there are and what is skipped."""
    if name == "folder:" or not folder.is_dir():
        raise InputError(f"dataset {name}: {folder} is not a folder")
    visible = [path for path in folder.glob("*/*") if not path.parent.name.startswith(".") and path.name[0] != "."]
    paths = [path for path in visible if path.suffix.lower() in images.SUFFIXES and path.is_file()]
    counts = collections.Counter(path.parent.name for path in paths)
    classes = tuple(sorted(counts))
    if not paths:
        raise InputError(
            f"dataset {name}: no images; expected {folder}/CLASS/IMAGE named .jpg, .png, .tif or another way that "
            "Pillow knows"
        )
    if len(classes) == 1:
        raise InputError(f"dataset {name}: only one class, {classes[0]}; a classifier needs at least two")
    for path in paths:
        _check_name(path)
    print(f"Classes of {folder}:", ", ".join(f"{name} {counts[name]}" for name in classes))
    beside = [path for path in folder.iterdir() if path.name[0] != "." and path.name not in counts]
    if beside:
        names = ", ".join(sorted(path.name for path in beside)[:10])
        print(f"Skipped {len(beside)} in {folder} that are no folders of images: {names}{', ...' * (len(beside) > 10)}")
    if skipped := [path for path in set(visible) - set(paths) if path.parent.name in counts]:
        kinds = sorted({path.suffix or path.name for path in skipped})
        print(f"Skipped {len(skipped)} that are no image files: {', '.join(kinds)}")
    # By a hash of the name: random, yet the same on every machine. TFDS orders its examples alike.
    paths.sort(key=lambda path: hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest())
    return paths, classes
