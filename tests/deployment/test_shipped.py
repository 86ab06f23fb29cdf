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


def header() -> dict:
    """The metadata in the file's header."""
    return checkpoints.read_classifier_metadata(pretrained.packaged_weights())


def texts(value) -> list[str]:
    """All texts in what JSON holds."""
    if isinstance(value, dict):
        return [text for item in [*value, *value.values()] for text in texts(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


def test_the_header_says_how_to_make_the_file():
    metadata = header()
    assert metadata["depth"] == 50 and metadata["variant"] == "d" and len(metadata["classes"]) == 10
    assert metadata["dataset"] == "eurosat/rgb" and metadata["seed"] == 0 and metadata["normalization"]
    assert metadata["recipe"] == "best" and metadata["command"] and metadata["data_sha256"]
    assert metadata["temperature"] > 0


def test_the_header_has_no_path_of_the_machine_that_made_it():
    assert not [text for text in texts(header()) if re.search(r"(^|[\s=:,])/\w", text)]


def test_the_file_is_small():
    assert pretrained.EUROSAT_FILE.stat().st_size < 1e6 * MEGABYTES


def card() -> str:
    return CARD.read_text(encoding="utf-8")


def percent(*shares: float) -> list[str]:
    return [f"{100 * share:.2f}" for share in shares]


def test_the_card_has_the_accuracy_of_the_header():
    """And its interval, precision and recall of each class."""
    result = header()["evaluations"][EVALUATION]
    accuracy, low, high = percent(result["accuracy"], *result["accuracy_interval"])
    assert f"{accuracy} % [{low}, {high}]" in card()
    for name, scores in result["classes"].items():
        precision, recall = percent(scores["precision"], scores["recall"])
        assert f"| {name} | {precision} % | {recall} % |" in card()


def test_the_card_has_the_corruptions_of_the_header():
    (corrupted,) = (result for name, result in header()["evaluations"].items() if "test-corruptions" in name)
    for result in corrupted["corruptions"]:
        shares = percent(result["accuracy"], result["confidence"], result["calibration_error"])
        cells = " | ".join(f"{share} %" for share in shares)
        assert f"| {result['corruption']} | {result['grade']} | {cells} |" in card()
    for share in percent(corrupted["mean_accuracy"], corrupted["mean_calibration_error"]):
        assert f"{share} %" in card()


def test_the_card_has_the_digest_of_the_file():
    assert pretrained.EUROSAT_SHA256 in card()


@needs_eurosat
def test_a_label_from_a_folder_without_a_run(program, tmp_path):
    dataset = datasets.load_dataset("eurosat/rgb", ("test",))
    split = dataset.splits["test"]
    Image.fromarray(np.asarray(split.images[0])).save(tmp_path / "patch.png")
    result = program("predict.py", "patch.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    first, label = result.stdout.splitlines()
    model = "Model: eurosat, which comes with resnetd_tf, ResNet-50-D, 16 epochs, 98.30 % on eurosat/rgb test"
    assert first == f"{model} (saved_models/resnet50d has no finished run)"
    assert label.startswith(f"patch.png: {dataset.classes[split.labels[0]]} ")
    assert [path.name for path in tmp_path.iterdir()] == ["patch.png"]
    listed = program("predict.py", "patch.png", "--format=json", cwd=tmp_path)
    assert json.loads(listed.stdout)[0]["path"] == "patch.png" and first in listed.stderr


@needs_eurosat
def test_the_accuracy_of_the_header_on_three_hundred_images():
    """It is the one of all test images, within what chance leaves."""
    split = datasets.load_dataset("eurosat/rgb", ("test",)).splits["test"]
    probabilities = resnetd_tf.eurosat().predict([np.asarray(image) for image in split.images[:300]])
    accuracy = (probabilities.argmax(1) == np.asarray(split.labels[:300])).mean()
    assert abs(accuracy - header()["evaluations"][EVALUATION]["accuracy"]) < 0.03
