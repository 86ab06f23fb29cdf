"""From splits in memory to batches for training and evaluation."""

import weakref
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from resnetd_tf.data.augmentation import apply_cutmix, flip_and_turn, vary_pixels
from resnetd_tf.data.splits import Split
from resnetd_tf.errors import InputError

# Without tf.data's tuner: an iterator's end waits for the tuner's next look, up to a minute an epoch.
WITHOUT_AUTOTUNING = tf.data.Options()
WITHOUT_AUTOTUNING.autotune.enabled = False


def fit_batch_size(count: int, batch_size: int, replicas: int) -> int:
    """The batch size nearest to this one with which every replica has images in every batch of `count`.

    Batches are cut into equal parts from their start: a short last one can leave replicas without any, and Keras has no
    loss of nothing. Of a first batch it wants equal parts.

    Raises:
        InputError: There is none: too few images.
    """

    def fits(size: int) -> bool:
        return not count % size or count % size > size - size // replicas

    sizes = filter(fits, range(replicas, count + 1, replicas))
    chosen = min(sizes, key=lambda size: abs(size - batch_size), default=None)
    if chosen is None:
        raise InputError(f"{count} validation images cannot be shared evenly by {replicas} devices; use fewer devices")
    return chosen


def evaluation_batches(split: Split, classes: int, batch_size: int) -> tf.data.Dataset:
    """Batches of raw pixels and one-hot labels, all images once and in order.

    Args:
        split: What to draw from; its images must be of one size.
        classes: Number of classes.
        batch_size: Images in a batch, over all replicas.

    Returns:
        Pairs of images (batch, height, width, bands) and labels (batch, classes) float32.
    """
    indices = tf.data.Dataset.range(len(split)).batch(batch_size)
    return _map_batches(indices, _gather(split, classes), split)


def training_batches(
    split: Split,
    classes: int,
    batch_size: int,
    *,
    seed: int = 0,
    first_step: int = 0,
    cutmix: float = 0.0,
    varied: float = 0.0,
    strength: Callable[[tf.Tensor], tf.Tensor | float] = lambda step: 1.0,
) -> tf.data.Dataset:
    """The batches of a training that never ends: shuffled anew each epoch, augmented, none of them incomplete.

    What a batch holds depends on the seed and the number of its step alone, so that a run goes on with the batches that
    it would have had. An epoch has len(split) // batch_size steps.

    Args:
        split, classes, batch_size: As for `from_split`.
        seed: Seed for shuffling and augmentation.
        first_step: Number of the first step, counted from the start of training.
        cutmix: Share of the images that get a part of another, as `mix_parts` takes it.
        varied: Share of the images, of RGB, whose pixels are varied, as `vary_pixels` takes it; all are flipped and
            turned.
        strength: How much they are in a step, from its number.

    Returns:
        Batches as from `from_split`, without end.
    """
    steps = len(split) // batch_size
    gather = _gather(split, classes)

    def batch(step):
        epoch, place = step // steps, step % steps
        positions = place * batch_size + tf.range(batch_size, dtype=tf.int64)
        indices = tf.random.experimental.index_shuffle(positions, tf.stack([seed, epoch]), len(split) - 1)
        image, label = gather(indices)
        seeds = tf.stack([seed, step])
        image = flip_and_turn(image, seeds)
        if cutmix:
            image, label = apply_cutmix(image, label, seeds + 1, cutmix)
        return vary_pixels(image, seeds, varied, strength(step)) if varied else image, label

    numbers = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
    return _map_batches(numbers, batch, split)


def _map_batches(dataset: tf.data.Dataset, function, split: Split) -> tf.data.Dataset:
    mapped = dataset.map(function, num_parallel_calls=2).prefetch(4).with_options(WITHOUT_AUTOTUNING)
    mapped.split = split  # `function` does not keep it
    return mapped


def _gather(split: Split, classes: int):
    """A function from indices to the images and one-hot labels of a split."""
    assert isinstance(split.images, np.ndarray)
    dtype = split.images.dtype
    # TensorFlow keeps Python functions for ever; this one does not keep the images.
    kept = weakref.ref(split)

    def pixels(index):
        held = kept()
        assert held is not None
        return held.images[index]

    with tf.device("CPU"):
        labels = tf.constant(split.labels)

    def gather(index):
        # By NumPy: as a tensor of TensorFlow's, the split would be in memory once more.
        image = tf.numpy_function(pixels, [index], dtype, stateful=False)
        return tf.ensure_shape(image, (index.shape[0], *split.shape)), tf.one_hot(tf.gather(labels, index), classes)

    return gather
