"""Opening classifiers, good and bad, and those that version 0.1.0 wrote."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from PIL import Image
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

import resnetd_tf
from resnetd_tf.data import synthetic
from resnetd_tf.errors import InputError
from resnetd_tf.saved import open_classifier


def test_bad_models(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no SavedModel"):
        open_classifier(tmp_path / "empty")
    with pytest.raises(InputError, match="no such file or folder"):
        open_classifier("name\0of no file")
    (tmp_path / "broken.keras").write_text("not a model")
    with pytest.raises(InputError, match=r"broken\.keras: cannot be loaded"):
        open_classifier(tmp_path / "broken.keras")
    shutil.copytree(run / "1", tmp_path / "1")
    graph = tmp_path / "1/saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-100_000])
    with pytest.raises(InputError, match="1: cannot be loaded"):
        open_classifier(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image[np.newaxis] + 0.5, r"a pixel has the value \d+\.5: expected whole numbers from 0 to 255"),
        (lambda image: image[np.newaxis] / 255, "expected whole numbers from 0 to 255"),
        (lambda image: image[np.newaxis].astype("int16") + 300, "expected whole numbers from 0 to 255"),
        (lambda image: np.full_like(image[np.newaxis], np.nan, "float32"), "expected whole numbers from 0 to 255"),
        (lambda image: image, r"expected \(height, width, 3\)"),
        (lambda image: [[1]], r"images of shape \(1,\): expected \(height, width, 3\)"),
        (lambda image: ["patch.jpg"], r"images of shape \(\): expected \(height, width, 3\)"),
        (lambda image: image[np.newaxis, ..., :1], r"expected \(height, width, 3\)"),
    ],
)
def test_pixels_that_the_model_does_not_take(run, change, message):
    """Scaled to 0..1 they would all be black to it, and get a label."""
    image = synthetic.draw_scenes(1)[0][0]
    classifier = open_classifier(run)
    with pytest.raises(InputError, match=message):
        classifier.predict(change(image))
    whole = classifier.predict(image[np.newaxis].astype("float64"))
    np.testing.assert_array_equal(whole, classifier.predict([image]))


@pytest.mark.parametrize("suffix", [".keras", ".tflite"])
def test_a_network_without_preprocessing_is_no_classifier(suffix, tmp_path):
    """Raw pixels would all get a label, nearly all of them wrong."""
    network = resnetd_tf.resnet(10, "d", input_shape=(32, 32, 3), classes=4)
    path = tmp_path / f"network{suffix}"
    if suffix == ".keras":
        network.save(path)
    else:
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(network).convert())
    message = r"is no classifier: it lacks the preprocessing that `train\.py` puts in front, and takes float32 values"
    with pytest.raises(InputError, match=message):
        open_classifier(path)


def test_the_classifier_in_the_package_is_float32_under_any_policy():
    images = synthetic.draw_scenes(4, seed=1)[0]
    expected = resnetd_tf.eurosat().predict(images)
    keras.config.set_dtype_policy("bfloat16")
    try:
        probabilities = resnetd_tf.eurosat().predict(images)
        assert keras.config.dtype_policy().name == "bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(probabilities, expected)


@pytest.mark.long
def test_the_classifier_in_the_package_answers_the_same_on_jax(tmp_path):
    pytest.importorskip("jax")
    script = """
import numpy as np, resnetd_tf
from resnetd_tf.data import synthetic
np.save("probabilities.npy", resnetd_tf.eurosat().predict(synthetic.draw_scenes(4, seed=1)[0]))
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment, timeout=200)
    expected = resnetd_tf.eurosat().predict(synthetic.draw_scenes(4, seed=1)[0])
    np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), expected, atol=1e-4)


def refused(path, what):
    with pytest.raises(InputError, match=f"{path.name}: cannot be loaded .*{what}.*--trust opens it"):
        open_classifier(path)
    return open_classifier(path, trust=True)


def test_a_savedmodel_that_does_more_than_ours(run, program, bad_input, tmp_path):
    """Even where nothing that runs calls it; trusted, it is opened and runs."""
    marker = tmp_path / "written"

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8, name="pixels")])
        def classify(self, pixels):
            return {"probabilities": tf.reduce_mean(tf.cast(pixels, tf.float32), axis=(1, 2)) / 255}

        @tf.function(input_signature=[])
        def write(self):
            tf.io.write_file(str(marker), "")

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "model/1"), module.classify)
    path = tmp_path / "model/1"
    images = np.full((2, 8, 8, 3), 51, "uint8")
    np.testing.assert_allclose(refused(path, "has WriteFile, which").predict(images), 0.2, atol=1e-6)
    assert not marker.exists()
    Image.fromarray(images[0]).save(tmp_path / "grey.png")
    arguments = ("predict.py", f"--model={tmp_path / 'model'}", tmp_path / "grey.png")
    assert "has WriteFile" in bad_input(*arguments)
    assert "0 20.00 %" in program(*arguments, "--trust").stdout


def test_a_savedmodel_of_tensorflow_1(run, tmp_path):
    """Without an object graph TensorFlow's loader runs what it says is to be run first."""
    shutil.copytree(run / "1", tmp_path / "1")
    path = tmp_path / "1/saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    saved.meta_graphs[0].ClearField("object_graph_def")
    path.write_bytes(saved.SerializeToString())
    with pytest.raises(InputError, match="not a SavedModel as TensorFlow 2 writes it"):
        open_classifier(tmp_path)


def test_saving_of_variables_is_not_run(tmp_path):
    """The operations that every SavedModel has for it; trusted, they write what and where they are told."""
    marker = tmp_path / "written"

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8, name="pixels")])
        def classify(self, pixels):
            one = [tf.constant(1, tf.float32)]
            written = tf.raw_ops.SaveV2(prefix=str(marker), tensor_names=["a"], shape_and_slices=[""], tensors=one)
            with tf.control_dependencies([written]):
                return {"probabilities": tf.reduce_mean(tf.cast(pixels, tf.float32), axis=(1, 2)) / 255}

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "1"), module.classify)
    images = np.full((2, 8, 8, 3), 51, "uint8")
    with pytest.raises(InputError, match=r"saves or restores files where it classifies.*; --trust"):
        open_classifier(tmp_path)
    assert not list(tmp_path.glob("written*"))
    open_classifier(tmp_path, trust=True).predict(images)
    assert list(tmp_path.glob("written*"))


def test_a_table_that_a_savedmodel_fills_from_a_file_is_refused(tmp_path):
    (tmp_path / "words").write_text("a\nb\n")

    class Module(tf.Module):
        def __init__(self):
            words = tf.lookup.TextFileInitializer(
                str(tmp_path / "words"),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            )
            self.table = tf.lookup.StaticHashTable(words, -1)

        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8, name="pixels")])
        def classify(self, pixels):
            return {"probabilities": tf.reduce_mean(tf.cast(pixels, tf.float32), axis=(1, 2)) / 255}

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "1"), module.classify)
    refused(tmp_path / "1", "asset.*resource").predict(np.full((2, 8, 8, 3), 51, "uint8"))


@pytest.mark.parametrize("kind", ["Lambda", "TFSMLayer", "Dropout"])
def test_a_keras_file_that_holds_more_than_ours(run, tmp_path, kind):
    pixels = keras.Input((None, None, 3), dtype="uint8")
    if kind == "TFSMLayer":
        layer = keras.layers.TFSMLayer(str(run / "1"), call_endpoint="serving_default")
    else:
        layer = keras.layers.Lambda(lambda x: x) if kind == "Lambda" else keras.layers.Dropout(0.5)
    means = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(pixels))
    outputs = layer(pixels)["probabilities"] if kind == "TFSMLayer" else layer(means)
    keras.Model(pixels, outputs).save(tmp_path / "model.keras")
    images = np.full((2, 64, 64, 3), 51, "uint8")
    refused(tmp_path / "model.keras", rf"keras\.layers\.{kind}").predict(images)


def test_a_keras_file_is_read_by_what_is_registered(run, tmp_path):
    """A layer of ours by another name, and a member that no network has or that is too large."""
    with zipfile.ZipFile(run / "run-1/model.keras") as file:
        members = {name: file.read(name) for name in file.namelist()}

    def write(**changes):
        with zipfile.ZipFile(tmp_path / "model.keras", "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in (members | changes).items():
                file.writestr(name, content)
        return tmp_path / "model.keras"

    assert open_classifier(write()).bands == 3
    config = members["config.json"].decode()
    sneaked = config.replace('"registered_name": null', '"registered_name": "builtins>exec"', 1)
    for changes, what in (
        ({"config.json": sneaked}, "builtins>exec"),
        ({"config.json": config.replace('"keras.layers"', '"keras.src.legacy"', 1)}, r"keras\.src\.legacy"),
        ({"assets/run.py": "print()"}, "assets/run.py"),
        ({"metadata.json": b" " * (2**20 + 1)}, "its metadata.json is of 1048577 bytes"),
    ):
        with pytest.raises(InputError, match=what):
            open_classifier(write(**changes))


@pytest.fixture
def old(tmp_path):
    """A run, a network's own file and what both give for four images, written by version 0.1.0's code.

    Networks of one block a stage whose weights repeat 997 numbers, so that they compress.
    """
    with tarfile.open(ROOT / "tests/golden/saved_by_0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "saved_by_0.1.0"


def test_classifiers_of_0_1_0(old):
    expected = np.load(old / "outputs.npz")["classifier"]
    assert expected.std(axis=0).max() > 0.01
    images = synthetic.draw_scenes(4, seed=1)[0]
    for model, path in ((old, old / "1"), (old / "run-1/model.keras", old / "run-1/model.keras")):
        classifier = open_classifier(model)
        assert classifier.path == path and classifier.classes == synthetic.CLASSES
        assert classifier.metadata["dataset"] == "synthetic" and classifier.metadata["patch_shape"] == [64, 64, 3]
        np.testing.assert_allclose(classifier.predict(images), expected, atol=1e-5)


@pytest.mark.parametrize("imports", ["import keras, resnetd_tf", "import resnetd_tf, keras"])
def test_networks_of_0_1_0(old, imports):
    """With our layers in them, in a process that has imported our package before or after Keras."""
    script = f"""
import numpy as np
{imports}
from resnetd_tf.data import synthetic
network = keras.saving.load_model("network.keras")
outputs = network((synthetic.draw_scenes(4, seed=1)[0] / 127.5 - 1).astype("float32"), training=False)
np.testing.assert_allclose(outputs, np.load("outputs.npz")["network"], atol=1e-5)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=old, timeout=200)


def test_a_classifier_says_where_it_is_and_what_it_reached(run, tmp_path):
    """Also a SavedModel that was copied without its run."""
    accuracy = json.loads((run / "run-1/metadata.json").read_text())["test_accuracy"]
    reached = f"ResNet-10-D, 2 epochs, {100 * accuracy:.2f} % on synthetic test"
    shutil.copytree(run / "1", tmp_path / "alone")
    for model, name in (
        (run, run / "run-1"),
        (run / "1", run / "run-1"),
        (run / "run-1/model.keras", run / "run-1/model.keras"),
        (tmp_path / "alone", tmp_path / "alone"),
    ):
        assert open_classifier(model).summary == f"{name}, {reached}"
