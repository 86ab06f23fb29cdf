"""Exports, run by their own runtimes in processes that have none of our package, and as any other model."""

import json
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


@pytest.mark.parametrize(
    ("format", "precision", "name"), [("onnx", "float32", "m.onnx"), ("openvino", "bfloat16", "folder")]
)
def test_any_number_of_images_of_any_size(run, program, tmp_path, capsys, format, precision, name):
    path = export.export_classifier(str(run), format, precision, str(tmp_path / name))
    assert f"Against {run / 'run-1/model.keras'} on 256 validation images: same class" in capsys.readouterr().out
    (tmp_path / "alone").mkdir()
    model, expected = open_classifier(path.rename(tmp_path / "alone" / name)), open_classifier(run)
    assert model.classes == synthetic.CLASSES and model.metadata["dataset"] == "synthetic"
    assert model.metadata["exported_precision"] == precision
    images = synthetic.draw_scenes(12, seed=5)[0]
    atol = 1e-5 if precision == "float32" else 0.05
    for some in (images, images[:3, :40, :50], images[:0]):
        np.testing.assert_allclose(model.predict(some), expected.predict(some), atol=atol)
    if format == "onnx":
        Image.fromarray(images[0]).save(tmp_path / "scene.png")
        labelled = program("predict.py", f"--model={model.path}", "--top=1", tmp_path / "scene.png")
        assert synthetic.CLASSES[expected.predict(images[:1]).argmax()] in labelled.stdout
    kept = tmp_path / f"{name}.check.json" if name.endswith("x") else model.path.parent / "check.json"
    found = json.loads(kept.read_text())
    assert found["images"] == 256 and found["milliseconds"] > 0 and list(found["inputs"]) == ["pixels"]


@pytest.mark.parametrize(
    ("precision", "batch", "output_type"),
    [("dynamic", 4, "float32"), ("int8", 0, "uint8")],
)
def test_tflite(run, tmp_path, precision, batch, output_type):
    path = tmp_path / "model.tflite"
    export.export_classifier(str(run), "tflite", precision, str(path), batch=batch, output_type=output_type)
    images, expected = synthetic.draw_scenes(10, seed=5)[0], open_classifier(run)
    found = runtimes.run_exported(path, images)
    assert found["inputs"] == {"pixels": {"shape": [batch or -1, 64, 64, 3], "dtype": "uint8"}}
    assert found["outputs"] == {"probabilities": {"shape": [batch or -1, 10], "dtype": output_type}}
    assert np.abs(found["probabilities"] - expected.predict(images)).max() < 0.3
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(synthetic.CLASSES)
    assert path.stat().st_size < 0.3 * (run / "run-1/model.keras").stat().st_size
    opened = open_classifier(path)
    smaller = images[:, :40, :50]
    assert np.abs(opened.predict(smaller) - expected.predict(smaller)).max() < 0.3  # of another size than it takes


def test_evaluating_an_export_tells_size_and_latency(exported, capsys, tmp_path):
    found = evaluate(str(exported), dataset="synthetic", output_dir=str(tmp_path / "evaluation"))
    assert found["model"] == exported.name and found["megabytes"] == pytest.approx(exported.stat().st_size / 1e6)
    assert 0 < found["milliseconds_2"][0] <= found["milliseconds_2"][1] and found["milliseconds_1"][0] > 0
    assert json.loads((tmp_path / "evaluation/metrics.json").read_text())["milliseconds_1"] == found["milliseconds_1"]
    assert "ms with one thread" in capsys.readouterr().out


def test_an_export_that_disagrees_is_not_written(run, tmp_path, monkeypatch):
    other = classifier.build_classifier(10, "d", classes=10, statistics=EUROSAT_RGB, image_size=32)
    savedmodel.write_savedmodel(other, synthetic.CLASSES, {}, tmp_path / "other")
    write = converters.write_tflite
    monkeypatch.setattr(converters, "write_tflite", lambda _, *arguments: write(tmp_path / "other", *arguments))
    with pytest.raises(InputError, match=r"model\.tflite not written: on 256 validation images it has same class for"):
        export.export_classifier(str(run), output=str(tmp_path / "model.tflite"))
    assert not list(tmp_path.glob("*.tflite*"))


def test_a_savedmodel_whose_pictures_have_other_answers_is_not_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "has_rotation", lambda _: tf.constant(True))
    with pytest.raises(InputError, match="pictures in files have other answers than their pixels"):
        export.export_classifier(str(run), "savedmodel", output=str(tmp_path / "model"))
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_told_to_terminate_it_leaves_nothing(run, tmp_path):
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
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and not told and not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export.export_classifier(str(run), "onnx", output=str(tmp_path_factory.mktemp("onnx") / "model.onnx"))


@pytest.mark.parametrize("change", [{"classes": ["a", "b"]}, {"classes": 5}, {"metadata": [1]}])
def test_exports_that_say_what_cannot_be(exported, tmp_path, change):
    model = onnx.load(exported)
    for entry in model.metadata_props:
        entry.value = json.dumps(change.get(entry.key, json.loads(entry.value)))
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match=r"other\.onnx: (10 outputs, but|its metadata cannot be|cannot be read)"):
        print(open_classifier(tmp_path / "other.onnx").metadata)


def test_what_cannot_be_exported(run, bad_input, tmp_path, monkeypatch):
    assert "it is made in float32 or bfloat16" in bad_input("export.py", "--format=savedmodel", "--precision=int8")
    assert "of TFLite alone" in bad_input("export.py", "--format=onnx", "--batch=4")
    assert "of TFLite in int8 alone" in bad_input("export.py", "--output_type=uint8")
    with pytest.raises(InputError, match=r"must end in \.onnx"):
        export.export_classifier(str(run), "onnx", output=str(tmp_path / "model"))
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"cannot be loaded \(its runtime ended with 1"):
        open_classifier(tmp_path / "model.onnx")
    monkeypatch.setitem(__import__("sys").modules, "tf2onnx", None)
    with pytest.raises(InputError, match=r"needs tf2onnx, which is not installed; pip install 'resnetd_tf\[onnx\]'"):
        export.export_classifier(str(run), "onnx", output=str(tmp_path / "other.onnx"))
    assert not (tmp_path / "other.onnx").exists()
