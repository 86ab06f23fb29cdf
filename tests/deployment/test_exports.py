"""Exports, run by their own runtimes in processes that have none of our package, and as any other model."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
import time
import zipfile

import numpy as np
import onnx
import pytest
import tensorflow as tf
from conftest import ROOT
from PIL import Image

from resnetd_tf import runtimes
from resnetd_tf.data import images, synthetic
from resnetd_tf.deployment import converters, export, savedmodel
from resnetd_tf.errors import InputError
from resnetd_tf.evaluation.run import evaluate
from resnetd_tf.networks import classifier
from resnetd_tf.normalization import EUROSAT_RGB
from resnetd_tf.saved import open_classifier


@pytest.fixture(scope="module")
def onnx_export(run, tmp_path_factory):
    """The small classifier as ONNX, and what its export printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        path = export.export_classifier(str(run), "onnx", output=str(tmp_path_factory.mktemp("onnx") / "m.onnx"))
    return path, printed.getvalue()


@pytest.fixture(scope="module")
def onnx_path(onnx_export):
    return onnx_export[0]


@pytest.fixture(scope="module")
def openvino_export(run, tmp_path_factory):
    """The small classifier for OpenVINO in bfloat16, and what its export printed."""
    printed, folder = io.StringIO(), tmp_path_factory.mktemp("openvino") / "folder"
    with contextlib.redirect_stdout(printed):
        path = export.export_classifier(str(run), "openvino", "bfloat16", str(folder))
    return path, printed.getvalue()


@pytest.mark.parametrize(
    ("format", "precision", "name"), [("onnx", "float32", "m.onnx"), ("openvino", "bfloat16", "folder")]
)
def test_any_number_of_images_of_any_size(run, small_classifier, request, tmp_path, format, precision, name):
    path, printed = request.getfixturevalue(f"{format}_export")
    assert f"Against {run / 'run-1/model.keras'} on 256 validation images: same class" in printed
    (tmp_path / "alone").mkdir()
    copy = shutil.copytree if path.is_dir() else shutil.copy
    model, expected = open_classifier(copy(path, tmp_path / "alone" / name)), small_classifier
    assert model.classes == synthetic.CLASSES and model.metadata["dataset"] == "synthetic"
    assert model.metadata["exported_precision"] == precision
    scenes = synthetic.draw_scenes(12, seed=5)[0]
    tolerance = 1e-5 if precision == "float32" else 0.05
    for batch in (scenes, scenes[:3, :40, :50], scenes[:0]):
        probabilities, dissimilarity = model.classify(batch)
        expected_probabilities, expected_dissimilarity = expected.classify(batch)
        np.testing.assert_allclose(probabilities, expected_probabilities, atol=tolerance)
        np.testing.assert_allclose(dissimilarity, expected_dissimilarity, atol=10 * tolerance)
    check_path = path.with_name(f"{name}.check.json") if path.is_file() else path / "check.json"
    check = json.loads(check_path.read_text())
    assert check["images"] == 256 and check["milliseconds"] > 0 and list(check["inputs"]) == ["pixels"]
    assert list(check["outputs"]) == ["probabilities", "dissimilarity"]  # many programs take the first output


def test_predict_labels_with_an_export(small_classifier, onnx_path, program, tmp_path):
    scene = synthetic.draw_scenes(12, seed=5)[0][:1]
    Image.fromarray(scene[0]).save(tmp_path / "scene.png")
    labelled = program("predict.py", f"--model={onnx_path}", "--top=1", tmp_path / "scene.png")
    assert synthetic.CLASSES[small_classifier.predict(scene).argmax()] in labelled.stdout


@pytest.mark.parametrize(
    ("precision", "batch", "output_type"),
    [("dynamic", 4, "float32"), ("int8", 0, "uint8")],
)
def test_tflite_in_batches(run, small_classifier, tmp_path, precision, batch, output_type):
    path = tmp_path / "model.tflite"
    export.export_classifier(str(run), "tflite", precision, str(path), batch=batch, output_type=output_type)
    scenes, expected = synthetic.draw_scenes(10, seed=5)[0], small_classifier
    answer = runtimes.run_exported(path, scenes)
    assert answer["inputs"] == {"pixels": {"shape": [batch or -1, 64, 64, 3], "dtype": "uint8"}}
    outputs = {"probabilities": {"shape": [batch or -1, 10], "dtype": output_type}}
    if precision != "int8":
        outputs["dissimilarity"] = {"shape": [batch or -1], "dtype": "float32"}
        np.testing.assert_allclose(answer["dissimilarity"], expected.classify(scenes)[1], atol=0.1)
    assert answer["outputs"] == outputs
    assert np.abs(answer["probabilities"] - expected.predict(scenes)).max() < 0.3
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(synthetic.CLASSES)
    assert path.stat().st_size < 0.3 * (run / "run-1/model.keras").stat().st_size
    opened = open_classifier(path)
    smaller = scenes[:, :40, :50]
    assert np.abs(opened.predict(smaller) - expected.predict(smaller)).max() < 0.3  # of another size than it takes


def test_evaluating_an_export_tells_size_and_latency(onnx_path, capsys, tmp_path):
    result = evaluate(str(onnx_path), dataset="synthetic", output_dir=str(tmp_path / "evaluation"))
    assert result["model"] == onnx_path.name
    assert result["megabytes"] == pytest.approx(onnx_path.stat().st_size / 1e6)
    assert 0 < result["milliseconds_2"][0] <= result["milliseconds_2"][1] and result["milliseconds_1"][0] > 0
    metrics = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    assert metrics["milliseconds_1"] == result["milliseconds_1"]
    assert "ms with one thread" in capsys.readouterr().out


def test_an_export_that_disagrees_is_not_written(run, tmp_path, monkeypatch):
    random = classifier.build_classifier(10, "d", classes=10, statistics=EUROSAT_RGB, image_size=32)
    savedmodel.write_savedmodel(random, synthetic.CLASSES, {}, tmp_path / "random")
    write = converters.write_tflite

    def write_random(_, *arguments, **options):
        write(tmp_path / "random", *arguments, **options)

    monkeypatch.setattr(converters, "write_tflite", write_random)
    with pytest.raises(InputError, match=r"model\.tflite not written: on 256 validation images it has same class for"):
        export.export_classifier(str(run), output=str(tmp_path / "model.tflite"))
    assert not list(tmp_path.glob("*.tflite*"))


def test_a_savedmodel_whose_pictures_have_other_answers_is_not_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "has_rotation", lambda _: tf.constant(True))
    monkeypatch.setattr(savedmodel, "write_warmup_requests", lambda *_: None)  # they take the longest to verify
    with pytest.raises(InputError, match="pictures in files have other answers than their pixels"):
        export.export_classifier(str(run), "savedmodel", output=str(tmp_path / "model"))
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_terminated_export_leaves_nothing(run, tmp_path):
    command = [
        sys.executable,
        ROOT / "export.py",
        f"--model={run}",
        "--format=savedmodel",
        f"--output={tmp_path / '1'}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not any(tmp_path.iterdir()) and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and not errors and not any(tmp_path.iterdir())


@pytest.mark.parametrize("change", [{"classes": ["a", "b"]}, {"classes": 5}, {"metadata": [1]}])
def test_exports_with_impossible_metadata(onnx_path, tmp_path, change):
    model = onnx.load(onnx_path)
    for entry in model.metadata_props:
        entry.value = json.dumps(change.get(entry.key, json.loads(entry.value)))
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(InputError, match=r"changed\.onnx: (10 outputs, but|its metadata cannot be|cannot be read)"):
        print(open_classifier(tmp_path / "changed.onnx").metadata)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=savedmodel", "--precision=int8"], "it is written in float32 or bfloat16"),
        (["--format=onnx", "--batch=4"], "is for TFLite alone"),
        (["--output_type=uint8"], "is for TFLite in int8 alone"),
    ],
)
def test_flags_that_do_not_go_together(bad_input, flags, message):
    assert message in bad_input("export.py", *flags)


def test_a_name_without_the_suffix_of_its_format_is_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"must end in \.onnx"):
        export.export_classifier(str(run), "onnx", output=str(tmp_path / "model"))


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"cannot be loaded \(its runtime ended with 1"):
        open_classifier(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("format", "package"), [("onnx", "tf2onnx"), ("onnx", "onnxruntime"), ("tflite", "ai_edge_litert")]
)
def test_a_missing_package_names_the_extra_before_anything_is_converted(run, tmp_path, monkeypatch, format, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"needs {package}, which is not installed; pip install 'resnetd_tf\[{format}\]'"
    with pytest.raises(InputError, match=message):
        export.export_classifier(str(run), format, output=str(tmp_path / f"model.{format}"))
    assert not any(tmp_path.iterdir())


def test_a_missing_runtime_names_the_extra(monkeypatch, tmp_path):
    """The process that runs the model does not find the package: an empty one is in its place."""
    (tmp_path / "ai_edge_litert").mkdir()
    (tmp_path / "ai_edge_litert/__init__.py").write_text(
        "raise ModuleNotFoundError('No module named ai_edge_litert', name='ai_edge_litert')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "model.tflite").write_bytes(b"TFL3")
    message = r"ai_edge_litert is not installed; pip install 'resnetd_tf\[tflite\]'"
    with pytest.raises(InputError, match=message):
        open_classifier(tmp_path / "model.tflite")
