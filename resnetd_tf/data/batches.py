"""From splits in memory to batches for training and evaluation."""

import weakref
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from resnetd_tf.data.augmentation import (
    apply_cutmix,
    flip_and_turn,
    make_unlike,
    vary_light,
    vary_open_water,
    vary_pixels,
)
from resnetd_tf.data.splits import Split
from resnetd_tf.errors import InputError

# tf.data's autotuner would delay the end of an iterator until its next adjustment, by up to a minute an epoch.
WITHOUT_AUTOTUNING = tf.data.Options()
WITHOUT_AUTOTUNING.autotune.enabled = False


def training_batches(
    split: Split,
    classes: int,
    batch_size: int,
    *,
    seed: int = 0,
    first_step: int = 0,
    cutmix: float = 0.0,
    varied: float = 0.0,
    relit: float = 0.0,
    open_water: int | None = None,
    unlike: float = 0.0,
    teacher: Callable[[tf.Tensor], tf.Tensor] | None = None,
    strength: Callable[[tf.Tensor], tf.Tensor | float] = lambda step: 1.0,
) -> tf.data.Dataset:
    """Makes endless batches for training: complete, shuffled anew each epoch, and augmented.

    A batch depends on the seed and the number of its step alone, so that a resumed run gets the batches that it would
    have had. An epoch has len(split) // batch_size steps.

    Args:
        split: The training images, which must have one size.
        classes: Number of classes.
        batch_size: Images in a batch, over all devices.
        seed: Seed for shuffling and augmentation.
        first_step: Number of the first step, counted from the start of training.
        cutmix: Share of the images, from 0 to 1, that get a part of another image, by `augmentation.apply_cutmix`.
        varied: Share of the images, from 0 to 1, that `augmentation.vary_pixels` changes; they must be RGB. All images
            are flipped and turned.
        relit: Share of the images, from 0 to 1, whose light `augmentation.vary_light` changes; they must be RGB.
        open_water: Label of the images of open water. `augmentation.vary_open_water` changes the share `relit` of them.
        unlike: Share of the images, from 0 to 1, that `augmentation.make_unlike` changes; they must be RGB.
        teacher: Function from images to probabilities (batch, classes), which are averaged with the labels. It sees the
            images after CutMix, before water, light and pixels are varied.
        strength: Function from the number of a step to the strength of `vary_pixels`, from 0 to 1.

    Returns:
        Pairs of images (batch, height, width, bands) of the split's dtype and labels (batch, classes) float32.
    """
    steps = len(split) // batch_size
    gather = _make_gather(split, classes)

    def make_batch(step):
        epoch, step_of_epoch = step // steps, step % steps
        positions = step_of_epoch * batch_size + tf.range(batch_size, dtype=tf.int64)
        indices = tf.random.experimental.index_shuffle(positions, tf.stack([seed, epoch]), len(split) - 1)
        images, labels = gather(indices)
        seeds = tf.stack([seed, step])
        originals = images
        if relit and open_water is not None:
            images = vary_open_water(images, labels[:, open_water] == 1, seeds + 11, relit)
        images, originals = flip_and_turn(images, seeds), flip_and_turn(originals, seeds)
        if cutmix:
            originals, _ = apply_cutmix(originals, labels, seeds + 1, cutmix)
            images, labels = apply_cutmix(images, labels, seeds + 1, cutmix)
        if teacher is not None:  # otherwise TensorFlow computes nothing of the originals
            labels = (labels + teacher(originals)) / 2
        if relit:  # after CutMix, since both parts of an image have the same light
            images = vary_light(images, seeds + 7, relit)
        if unlike:
            images, labels = make_unlike(images, labels, seeds + 13, unlike)
        if varied:
            images = vary_pixels(images, seeds, varied, strength(step))
        return images, labels

    step_numbers = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
    return _map_batches(step_numbers, make_batch, split)


def evaluation_batches(split: Split, classes: int, batch_size: int) -> tf.data.Dataset:
    """Makes batches of raw pixels and one-hot labels: all images once and in order.

    Args:
        split: The images, which must have one size.
        classes: Number of classes.
        batch_size: Images in a batch, over all devices; the last batch may be smaller.

    Returns:
        Pairs of images (batch, height, width, bands) of the split's dtype and labels (batch, classes) float32.
    """
    indices = tf.data.Dataset.range(len(split)).batch(batch_size)
    return _map_batches(indices, _make_gather(split, classes), split)


def fit_batch_size(count: int, batch_size: int, replicas: int) -> int:
    """Finds the batch size nearest to the given one with which every device gets images from every batch.

    A batch is cut into equal parts from its start, so that a short last batch can leave devices without images, of
    which Keras computes no loss. Keras also requires equal parts of the first batch.

    Args:
        count: Number of images.
        batch_size: The preferred number of images in a batch.
        replicas: Number of devices.

    Raises:
        InputError: There are too few images for any batch size.
    """

    def fits(size: int) -> bool:
        return not count % size or count % size > size - size // replicas

    sizes = filter(fits, range(replicas, count + 1, replicas))
    nearest = min(sizes, key=lambda size: abs(size - batch_size), default=None)
    if nearest is None:
        raise InputError(f"{count} validation images cannot be shared evenly by {replicas} devices; use fewer devices")
    return nearest


def _map_batches(dataset: tf.data.Dataset, function: Callable, split: Split) -> tf.data.Dataset:
    """Applies a function that gathers images of a split to a dataset, in two threads."""
    # AutoGraph would rewrite the source of every function that is called. None of them branches on a tensor in Python.
    function = tf.autograph.experimental.do_not_convert(function)
    batches = dataset.map(function, num_parallel_calls=2).prefetch(4).with_options(WITHOUT_AUTOTUNING)
    batches.split = split  # keeps the split in memory, which `_make_gather` references weakly
    return batches


def _make_gather(split: Split, classes: int) -> Callable:
    """Makes a function from indices (batch,) to images and one-hot labels of a split."""
    assert isinstance(split.images, np.ndarray)
    dtype = split.images.dtype
    # TensorFlow keeps Python functions until the process ends: a strong reference would keep the images as well.
    split_reference = weakref.ref(split)

    def read_pixels(indices):
        referenced_split = split_reference()
        assert referenced_split is not None
        return referenced_split.images[indices]

    with tf.device("CPU"):
        labels = tf.constant(split.labels)

    def gather(indices):
        # NumPy indexes the split: a TensorFlow constant would hold all images in memory a second time.
        images = tf.numpy_function(read_pixels, [indices], dtype, stateful=False)
        images = tf.ensure_shape(images, (indices.shape[0], *split.shape))
        return images, tf.one_hot(tf.gather(labels, indices), classes)

    return gather
