"""Opening classifiers, good ones and bad ones, and those that version 0.1.0 wrote."""

import hashlib
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
import safetensors
import tensorflow as tf
from conftest import ROOT
from PIL import Image
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

import resnetd_tf
from resnetd_tf.data import synthetic
from resnetd_tf.errors import InputError
from resnetd_tf.saved import open_classifier


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no SavedModel"):
        open_classifier(tmp_path)


def test_a_path_without_a_file_is_refused():
    with pytest.raises(InputError, match="no such file or folder"):
        open_classifier("name\0of no file")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "broken.keras").write_text("not a model")
    with pytest.raises(InputError, match=r"broken\.keras: cannot be loaded"):
        open_classifier(tmp_path / "broken.keras")


def test_a_truncated_savedmodel_is_refused(run, tmp_path):
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
def test_pixels_that_the_model_does_not_take_are_refused(small_classifier, change, message):
    """Pixels scaled to 0..1 would all look black to the model, and still get a label."""
    image = synthetic.draw_scenes(1)[0][0]
    classifier = small_classifier
    with pytest.raises(InputError, match=message):
        classifier.predict(change(image))


def test_whole_numbers_in_floats_are_pixels(small_classifier):
    image = synthetic.draw_scenes(1)[0][0]
    classifier = small_classifier
    probabilities = classifier.predict(image[np.newaxis].astype("float64"))
    np.testing.assert_array_equal(probabilities, classifier.predict([image]))


@pytest.mark.parametrize("suffix", [".keras", ".tflite"])
def test_a_network_without_preprocessing_is_no_classifier(suffix, tmp_path):
    """Raw pixels would all get a label, and nearly all labels would be wrong."""
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


def count_reads(monkeypatch) -> dict[str, int]:
    """Counts how often files are hashed, and how often .safetensors files are opened."""
    counts = {"hashed": 0, "opened": 0}

    def count(name, function):
        def run(*arguments, **options):
            counts[name] += 1
            return function(*arguments, **options)

        return run

    monkeypatch.setattr(hashlib, "file_digest", count("hashed", hashlib.file_digest))
    monkeypatch.setattr(safetensors, "safe_open", count("opened", safetensors.safe_open))
    return counts


def test_the_classifier_in_the_package_is_read_once(monkeypatch):
    counts = count_reads(monkeypatch)
    classifier = resnetd_tf.eurosat()
    assert classifier.metadata["dataset"] == "eurosat/rgb" and classifier.summary and classifier.patch_side == 64
    assert counts == {"hashed": 1, "opened": 1}


def test_savedmodels_open_at_once_give_their_own_answers(run, tmp_path):
    """Their functions have the same names."""
    shutil.copytree(run / "1", tmp_path / "1")
    path = tmp_path / "1/saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    for function in saved.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if node.op == "Const" and len(node.attr["value"].tensor.tensor_shape.dim) == 4:  # a kernel
                kernel = tf.make_ndarray(node.attr["value"].tensor)
                node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(-kernel))
    path.write_bytes(saved.SerializeToString())
    images = synthetic.draw_scenes(4, seed=1)[0]
    expected = [open_classifier(model).predict(images) for model in (run, tmp_path)]
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    first, second = open_classifier(run), open_classifier(tmp_path)
    for classifier, probabilities in ((first, expected[0]), (second, expected[1]), (first, expected[0])):
        np.testing.assert_array_equal(classifier.predict(images), probabilities)


def open_after_refusal(path, reason):
    """Returns a classifier that opens only with `trust`, once it is refused for a reason."""
    with pytest.raises(InputError, match=f"{path.name}: cannot be loaded .*{reason}.*--trust opens it"):
        open_classifier(path)
    return open_classifier(path, trust=True)


def test_a_savedmodel_that_does_more_than_ours_is_refused(run, program, bad_input, tmp_path):
    """It is refused even where nothing that runs calls the operation. Trusted, it opens and runs."""
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
    np.testing.assert_allclose(open_after_refusal(path, "has WriteFile, which").predict(images), 0.2, atol=1e-6)
    assert not marker.exists()
    Image.fromarray(images[0]).save(tmp_path / "grey.png")
    arguments = ("predict.py", f"--model={tmp_path / 'model'}", tmp_path / "grey.png")
    assert "has WriteFile" in bad_input(*arguments)
    assert "0 20.00 %" in program(*arguments, "--trust").stdout


def test_a_savedmodel_of_tensorflow_1_is_refused(run, tmp_path):
    """If there is no object graph, TensorFlow's loader runs the operations that the file names for initialisation."""
    shutil.copytree(run / "1", tmp_path / "1")
    path = tmp_path / "1/saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    saved.meta_graphs[0].ClearField("object_graph_def")
    path.write_bytes(saved.SerializeToString())
    with pytest.raises(InputError, match="not a SavedModel as TensorFlow 2 writes it"):
        open_classifier(tmp_path)


def test_saving_of_variables_is_not_run(tmp_path):
    """Every SavedModel has the operations for it. Trusted, they write to any path."""
    marker = tmp_path / "written"

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8, name="pixels")])
        def classify(self, pixels):
            tensors = [tf.constant(1, tf.float32)]
            save = tf.raw_ops.SaveV2(prefix=str(marker), tensor_names=["a"], shape_and_slices=[""], tensors=tensors)
            with tf.control_dependencies([save]):
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
    (tmp_path / "vocabulary").write_text("a\nb\n")

    class Module(tf.Module):
        def __init__(self):
            initializer = tf.lookup.TextFileInitializer(
                str(tmp_path / "vocabulary"),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            )
            self.table = tf.lookup.StaticHashTable(initializer, -1)

        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8, name="pixels")])
        def classify(self, pixels):
            return {"probabilities": tf.reduce_mean(tf.cast(pixels, tf.float32), axis=(1, 2)) / 255}

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "1"), module.classify)
    open_after_refusal(tmp_path / "1", "asset.*resource").predict(np.full((2, 8, 8, 3), 51, "uint8"))


@pytest.mark.parametrize("kind", ["Lambda", "TFSMLayer", "Dropout"])
def test_a_keras_file_that_holds_more_than_ours_is_refused(run, tmp_path, kind):
    pixels = keras.Input((None, None, 3), dtype="uint8")
    if kind == "TFSMLayer":
        layer = keras.layers.TFSMLayer(str(run / "1"), call_endpoint="serving_default")
    else:
        layer = keras.layers.Lambda(lambda x: x) if kind == "Lambda" else keras.layers.Dropout(0.5)
    means = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(pixels))
    outputs = layer(pixels)["probabilities"] if kind == "TFSMLayer" else layer(means)
    keras.Model(pixels, outputs).save(tmp_path / "model.keras")
    images = np.full((2, 64, 64, 3), 51, "uint8")
    open_after_refusal(tmp_path / "model.keras", rf"keras\.layers\.{kind}").predict(images)


def test_a_changed_keras_file_is_refused(run, tmp_path):
    """A layer of ours is registered under another name, or a member is unknown or too large."""
    with zipfile.ZipFile(run / "run-1/model.keras") as file:
        members = {name: file.read(name) for name in file.namelist()}

    def write(**changes):
        with zipfile.ZipFile(tmp_path / "model.keras", "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in (members | changes).items():
                file.writestr(name, content)
        return tmp_path / "model.keras"

    assert open_classifier(write()).bands == 3
    config = members["config.json"].decode()
    with_function = config.replace('"registered_name": null', '"registered_name": "builtins>exec"', 1)
    for changes, reason in (
        ({"config.json": with_function}, "builtins>exec"),
        ({"config.json": config.replace('"keras.layers"', '"keras.src.legacy"', 1)}, r"keras\.src\.legacy"),
        ({"assets/run.py": "print()"}, "assets/run.py"),
        ({"metadata.json": b" " * (2**20 + 1)}, "its metadata.json is of 1048577 bytes"),
    ):
        with pytest.raises(InputError, match=reason):
            open_classifier(write(**changes))


@pytest.fixture
def old_files(tmp_path):
    """A run, the file of a network, and the outputs of both for four images, written by version 0.1.0.

    The networks have one block a stage. Their weights repeat 997 numbers, so that the archive is small.
    """
    with tarfile.open(ROOT / "tests/golden/saved_by_0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "saved_by_0.1.0"


def test_classifiers_of_0_1_0_open_and_give_the_same(old_files):
    expected = np.load(old_files / "outputs.npz")["classifier"]
    assert expected.std(axis=0).max() > 0.01
    images = synthetic.draw_scenes(4, seed=1)[0]
    keras_file = old_files / "run-1/model.keras"
    for model, path in ((old_files, old_files / "1"), (keras_file, keras_file)):
        classifier = open_classifier(model)
        assert classifier.path == path and classifier.classes == synthetic.CLASSES
        assert classifier.metadata["dataset"] == "synthetic" and classifier.metadata["patch_shape"] == [64, 64, 3]
        np.testing.assert_allclose(classifier.predict(images), expected, atol=1e-5)


@pytest.mark.parametrize("imports", ["import keras, resnetd_tf", "import resnetd_tf, keras"])
def test_networks_of_0_1_0_open_and_give_the_same(old_files, imports):
    """They contain our layers, and the process imports our package before or after Keras."""
    script = f"""
import numpy as np
{imports}
from resnetd_tf.data import synthetic
network = keras.saving.load_model("network.keras")
outputs = network((synthetic.draw_scenes(4, seed=1)[0] / 127.5 - 1).astype("float32"), training=False)
np.testing.assert_allclose(outputs, np.load("outputs.npz")["network"], atol=1e-5)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=old_files, timeout=200)


def test_a_classifier_says_where_it_is_and_what_it_reached(run, tmp_path):
    """So does a SavedModel that was copied without its run."""
    accuracy = json.loads((run / "run-1/metadata.json").read_text())["test_accuracy"]
    summary = f"ResNet-10-D, 2 epochs, {100 * accuracy:.2f} % on synthetic test"
    shutil.copytree(run / "1", tmp_path / "alone")
    for model, name in (
        (run, run / "run-1"),
        (run / "1", run / "run-1"),
        (run / "run-1/model.keras", run / "run-1/model.keras"),
        (tmp_path / "alone", tmp_path / "alone"),
    ):
        assert open_classifier(model).summary == f"{name}, {summary}"
