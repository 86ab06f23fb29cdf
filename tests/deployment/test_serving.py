"""The parts of TensorFlow Serving that run here, on a SavedModel and on the files of serving/."""

import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from google.protobuf import text_format
from pictures import encode
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from resnetd_tf import runtimes
from resnetd_tf.data import synthetic
from resnetd_tf.deployment import savedmodel

LIBRARIES = pathlib.Path(tf.__file__).parent


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler, cc")
def test_the_loader_of_tensorflow_serving(run, small_classifier, tmp_path):
    program, source = tmp_path / "load_and_run", pathlib.Path(__file__).with_name("load_and_run.c")
    libraries = [LIBRARIES / "libtensorflow_cc.so.2", LIBRARIES / "libtensorflow_framework.so.2"]
    command = ["cc", source, "-o", program, f"-I{LIBRARIES / 'include'}", *libraries, f"-Wl,-rpath,{LIBRARIES}"]
    subprocess.run(list(map(str, command)), check=True)
    signature = SavedModel.FromString((run / "1/saved_model.pb").read_bytes()).meta_graphs[0].signature_def
    names = [
        part
        for tensor in (
            signature["serving_default"].inputs["pixels"],
            signature["serving_default"].outputs["probabilities"],
        )
        for part in tensor.name.split(":")
    ]
    result = subprocess.run([program, run / "1", *names], capture_output=True, text=True, check=True)
    answer = [float(line) for line in result.stdout.splitlines()]
    expected = small_classifier.predict(np.full((1, 64, 64, 3), 100, "uint8"))[0]
    np.testing.assert_allclose(answer, expected, atol=2e-6)


def test_its_own_tool_shows_and_scans_it(run):
    command = [str(pathlib.Path(sys.executable).with_name("saved_model_cli"))]
    shown = subprocess.run([*command, "show", "--all", "--dir", run / "1"], capture_output=True, text=True, check=True)
    for text in ("signature_def['serving_default']", "signature_def['encoded']", "signature_def['classify']"):
        assert text in shown.stdout
    assert "tensorflow/serving/classify" in shown.stdout and "tensorflow/serving/predict" in shown.stdout
    scanned = subprocess.run([*command, "scan", "--dir", run / "1"], capture_output=True, text=True, check=True)
    assert "does not contain the default denylisted ops" in scanned.stdout


def test_warm_up_requests(run):
    """A server that loads the SavedModel parses and answers them: for each signature, one image and 32."""
    answer = runtimes.run_exported(run / "1", synthetic.draw_scenes(1, seed=5)[0])
    assert answer["warmup_requests"] == 6
    assert set(answer["outputs"]) == {"probabilities", "labels", "top_class", "dissimilarity"}


def test_warm_up_requests_are_those_of_tensorflow_servings_api(tmp_path):
    """They are encoded without it; its own messages have the same content."""
    from tensorflow_serving.apis import prediction_log_pb2

    images = synthetic.draw_scenes(2, seed=5)[0]
    (tmp_path / "assets.extra").mkdir()
    savedmodel.write_warmup_requests(tmp_path, images)
    records = tf.data.TFRecordDataset(str(tmp_path / "assets.extra/tf_serving_warmup_requests"))
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in records]
    pixels = prediction_log_pb2.PredictionLog()
    pixels.predict_log.request.model_spec.signature_name = "serving_default"
    pixels.predict_log.request.inputs["pixels"].CopyFrom(tf.make_tensor_proto(images[:1]))
    assert logs[0] == pixels
    file = encode(images[0], "JPEG", quality=95)
    pictures = prediction_log_pb2.PredictionLog()
    pictures.predict_log.request.model_spec.signature_name = "encoded"
    pictures.predict_log.request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([file]))
    assert logs[1] == pictures
    examples = prediction_log_pb2.PredictionLog()
    examples.classify_log.request.model_spec.signature_name = "classify"
    example = examples.classify_log.request.input.example_list.examples.add()
    example.features.feature["image/encoded"].bytes_list.value.append(file)
    assert logs[2] == examples
    assert len(logs[5].classify_log.request.input.example_list.examples) == 32


def test_tensorflow_serving_reads_the_configuration():
    from tensorflow_serving.config import model_server_config_pb2

    config = text_format.Parse(
        (ROOT / "serving/models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    )
    (model,) = config.model_config_list.config
    assert model.base_path == f"/models/{model.name}"
    compose = (ROOT / "serving/compose.yaml").read_text()
    for path in (ROOT / "serving").glob("*.config"):
        assert f"=/serving/{path.name}" in compose
