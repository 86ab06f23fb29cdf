"""How training images are varied."""

import tensorflow as tf


def flip_and_turn(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Flips and quarter turns, each image its own: seen from above, a scene has no upright.

    Args:
        images: (batch, height, width, bands). Those not square are only flipped.
        seed: Two integers.
    """
    chosen = tf.random.stateless_uniform((3, tf.shape(images)[0], 1, 1, 1), seed) < 0.5
    images = tf.where(chosen[0], tf.reverse(images, [1]), images)
    images = tf.where(chosen[1], tf.reverse(images, [2]), images)
    if images.shape[1] == images.shape[2]:  # with a transposition the flips make all eight
        images = tf.where(chosen[2], tf.transpose(images, (0, 2, 1, 3)), images)
    return images
