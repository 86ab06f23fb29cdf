"""Preprocessing and network as one model, and copies of it."""

import keras
import numpy as np

from resnetd_tf.deployment.folding import folded
from resnetd_tf.networks import classifier
from resnetd_tf.networks.copies import portable
from resnetd_tf.normalization import EUROSAT_RGB


def test_a_plain_call_is_inference(tmp_path):
    model = classifier.build(18, "d", classes=5, statistics=EUROSAT_RGB, image_size=32)
    portable(model).save(tmp_path / "model.keras")
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    expected = np.asarray(model(images, training=False))
    for called in (model, keras.saving.load_model(tmp_path / "model.keras"), folded(model)):
        before = called.get_weights()
        np.testing.assert_allclose(called(images), expected, atol=1e-5)
        for old, new in zip(before, called.get_weights()):
            np.testing.assert_array_equal(old, new)
    assert not np.allclose(model(images, training=True), expected, atol=1e-5)


def test_frozen_parts():
    model = classifier.build(18, "d", classes=5, statistics=EUROSAT_RGB, image_size=32)
    network = model.layers[-1]

    def trained(part):
        classifier.freeze(model, part)
        return {layer.name for layer in network.layers if layer.trainable_weights}

    everything = trained("none")
    assert trained("backbone") == {"predictions"}
    assert everything - trained("stem") == {f"stem_{i}_{kind}" for i in (1, 2, 3) for kind in ("conv", "bn")}
    assert trained("none") == everything
