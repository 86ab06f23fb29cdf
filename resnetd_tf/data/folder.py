"""Datasets that are a folder of one folder of images a class."""

import collections
import hashlib
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from resnetd_tf.data import images
from resnetd_tf.data.rasters import Reading
from resnetd_tf.data.split_files import files, positions
from resnetd_tf.data.splits import (
    ALL,
    SPLITS,
    Dataset,
    Split,
    check_name,
    cut,
    digested,
    hold,
    must_fit,
    shapes_in_memory,
    slices,
)
from resnetd_tf.errors import InputError

# Folders that hold a dataset's own splits, and the names that people give them.
OWN_SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


def load(
    root: str,
    splits: Sequence[str],
    split_files: str | None,
    image_size: int | None,
    interpolation: str,
    wanted: Sequence[str] | None,
    reading: Reading,
) -> Dataset:
    """Loads splits of the images ROOT/CLASS/IMAGE, or ROOT/SPLIT/CLASS/IMAGE of a dataset that has its own splits.

    Only the splits asked for are decoded, after a look at the size of each of their images. Arguments and errors are as
    for `sources.load`.
    """
    name, folder = f"folder:{root}", pathlib.Path(root)
    paths, classes, own = _find(name, folder)
    chosen = _listed(name, paths, split_files, splits) if split_files else _sliced(name, paths, own, splits)
    headers = {
        split: [images.header(path, wanted=wanted, reading=reading) for path in images_of]
        for split, (_, images_of) in chosen.items()
    }
    kinds = {(shape[-1], dtype) for headers_of in headers.values() for shape, dtype in headers_of}
    if len(kinds) > 1:
        raise InputError(f"dataset {name}: RGB and 13-band images are mixed")
    ((_, dtype),) = kinds
    shapes = {
        split: shapes_in_memory(split, [shape for shape, _ in headers_of], image_size)
        for split, headers_of in headers.items()
    }
    must_fit(name, itertools.chain(*shapes.values()), dtype)
    loaded = {}
    for split, (slice_name, images_of) in chosen.items():
        digests: list[str] = []
        pixels = digested(_pixels(name, images_of, wanted, reading), digests)
        loaded[split] = Split(
            hold(pixels, shapes[split], dtype, interpolation),
            np.array([classes.index(path.parent.name) for path in images_of]),
            tuple(map(str, images_of)),
            slice_name,
            tuple(digests),
        )
    return Dataset(name, classes, loaded)


def _pixels(
    name: str, paths: list[pathlib.Path], wanted: Sequence[str] | None, reading: Reading
) -> Iterator[np.ndarray]:
    """Yields the pixels of images; says how their numbers were read.

    Raises:
        InputError: An image cannot be read, or the numbers of too many cannot be what they are taken for.
    """
    descriptions: set[str] = set()
    doubts = images.Doubts()
    for path in paths:
        patch = images.read_patch(path, wanted, reading)
        doubts.add(path, patch)
        if patch.description and patch.description not in descriptions:
            descriptions.add(patch.description)
            print(f"Images of {name}: {patch.description}")
        yield patch.pixels
    for reason in doubts.refusals():
        raise InputError(reason)
    if note := doubts.note():
        print(f"Images of {name}: {note}")


Images = tuple[str, list[pathlib.Path]]  # what a split is of the dataset, and its images


def _listed(name: str, paths: list[pathlib.Path], split_files: str, splits: Sequence[str]) -> dict[str, Images]:
    """The images of splits that lists of file names say; "all" is every image, in a list or not."""
    listed = [split for split in splits if split != ALL]
    places, lists = positions(split_files, name, list(map(str, paths)), listed), files(split_files)
    chosen: dict[str, Images] = {
        split: (str(lists[split]), [paths[place] for place in places[split]]) for split in listed
    }
    return chosen | ({ALL: (ALL, paths)} if ALL in splits else {})


def _sliced(
    name: str, paths: list[pathlib.Path], own: dict[str, pathlib.Path], splits: Sequence[str]
) -> dict[str, Images]:
    """The images of splits: those of the dataset's own, else 70, 20 and 10 % of it.

    Args:
        name: Name of the dataset.
        paths: Its images, in their order.
        own: The folder of each split that it has; empty where it has none.
        splits: The splits wanted.

    Raises:
        InputError: There is no such split, or it has no images.
    """
    chosen: dict[str, Images] = {}
    for split in splits:
        check_name(split)
        if split == ALL:
            chosen[split] = ALL, paths
            continue
        part = slices(own)[split] if own else SPLITS[split]
        source = part.partition("[")[0]
        if own and source not in own:
            raise InputError(f"dataset {name}: has {', '.join(sorted(own))}, no {source} to take {split} from")
        if not own and len(paths) < 10:
            raise InputError(
                f"dataset {name}: {len(paths)} images; a 70/20/10 split needs at least 10. --split=all evaluates on all"
            )
        of_source = [path for path in paths if path.parents[1] == own[source]] if own else paths
        images_of = of_source[cut(len(of_source), part)]
        if not images_of:
            raise InputError(f"dataset {name}: {part} of {len(of_source)} images is none; add images")
        chosen[split] = part.replace(source, own[source].name, 1) if own else part, images_of
    return chosen


def _own_splits(name: str, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The folders of splits that hold class folders with images.

    Raises:
        InputError: Two of them are the same split.
    """
    splits_of: dict[str, pathlib.Path] = {}
    for path in sorted(folder.iterdir()):
        split = next((split for split, names in OWN_SPLITS.items() if path.name.lower() in names), None)
        if split and any(image.suffix.lower() in images.SUFFIXES for image in path.glob("*/*")):
            if split in splits_of:
                raise InputError(
                    f"dataset {name}: {splits_of[split].name} and {path.name} are both {split}; rename one of them"
                )
            splits_of[split] = path
    return splits_of


def _check_name(path: pathlib.Path) -> None:
    """Raises InputError if labels.txt cannot hold the name of the class, or no text file that of the image."""
    try:
        path.name.encode()
        if len(path.parent.name.splitlines()) == 1 and path.parent.name.encode():
            return
    except UnicodeEncodeError:
        pass
    raise InputError(f"{str(path)!a}: its name is not UTF-8, or its class's has a line break; rename it")


def _find(name: str, folder: pathlib.Path) -> tuple[list[pathlib.Path], tuple[str, ...], dict[str, pathlib.Path]]:
    """The image files in their order, the classes, and the folders of the dataset's own splits, if it has such.

    Prints the classes with their counts, and what is skipped.

    Raises:
        InputError: It is no folder, or holds no two classes of images.
    """
    if name == "folder:" or not folder.is_dir():
        raise InputError(f"dataset {name}: {folder} is not a folder")
    own: dict[str, pathlib.Path] = {}
    paths, skipped = _images_in([folder])
    if not paths:  # else train/ may be the name of a class
        own = _own_splits(name, folder)
        paths, skipped = _images_in(own.values())
    counts = collections.Counter(path.parent.name for path in paths)
    classes = tuple(sorted(counts))
    if not paths:
        raise InputError(
            f"dataset {name}: no images; expected {folder}/CLASS/IMAGE, or {folder}/train/CLASS/IMAGE beside val/ and "
            "test/, named .jpg, .png, .tif or another way that Pillow knows"
        )
    if len(classes) == 1:
        raise InputError(f"dataset {name}: only one class, {classes[0]}; a classifier needs at least two")
    for path in paths:
        _check_name(path)
    print(f"Classes of {folder}:", ", ".join(f"{name} {counts[name]}" for name in classes))
    if own:
        print(f"Splits of {folder}: its own folders {', '.join(path.name for path in own.values())}")
    used = {parent for path in paths for parent in path.parents}
    parts = [folder, *own.values()]
    skipped_folders = [path for part in parts for path in part.iterdir() if path.name[0] != "." and path not in used]
    if skipped_folders:
        names = sorted(str(path.relative_to(folder)) for path in skipped_folders)
        shown = ", ".join(names[:10]) + ", ..." * (len(names) > 10)
        print(f"Skipped {len(names)} in {folder} that are no folders of images: {shown}")
    if skipped := [path for path in skipped if path.parent in used]:
        kinds = sorted({path.suffix or path.name for path in skipped})
        print(f"Skipped {len(skipped)} that are no image files: {', '.join(kinds)}")
    # By a hash of the name: random, yet the same on every machine. TFDS orders its examples alike.
    paths.sort(key=lambda path: hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest())
    return paths, classes, own


def _images_in(roots: Iterable[pathlib.Path]) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The files ROOT/CLASS/IMAGE that are named as images are, and those beside them that are not; none hidden."""
    visible = [
        path for root in roots for path in root.glob("*/*") if path.parent.name[0] != "." and path.name[0] != "."
    ]
    paths = [path for path in visible if path.suffix.lower() in images.SUFFIXES and path.is_file()]
    return paths, list(set(visible) - set(paths))
