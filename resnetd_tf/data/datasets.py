"""From the name of a dataset to its splits in memory; datasets that are folders of images."""

import collections
import hashlib
import itertools
import os
import pathlib
import shlex
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from resnetd_tf.data import images, synthetic, tfds
from resnetd_tf.data.rasters import AS_STORED, Reading
from resnetd_tf.data.splits import (
    ALL,
    SPLITS,
    Dataset,
    Split,
    check_memory,
    check_split_name,
    collect_digests,
    find_positions,
    hold_in_memory,
    parse_split_files,
    pixel_digest,
    slice_bounds,
    split_files_digest,
    split_slices,
    stored_shapes,
)
from resnetd_tf.errors import InputError

FOLDER_PREFIX = "folder:"


def load_dataset(
    name: str,
    splits: Sequence[str] = tuple(SPLITS),
    *,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
    split_files: str | None = None,
    image_size: int | None = None,
    interpolation: str = "bilinear",
    wanted: Sequence[str] | None = None,
    reading: Reading = AS_STORED,
) -> Dataset:
    """Loads splits of a dataset into memory.

    Args:
        name: A TFDS image classification dataset ("eurosat/rgb", "eurosat/all"), "folder:PATH" for a folder
            of one folder of images a class, or "synthetic".
        splits: Those wanted of "train", "validation", "test", and "all", every image; for TFDS datasets also TFDS
            slices such as "train[90%:]".
        data_dir: Where TFDS keeps its datasets; default TFDS's own ($TFDS_DATA_DIR, else
            ~/tensorflow_datasets).
        eurosat_zip: A EuroSAT archive to prepare the dataset from, instead of downloading it.
        split_files: Which images are in the splits, as `split_files.positions` reads it; `None` for 70/20/10, or the
            dataset's own splits.
        image_size: For training, which needs images of one size in a batch: where those of "train" or "validation"
            differ, they are resized to this square. `None` leaves all as they are.
        interpolation: What they are resized with, "bilinear" or "bicubic".
        wanted: Bands that are needed of raster files in a folder, `sentinel2.RGB_BANDS` or `BANDS`; `None` for all 13
            where they are there, else the colours.
        reading: What the user says of raster files in a folder that do not say it themselves.

    Raises:
        InputError: The dataset does not exist, cannot be obtained, is damaged or does not fit into memory, or an
            argument has no meaning for it.
    """
    if reading.flags and not name.startswith(FOLDER_PREFIX):
        raise InputError(f"{reading.flags} is of no use for dataset {name}: only folders of raster files need it")
    if name != "synthetic" and not name.startswith(FOLDER_PREFIX):
        return tfds.load_tfds(name, splits, data_dir, eurosat_zip, split_files, image_size, interpolation)
    for flag, value in (("data_dir", data_dir), ("eurosat_zip", eurosat_zip)):
        if value:
            raise InputError(f"--{flag} is of no use for dataset {name}, which is not TFDS's")
    if name == "synthetic":
        if split_files:
            raise InputError("--split_files is of no use for dataset synthetic, which has no files")
        return _load_synthetic(splits)
    return load_folder(
        name.removeprefix(FOLDER_PREFIX), splits, split_files, image_size, interpolation, wanted, reading
    )


def _load_synthetic(splits: Sequence[str]) -> Dataset:
    images, labels = synthetic.draw_scenes()
    loaded = {}
    for split in splits:
        check_split_name(split)
        part = SPLITS.get(split, ALL)
        place = slice_bounds(len(labels), part)
        names = tuple(f"synthetic_{index}" for index in range(place.start, place.stop))
        digests = tuple(map(pixel_digest, images[place]))
        loaded[split] = Split(images[place], labels[place], names, part, digests)
    return Dataset("synthetic", synthetic.CLASSES, loaded)


def resolve_dataset(
    model: pathlib.Path, trained: dict, dataset: str | None, data_dir: str | None, split_files: str | None
) -> tuple[str, str | None, str | None]:
    """The dataset to use a classifier with, its `data_dir` and `split_files`: as given, or as it was trained.

    The lists of splits that it was trained with are those of its own dataset. Where other splits than those of the
    training are used, a line says so.

    Args:
        model: Where the classifier is.
        trained: Its metadata.
        dataset, data_dir, split_files: As for `load`; `None` where not given.

    Raises:
        InputError: No dataset is given or known, or its folder or lists of splits are gone or have changed.
    """
    lists, before = trained.get("split_files"), trained.get("split_files_sha256")
    if dataset and absolute_locations(dataset, None, None)[0] != trained.get("dataset"):
        warn_of_other_splits("model was", trained, dataset, split_files)
        return dataset, data_dir, split_files
    if split_files:
        warn_of_other_splits("model was", trained, dataset, split_files)
        lists = split_files
    elif lists and not all(pathlib.Path(path).is_file() for path in lists.split(",")):
        raise InputError(f"{model} was trained with the lists {lists}, not all of which are there; give --split_files")
    elif lists and before and split_files_digest(lists) != before:
        raise InputError(
            f"{model} was trained with the lists {lists}, which have changed since; restore them, or give --split_files"
        )
    if "dataset" not in trained:
        raise InputError(f"{model} does not say what it was trained on; give --dataset")
    name, place = trained["dataset"], trained.get("data_dir")
    flag = f" --split_files={shlex.quote(lists)}" if lists else ""
    if name.startswith(FOLDER_PREFIX) and not pathlib.Path(name.removeprefix(FOLDER_PREFIX)).is_dir():
        raise InputError(f"{model} was trained on {name}, which is not there; give --dataset=folder:PATH{flag}")
    return name, data_dir or (place if place and pathlib.Path(place).is_dir() else None), lists


def resolve_reading(trained: dict, dataset: str, reading: Reading) -> Reading:
    """How the numbers of a dataset are read: as given, or as in the training, if that was on the same dataset.

    Args:
        trained: Metadata of the classifier.
        dataset: Name of the dataset, as `as_trained` returns it.
        reading: What the user says now.
    """
    if absolute_locations(dataset, None, None)[0] != trained.get("dataset"):
        return reading
    bands = tuple(trained["bands"].split(",")) if trained.get("bands") else None
    return Reading(
        reading.bands or bands,
        trained.get("scale") if reading.scale is None else reading.scale,
        trained.get("offset") if reading.offset is None else reading.offset,
    )


def warn_of_other_splits(what: str, trained: dict, dataset: str | None, split_files: str | None) -> None:
    """Says so where other splits are used than those of a training, so that images of it may be judged on.

    Args:
        what: Whose training that was: "model was", "weights were".
        trained: What metadata.json says of it.
        dataset: The one that is used; `None` for that of the training.
        split_files: The lists that are used; `None` for none.
    """
    lists, before = trained.get("split_files"), trained.get("split_files_sha256")
    if dataset and absolute_locations(dataset, None, None)[0] != trained.get("dataset"):
        with_lists = f" with the lists {lists}" if lists else ""
        name = trained.get("dataset", "images that its metadata does not name")
        print(
            f"The {what} trained on {name}{with_lists}; where images of that training are among those judged on here, "
            "the result is too good"
        )
    elif split_files_digest(split_files) != before if split_files and before else split_files != lists:
        print(f"The {what} trained with other splits, perhaps on some of the images judged on here")


def absolute_locations(name: str, data_dir: str | None, split_files: str | None) -> tuple[str, str | None, str | None]:
    """The name of a dataset, its `data_dir` and `split_files`, so that they mean the same from everywhere."""
    if split_files:
        paths = [str(path.resolve()) for path in parse_split_files(split_files).values()]
        if any("," in path for path in paths):
            raise InputError(f"--split_files: commas stand between the files, their own paths cannot have any: {paths}")
        split_files = ",".join(paths)
    if name.startswith(FOLDER_PREFIX):
        name = f"{FOLDER_PREFIX}{os.path.realpath(name.removeprefix(FOLDER_PREFIX))}"  # takes a link to itself, unlike `resolve`
    elif name != "synthetic":
        data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
        data_dir = str(pathlib.Path(data_dir).expanduser().resolve()) if data_dir else None
    return name, data_dir, split_files


# Datasets that are a folder of one folder of images a class.


# Folders that hold a dataset's own splits, and the names that people give them.
SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


def load_folder(
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
    paths, classes, own = _find_images(name, folder)
    chosen = (
        _listed_images(name, paths, split_files, splits) if split_files else _sliced_images(name, paths, own, splits)
    )
    headers = {
        split: [images.read_header(path, wanted=wanted, reading=reading) for path in images_of]
        for split, (_, images_of) in chosen.items()
    }
    kinds = {(shape[-1], dtype) for headers_of in headers.values() for shape, dtype in headers_of}
    if len(kinds) > 1:
        raise InputError(f"dataset {name}: RGB and 13-band images are mixed")
    ((_, dtype),) = kinds
    shapes = {
        split: stored_shapes(split, [shape for shape, _ in headers_of], image_size)
        for split, headers_of in headers.items()
    }
    check_memory(name, itertools.chain(*shapes.values()), dtype)
    loaded = {}
    for split, (slice_name, images_of) in chosen.items():
        digests: list[str] = []
        pixels = collect_digests(_read_pixels(name, images_of, wanted, reading), digests)
        loaded[split] = Split(
            hold_in_memory(pixels, shapes[split], dtype, interpolation),
            np.array([classes.index(path.parent.name) for path in images_of]),
            tuple(map(str, images_of)),
            slice_name,
            tuple(digests),
        )
    return Dataset(name, classes, loaded)


def _read_pixels(
    name: str, paths: list[pathlib.Path], wanted: Sequence[str] | None, reading: Reading
) -> Iterator[np.ndarray]:
    """Yields the pixels of images; says how their numbers were read.

    Raises:
        InputError: An image cannot be read, or the numbers of too many cannot be what they are taken for.
    """
    descriptions: set[str] = set()
    doubts = images.PatchChecks()
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


SplitImages = tuple[str, list[pathlib.Path]]  # what a split is of the dataset, and its images


def _listed_images(
    name: str, paths: list[pathlib.Path], split_files: str, splits: Sequence[str]
) -> dict[str, SplitImages]:
    """The images of splits that lists of file names say; "all" is every image, in a list or not."""
    listed = [split for split in splits if split != ALL]
    places, lists = find_positions(split_files, name, list(map(str, paths)), listed), parse_split_files(split_files)
    chosen: dict[str, SplitImages] = {
        split: (str(lists[split]), [paths[place] for place in places[split]]) for split in listed
    }
    return chosen | ({ALL: (ALL, paths)} if ALL in splits else {})


def _sliced_images(
    name: str, paths: list[pathlib.Path], own: dict[str, pathlib.Path], splits: Sequence[str]
) -> dict[str, SplitImages]:
    """The images of splits: those of the dataset's own, else 70, 20 and 10 % of it.

    Args:
        name: Name of the dataset.
        paths: Its images, in their order.
        own: The folder of each split that it has; empty where it has none.
        splits: The splits wanted.

    Raises:
        InputError: There is no such split, or it has no images.
    """
    chosen: dict[str, SplitImages] = {}
    for split in splits:
        check_split_name(split)
        if split == ALL:
            chosen[split] = ALL, paths
            continue
        part = split_slices(own)[split] if own else SPLITS[split]
        source = part.partition("[")[0]
        if own and source not in own:
            raise InputError(f"dataset {name}: has {', '.join(sorted(own))}, no {source} to take {split} from")
        if not own and len(paths) < 10:
            raise InputError(
                f"dataset {name}: {len(paths)} images; a 70/20/10 split needs at least 10. --split=all evaluates on all"
            )
        of_source = [path for path in paths if path.parents[1] == own[source]] if own else paths
        images_of = of_source[slice_bounds(len(of_source), part)]
        if not images_of:
            raise InputError(f"dataset {name}: {part} of {len(of_source)} images is none; add images")
        chosen[split] = part.replace(source, own[source].name, 1) if own else part, images_of
    return chosen


def _find_split_folders(name: str, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The folders of splits that hold class folders with images.

    Raises:
        InputError: Two of them are the same split.
    """
    splits_of: dict[str, pathlib.Path] = {}
    for path in sorted(folder.iterdir()):
        split = next((split for split, names in SPLIT_FOLDERS.items() if path.name.lower() in names), None)
        if split and any(image.suffix.lower() in images.IMAGE_SUFFIXES for image in path.glob("*/*")):
            if split in splits_of:
                raise InputError(
                    f"dataset {name}: {splits_of[split].name} and {path.name} are both {split}; rename one of them"
                )
            splits_of[split] = path
    return splits_of


def _check_file_name(path: pathlib.Path) -> None:
    """Raises InputError if labels.txt cannot hold the name of the class, or no text file that of the image."""
    try:
        path.name.encode()
        if len(path.parent.name.splitlines()) == 1 and path.parent.name.encode():
            return
    except UnicodeEncodeError:
        pass
    raise InputError(f"{str(path)!a}: its name is not UTF-8, or its class's has a line break; rename it")


def _find_images(
    name: str, folder: pathlib.Path
) -> tuple[list[pathlib.Path], tuple[str, ...], dict[str, pathlib.Path]]:
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
        own = _find_split_folders(name, folder)
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
        _check_file_name(path)
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
    paths = [path for path in visible if path.suffix.lower() in images.IMAGE_SUFFIXES and path.is_file()]
    return paths, list(set(visible) - set(paths))
