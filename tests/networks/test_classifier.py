"""Classifiers: preprocessing and network as one model, and copies of it."""

import zipfile

import keras
import numpy as np

from resnetd_tf.networks import checkpoints, classifier
from resnetd_tf.networks.layers import fold_batch_norm, portable_copy
from resnetd_tf.normalization import EUROSAT_RGB


def test_a_plain_call_is_inference(tmp_path):
    model = classifier.build_classifier(18, "d", classes=5, statistics=EUROSAT_RGB, image_size=32)
    portable_copy(model).save(tmp_path / "model.keras")
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    expected = np.asarray(model(images, training=False))
    for called in (model, keras.saving.load_model(tmp_path / "model.keras"), fold_batch_norm(model)):
        before = called.get_weights()
        np.testing.assert_allclose(called(images), expected, atol=1e-5)
        for old, new in zip(before, called.get_weights()):
            np.testing.assert_array_equal(old, new)
    assert not np.allclose(model(images, training=True), expected, atol=1e-5)


def test_the_copy_for_saving_is_for_one_device():
    """Keras refuses `synchronized=True` on other backends than TensorFlow."""
    model = classifier.build_classifier(10, "d", classes=5, statistics=EUROSAT_RGB, image_size=32, synchronized=True)
    for layer in portable_copy(model).layers[-1].layers:
        assert not getattr(layer, "synchronized", False)


def read_config(path) -> str:
    with zipfile.ZipFile(path) as file:
        return file.read("config.json").decode()


def test_saved_classifiers_have_no_argument_that_keras_3_10_does_not_know(tmp_path):
    """Keras 3.10, 3.12 and 3.14 were tried: they open and run this file."""
    model = portable_copy(classifier.build_classifier(10, "d", classes=5, statistics=EUROSAT_RGB, image_size=32))
    model.save(tmp_path / "by_keras.keras")
    checkpoints.save_keras(model, tmp_path / "model.keras")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["by_keras.keras", "model.keras"]
    newer = ("input_axes", "output_axes", "renorm", "quantization_config")
    assert all(name in read_config(tmp_path / "by_keras.keras") for name in newer)
    assert not any(name in read_config(tmp_path / "model.keras") for name in newer)
    opened = checkpoints.load_keras(tmp_path / "model.keras")
    assert opened.get_config() == checkpoints.load_keras(tmp_path / "by_keras.keras").get_config()
    for saved, weight in zip(opened.weights, model.weights):
        np.testing.assert_array_equal(saved, weight)


def test_arguments_with_other_values_than_the_default_are_saved(tmp_path):
    images = keras.Input((8, 8, 3))
    layer = keras.layers.BatchNormalization(renorm=True, renorm_momentum=0.5)
    checkpoints.save_keras(keras.Model(images, layer(images)), tmp_path / "model.keras")
    assert checkpoints.load_keras(tmp_path / "model.keras").layers[-1].get_config()["renorm_momentum"] == 0.5


def test_each_part_can_be_frozen():
    model = classifier.build_classifier(18, "d", classes=5, statistics=EUROSAT_RGB, image_size=32)
    network = model.layers[-1]

    def trainable_layers(part):
        classifier.freeze_layers(model, part)
        return {layer.name for layer in network.layers if layer.trainable_weights}

    all_layers = trainable_layers("none")
    assert trainable_layers("backbone") == {"predictions"}
    assert all_layers - trainable_layers("stem") == {f"stem_{i}_{kind}" for i in (1, 2, 3) for kind in ("conv", "bn")}
    assert trainable_layers("none") == all_layers
