"""Training over several devices: logical CPU devices, each test in a process of its own."""

import json
import subprocess
import sys

from conftest import ROOT

from resnetd_tf.training import devices


def test_two_devices_train(tmp_path):
    """A whole run under MirroredStrategy on two logical CPU devices, with synchronized batch normalisation."""
    script = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from resnetd_tf.training import train
from resnetd_tf.training.settings import Settings
train(Settings(depth=10, dataset="synthetic", image_size=32, weights="none", synchronized=True,
    precision="float32", output_dir="two", epochs=1, batch_size=60))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=280, cwd=tmp_path)
    metadata = json.loads((tmp_path / "two/run-1/metadata.json").read_text())
    assert metadata["replicas"] == 2 and metadata["synchronized"] and metadata["test_accuracy"] > 0.3


def test_a_step_of_two_devices_is_that_of_one():
    """Without batch statistics, and with synchronized ones; with each device's own it is another step."""
    script = """
import keras, numpy as np, tensorflow as tf
from resnetd_tf.networks.resnet import resnet
from resnetd_tf.training.optimizer import loss, optimizer
from resnetd_tf.training.settings import Settings
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
images, labels = rng.normal(size=(8, 32, 32, 3)).astype("float32"), np.eye(4, dtype="float32")[rng.integers(0, 4, 8)]

def step(strategy, frozen=False, synchronized=False):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = resnet(10, "d", input_shape=(32, 32, 3), classes=4, synchronized=synchronized)
        for layer in model.layers:
            layer.trainable = not (frozen and isinstance(layer, keras.layers.BatchNormalization))
        settings = Settings(learning_rate=0.4, warmup_epochs=0)
        model.compile(optimizer(settings, 10), loss(settings), jit_compile=False)
    model.fit(tf.data.Dataset.from_tensor_slices((images, labels)).batch(8), epochs=1, verbose=0, shuffle=False)
    return model.get_weights()

one, two = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for options in ({"frozen": True}, {"synchronized": True}):
    for a, b in zip(step(one, **options), step(two, **options)):
        np.testing.assert_allclose(a, b, atol=1e-5)
assert max(abs(a - b).max() for a, b in zip(step(one), step(two))) > 1e-3
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=200)


def test_batch_smaller_than_replicas(tmp_path):
    script = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)
from resnetd_tf.training import train
from resnetd_tf.errors import InputError
from resnetd_tf.training.settings import Settings
try:
    train(Settings(depth=10, dataset="synthetic", image_size=32, weights="none", output_dir="model", batch_size=2))
except InputError as error:
    assert "batch size 2 is smaller than the number of replicas, 3" in str(error)
else:
    raise AssertionError("accepted")
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, timeout=200)
    assert not (tmp_path / "model").exists()


def test_a_card_that_tensorflow_cannot_use_is_told(monkeypatch):
    monkeypatch.setattr(devices, "nvidia_card", lambda: False)
    assert "cores of" in devices.describe() and "NVIDIA" not in devices.describe()
    monkeypatch.setattr(devices, "nvidia_card", lambda: True)
    assert "pip install 'tensorflow[and-cuda]'" in devices.describe()
