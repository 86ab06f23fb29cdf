"""TFLite files in the LiteRT interpreter."""

import shutil
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tifffile
from conftest import ROOT
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from resnetd_tf.data import synthetic
from resnetd_tf.deployment import converters, export, savedmodel
from resnetd_tf.errors import InputError
from resnetd_tf.networks.classifier import add_preprocessing
from resnetd_tf.networks.resnet import resnet
from resnetd_tf.normalization import EUROSAT_RGB, Statistics
from resnetd_tf.saved import open_classifier
from resnetd_tf.training import Settings, train


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_tflite_in_the_interpreter(run, program, tmp_path, capsys, precision):
    from ai_edge_litert.interpreter import Interpreter

    path = tmp_path / "model.tflite"
    if precision == "int8":
        result = program("export.py", f"--model={run}", "--format=tflite", "--precision=int8", f"--output={path}")
        assert result.returncode == 0 and not result.stderr, result.stderr
        printed = result.stdout
    else:
        export.export_classifier(str(run), output=str(path))
        printed = capsys.readouterr().out
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (pixels,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert pixels["shape"].tolist() == [1, 64, 64, 3] and pixels["dtype"] == np.uint8
    images = synthetic.draw_scenes(40, seed=7)[0]
    probabilities = []
    for image in images:
        interpreter.set_tensor(pixels["index"], image[np.newaxis])
        interpreter.invoke()
        probabilities.append(interpreter.get_tensor(output["index"])[0])
    expected = open_classifier(run).predict(images)
    if precision == "float32":
        np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    else:
        assert (np.argmax(probabilities, 1) == expected.argmax(1)).mean() >= 0.8
        assert path.stat().st_size < 8e6
        # In one piece, but for what turns pixels into numbers and numbers into probabilities
        operations = [each["op_name"] for each in interpreter._get_ops_details()]
        assert "AVERAGE_POOL_2D" not in operations and 1 <= operations.count("DELEGATE") <= 2
    assert "on 256 validation images: same class for" in printed and "MB, input 1x64x64x3" in printed
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        export.export_classifier(str(run), "tflite", precision, str(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("size", [64, 48])
def test_pools_as_convolutions(size, tmp_path):
    """They have the same means; those of an odd side, as 48 pixels have in the last, stay pools."""
    network = resnet(10, "d", input_shape=(size, size, 3), classes=4)
    classifier = add_preprocessing(network, EUROSAT_RGB, "bilinear")
    savedmodel.write_savedmodel(classifier, ("a", "b", "c", "d"), {}, tmp_path / "model")
    concrete, _owner = savedmodel.load_inference_function(tmp_path / "model", (2, size, size, 3))
    changed = savedmodel.replace_pools_by_convolutions(concrete)
    kinds = [operation.type for operation in changed.graph.get_operations()]
    assert kinds.count("AvgPool") == (size == 48) and kinds.count("DepthwiseConv2dNative") == 4 - (size == 48)
    pixels = tf.constant(np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype("uint8"))
    expected = classifier(pixels).numpy()
    for function in (concrete, changed):
        np.testing.assert_allclose(function(pixels)["probabilities"], expected, atol=1e-5)


def test_dark_bands_keep_their_levels_in_8_bits(tmp_path):
    """Digital numbers of B10 are a hundredth of the others', as in EuroSAT; here it alone tells images apart."""
    from ai_edge_litert.interpreter import Interpreter

    rng = np.random.default_rng(0)
    mean, std = np.full(13, 2000.0), np.full(13, 500.0)
    mean[9], std[9] = 12.0, 4.0
    pixels = np.tile(rng.normal(mean, std, (32, 32, 13)).clip(0).astype("uint16"), (40, 1, 1, 1))
    pixels[..., 9] = np.arange(40)[:, np.newaxis, np.newaxis] // 2
    network = resnet(10, "d", input_shape=(32, 32, 13), classes=4)
    classifier = add_preprocessing(network, Statistics("drawn", tuple(mean), tuple(std), "uint16"), "bilinear")
    classes = ("a", "b", "c", "d")
    savedmodel.write_savedmodel(classifier, classes, {}, tmp_path / "model")
    path = tmp_path / "model.tflite"
    converters.write_tflite(tmp_path / "model", (32, 32, 13), classes, {}, path, "int8", calibration=pixels)
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (given,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for image in pixels:
        interpreter.set_tensor(given["index"], image[np.newaxis])
        interpreter.invoke()
        found.append(interpreter.get_tensor(output["index"])[0])
    expected = classifier.predict(pixels, verbose=0)
    assert np.abs(np.array(found) - expected).max() < 0.25 * np.ptp(expected, axis=0).max()


def test_thirteen_bands(capsys, tmp_path):
    """Compared on validation images; from a SavedModel that was copied alone, at the size of its patches."""
    rng = np.random.default_rng(0)
    for index in range(40):
        path = tmp_path / "data" / "ab"[index % 2] / f"{index}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, rng.normal(900 + 500 * (index % 2), 400, (48, 48, 13)).clip(0).astype("uint16"))
    small = {"depth": 10, "image_size": 32, "weights": "none", "epochs": 4, "batch_size": 14}
    train(Settings(**small, dataset=f"folder:{tmp_path / 'data'}", output_dir=str(tmp_path / "model")))
    shutil.move(tmp_path / "model/1", tmp_path / "alone")
    export.export_classifier(str(tmp_path / "alone"), output=str(tmp_path / "model.tflite"))
    printed = capsys.readouterr().out
    assert "input 1x48x48x13" in printed and "on 8 validation images: same class for 100.0 %" in printed


def test_a_damaged_savedmodel_is_not_converted(run, bad_input, tmp_path):
    """One that opens, but whose parts for the conversion are gone."""
    shutil.copytree(run, tmp_path / "model", ignore=shutil.ignore_patterns("run-*"))
    path = tmp_path / "model/1/saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    del saved.meta_graphs[0].object_graph_def.nodes[1:]
    path.write_bytes(saved.SerializeToString())
    message = bad_input("export.py", f"--model={tmp_path / 'model'}", f"--output={tmp_path / 'model.tflite'}")
    assert "cannot be converted" in message and not (tmp_path / "model.tflite").exists()


def test_a_file_that_ends_the_interpreter(tmp_path):
    """As damaged files do, some by a segmentation fault."""
    (tmp_path / "model.tflite").write_bytes(b"TFL3" * 100)
    with pytest.raises(InputError, match=r"cannot be loaded \(its runtime ended with 1 \(ValueError"):
        open_classifier(tmp_path / "model.tflite")


def test_a_savedmodel_of_0_1_0_is_refused(tmp_path):
    with tarfile.open(ROOT / "tests/golden/saved_by_0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    with pytest.raises(InputError, match=r"is of an older version: export\.py --format=savedmodel makes it anew"):
        export.export_classifier(str(tmp_path / "saved_by_0.1.0"), output=str(tmp_path / "model.tflite"))
    assert not (tmp_path / "model.tflite").exists()
