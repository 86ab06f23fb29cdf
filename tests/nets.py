"""Networks for the tests."""

import keras
import numpy as np

from resnetd_tf.networks.resnet import resnet


def randomize(model, seed=0):
    """Draws weights around one for biases and batch normalisation too, so that every layer counts."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))


def build_in_bfloat16(size):
    """Builds a network under Keras's policy for training in bfloat16; `size` is the side of the images in pixels."""
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        return resnet(18, "d", input_shape=(size, size, 3), classes=10)
    finally:
        keras.mixed_precision.set_global_policy("float32")
