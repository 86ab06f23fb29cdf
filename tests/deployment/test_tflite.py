"""TFLite files in the LiteRT interpreter."""

import shutil
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tifffile
from conftest import ROOT
from pictures import TfliteModel
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from resnetd_tf.data import synthetic
from resnetd_tf.deployment import converters, export, savedmodel
from resnetd_tf.errors import InputError
from resnetd_tf.networks.classifier import add_preprocessing
from resnetd_tf.networks.resnet import resnet
from resnetd_tf.normalization import EUROSAT_RGB, Statistics
from resnetd_tf.saved import open_classifier
from resnetd_tf.training import Settings, train

CLASSES = ("a", "b", "c", "d")


def check_printed_and_kept(printed, path, run, precision):
    """The comparison is printed, and a second export does not replace the first."""
    assert "on 256 validation images: same class for" in printed and "MB, input 1x64x64x3" in printed
    content = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        export.export_classifier(str(run), "tflite", precision, str(path))
    assert path.read_bytes() == content


def test_float32_answers_as_the_classifier(run, small_classifier, tmp_path, capsys):
    path = export.export_classifier(str(run), output=str(tmp_path / "model.tflite"))
    model, images = TfliteModel(path), synthetic.draw_scenes(40, seed=7)[0]
    assert model.input["shape"].tolist() == [1, 64, 64, 3] and model.input["dtype"] == np.uint8
    np.testing.assert_allclose(model.classify(images), small_classifier.predict(images), atol=1e-4)
    check_printed_and_kept(capsys.readouterr().out, path, run, "float32")


def test_int8_from_the_command_line(run, small_classifier, program, tmp_path):
    path = tmp_path / "model.tflite"
    result = program("export.py", f"--model={run}", "--format=tflite", "--precision=int8", f"--output={path}")
    assert result.returncode == 0 and not result.stderr, result.stderr
    model, images = TfliteModel(path), synthetic.draw_scenes(40, seed=7)[0]
    assert model.input["shape"].tolist() == [1, 64, 64, 3] and model.input["dtype"] == np.uint8
    expected = small_classifier.predict(images)
    assert (model.classify(images).argmax(1) == expected.argmax(1)).mean() >= 0.8
    assert path.stat().st_size < 8e6
    # XNNPACK runs it in one piece, but for the layers that turn pixels into numbers and numbers into probabilities.
    operations = model.operations()
    assert "AVERAGE_POOL_2D" not in operations and 1 <= operations.count("DELEGATE") <= 2
    check_printed_and_kept(result.stdout, path, run, "int8")


@pytest.mark.parametrize("size", [64, 48])
def test_pools_as_convolutions(size, tmp_path):
    """They have the same means; the pool of an odd side, which is the last one for 48 pixels, stays a pool."""
    network = resnet(10, "d", input_shape=(size, size, 3), classes=4)
    classifier = add_preprocessing(network, EUROSAT_RGB, "bilinear")
    savedmodel.write_savedmodel(classifier, CLASSES, {}, tmp_path / "model", pools_as_convolutions=True)
    concrete, _owner = savedmodel.load_inference_function(tmp_path / "model", (2, size, size, 3))
    frozen = convert_variables_to_constants_v2(concrete)
    kinds = [operation.type for operation in frozen.graph.get_operations()]
    assert kinds.count("AvgPool") == (size == 48) and kinds.count("DepthwiseConv2dNative") == 4 - (size == 48)
    pixels = tf.constant(np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype("uint8"))
    np.testing.assert_allclose(concrete(pixels)["probabilities"], classifier(pixels), atol=1e-5)


def test_int8_of_a_savedmodel_without_its_run(run, small_classifier, tmp_path):
    """It keeps its pools: only a Keras model can be copied with convolutions in their place."""
    shutil.copytree(run / "1", tmp_path / "alone")
    path = export.export_classifier(str(tmp_path / "alone"), "tflite", "int8", str(tmp_path / "model.tflite"))
    model, images = TfliteModel(path), synthetic.draw_scenes(40, seed=7)[0]
    assert (model.classify(images).argmax(1) == small_classifier.predict(images).argmax(1)).mean() >= 0.8
    assert "AVERAGE_POOL_2D" in model.operations()


def test_dark_bands_keep_their_levels_in_8_bits(tmp_path):
    """Digital numbers of B10 are a hundredth of the others', as in EuroSAT; here B10 alone tells images apart."""
    rng = np.random.default_rng(0)
    mean, std = np.full(13, 2000.0), np.full(13, 500.0)
    mean[9], std[9] = 12.0, 4.0
    pixels = np.tile(rng.normal(mean, std, (32, 32, 13)).clip(0).astype("uint16"), (40, 1, 1, 1))
    pixels[..., 9] = np.arange(40)[:, np.newaxis, np.newaxis] // 2
    network = resnet(10, "d", input_shape=(32, 32, 13), classes=4)
    classifier = add_preprocessing(network, Statistics("drawn", tuple(mean), tuple(std), "uint16"), "bilinear")
    savedmodel.write_savedmodel(classifier, CLASSES, {}, tmp_path / "model")
    path = tmp_path / "model.tflite"
    converters.write_tflite(tmp_path / "model", (32, 32, 13), CLASSES, {}, path, precision="int8", calibration=pixels)
    expected = classifier.predict(pixels, verbose=0)
    difference = np.abs(TfliteModel(path).classify(pixels) - expected).max()
    assert difference < 0.25 * np.ptp(expected, axis=0).max()


@pytest.mark.long
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
    """It opens, but the parts for the conversion are missing."""
    shutil.copytree(run, tmp_path / "model", ignore=shutil.ignore_patterns("run-*"))
    path = tmp_path / "model/1/saved_model.pb"
    damaged = SavedModel.FromString(path.read_bytes())
    del damaged.meta_graphs[0].object_graph_def.nodes[1:]
    path.write_bytes(damaged.SerializeToString())
    message = bad_input("export.py", f"--model={tmp_path / 'model'}", f"--output={tmp_path / 'model.tflite'}")
    assert "cannot be converted" in message and not (tmp_path / "model.tflite").exists()


def test_a_file_that_ends_the_interpreter(tmp_path):
    """Damaged files end it, some by a segmentation fault."""
    (tmp_path / "model.tflite").write_bytes(b"TFL3" * 100)
    with pytest.raises(InputError, match=r"cannot be loaded \(its runtime ended with 1 \(ValueError"):
        open_classifier(tmp_path / "model.tflite")


def test_a_savedmodel_of_0_1_0_is_refused(tmp_path):
    with tarfile.open(ROOT / "tests/golden/saved_by_0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    with pytest.raises(InputError, match=r"is of an older version: export\.py --format=savedmodel makes it anew"):
        export.export_classifier(str(tmp_path / "saved_by_0.1.0"), output=str(tmp_path / "model.tflite"))
    assert not (tmp_path / "model.tflite").exists()
