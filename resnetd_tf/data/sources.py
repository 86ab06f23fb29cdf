"""From the name of a dataset to its splits in memory, whatever it is kept in."""

import os
import pathlib
import shlex
from collections.abc import Sequence

from resnetd_tf.data import folder, synthetic, tfds
from resnetd_tf.data.rasters import AS_STORED, Reading
from resnetd_tf.data.split_files import digest, files
from resnetd_tf.data.splits import ALL, SPLITS, Dataset, Split, check_name, cut, pixel_digest
from resnetd_tf.errors import InputError

FOLDER = "folder:"


def load(
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
    if reading.flags and not name.startswith(FOLDER):
        raise InputError(f"{reading.flags} is of no use for dataset {name}: only folders of raster files need it")
    if name != "synthetic" and not name.startswith(FOLDER):
        return tfds.load(name, splits, data_dir, eurosat_zip, split_files, image_size, interpolation)
    for flag, value in (("data_dir", data_dir), ("eurosat_zip", eurosat_zip)):
        if value:
            raise InputError(f"--{flag} is of no use for dataset {name}, which is not TFDS's")
    if name == "synthetic":
        if split_files:
            raise InputError("--split_files is of no use for dataset synthetic, which has no files")
        return _synthetic(splits)
    return folder.load(name.removeprefix(FOLDER), splits, split_files, image_size, interpolation, wanted, reading)


def _synthetic(splits: Sequence[str]) -> Dataset:
    images, labels = synthetic.draw()
    loaded = {}
    for split in splits:
        check_name(split)
        part = SPLITS.get(split, ALL)
        place = cut(len(labels), part)
        names = tuple(f"synthetic_{index}" for index in range(place.start, place.stop))
        digests = tuple(map(pixel_digest, images[place]))
        loaded[split] = Split(images[place], labels[place], names, part, digests)
    return Dataset("synthetic", synthetic.CLASSES, loaded)


def as_trained(
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
    if dataset and located(dataset, None, None)[0] != trained.get("dataset"):
        tell_of_other_splits("model was", trained, dataset, split_files)
        return dataset, data_dir, split_files
    if split_files:
        tell_of_other_splits("model was", trained, dataset, split_files)
        lists = split_files
    elif lists and not all(pathlib.Path(path).is_file() for path in lists.split(",")):
        raise InputError(f"{model} was trained with the lists {lists}, not all of which are there; give --split_files")
    elif lists and before and digest(lists) != before:
        raise InputError(
            f"{model} was trained with the lists {lists}, which have changed since; restore them, or give --split_files"
        )
    if "dataset" not in trained:
        raise InputError(f"{model} does not say what it was trained on; give --dataset")
    name, place = trained["dataset"], trained.get("data_dir")
    flag = f" --split_files={shlex.quote(lists)}" if lists else ""
    if name.startswith(FOLDER) and not pathlib.Path(name.removeprefix(FOLDER)).is_dir():
        raise InputError(f"{model} was trained on {name}, which is not there; give --dataset=folder:PATH{flag}")
    return name, data_dir or (place if place and pathlib.Path(place).is_dir() else None), lists


def reading_as_trained(trained: dict, dataset: str, reading: Reading) -> Reading:
    """How the numbers of a dataset are read: as given, or as in the training, if that was on the same dataset.

    Args:
        trained: Metadata of the classifier.
        dataset: Name of the dataset, as `as_trained` returns it.
        reading: What the user says now.
    """
    if located(dataset, None, None)[0] != trained.get("dataset"):
        return reading
    bands = tuple(trained["bands"].split(",")) if trained.get("bands") else None
    return Reading(
        reading.bands or bands,
        trained.get("scale") if reading.scale is None else reading.scale,
        trained.get("offset") if reading.offset is None else reading.offset,
    )


def tell_of_other_splits(what: str, trained: dict, dataset: str | None, split_files: str | None) -> None:
    """Says so where other splits are used than those of a training, so that images of it may be judged on.

    Args:
        what: Whose training that was: "model was", "weights were".
        trained: What metadata.json says of it.
        dataset: The one that is used; `None` for that of the training.
        split_files: The lists that are used; `None` for none.
    """
    lists, before = trained.get("split_files"), trained.get("split_files_sha256")
    if dataset and located(dataset, None, None)[0] != trained.get("dataset"):
        with_lists = f" with the lists {lists}" if lists else ""
        name = trained.get("dataset", "images that its metadata does not name")
        print(
            f"The {what} trained on {name}{with_lists}; where images of that training are among those judged on here, "
            "the result is too good"
        )
    elif digest(split_files) != before if split_files and before else split_files != lists:
        print(f"The {what} trained with other splits, perhaps on some of the images judged on here")


def located(name: str, data_dir: str | None, split_files: str | None) -> tuple[str, str | None, str | None]:
    """The name of a dataset, its `data_dir` and `split_files`, so that they mean the same from everywhere."""
    if split_files:
        paths = [str(path.resolve()) for path in files(split_files).values()]
        if any("," in path for path in paths):
            raise InputError(f"--split_files: commas stand between the files, their own paths cannot have any: {paths}")
        split_files = ",".join(paths)
    if name.startswith(FOLDER):
        name = f"{FOLDER}{os.path.realpath(name.removeprefix(FOLDER))}"  # takes a link to itself, unlike `resolve`
    elif name != "synthetic":
        data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
        data_dir = str(pathlib.Path(data_dir).expanduser().resolve()) if data_dir else None
    return name, data_dir, split_files
