"""The classifier that ships with this package: the file itself, and the programs where nothing was trained."""

import json
import re

import numpy as np
from conftest import ROOT, needs_eurosat
from PIL import Image

import resnetd_tf
from resnetd_tf.data import datasets
from resnetd_tf.networks import checkpoints, pretrained

CARD = ROOT / "resnetd_tf/weights/MODEL_CARD.md"
EVALUATION = "evaluation-test-1"
MEGABYTES = 52


def described() -> dict:
    return checkpoints.read_classifier_metadata(pretrained.packaged_weights())


def texts(value) -> list[str]:
    """All texts in what JSON holds."""
    if isinstance(value, dict):
        return [text for item in [*value, *value.values()] for text in texts(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


def test_header():
    """It says how to make the file anew, and nothing of the machine that it was made on."""
    header = described()
    assert header["depth"] == 50 and header["variant"] == "d" and len(header["classes"]) == 10
    assert header["dataset"] == "eurosat/rgb" and header["seed"] == 0 and header["normalization"]
    assert header["recipe"] == "best" and header["command"] and header["data_sha256"]
    assert not [text for text in texts(header) if re.search(r"(^|[\s=:,])/\w", text)]
    assert header["temperature"] > 0
    assert pretrained.EUROSAT_FILE.stat().st_size < 1e6 * MEGABYTES


def test_the_card_says_what_the_header_says():
    """Accuracy and its interval, each class, each corruption, calibration."""
    card, result = CARD.read_text(encoding="utf-8"), described()["evaluations"][EVALUATION]
    figures = [result["accuracy"], *result["accuracy_interval"]]
    assert "{:.2f} % [{:.2f}, {:.2f}]".format(*(100 * figure for figure in figures)) in card
    for name, found in result["classes"].items():
        assert f"| {name} | {100 * found['precision']:.2f} % | {100 * found['recall']:.2f} % |" in card
    (corrupted,) = (found for name, found in described()["evaluations"].items() if "test-corruptions" in name)
    for found in corrupted["corruptions"]:
        figures = [found["accuracy"], found["confidence"], found["calibration_error"]]
        cells = " | ".join(f"{100 * figure:.2f} %" for figure in figures)
        assert f"| {found['corruption']} | {found['grade']} | {cells} |" in card
    for figure in (corrupted["mean_accuracy"], corrupted["mean_calibration_error"]):
        assert f"{100 * figure:.2f} %" in card
    assert pretrained.EUROSAT_SHA256 in card


@needs_eurosat
def test_nothing_trained(program, tmp_path):
    """A label for a picture of a class, from a folder without a run."""
    dataset = datasets.load_dataset("eurosat/rgb", ("test",))
    split = dataset.splits["test"]
    Image.fromarray(np.asarray(split.images[0])).save(tmp_path / "patch.png")
    result = program("predict.py", "patch.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    first, label = result.stdout.splitlines()
    model = "Model: eurosat, which comes with resnetd_tf, ResNet-50-D, 50 epochs, 98.41 % on eurosat/rgb test"
    assert first == f"{model} (saved_models/resnet50d has no finished run)"
    assert label.startswith(f"patch.png: {dataset.classes[split.labels[0]]} ")
    assert [path.name for path in tmp_path.iterdir()] == ["patch.png"]
    listed = program("predict.py", "patch.png", "--format=json", cwd=tmp_path)
    assert json.loads(listed.stdout)[0]["path"] == "patch.png" and first in listed.stderr


@needs_eurosat
def test_accuracy():
    """On three hundred test images what its header says of all, within what chance leaves."""
    split = datasets.load_dataset("eurosat/rgb", ("test",)).splits["test"]
    probabilities = resnetd_tf.eurosat().predict([np.asarray(image) for image in split.images[:300]])
    right = (probabilities.argmax(1) == np.asarray(split.labels[:300])).mean()
    assert abs(right - described()["evaluations"][EVALUATION]["accuracy"]) < 0.03
