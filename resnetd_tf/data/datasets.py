"""From the name of a dataset to its splits in memory; datasets that are folders of images."""

import collections
import hashlib
import itertools
import os
import pathlib
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from resnetd_tf.data import images, synthetic, tfds
from resnetd_tf.data.rasters import AS_STORED, RasterOptions
from resnetd_tf.data.splits import (
    ALL,
    OUTLINES_NAME,
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
SYNTHETIC = "synthetic"
# Folders that hold a dataset's own splits, by the names that people give them.
SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


def load_dataset(
    name: str,
    splits: Sequence[str] = tuple(SPLITS),
    *,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
    split_files: str | None = None,
    image_size: int | None = None,
    interpolation: str = "bilinear",
    required_bands: Sequence[str] | None = None,
    raster_options: RasterOptions = AS_STORED,
) -> Dataset:
    """Loads splits of a dataset into memory.

    Args:
        name: A TFDS image classification dataset ("eurosat/rgb", "eurosat/all"), "folder:PATH" for a folder with one
            folder of images for each class, or "synthetic".
        splits: The splits to load: "train", "validation", "test", or "all" for every image. TFDS datasets also take
            TFDS slices such as "train[90%:]".
        data_dir: The folder where TFDS keeps its datasets; `None` for TFDS's default ($TFDS_DATA_DIR, or else
            ~/tensorflow_datasets).
        eurosat_zip: A EuroSAT archive to prepare the dataset from, instead of downloading it.
        split_files: The lists of file names of the three splits, "TRAIN,VALIDATION,TEST", as `splits.find_positions`
            reads them; `None` for the dataset's own splits, or else 70/20/10.
        image_size: Side in pixels of the square that images of "train" and "validation" are resized to where their
            sizes differ, because a batch needs one size. `None` keeps all sizes.
        interpolation: The interpolation for resizing, "bilinear" or "bicubic".
        required_bands: The bands to read from raster files in a folder, `sentinel2.RGB_BANDS` or `sentinel2.BANDS`;
            `None` for all 13 in files that have them, and the colours in others.
        raster_options: Names of bands, scale and offset of raster files in a folder that do not state them.

    Raises:
        InputError: The dataset does not exist, cannot be obtained, is damaged or does not fit into memory, or an
            argument has no meaning for it.
    """
    is_folder = name.startswith(FOLDER_PREFIX)
    if raster_options.flags and not is_folder:
        raise InputError(
            f"{raster_options.flags} is of no use for dataset {name}: only folders of raster files need it"
        )
    if name != SYNTHETIC and not is_folder:
        return tfds.load_tfds(
            name,
            splits,
            data_dir=data_dir,
            eurosat_zip=eurosat_zip,
            split_files=split_files,
            image_size=image_size,
            interpolation=interpolation,
        )
    for flag, value in (("data_dir", data_dir), ("eurosat_zip", eurosat_zip)):
        if value:
            raise InputError(f"--{flag} is of no use for dataset {name}, which is not TFDS's")
    if is_folder:
        return load_folder(
            name.removeprefix(FOLDER_PREFIX),
            splits,
            split_files=split_files,
            image_size=image_size,
            interpolation=interpolation,
            required_bands=required_bands,
            raster_options=raster_options,
        )
    if split_files:
        raise InputError(f"--split_files is of no use for dataset {SYNTHETIC}, which has no files")
    return _load_synthetic(splits)


def _load_synthetic(splits: Sequence[str]) -> Dataset:
    """Draws the synthetic dataset, and cuts it into the splits as TFDS's slices would."""
    scenes, labels = synthetic.draw_scenes()
    loaded_splits = {}
    for split in splits:
        check_split_name(split)
        slice_name = SPLITS.get(split, ALL)
        bounds = slice_bounds(len(labels), slice_name)
        names = tuple(f"synthetic_{index}" for index in range(bounds.start, bounds.stop))
        digests = tuple(map(pixel_digest, scenes[bounds]))
        loaded_splits[split] = Split(scenes[bounds], labels[bounds], names, slice_name, digests)
    return Dataset(SYNTHETIC, synthetic.CLASSES, loaded_splits)


# The dataset of a trained classifier.


def resolve_dataset(
    model: pathlib.Path, metadata: dict, dataset: str | None, data_dir: str | None, split_files: str | None
) -> tuple[str, str | None, str | None]:
    """Decides which dataset to use with a classifier: the user's, or the one that it was trained on.

    The lists of splits in the metadata belong to the dataset of the training alone. A printed line warns if the splits
    differ from those of the training.

    Args:
        model: Path of the classifier, for messages.
        metadata: Metadata of the classifier.
        dataset: The user's dataset, as `load_dataset` takes it; `None` if the user named none.
        data_dir: The user's `data_dir`, or `None`.
        split_files: The user's `split_files`, or `None`.

    Returns:
        `name`, `data_dir` and `split_files` for `load_dataset`.

    Raises:
        InputError: No dataset is known, or its folder or its lists of splits are missing or have changed.
    """
    trained_lists, trained_digest = metadata.get("split_files"), metadata.get("split_files_sha256")
    if dataset and not _is_training_dataset(dataset, metadata):
        warn_of_other_splits("model was", metadata, dataset, split_files)
        return dataset, data_dir, split_files
    if split_files:
        warn_of_other_splits("model was", metadata, dataset, split_files)
    elif trained_lists and not all(pathlib.Path(path).is_file() for path in trained_lists.split(",")):
        raise InputError(
            f"{model} was trained with the lists {trained_lists}, not all of which are there; give --split_files"
        )
    elif trained_lists and trained_digest and split_files_digest(trained_lists) != trained_digest:
        raise InputError(
            f"{model} was trained with the lists {trained_lists}, which have changed since; restore them, or give "
            "--split_files"
        )
    split_files = split_files or trained_lists
    if "dataset" not in metadata:
        raise InputError(f"{model} does not say what it was trained on; give --dataset")
    name, trained_dir = metadata["dataset"], metadata.get("data_dir")
    flag = f" --split_files={shlex.quote(split_files)}" if split_files else ""
    if name.startswith(FOLDER_PREFIX) and not pathlib.Path(name.removeprefix(FOLDER_PREFIX)).is_dir():
        raise InputError(f"{model} was trained on {name}, which is not there; give --dataset=folder:PATH{flag}")
    if not data_dir and trained_dir and pathlib.Path(trained_dir).is_dir():
        data_dir = trained_dir
    return name, data_dir, split_files


def resolve_raster_options(metadata: dict, dataset: str, raster_options: RasterOptions) -> RasterOptions:
    """Decides how to read raster files: as the user says, or as in the training if the dataset is the same.

    Args:
        metadata: Metadata of the classifier.
        dataset: Name of the dataset, as `resolve_dataset` returns it.
        raster_options: The user's options, which count before those of the training.
    """
    if not _is_training_dataset(dataset, metadata):
        return raster_options
    bands = raster_options.bands or (tuple(metadata["bands"].split(",")) if metadata.get("bands") else None)
    if raster_options.rendering:
        return RasterOptions(bands, rendering=raster_options.rendering)
    states_numbers = raster_options.scale is not None or raster_options.offset is not None
    return RasterOptions(
        bands,
        metadata.get("scale") if raster_options.scale is None else raster_options.scale,
        metadata.get("offset") if raster_options.offset is None else raster_options.offset,
        rendering=None if states_numbers else metadata.get("rendering"),
    )


def warn_of_other_splits(subject: str, metadata: dict, dataset: str | None, split_files: str | None) -> None:
    """Prints a warning if splits differ from those of a training, whose images may be among the ones judged on.

    Args:
        subject: Start of the sentence, "model was" or "weights were".
        metadata: Metadata of the training.
        dataset: The dataset in use; `None` for the one of the training.
        split_files: The lists of splits in use; `None` for none.
    """
    trained_lists, trained_digest = metadata.get("split_files"), metadata.get("split_files_sha256")
    if dataset and not _is_training_dataset(dataset, metadata):
        with_lists = f" with the lists {trained_lists}" if trained_lists else ""
        name = metadata.get("dataset", "images that its metadata does not name")
        print(
            f"The {subject} trained on {name}{with_lists}; where images of that training are among those judged on "
            "here, the result is too good"
        )
        return
    if split_files and trained_digest:
        differ = split_files_digest(split_files) != trained_digest
    else:
        differ = split_files != trained_lists
    if differ:
        print(f"The {subject} trained with other splits, perhaps on some of the images judged on here")


def _is_training_dataset(dataset: str, metadata: dict) -> bool:
    """Returns whether a dataset is the one that metadata name as that of the training."""
    return absolute_locations(dataset, None, None)[0] == metadata.get("dataset")


def absolute_locations(name: str, data_dir: str | None, split_files: str | None) -> tuple[str, str | None, str | None]:
    """Makes the paths of a dataset absolute, so that they mean the same in every working directory.

    Args:
        name: Name of the dataset.
        data_dir: The folder where TFDS keeps its datasets, or `None`.
        split_files: The lists of splits, "TRAIN,VALIDATION,TEST", or `None`.

    Returns:
        `name`, `data_dir` and `split_files` with absolute paths.

    Raises:
        InputError: The absolute path of a list of a split has a comma.
    """
    if split_files:
        paths = [str(path.resolve()) for path in parse_split_files(split_files).values()]
        if any("," in path for path in paths):
            raise InputError(f"--split_files: commas stand between the files, their own paths cannot have any: {paths}")
        split_files = ",".join(paths)
    if name.startswith(FOLDER_PREFIX):
        folder = os.path.realpath(name.removeprefix(FOLDER_PREFIX))  # unlike `Path.resolve` accepts a link to itself
        name = f"{FOLDER_PREFIX}{folder}"
    elif name != SYNTHETIC:
        data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
        data_dir = str(pathlib.Path(data_dir).expanduser().resolve()) if data_dir else None
    return name, data_dir, split_files


# Datasets that are a folder with one folder of images for each class.


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder.

    Attributes:
        name: Name of the dataset, "folder:PATH".
        paths: The image files, in a random order that is the same on every machine.
        classes: Names of the class folders, sorted.
        split_folders: The folder of each split that the dataset has itself; empty if it has no splits.
    """

    name: str
    paths: list[pathlib.Path]
    classes: tuple[str, ...]
    split_folders: dict[str, pathlib.Path] = field(default_factory=dict)


@dataclass(frozen=True)
class FolderPart:
    """The image files of a split, a part of a folder.

    Attributes:
        slice: The part of the dataset that they are, such as "train[:70%]" or the path of a list.
        paths: The image files.
    """

    slice: str
    paths: list[pathlib.Path]


def load_folder(
    root: str,
    splits: Sequence[str],
    *,
    split_files: str | None,
    image_size: int | None,
    interpolation: str,
    required_bands: Sequence[str] | None,
    raster_options: RasterOptions,
) -> Dataset:
    """Loads splits of the images ROOT/CLASS/IMAGE, or ROOT/SPLIT/CLASS/IMAGE of a dataset that has its own splits.

    All headers are read before any pixels, so that images that do not fit into memory are refused early.

    Args:
        root: The folder.
        splits: The splits to load: "train", "validation", "test" or "all".
        split_files: The lists of file names of the three splits, or `None`, as in `load_dataset`.
        image_size: Side in pixels for training images of differing sizes, or `None`, as in `load_dataset`.
        interpolation: "bilinear" or "bicubic".
        required_bands: The bands to read, or `None`, as in `load_dataset`.
        raster_options: Names of bands, scale and offset of files that do not state them.

    Raises:
        InputError: The folder is no dataset, an image cannot be read, or images do not fit together or into memory.
    """
    folder = _find_images(f"{FOLDER_PREFIX}{root}", pathlib.Path(root))
    parts = _select_listed(folder, split_files, splits) if split_files else _select_slices(folder, splits)
    headers = {
        split: [
            images.read_header(path, required_bands=required_bands, raster_options=raster_options)
            for path in part.paths
        ]
        for split, part in parts.items()
    }
    kinds = {(shape[-1], dtype) for split_headers in headers.values() for shape, dtype in split_headers}
    if len(kinds) > 1:
        raise InputError(f"dataset {folder.name}: RGB and 13-band images are mixed")
    ((_, dtype),) = kinds
    shapes = {
        split: stored_shapes(split, [shape for shape, _ in split_headers], image_size)
        for split, split_headers in headers.items()
    }
    check_memory(folder.name, itertools.chain(*shapes.values()), dtype)
    loaded_splits = {}
    for split, part in parts.items():
        digests: list[str] = []
        pixels = collect_digests(_read_pixels(folder.name, part.paths, required_bands, raster_options), digests)
        loaded_splits[split] = Split(
            hold_in_memory(pixels, shapes[split], dtype, interpolation),
            np.array([folder.classes.index(path.parent.name) for path in part.paths]),
            tuple(map(str, part.paths)),
            part.slice,
            tuple(digests),
        )
    return Dataset(folder.name, folder.classes, loaded_splits)


def _find_images(name: str, root: pathlib.Path) -> ImageFolder:
    """Finds the images of a folder, and prints the classes with their counts and what is skipped.

    Args:
        name: Name of the dataset, for messages.
        root: The folder.

    Raises:
        InputError: The path is not a folder, or holds fewer than two classes of images.
    """
    if name == FOLDER_PREFIX or not root.is_dir():
        raise InputError(f"dataset {name}: {root} is not a folder")
    split_folders: dict[str, pathlib.Path] = {}
    paths, skipped = _list_files([root])
    if not paths:  # with images at this depth train/ is the name of a class
        split_folders = _find_split_folders(name, root)
        paths, skipped = _list_files(split_folders.values())
    counts = collections.Counter(path.parent.name for path in paths)
    classes = tuple(sorted(counts))
    if not paths:
        raise InputError(
            f"dataset {name}: no images; expected {root}/CLASS/IMAGE, or {root}/train/CLASS/IMAGE beside val/ and "
            "test/, named .jpg, .png, .tif or another way that Pillow knows"
        )
    if len(classes) == 1:
        raise InputError(f"dataset {name}: only one class, {classes[0]}; a classifier needs at least two")
    for path in paths:
        _check_file_name(path)
    print(f"Classes of {root}:", ", ".join(f"{name} {counts[name]}" for name in classes))
    if split_folders:
        print(f"Splits of {root}: its own folders {', '.join(path.name for path in split_folders.values())}")
    used_folders = {parent for path in paths for parent in path.parents}
    _print_skipped_folders(root, split_folders.values(), used_folders)
    if skipped := [path for path in skipped if path.parent in used_folders]:
        kinds = sorted({path.suffix or path.name for path in skipped})
        print(f"Skipped {len(skipped)} that are no image files: {', '.join(kinds)}")
    # Sorted by a hash of the name, as TFDS sorts: random, and the same on every machine.
    paths.sort(key=lambda path: hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest())
    return ImageFolder(name, paths, classes, split_folders)


def _print_skipped_folders(
    root: pathlib.Path, split_folders: Iterable[pathlib.Path], used_folders: set[pathlib.Path]
) -> None:
    """Prints the folders and files beside class folders that hold no images of the dataset."""
    candidates = [path for folder in (root, *split_folders) for path in folder.iterdir()]
    known_paths = used_folders | {root / OUTLINES_NAME}
    skipped = [path for path in candidates if path.name[0] != "." and path not in known_paths]
    if skipped:
        names = sorted(str(path.relative_to(root)) for path in skipped)
        shown = ", ".join(names[:10]) + ", ..." * (len(names) > 10)
        print(f"Skipped {len(names)} in {root} that are no folders of images: {shown}")


def _list_files(roots: Iterable[pathlib.Path]) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Lists the image files ROOT/CLASS/IMAGE, and the other entries of class folders; hidden ones are left out."""
    visible = [
        path for root in roots for path in root.glob("*/*") if path.parent.name[0] != "." and path.name[0] != "."
    ]
    paths = [path for path in visible if path.suffix.lower() in images.IMAGE_SUFFIXES and path.is_file()]
    return paths, list(set(visible) - set(paths))


def _find_split_folders(name: str, root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Finds the folders train, validation and test that hold class folders with images.

    Raises:
        InputError: Two folders are the same split, such as val and valid.
    """
    split_folders: dict[str, pathlib.Path] = {}
    for path in sorted(root.iterdir()):
        split = next((split for split, names in SPLIT_FOLDERS.items() if path.name.lower() in names), None)
        if split and any(image.suffix.lower() in images.IMAGE_SUFFIXES for image in path.glob("*/*")):
            if split in split_folders:
                raise InputError(
                    f"dataset {name}: {split_folders[split].name} and {path.name} are both {split}; rename one of them"
                )
            split_folders[split] = path
    return split_folders


def _check_file_name(path: pathlib.Path) -> None:
    """Checks that labels.txt can hold the name of an image's class, and text files the name of the image.

    Raises:
        InputError: A name is not UTF-8, or the class's name has a line break.
    """
    try:
        path.name.encode()
        if len(path.parent.name.splitlines()) == 1 and path.parent.name.encode():
            return
    except UnicodeEncodeError:
        pass
    raise InputError(f"{str(path)!a}: its name is not UTF-8, or its class's has a line break; rename it")


def _select_listed(folder: ImageFolder, split_files: str, splits: Sequence[str]) -> dict[str, FolderPart]:
    """Selects the images of splits by lists of file names; "all" is every image, whether in a list or not."""
    listed_splits = [split for split in splits if split != ALL]
    positions = find_positions(split_files, folder.name, list(map(str, folder.paths)), listed_splits)
    lists = parse_split_files(split_files)
    parts = {
        split: FolderPart(str(lists[split]), [folder.paths[position] for position in positions[split]])
        for split in listed_splits
    }
    return parts | ({ALL: FolderPart(ALL, folder.paths)} if ALL in splits else {})


def _select_slices(folder: ImageFolder, splits: Sequence[str]) -> dict[str, FolderPart]:
    """Selects the images of splits: the dataset's own splits, or else 70, 20 and 10 % of it.

    Raises:
        InputError: The dataset has no such split, or the split has no images.
    """
    parts: dict[str, FolderPart] = {}
    name, paths, split_folders = folder.name, folder.paths, folder.split_folders
    for split in splits:
        check_split_name(split)
        if split == ALL:
            parts[split] = FolderPart(ALL, paths)
            continue
        slice_name = split_slices(split_folders)[split] if split_folders else SPLITS[split]
        source = slice_name.partition("[")[0]
        if split_folders and source not in split_folders:
            raise InputError(
                f"dataset {name}: has {', '.join(sorted(split_folders))}, no {source} to take {split} from"
            )
        if not split_folders and len(paths) < 10:
            raise InputError(
                f"dataset {name}: {len(paths)} images; a 70/20/10 split needs at least 10. --split=all evaluates on all"
            )
        source_paths = paths
        if split_folders:
            source_paths = [path for path in paths if path.parents[1] == split_folders[source]]
        split_paths = source_paths[slice_bounds(len(source_paths), slice_name)]
        if not split_paths:
            raise InputError(f"dataset {name}: {slice_name} of {len(source_paths)} images is none; add images")
        if split_folders:
            slice_name = slice_name.replace(source, split_folders[source].name, 1)
        parts[split] = FolderPart(slice_name, split_paths)
    return parts


def _read_pixels(
    name: str, paths: list[pathlib.Path], required_bands: Sequence[str] | None, raster_options: RasterOptions
) -> Iterator[np.ndarray]:
    """Yields the pixels of images (height, width, bands), and prints how stored numbers became digital numbers.

    Args:
        name: Name of the dataset.
        paths: The image files.
        required_bands: The bands to read, or `None`, as in `load_dataset`.
        raster_options: Names of bands, scale and offset of files that do not state them.

    Raises:
        InputError: An image cannot be read, or the numbers of too many images can hardly be digital numbers.
    """
    descriptions: set[str] = set()
    checks = images.PatchChecks()
    for path in paths:
        patch = images.read_patch(path, required_bands, raster_options)
        checks.add(path, patch)
        if patch.description and patch.description not in descriptions:
            descriptions.add(patch.description)
            print(f"Images of {name}: {patch.description}")
        yield patch.pixels
    for reason in checks.refusals():
        raise InputError(reason)
    if note := checks.note():
        print(f"Images of {name}: {note}")
