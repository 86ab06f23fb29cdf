"""Compares the speed of input pipelines on EuroSAT: ours, those of peers, and what training consumes.

    python -m benchmarks.input_pipeline            # needs eurosat/rgb prepared in $TFDS_DATA_DIR

Each reads whole epochs of the training split at 64x64 in batches of 32. Ours shuffles and augments as `train.py` does.
"Training step" is the rate at which ours trains at 64x64. The others give float images in [0, 1] with random flips:
TFDS decodes images every epoch or caches them decoded, and PyTorch's DataLoader reads decoded images with two workers.
"""

import functools
import itertools
import time

import numpy as np
import psutil

from benchmarks import contest, train_step
from resnetd_tf.training.settings import RECIPES

SPLIT = "train[:70%]"


class Epochs:
    """Measures the rate at which epochs of a pipeline are read, and the memory that it takes.

    Args:
        start_epoch: Function that returns an iterable of the batches of an epoch.
        library_memory: Resident size of the process before the data were loaded, GiB.
    """

    def __init__(self, start_epoch, library_memory: float):
        self.start_epoch, self.library_memory = start_epoch, library_memory

    def __call__(self) -> float:
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < contest.ROUND:
            for images, _ in self.start_epoch():
                count += len(images)
        return count / (time.perf_counter() - start)

    def profile(self) -> dict[str, float]:
        return {
            "interpreter and libraries": self.library_memory,
            "data and pipeline": resident_memory() - self.library_memory,
        }


def resident_memory() -> float:
    """Returns the resident size of this process in GiB."""
    return psutil.Process().memory_info().rss / 2**30


def ours(precision: str, batch: int, varied: float = 0.0) -> Epochs:
    import tensorflow_datasets  # noqa: F401 - its memory counts as that of a library

    from resnetd_tf.data import batches, datasets

    library_memory = resident_memory()
    loaded = datasets.load_dataset("eurosat/rgb")
    split = loaded.splits["train"]
    pipeline = batches.training_batches(split, len(loaded.classes), batch, varied=varied).take(len(split) // batch)
    epochs = Epochs(lambda: pipeline, library_memory)
    epochs.loaded = loaded  # keeps all three splits in memory, as training does
    return epochs


def ours_varied(precision: str, batch: int) -> Epochs:
    """Adds noise, blur, JPEG and so on at full strength to the default share of the images."""
    return ours(precision, batch, RECIPES["default"]["varied"])


def training_step(precision: str, batch: int) -> train_step.Fit:
    return train_step.ours(64, precision, batch)


def tfds_pipeline(batch: int, cached: bool) -> Epochs:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    library_memory = resident_memory()
    dataset = tfds.load("eurosat/rgb", split=SPLIT, as_supervised=True)

    def prepare(image, label):
        return tf.cast(image, tf.float32) / 255, tf.one_hot(label, 10)

    def flip(image, label):
        return tf.image.random_flip_up_down(tf.image.random_flip_left_right(image)), label

    dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    if cached:
        dataset = dataset.cache()
    dataset = dataset.shuffle(2000).map(flip, num_parallel_calls=tf.data.AUTOTUNE)
    return Epochs(
        functools.partial(iter, dataset.batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)), library_memory
    )


def tfds_decoding(precision: str, batch: int) -> Epochs:
    return tfds_pipeline(batch, cached=False)


def tfds_cached(precision: str, batch: int) -> Epochs:
    return tfds_pipeline(batch, cached=True)


def pytorch(precision: str, batch: int) -> Epochs:
    import torch

    from resnetd_tf.data import datasets

    split = datasets.load_dataset("eurosat/rgb", ("train",)).splits["train"]
    library_memory = resident_memory()

    class Patches(torch.utils.data.Dataset):
        def __len__(self):
            return len(split)

        def __getitem__(self, index):
            image = split.images[index]
            for axis in np.flatnonzero(np.random.random(2) < 0.5):
                image = np.flip(image, axis)
            return torch.from_numpy(image.transpose(2, 0, 1).astype("float32") / 255), int(split.labels[index])

    loader = torch.utils.data.DataLoader(Patches(), batch, shuffle=True, drop_last=True, num_workers=2)
    return Epochs(functools.partial(itertools.chain, loader), library_memory)


if __name__ == "__main__":
    contest.main(
        "input_pipeline",
        {
            "ours": ours,
            "ours with pixels varied": ours_varied,
            "training step": training_step,
            "TFDS, decoding": tfds_decoding,
            "TFDS, cached": tfds_cached,
            "PyTorch DataLoader": pytorch,
        },
        {"precision": ("bfloat16",), "batch": (32,)},
        profiled=("ours",),
        profile_of="GiB of resident memory",
    )
