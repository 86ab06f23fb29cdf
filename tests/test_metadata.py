"""Reading metadata.json, and the line that describes a classifier."""

import json

import pytest

from resnetd_tf import metadata
from resnetd_tf.errors import InputError

RUN = {"depth": 50, "variant": "d", "epochs": 10, "dataset": "eurosat/rgb", "test_accuracy": 0.71204}


@pytest.mark.parametrize(
    ("changes", "summary"),
    [
        ({}, "ResNet-50-D, 10 epochs, 71.20 % on eurosat/rgb test"),
        ({"epochs": 1}, "ResNet-50-D, 1 epoch, 71.20 % on eurosat/rgb test"),
        ({"variant": "base"}, "ResNet-50, 10 epochs, 71.20 % on eurosat/rgb test"),
        ({"interrupted": True, "best_epoch": 3}, "ResNet-50-D, epoch 3 of 10, 71.20 % on eurosat/rgb test"),
        ({"interrupted": False, "best_epoch": 3}, "ResNet-50-D, 10 epochs, 71.20 % on eurosat/rgb test"),
        ({"test_accuracy": None}, "ResNet-50-D, 10 epochs, test accuracy not known"),
        (
            {"exported_precision": "int8"},
            "ResNet-50-D, 10 epochs, 71.20 % on eurosat/rgb test, measured before its export in int8",
        ),
        ({"exported_precision": "float32"}, "ResNet-50-D, 10 epochs, 71.20 % on eurosat/rgb test"),
    ],
)
def test_one_line_describes_a_classifier(changes, summary):
    assert metadata.summary_line(RUN | changes) == summary


def test_one_line_describes_a_classifier_without_metadata():
    assert metadata.summary_line({}) == "test accuracy not known"


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", "ten"), ("epochs", True), ("test_accuracy", 71.2), ("interrupted", "no"), ("split_sizes", [1])],
)
def test_an_invalid_entry_is_refused(tmp_path, name, value):
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps(RUN | {name: value}))
    with pytest.raises(InputError, match=f"metadata.json: {name} cannot be"):
        metadata.read_metadata(path)
