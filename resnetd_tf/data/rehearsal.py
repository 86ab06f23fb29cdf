"""EuroSAT's images inside this package, by which a classifier keeps EuroSAT's ten classes while it learns others."""

import dataclasses
import pathlib
import zipfile

import numpy as np
import PIL.Image

from resnetd_tf.data.splits import Dataset, Split, pixel_digest
from resnetd_tf.errors import InputError

# SPLIT/CLASS/NAME.jpg: 20 and 10 images of each class of EuroSAT's training and validation splits.
SAMPLE_FILE = pathlib.Path(__file__).parents[1] / "weights" / "eurosat-sample.zip"


def read_sample() -> Dataset:
    """Reads images of the ten classes, 64x64 pixels, of EuroSAT's training and validation splits.

    Raises:
        InputError: The file is missing or damaged.
    """
    images: dict[str, list[np.ndarray]] = {"train": [], "validation": []}
    names: dict[str, list[str]] = {split: [] for split in images}
    try:
        with zipfile.ZipFile(SAMPLE_FILE) as archive:
            for member in archive.namelist():
                split, _, name = member.partition("/")
                with archive.open(member) as file, PIL.Image.open(file) as picture:
                    images[split].append(np.asarray(picture))
                names[split].append(name)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{SAMPLE_FILE} is missing or damaged; install resnetd_tf anew") from error
    classes = tuple(sorted({name.partition("/")[0] for name in names["train"]}))
    splits = {
        split: Split(
            np.stack(pixels),
            np.array([classes.index(name.partition("/")[0]) for name in names[split]]),
            tuple(names[split]),
            split,
            tuple(map(pixel_digest, pixels)),
        )
        for split, pixels in images.items()
    }
    return Dataset("eurosat/rgb", classes, splits)


def add_eurosat_classes(dataset: Dataset) -> Dataset:
    """Adds EuroSAT's ten classes, and the images of them in this package, to a dataset.

    The test split stays the dataset's own, so that its accuracy is that of the user's images.

    Args:
        dataset: Splits of patches of 64x64 pixels, RGB. Its classes may be among EuroSAT's.

    Returns:
        The dataset with EuroSAT's classes first and then its own.

    Raises:
        InputError: The patches have another size or other bands, are EuroSAT's own, or have a class whose name differs
            from one of EuroSAT's in case alone.
    """
    sample = read_sample()
    classes = sample.classes + tuple(name for name in dataset.classes if name not in sample.classes)
    eurosat_names = {name.lower(): name for name in sample.classes}
    for name in classes[len(sample.classes) :]:
        if same := eurosat_names.get(name.lower()):
            raise InputError(f"--keep_classes: the class {name} differs from EuroSAT's {same} in case alone; rename it")
    own_digests = {digest for split in dataset.splits.values() for digest in split.digests}
    shared = sum(digest in own_digests for split in sample.splits.values() for digest in split.digests)
    if shared:
        raise InputError(
            f"--keep_classes: {dataset.name} has {shared} of the images of EuroSAT by which the ten classes are kept; "
            "take them out, or train on EuroSAT without the flag"
        )
    labels = np.array([classes.index(name) for name in dataset.classes])
    splits = {}
    for name, split in dataset.splits.items():
        labels_of_split = labels[split.labels]
        if name not in sample.splits:
            splits[name] = dataclasses.replace(split, labels=labels_of_split)
            continue
        rehearsed = sample.splits[name]
        if split.shape != rehearsed.shape:
            own_shape, eurosat_shape = (
                "x".join(str(side or "?") for side in shape) for shape in (split.shape, rehearsed.shape)
            )
            raise InputError(
                f"--keep_classes: the images of {dataset.name} are {own_shape}, EuroSAT's {eurosat_shape} (height, "
                "width, bands); give patches of that size"
            )
        assert isinstance(split.images, np.ndarray) and isinstance(rehearsed.images, np.ndarray)
        splits[name] = Split(
            np.concatenate([split.images, rehearsed.images]),
            np.concatenate([labels_of_split, rehearsed.labels]),
            split.names + rehearsed.names,
            f"{split.slice} and {len(rehearsed)} of EuroSAT",
            split.digests + rehearsed.digests,
        )
    return Dataset(dataset.name, classes, splits)
