"""Batches, augmentation and drawn scenes."""

import numpy as np
import tensorflow as tf

from resnetd_tf.data import augmentation, batches, synthetic
from resnetd_tf.data.splits import Split


def test_training_batches_are_shuffled_and_seeded():
    images, labels = synthetic.draw(100)
    split = Split(images, labels, tuple(map(str, range(100))), "train")

    def epochs(seed):
        dataset = batches.from_split(split, 10, 32, training=True, seed=seed)
        return [np.concatenate([image for image, _ in dataset]) for _ in range(2)]

    (first, second), (again, _), (other, _) = epochs(1), epochs(1), epochs(2)
    assert first.shape == (96, 64, 64, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != second).any() and (first != other).any()


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
