"""From splits in memory to batches for training and evaluation."""

import tensorflow as tf

from resnetd_tf.data.augmentation import flip_and_turn
from resnetd_tf.data.splits import Split

# Without tf.data's tuner: an iterator's end waits for the tuner's next look, up to a minute an epoch.
WITHOUT_AUTOTUNING = tf.data.Options()
WITHOUT_AUTOTUNING.autotune.enabled = False


def from_split(
    split: Split, classes: int, batch_size: int, *, training: bool = False, seed: int = 0
) -> tf.data.Dataset:
    """Batches of raw pixels and one-hot labels.

    Args:
        split: What to draw from.
        classes: Number of classes.
        batch_size: Images in a batch, over all replicas.
        training: Shuffled anew each epoch, augmented, and without an incomplete last batch; otherwise in
            order and complete.
        seed: Seed for shuffling and augmentation: equal seeds give equal batches.

    Returns:
        Pairs of images (batch, height, width, bands) and labels (batch, classes) float32.
    """
    with tf.device("CPU"):
        images, labels = tf.constant(split.images), tf.one_hot(split.labels, classes)
    indices = tf.data.Dataset.range(len(split))
    if training:
        indices = indices.shuffle(len(split), seed=seed)
    indices = indices.batch(batch_size, drop_remainder=training)
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)

    def gather(index, seed):
        image = tf.gather(images, index)
        return flip_and_turn(image, seed) if training else image, tf.gather(labels, index)

    dataset = tf.data.Dataset.zip(indices, seeds).map(gather, num_parallel_calls=2).prefetch(4)
    return dataset.with_options(WITHOUT_AUTOTUNING)
