"""Classifiers in .safetensors files, and the one that ships with this package."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

import resnetd_tf
from resnetd_tf import applicability
from resnetd_tf.data import synthetic
from resnetd_tf.errors import InputError
from resnetd_tf.networks import checkpoints, pretrained
from resnetd_tf.saved import open_classifier
from resnetd_tf.training import Settings, run, train

SMALLEST = {"depth": 10, "dataset": "synthetic", "image_size": 32, "epochs": 1, "batch_size": 700}


@pytest.fixture(scope="module")
def half(run, program, tmp_path_factory):
    """A small classifier's file in half precision."""
    path = tmp_path_factory.mktemp("half") / "small.safetensors"
    result = program("export.py", f"--model={run}", "--format=safetensors", "--precision=float16", f"--output={path}")
    assert result.returncode == 0, result.stderr
    assert "on 256 validation images: same class for" in result.stdout
    return path


def test_a_file_alone_is_a_classifier(run, small_classifier, half):
    trained, alone = small_classifier, open_classifier(half)
    images = synthetic.draw_scenes(100, seed=5)[0]
    assert alone.classes == trained.classes and alone.metadata["seed"] == 0
    np.testing.assert_allclose(alone.predict(images), trained.predict(images), atol=5e-3)
    assert half.stat().st_size < 0.6 * (run / "run-1/model.keras").stat().st_size


def test_a_file_has_the_score_of_its_run(half, run, small_classifier, tmp_path):
    """A file without a score does not take that of another model, which lies beside it."""
    alone = open_classifier(shutil.copy(half, tmp_path / "alone.safetensors"))
    images = synthetic.draw_scenes(10, seed=5)[0]
    np.testing.assert_allclose(alone.classify(images)[1], small_classifier.classify(images)[1], atol=0.05)
    with safe_open(half, framework="numpy") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    del header[applicability.SCORE_KEY]
    safetensors.numpy.save_file(tensors, tmp_path / "older.safetensors", header)
    shutil.copy(run / "run-1" / applicability.FILE_NAME, tmp_path)
    assert open_classifier(tmp_path / "older.safetensors").classify(images)[1] is None


def test_a_damaged_score_is_named(half, tmp_path):
    with safe_open(half, framework="numpy") as file:
        header = file.metadata() | {applicability.SCORE_KEY: "bm90aGluZw=="}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    safetensors.numpy.save_file(tensors, tmp_path / "damaged.safetensors", header)
    with pytest.raises(InputError, match="its entry applicability cannot be read"):
        open_classifier(tmp_path / "damaged.safetensors")


def test_a_file_has_the_evaluations_of_its_run(half):
    metadata = open_classifier(half).metadata
    assert metadata["evaluations"]["evaluation-test-1"]["accuracy"] == metadata["test_accuracy"]


def test_pytorch_reads_it(half):
    """Names and layout are timm's; large kernels alone are halved."""
    tensors = safetensors.numpy.load_file(half)
    assert tensors["conv1.0.weight"].shape == (32, 3, 3, 3)
    halved = {name for name, tensor in tensors.items() if tensor.dtype == np.float16}
    assert halved == {name for name, tensor in tensors.items() if tensor.size >= 2**18} and len(halved) > 3
    assert tensors["layer1.0.bn1.running_var"].dtype == np.float32 and tensors["fc.weight"].shape == (10, 512)


@pytest.mark.long
def test_it_is_evaluated(half, program, tmp_path):
    result = program("evaluate.py", f"--output_dir={tmp_path / 'evaluation'}", f"--model={half}")
    assert result.returncode == 0, result.stderr
    accuracy = json.loads((tmp_path / "evaluation/metrics.json").read_text())["accuracy"]
    with safe_open(half, framework="numpy") as file:
        header = json.loads(file.metadata()[checkpoints.HEADER_KEY])
    assert abs(accuracy - header["test_accuracy"]) < 0.02


@pytest.mark.long
def test_it_is_exported(half, program, tmp_path):
    result = program("export.py", "--format=tflite", f"--output={tmp_path / 'model.tflite'}", f"--model={half}")
    assert result.returncode == 0, result.stderr


@pytest.mark.long
def test_training_from_it(half, tmp_path, capsys):
    """Its statistics and its head come with it."""
    train(Settings(**SMALLEST, weights=str(half), freeze="backbone", output_dir=str(tmp_path / "model")))
    assert f"Weights: {half}\n" in capsys.readouterr().out
    metadata = json.loads((tmp_path / "model/run-1/metadata.json").read_text())
    header = checkpoints.read_classifier_metadata(half)
    assert metadata["normalization"] == {**header["normalization"], "of": str(half)}
    assert metadata["learning_rate"] == 0.08
    weights_of_run = {"weights": str(tmp_path / "model/run-1/model.keras"), "dataset": "eurosat/rgb"}
    capsys.readouterr()
    run.read_initial_weights(Settings(**{**SMALLEST, **weights_of_run}))
    assert "The weights were trained on synthetic; where images of that training are among" in capsys.readouterr().out
    (tmp_path / "model/run-1/metadata.json").write_text("{")
    with pytest.raises(InputError, match=r"metadata.json: cannot be read .*; restore or delete it"):
        run.read_initial_weights(Settings(**{**SMALLEST, **weights_of_run}))
    frozen = safetensors.numpy.load_file(half)["layer4.0.conv1.weight"].astype("float32")
    trained = checkpoints.read_checkpoint(tmp_path / "model/run-1/model.keras", 10, "d").tensors[
        "layer4.0.conv1.weight"
    ]
    np.testing.assert_array_equal(trained, frozen)


def test_training_another_network_from_it_is_refused(half, tmp_path):
    with pytest.raises(InputError, match="of depth 10, variant d, not 18, d"):
        train(Settings(**{**SMALLEST, "depth": 18}, weights=str(half), output_dir=str(tmp_path / "deeper")))


def test_weights_alone_load_whatever_lies_beside_them(tmp_path, capsys):
    """A folder of Keras's, for example, has a metadata.json of its own."""
    path = tmp_path / "network.weights.h5"
    resnetd_tf.resnet(10, "d", classes=4).save_weights(path)
    for foreign_metadata in ('{"keras_version": "3.15.1"}', "{"):
        (tmp_path / "metadata.json").write_text(foreign_metadata)
        run.read_initial_weights(Settings(**{**SMALLEST, "weights": str(path)}))
        assert capsys.readouterr().out == f"Weights: {path}\n"


@pytest.fixture
def shipped(half, monkeypatch, tmp_path):
    """The package with that classifier in it, and a working directory of its own."""
    path = tmp_path / "package" / "weights.safetensors"
    path.parent.mkdir()
    shutil.copyfile(half, path)
    monkeypatch.setattr(pretrained, "EUROSAT_FILE", path)
    monkeypatch.setattr(pretrained, "EUROSAT_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.chdir(tmp_path)
    return path


def test_eurosat_is_the_classifier_that_ships(shipped, half):
    images = synthetic.draw_scenes(10, seed=5)[0]
    expected = open_classifier(half).predict(images)
    np.testing.assert_array_equal(resnetd_tf.eurosat().predict(images), expected)


def test_a_folder_named_eurosat_without_a_run_is_not_taken_for_it(shipped, tmp_path):
    path = resnetd_tf.eurosat().path
    (tmp_path / "eurosat/1").mkdir(parents=True)
    assert resnetd_tf.eurosat().path == path


def test_nothing_is_written_into_the_package(shipped, tmp_path):
    assert resnetd_tf.eurosat().folder.resolve() == tmp_path


def test_eurosat_is_a_checkpoint(shipped):
    checkpoint = checkpoints.read_checkpoint("eurosat", 10, "d")
    assert checkpoint.source == checkpoint.statistics.name == "eurosat"
    assert checkpoint.image_size == SMALLEST["image_size"]
    with pytest.raises(ValueError, match="weights eurosat: of depth 10, variant d, not 50, d"):
        checkpoints.read_checkpoint("eurosat", 50, "d")


def test_training_from_eurosat_says_what_it_was_trained_on(shipped, capsys):
    run.read_initial_weights(Settings(**{**SMALLEST, "image_size": 48}, weights="eurosat"))
    printed = capsys.readouterr().out
    assert printed == "Weights: eurosat, of images of 32x32 pixels; --image_size=32 trains on that size too\n"
    run.read_initial_weights(Settings(**{**SMALLEST, "dataset": "eurosat/rgb"}, weights="eurosat"))
    printed = capsys.readouterr().out
    assert "Weights: eurosat\nThe weights were trained on synthetic; where images of that training are among" in printed


def test_damage_to_the_one_that_ships(shipped):
    content = bytearray(shipped.read_bytes())
    content[-1000] ^= 1
    shipped.write_bytes(content)
    with pytest.raises(
        InputError, match=r"model eurosat: .* is damaged: its SHA-256 is another; install resnetd_tf anew"
    ):
        open_classifier("eurosat")
    with pytest.raises(InputError, match="is damaged"):
        open_classifier(shipped)
    with pytest.raises(pretrained.WeightsUnavailable, match="is damaged"):
        checkpoints.read_checkpoint(str(shipped), 10, "d")


def test_a_missing_file_of_the_one_that_ships(shipped):
    shipped.unlink()
    with pytest.raises(InputError, match=r"model eurosat: .* is missing; install resnetd_tf anew"):
        resnetd_tf.eurosat()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": None}, "depth cannot be 'None'"),
        ({"classes": ["a", "b"]}, "do not fit resnet10d"),
        ({"normalization": {"mean": [1.0], "std": [1.0, 2.0]}}, "1 means and 2 standard deviations"),
        ({"image_size": 10**9}, "image_size cannot be"),
        (None, "it has weights alone, no classifier; `train.py --weights` can start from it"),
    ],
)
def test_files_that_are_no_classifier(half, tmp_path, change, message):
    metadata = {**checkpoints.read_classifier_metadata(half), **(change or {})}
    path = tmp_path / "changed.safetensors"
    if change is None:
        safetensors.numpy.save_file(safetensors.numpy.load_file(half), path)
    else:
        checkpoints.write_tensors(safetensors.numpy.load_file(half), metadata, path)
    with pytest.raises(InputError, match=message):
        open_classifier(path)


def remove_head(tensors):
    del tensors["fc.weight"]


def narrow_head(tensors):
    tensors["fc.weight"] = tensors["fc.weight"][:, :100]


def make_bias_nan(tensors):
    tensors["fc.bias"][:] = np.nan


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_head, r"fc.weight \(10, 512\) is missing"),
        (narrow_head, r"fc.weight is \(10, 100\), expected \(10, 512\)"),
        (make_bias_nan, r"10 of 10 numbers of fc\.bias are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_not_replaced_by_chance(half, tmp_path, damage, message):
    tensors = {name: tensor.copy() for name, tensor in safetensors.numpy.load_file(half).items()}
    damage(tensors)
    path = tmp_path / "damaged.safetensors"
    checkpoints.write_tensors(tensors, checkpoints.read_classifier_metadata(half), path)
    with pytest.raises(InputError, match=message):
        open_classifier(path)


def test_a_name_of_another_suffix_is_refused(run, bad_input, tmp_path):
    message = bad_input("export.py", f"--model={run}", "--format=safetensors", f"--output={tmp_path / 'model.bin'}")
    assert "must end in .safetensors" in message


def test_a_damaged_evaluation_of_the_run_is_named(run, bad_input, tmp_path):
    copy = tmp_path / "run-1"
    shutil.copytree(run / "run-1", copy)
    (copy / "evaluation-test-1/metrics.json").write_text("{")
    message = bad_input("export.py", f"--model={copy / 'model.keras'}", "--format=safetensors")
    assert "metrics.json: cannot be read" in message and not list(tmp_path.rglob("model*.safetensors"))


def test_a_file_keeps_its_own_evaluations(half, program, tmp_path):
    """Evaluations that lie beside it are not its own."""
    shutil.copyfile(half, tmp_path / "copy.safetensors")
    (tmp_path / "evaluation-test-1").mkdir()
    (tmp_path / "evaluation-test-1/metrics.json").write_text('{"accuracy": 0.99}')
    path = tmp_path / "exported.safetensors"
    flags = ("--format=safetensors", f"--output={path}", "--precision=float16")
    result = program("export.py", f"--model={tmp_path / 'copy.safetensors'}", *flags)
    assert result.returncode == 0, result.stderr
    assert checkpoints.read_classifier_metadata(path) == checkpoints.read_classifier_metadata(half)
    assert path.read_bytes() == half.read_bytes() and path.stat().st_mode & 0o044
