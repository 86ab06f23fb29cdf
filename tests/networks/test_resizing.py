"""Resizing by matrix products gives the results of Keras and Pillow."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnetd_tf.networks.layers import Resizing


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(64, 64), (32, 32), (33, 200), (250, 271), (500, 17), (1, 1)])
def test_resizing_equals_keras_and_pillow(size, interpolation):
    images = np.random.default_rng(0).uniform(-1, 1, (2, *size, 3)).astype("float32")
    arguments = (64, 48, interpolation)
    ours = Resizing(*arguments, antialias=True, dtype="float32")
    theirs = keras.layers.Resizing(*arguments, antialias=True, dtype="float32")
    assert {**ours.get_config(), "name": ""} == {**theirs.get_config(), "name": ""}
    expected = theirs(images)
    np.testing.assert_allclose(ours(images), expected, atol=1e-4)
    open_size = tf.function(lambda x: ours(x), [tf.TensorSpec((None, None, None, 3))])
    np.testing.assert_allclose(open_size(images), expected, atol=1e-4)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    pillow = Image.fromarray(images[0, ..., 0]).resize((48, 64), filters[interpolation])
    np.testing.assert_allclose(ours(images)[0, ..., 0], np.asarray(pillow), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"interpolation": "nearest"}, (2, 50, 40, 3)),
        ({"crop_to_aspect_ratio": True}, (2, 50, 40, 3)),
        ({"data_format": "channels_first"}, (2, 3, 50, 40)),
        ({}, (50, 40, 3)),
    ],
)
def test_keras_computes_other_configurations(options, shape):
    images = np.random.default_rng(0).uniform(size=shape).astype("float32")
    ours, theirs = (kind(32, 24, dtype="float32", **options) for kind in (Resizing, keras.layers.Resizing))
    np.testing.assert_array_equal(ours(images), theirs(images))


def test_resizing_without_antialiasing_equals_keras():
    """Classifiers of version 0.1.0 resize in this way."""
    images = np.random.default_rng(0).uniform(size=(1, 100, 120, 3)).astype("float32")
    ours, theirs = (kind(32, 32, "bilinear", dtype="float32") for kind in (Resizing, keras.layers.Resizing))
    np.testing.assert_allclose(ours(images), theirs(images), atol=1e-4)
