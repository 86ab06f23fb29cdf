"""Batches, augmentation and drawn scenes."""

import numpy as np
import tensorflow as tf

from resnetd_tf.data import augmentation, batches, synthetic
from resnetd_tf.data.splits import Split


def test_training_batches_are_functions_of_seed_and_step():
    images, labels = synthetic.draw(100)
    split = Split(images, labels, tuple(map(str, range(100))), "train")

    def batch(seed, step):
        ((pixels, classes),) = batches.for_training(split, 10, 32, seed=seed, first_step=step).take(1)
        return pixels.numpy(), classes.numpy()

    ordered = list(batches.for_training(split, 10, 32, seed=1).take(6))  # two epochs
    for step, (pixels, classes) in enumerate(ordered):
        assert pixels.shape == (32, 64, 64, 3) and pixels.dtype == np.uint8
        for found, expected in zip(batch(1, step), (pixels, classes)):
            np.testing.assert_array_equal(found, expected)
    pixels = [np.stack([pixels.numpy() for pixels, _ in ordered[place : place + 3]]) for place in (0, 3)]
    assert (pixels[0] != pixels[1]).any() and (pixels[0][0] != batch(2, 0)[0]).any()


def test_an_epoch_has_every_image_once():
    """All but those of the incomplete batch; which those are changes from epoch to epoch."""
    images = np.arange(1000, dtype=np.uint16).reshape(1000, 1, 1, 1)
    split = Split(images, np.zeros(1000, int), tuple(map(str, range(1000))), "train")
    seen = [pixels.numpy().ravel() for pixels, _ in batches.for_training(split, 1, 30, seed=0).take(66)]
    first, second = np.concatenate(seen[:33]), np.concatenate(seen[33:])
    assert len(set(first)) == len(set(second)) == 990 and set(first) != set(second)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15


def test_evaluation_batches_are_complete_and_in_order():
    images, labels = synthetic.draw(50)
    split = Split(images, labels, tuple(map(str, range(50))), "test")
    pairs = list(batches.from_split(split, 10, 32))
    np.testing.assert_array_equal(np.concatenate([image for image, _ in pairs]), images)
    np.testing.assert_array_equal(np.concatenate([label for _, label in pairs]).argmax(1), labels)


def test_augmentation_is_the_eight_symmetries_of_the_square():
    image = np.arange(9, dtype=np.uint8).reshape(3, 3, 1)
    expected = {np.rot90(flipped, turns).tobytes() for flipped in (image, image[::-1]) for turns in range(4)}
    varied = augmentation.flip_and_turn(tf.constant(np.stack([image] * 500)), tf.constant([1, 2]))
    seen = {turned.numpy().tobytes() for turned in varied}
    assert seen == expected and len(seen) == 8
    wide = augmentation.flip_and_turn(tf.constant(np.stack([image[:2]] * 500)), tf.constant([1, 2]))
    assert len({turned.numpy().tobytes() for turned in wide}) == 4


def test_synthetic_scenes():
    images, labels = synthetic.draw(200, seed=3)
    assert images.shape == (200, 64, 64, 3) and images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [20] * 10
    np.testing.assert_array_equal(images, synthetic.draw(200, seed=3)[0])
    assert (images != synthetic.draw(200, seed=4)[0]).any()
