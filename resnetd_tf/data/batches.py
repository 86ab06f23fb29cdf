"""From splits in memory to batches for training and evaluation."""

import numpy as np
import tensorflow as tf

from resnetd_tf.data.augmentation import flip_and_turn
from resnetd_tf.data.splits import Split
from resnetd_tf.errors import InputError

# Without tf.data's tuner: an iterator's end waits for the tuner's next look, up to a minute an epoch.
WITHOUT_AUTOTUNING = tf.data.Options()
WITHOUT_AUTOTUNING.autotune.enabled = False


def without_idle_replicas(count: int, batch_size: int, replicas: int) -> int:
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


def from_split(
    split: Split, classes: int, batch_size: int, *, training: bool = False, seed: int = 0
) -> tf.data.Dataset:
    """Batches of raw pixels and one-hot labels.

    Args:
        split: What to draw from; its images must be of one size.
        classes: Number of classes.
        batch_size: Images in a batch, over all replicas.
        training: Shuffled anew each epoch, augmented, and without an incomplete last batch; otherwise in
            order and complete.
        seed: Seed for shuffling and augmentation: equal seeds give equal batches.

    Returns:
        Pairs of images (batch, height, width, bands) and labels (batch, classes) float32.
    """
    pixels = split.images
    assert isinstance(pixels, np.ndarray)
    with tf.device("CPU"):
        labels = tf.constant(split.labels)
    indices = tf.data.Dataset.range(len(split))
    if training:
        indices = indices.shuffle(len(split), seed=seed)
    indices = indices.batch(batch_size, drop_remainder=training)
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)

    def gather(index, seed):
        # By NumPy: as a tensor of TensorFlow's, the split would be in memory once more.
        image = tf.numpy_function(pixels.__getitem__, [index], pixels.dtype, stateful=False)
        image = tf.ensure_shape(image, (index.shape[0], *split.shape))
        return flip_and_turn(image, seed) if training else image, tf.one_hot(tf.gather(labels, index), classes)

    dataset = tf.data.Dataset.zip(indices, seeds).map(gather, num_parallel_calls=2).prefetch(4)
    return dataset.with_options(WITHOUT_AUTOTUNING)
