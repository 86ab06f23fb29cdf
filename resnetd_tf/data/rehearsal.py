"""EuroSAT's images inside this package, by which a classifier keeps EuroSAT's ten classes while it learns others."""

import pathlib
import zipfile

import numpy as np
import PIL.Image

from resnetd_tf.data.splits import Dataset, Split, pixel_digest
from resnetd_tf.errors import InputError

# SPLIT/CLASS/NAME.jpg: 20, 10 and 10 images of each class in EuroSAT's splits.
SAMPLE_FILE = pathlib.Path(__file__).parents[1] / "weights" / "eurosat-sample.zip"


def read_sample() -> Dataset:
    """Reads the images of the ten classes, 64x64 pixels, with the splits that EuroSAT has them in.

    Raises:
        InputError: The file is missing or damaged.
    """
    images: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
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
    """Adds EuroSAT's ten classes, and the images of them in this package, to the splits of a dataset.

    Args:
        dataset: Splits of patches of 64x64 pixels, RGB. Its classes may be among EuroSAT's.

    Returns:
        The dataset with EuroSAT's classes first and then its own.

    Raises:
        InputError: The patches have another size or other bands.
    """
    sample = read_sample()
    classes = sample.classes + tuple(name for name in dataset.classes if name not in sample.classes)
    labels = np.array([classes.index(name) for name in dataset.classes])
    splits = {}
    for name, split in dataset.splits.items():
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
            np.concatenate([labels[split.labels], rehearsed.labels]),
            split.names + rehearsed.names,
            f"{split.slice} and {len(rehearsed)} of EuroSAT",
            split.digests + rehearsed.digests,
        )
    return Dataset(dataset.name, classes, splits)
