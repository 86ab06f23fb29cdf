"""Batches, augmentation and synthetic scenes."""

import io

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from PIL import Image

from resnetd_tf.data import augmentation, batches, synthetic
from resnetd_tf.data.splits import Split


def test_training_batches_are_functions_of_seed_and_step():
    images, labels = synthetic.draw_scenes(100)
    split = Split(images, labels, tuple(map(str, range(100))), "train")

    def make_batch(seed, step):
        ((pixels, classes),) = batches.training_batches(split, 10, 32, seed=seed, first_step=step).take(1)
        return pixels.numpy(), classes.numpy()

    ordered = list(batches.training_batches(split, 10, 32, seed=1).take(6))  # two epochs
    for step, (pixels, classes) in enumerate(ordered):
        assert pixels.shape == (32, 64, 64, 3) and pixels.dtype == np.uint8
        for resumed, expected in zip(make_batch(1, step), (pixels, classes)):
            np.testing.assert_array_equal(resumed, expected)
    epochs = [np.stack([pixels.numpy() for pixels, _ in ordered[start : start + 3]]) for start in (0, 3)]
    assert (epochs[0] != epochs[1]).any() and (epochs[0][0] != make_batch(2, 0)[0]).any()


def test_an_epoch_has_every_image_once():
    """The images of an incomplete batch are left out, and are others in each epoch."""
    images = np.arange(1000, dtype=np.uint16).reshape(1000, 1, 1, 1)
    split = Split(images, np.zeros(1000, int), tuple(map(str, range(1000))), "train")
    batch_values = [pixels.numpy().ravel() for pixels, _ in batches.training_batches(split, 1, 30, seed=0).take(66)]
    first, second = np.concatenate(batch_values[:33]), np.concatenate(batch_values[33:])
    assert len(set(first)) == len(set(second)) == 990 and set(first) != set(second)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15


def test_evaluation_batches_are_complete_and_in_order():
    images, labels = synthetic.draw_scenes(50)
    split = Split(images, labels, tuple(map(str, range(50))), "test")
    pairs = list(batches.evaluation_batches(split, 10, 32))
    np.testing.assert_array_equal(np.concatenate([image for image, _ in pairs]), images)
    np.testing.assert_array_equal(np.concatenate([label for _, label in pairs]).argmax(1), labels)


def test_augmentation_is_the_eight_symmetries_of_the_square():
    image = np.arange(9, dtype=np.uint8).reshape(3, 3, 1)
    expected = {np.rot90(flipped, turns).tobytes() for flipped in (image, image[::-1]) for turns in range(4)}
    turned = augmentation.flip_and_turn(tf.constant(np.stack([image] * 500)), tf.constant([1, 2]))
    symmetries = {image.numpy().tobytes() for image in turned}
    assert symmetries == expected and len(symmetries) == 8


def test_images_that_are_not_square_are_only_flipped():
    image = np.arange(9, dtype=np.uint8).reshape(3, 3, 1)
    wide = augmentation.flip_and_turn(tf.constant(np.stack([image[:2]] * 500)), tf.constant([1, 2]))
    assert len({turned.numpy().tobytes() for turned in wide}) == 4


def draw_patches(count):
    return synthetic.draw_scenes(count, seed=1)[0]


@pytest.mark.parametrize("shape", [(24, 20), (1, 1)])
def test_cutmix_labels_are_shares_of_pixels(shape):
    """The images of one half are black, those of the other half white. Each image is mixed with one of the other."""
    count = 32
    is_white = np.arange(count) >= count // 2
    images = np.broadcast_to(np.uint8(255) * is_white[:, None, None, None].astype("uint8"), (count, *shape, 3))
    mixed_shares, has_soft_border = [], []
    for step in range(20):
        mixed, labels = augmentation.apply_cutmix(tf.constant(images), tf.eye(count), tf.constant((0, step)), 0.6)
        assert mixed.dtype == tf.uint8
        for index, (pixels, label) in enumerate(zip(mixed.numpy(), labels.numpy())):
            part = np.abs(pixels[..., 0] - 255.0 * is_white[index]) / 255
            np.testing.assert_allclose(label[index], 1 - part.mean(), atol=2e-3)
            assert label[index] + label[count - 1 - index] == pytest.approx(1, abs=1e-6)
            rows, columns = np.nonzero(part)
            has_soft_border.append(bool(((part > 0) & (part < 1)).any()))
            if rows.size and not has_soft_border[-1]:  # one rectangle, or a curved part that is the whole image
                assert rows.size == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            mixed_shares.append(part.mean())
    if shape != (1, 1):
        assert 0.5 < np.mean(np.array(mixed_shares) > 0) <= 0.6 and 0.2 < np.mean(mixed_shares) / 0.6 < 0.6
        assert 0.2 < np.mean(has_soft_border) <= 0.3
    unmixed, labels = augmentation.apply_cutmix(tf.constant(images), tf.eye(count), tf.constant((0, 0)), 0.0)
    np.testing.assert_array_equal(unmixed, images)
    np.testing.assert_array_equal(labels, np.eye(count))


def test_cutmix_of_training_batches_is_the_same_in_a_resumed_run():
    """Each image has a class of its own and a colour of its own, which is twice the number of its class."""
    images = np.broadcast_to(2 * np.arange(64, dtype="uint8")[:, None, None, None], (64, 32, 32, 3))
    split = Split(images, np.arange(64), tuple(map(str, range(64))), "all")
    for share in (0.0, 0.5):
        first, (pixels, labels) = batches.training_batches(split, 64, 64, cutmix=share).take(2)
        np.testing.assert_allclose(labels.numpy() @ np.arange(64), pixels.numpy().mean((1, 2, 3)) / 2, atol=0.26)
        assert abs(np.mean(labels.numpy().max(1) < 1) - share) <= 0.4 * share
        assert not np.array_equal(first[1], labels)
        ((_, resumed_labels),) = batches.training_batches(split, 64, 64, cutmix=share, first_step=1).take(1)
        np.testing.assert_array_equal(resumed_labels, labels)


def test_light_is_varied_as_between_products():
    """Some images lose the blue of the air, as in L2A. Others are brighter or darker."""
    images = draw_patches(32)
    differences = []
    for step in range(10):
        relit = augmentation.vary_light(tf.constant(images), tf.constant([0, step]), 0.5).numpy()
        assert relit.dtype == np.uint8 and relit.shape == images.shape
        differences.append((relit.astype(float) - images).mean((1, 2)))
    changes = np.concatenate(differences)
    assert abs((changes != 0).any(1).mean() - 0.5) < 0.1
    is_cleared = (changes[:, 2] < -25) & (changes[:, 2] < changes[:, 0] - 10)
    assert 0.03 < is_cleared.mean() < 0.3
    assert (changes.mean(1) > 15).any() and (changes.mean(1) < -15).any()
    repeated = augmentation.vary_light(tf.constant(images), tf.constant([0, 9]), 0.5).numpy()
    np.testing.assert_array_equal(repeated, relit)
    unchanged = augmentation.vary_light(tf.constant(images), tf.constant([0, 9]), 0.0).numpy()
    np.testing.assert_array_equal(unchanged, images)


def test_the_colour_of_open_water_and_its_waves_are_varied():
    images = np.full((64, 32, 32, 3), (30, 55, 80), "uint8")
    is_water = np.arange(64) % 2 == 0
    varied = augmentation.vary_open_water(tf.constant(images), tf.constant(is_water), tf.constant([0, 1]), 1.0).numpy()
    np.testing.assert_array_equal(varied[~is_water], images[~is_water])
    colours = varied[is_water].astype(float).mean((1, 2))
    assert (colours - (30, 55, 80)).min() > -1  # nothing darkens
    assert (colours[:, 0] > 70).any()  # glint or sediment
    assert ((colours[:, 1] > 70) & (colours[:, 0] < 45)).any()  # bright ground under shallow water
    deviations = varied[is_water].astype(float).std((1, 2)).max(-1)
    assert deviations.min() < 1.5 and deviations.max() > 3  # calm and rough water
    shores = images.copy()
    shores[:, :12] = 120
    for pixels, water, share in ((images, is_water, 0.0), (images, is_water & False, 1.0), (shores, is_water, 1.0)):
        unchanged = augmentation.vary_open_water(tf.constant(pixels), tf.constant(water), tf.constant([0, 1]), share)
        np.testing.assert_array_equal(unchanged, pixels)


def test_training_batches_vary_the_water_of_its_class_alone():
    images, labels = np.full((64, 32, 32, 3), 60, "uint8"), np.arange(64) % 10
    split = Split(images, labels, tuple(map(str, range(64))), "all")
    options = {"relit": 0.5, "seed": 3}
    ((plain, one_hot),) = batches.training_batches(split, 10, 64, **options).take(1)
    ((varied, _),) = batches.training_batches(split, 10, 64, **options, open_water=9).take(1)
    is_changed = (varied.numpy() != plain.numpy()).any((1, 2, 3))
    assert 0 < is_changed.sum() <= 6  # six of the images are of class 9
    assert (one_hot.numpy()[is_changed].argmax(1) == 9).all()


def test_unlike_images_have_labels_as_even_as_they_are_covered():
    images, labels = draw_patches(64), tf.one_hot(np.arange(64) % 10, 10)
    changed, even = (each.numpy() for each in augmentation.make_unlike(tf.constant(images), labels, (0, 3), 1.0))
    assert changed.dtype == np.uint8 and changed.shape == images.shape
    np.testing.assert_allclose(even.sum(1), 1, atol=1e-5)
    is_even = even.max(1) < 0.11
    assert 0.5 < is_even.mean() < 0.95
    changes = np.abs(changed.astype(float) - images).mean((1, 2, 3))
    assert changes[is_even].min() > 5
    assert changes[even.max(1) > 0.9].max() < 40  # few clouds, or thin ones
    is_saturated = (changed > 250).mean((1, 2, 3)) > 0.5
    assert is_saturated.any() and is_even[is_saturated].all()
    some, some_labels = augmentation.make_unlike(tf.constant(images), labels, (0, 3), 0.25)
    is_changed = (some.numpy() != images).any((1, 2, 3))
    assert 0.1 < is_changed.mean() < 0.4
    np.testing.assert_array_equal(some_labels.numpy()[~is_changed], labels.numpy()[~is_changed])
    none, _ = augmentation.make_unlike(tf.constant(images), labels, (0, 3), 0.0)
    np.testing.assert_array_equal(none, images)


def test_a_teacher_sees_images_before_their_light_and_water_are_varied():
    split = Split(draw_patches(64), np.full(64, 9), tuple(map(str, range(64))), "all")
    teacher_images = []

    def teacher(images):
        tf.py_function(lambda pixels: teacher_images.append(pixels.numpy()), [images], [])
        return tf.fill((32, 10), 0.1)

    options = {"seed": 3, "cutmix": 0.5}
    ((plain, labels),) = batches.training_batches(split, 10, 32, **options).take(1)
    taught = batches.training_batches(split, 10, 32, teacher=teacher, relit=1.0, open_water=9, **options)
    ((varied, taught_labels),) = taught.take(1)
    np.testing.assert_allclose(taught_labels, (labels.numpy() + 0.1) / 2, rtol=1e-6)
    assert any(np.array_equal(images, plain) for images in teacher_images)  # batches are made beside each other
    assert np.abs(varied.numpy().astype(int) - plain).mean() > 5


def test_relit_training_batches_are_the_same_in_a_resumed_run():
    split = Split(draw_patches(32), np.arange(32) % 10, tuple(map(str, range(10))), "all")
    options = {"relit": 1.0, "unlike": 0.5, "open_water": 9}
    _, (pixels, labels) = batches.training_batches(split, 10, 32, **options).take(2)
    ((resumed, resumed_labels),) = batches.training_batches(split, 10, 32, **options, first_step=1).take(1)
    ((plain, _),) = batches.training_batches(split, 10, 32, first_step=1).take(1)
    np.testing.assert_array_equal(resumed, pixels)
    np.testing.assert_array_equal(resumed_labels, labels)
    assert (resumed.numpy() != plain.numpy()).mean() > 0.5


def test_a_random_share_of_the_images_is_varied():
    images = draw_patches(32)
    varied = augmentation.vary_pixels(tf.constant(images), tf.constant([0, 5]), 0.5).numpy()
    repeated = augmentation.vary_pixels(tf.constant(images), tf.constant([0, 5]), 0.5).numpy()
    np.testing.assert_array_equal(varied, repeated)
    difference = np.abs(varied.astype(float) - images).mean((1, 2, 3))
    is_changed = difference > 0
    assert varied.dtype == np.uint8 and is_changed.sum() == 16 and 1 < np.median(difference[is_changed]) < 20
    milder = augmentation.vary_pixels(tf.constant(images), tf.constant([0, 5]), 0.5, 0.3).numpy()
    assert 0 < np.abs(milder.astype(float) - images).mean() < 0.75 * np.abs(varied.astype(float) - images).mean()
    next_batch = augmentation.vary_pixels(tf.constant(images), tf.constant([0, 6]), 0.5).numpy()
    assert ((next_batch != images).any((1, 2, 3)) != is_changed).any()


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 47, 30), (9, 8, 100), (32, 1, 1)])
def test_images_of_any_size_are_varied(shape, share):
    images = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype("uint8")
    step = tf.function(lambda pixels: augmentation.vary_pixels(pixels, tf.constant([1, 2]), share))
    assert step(tf.constant(images)).shape == images.shape


@pytest.mark.parametrize(("count", "share"), [(1, 0.5), (3, 0.5), (10, 0.125)])
def test_small_batches_are_varied_as_often(count, share):
    images = draw_patches(count)
    step = tf.function(lambda number: augmentation.vary_pixels(tf.constant(images), tf.stack((0, number)), share))
    results = [step(tf.constant(number)).numpy() for number in range(150)]
    is_changed = [(varied != images).any((1, 2, 3)) for varied in results]
    assert abs(np.mean(is_changed) - share) < 0.1 and (np.mean(is_changed, axis=0) > share / 3).all()
    differences = np.abs(results[0][:, np.newaxis].astype(float) - images).mean((2, 3, 4))
    assert np.argmin(differences, axis=1).tolist() == list(range(count))


@pytest.mark.parametrize(("halves", "subsampling"), [(False, 0), (True, 2)])
@pytest.mark.parametrize("quality", [95, 75, 50, 20])
def test_jpeg_is_what_libjpeg_makes(quality, halves, subsampling):
    """The mean difference is a fraction of a grey level, also where sides are no multiple of a block."""
    images = draw_patches(16)[:, :50, :61]
    expected = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=subsampling)
        expected.append(np.asarray(Image.open(file), float))
    pixels = tf.constant(images, "float32")
    halved = tf.fill((16, 1, 1, 1), halves)
    stored = augmentation.simulate_jpeg(pixels, tf.fill((16,), float(quality)), halves_colours=halved).numpy()
    difference = np.abs(np.clip(np.round(stored), 0, 255) - expected).mean()
    assert difference < 0.5 * np.abs(images - np.array(expected)).mean() and difference < 0.8


def test_blur_and_larger_pixels_are_what_scipy_and_pillow_make():
    """Edges are left out, which each library treats in its own way."""
    image = draw_patches(1)[0].astype("float32")
    for sigma in (0.5, 1.0, 1.3):
        matrix = augmentation._blur_matrix(64, sigma)
        ours = augmentation._transform_sides(image[np.newaxis], matrix, matrix)[0].numpy()
        expected = scipy.ndimage.gaussian_filter(image, (sigma, sigma, 0), truncate=8)
        np.testing.assert_allclose(ours[12:-12, 12:-12], expected[12:-12, 12:-12], atol=0.05)
    matrix = augmentation._enlarge_matrix(64, 2.0) @ augmentation._shrink_matrix(64, 2.0)
    ours = augmentation._transform_sides(image[np.newaxis], matrix, matrix)[0].numpy()
    small = [
        np.asarray(Image.fromarray(image[..., band]).reduce(2).resize((64, 64), Image.Resampling.BILINEAR))
        for band in range(3)
    ]
    np.testing.assert_allclose(ours, np.stack(small, -1), atol=0.01)
    unchanged = (
        augmentation._enlarge_matrix(64, 1.0)
        @ augmentation._shrink_matrix(64, 1.0)
        @ augmentation._blur_matrix(64, 0.0)
    )
    np.testing.assert_allclose(unchanged, np.eye(64), atol=1e-6)


def test_training_batches_have_the_share_of_varied_images_that_is_asked_for():
    images = draw_patches(64)
    split = Split(images, np.zeros(64, int), tuple(map(str, range(64))), "train")
    known = {np.rot90(flip, turns).tobytes() for image in images for flip in (image, image[::-1]) for turns in range(4)}
    for share, expected in ((0.0, 64), (0.5, 32), (0.125, 56)):
        ((pixels, _),) = batches.training_batches(split, 10, 64, varied=share).take(1)
        unchanged = sum(image.tobytes() in known for image in pixels.numpy())
        assert expected <= unchanged <= expected + 2  # a varied image may by chance undergo no change


def test_training_begins_with_hardly_varied_images():
    """At strength 0 some images are stored as JPEG of quality 100; nothing else changes."""
    images = draw_patches(64)
    split = Split(images, np.zeros(64, int), tuple(map(str, range(64))), "train")
    known = {np.rot90(flip, turns).tobytes() for image in images for flip in (image, image[::-1]) for turns in range(4)}
    ((pixels, _),) = batches.training_batches(split, 10, 64, varied=0.5, strength=lambda step: 0.0).take(1)
    assert sum(image.tobytes() in known for image in pixels.numpy()) >= 48


def test_synthetic_scenes_are_balanced_and_depend_on_the_seed():
    images, labels = synthetic.draw_scenes(200, seed=3)
    assert images.shape == (200, 64, 64, 3) and images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [20] * 10
    np.testing.assert_array_equal(images, synthetic.draw_scenes(200, seed=3)[0])
    assert (images != synthetic.draw_scenes(200, seed=4)[0]).any()
