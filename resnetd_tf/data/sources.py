"""From the name of a dataset to its splits in memory, whatever it is kept in."""

import pathlib
from collections.abc import Sequence

from resnetd_tf.data import folder, synthetic, tfds
from resnetd_tf.data.splits import SPLITS, Dataset, cut

FOLDER = "folder:"


def load(
    name: str,
    splits: Sequence[str] = tuple(SPLITS),
    *,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
    image_size: int = 224,
) -> Dataset:
    """Loads splits of a dataset into memory.

    Args:
        name: A TFDS image classification dataset ("eurosat/rgb", "eurosat/all"), "folder:PATH" for a folder
            of one folder of images a class, or "synthetic".
        splits: Those wanted of "train", "validation", "test"; for TFDS datasets also TFDS slices such as
            "train[90%:]".
        data_dir: Where TFDS keeps its datasets; default TFDS's own ($TFDS_DATA_DIR, else
            ~/tensorflow_datasets).
        eurosat_zip: A EuroSAT archive to prepare the dataset from, instead of downloading it.
        image_size: Images of differing sizes are resized to this square; equal ones stay as they are.

    Raises:
        InputError: The dataset does not exist, cannot be obtained or is damaged.
    """
    if name == "synthetic":
        images, labels = synthetic.draw()
        names = [f"synthetic_{index}" for index in range(len(labels))]
        return Dataset(name, synthetic.CLASSES, cut(images, labels, names, splits))
    if name.startswith(FOLDER):
        return folder.load(name.removeprefix(FOLDER), splits, image_size)
    return tfds.load(name, splits, data_dir, eurosat_zip, image_size)


def absolute(name: str) -> str:
    """The name of a dataset that means the same from every working directory."""
    if name.startswith(FOLDER):
        return f"{FOLDER}{pathlib.Path(name.removeprefix(FOLDER)).resolve()}"
    return name
