"""Evaluation on pictures that are noisy, blurred, compressed and so on."""

import json

import numpy as np
import pytest

from resnetd_tf.data import synthetic
from resnetd_tf.data.splits import Dataset, Split
from resnetd_tf.errors import InputError
from resnetd_tf.evaluation import corruptions
from resnetd_tf.evaluation.metrics import expected_calibration_error


def test_calibration_error():
    """A classifier that is always 80 % sure: the error is the distance from its accuracy."""
    probabilities = np.full((10, 3), 0.1)
    probabilities[:, 1] = 0.8
    for right, expected in ((8, 0.0), (5, 0.3), (10, 0.2), (0, 0.8)):
        labels = np.where(np.arange(10) < right, 1, 2)
        assert expected_calibration_error(labels, probabilities) == pytest.approx(expected)
    sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])  # two bins: too sure by 0.4 and by 0.1
    assert expected_calibration_error(np.array([0, 1, 0, 1]), sure) == pytest.approx(0.25)
    assert expected_calibration_error(np.array([0]), np.array([[1.0, 0.0]])) == 0


def test_each_corruption_changes_images_a_little_and_always_alike():
    images, _ = synthetic.draw_scenes(20)
    change = {}
    for corruption in corruptions.CORRUPTIONS:
        changed = np.stack(corruption(images))
        assert changed.dtype == "uint8" and changed.shape == images.shape
        np.testing.assert_array_equal(changed, np.stack(corruption(images)))
        change[corruption.name, corruption.grade] = np.abs(changed.astype(int) - images).mean()
    assert min(change.values()) > 0.2 and max(change.values()) < 20, change
    grades = {name: [value for (change_name, _), value in change.items() if change_name == name] for name, _ in change}
    for name in ("noise", "JPEG", "blur"):
        assert grades[name] == sorted(grades[name]), name


def test_changes_of_known_pixels():
    image = np.zeros((1, 4, 4, 3), "uint8")
    image[..., 0], image[..., 2], image[:, :, 2:] = 100, 200, 60
    by_name = {(corruption.name, corruption.grade): corruption(image)[0] for corruption in corruptions.CORRUPTIONS}
    np.testing.assert_array_equal(by_name["brightness", "110 %"][0, 0], (110, 0, 220))
    np.testing.assert_array_equal(by_name["tint", "red 105 %, blue 95 %"][0, 0], (105, 0, 190))
    np.testing.assert_array_equal(by_name["haze", "a tenth"][0, 0], (110, 21, 202))
    np.testing.assert_array_equal(by_name["shift", "half a pixel"][0], [(100, 0, 200)] * 2 + [(80, 30, 130), (60,) * 3])


def test_an_evaluation_under_corruptions(run, program, tmp_path):
    arguments = ("--corruptions", f"--model={run}", f"--output_dir={tmp_path / 'out'}")
    result = program("evaluate.py", *arguments)
    assert result.returncode == 0, result.stderr
    result_json = json.loads((tmp_path / "out/corruptions.json").read_text())
    plain = json.loads((run / "run-1/evaluation-test-1/metrics.json").read_text())
    clean, *rows = result_json["corruptions"]
    assert clean["accuracy"] == result_json["accuracy"] == plain["accuracy"] and len(rows) == len(
        corruptions.CORRUPTIONS
    )
    assert result_json["mean_accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in rows]))
    assert result_json["count"] == 300 and 0 < result_json["calibration_error"] < 1
    assert (tmp_path / "out/corruptions.png").is_file()
    printed = result.stdout.splitlines()
    assert len(printed) == len(rows) + 5  # model, columns, clean, mean, files
    assert f"{100 * result_json['mean_accuracy']:.2f} % in the mean over {len(rows)} corruptions" in printed[-2]


def test_images_of_13_bands_are_refused():
    dataset = Dataset("bands", ("a", "b"), {"test": Split(np.zeros((2, 8, 8, 13)), np.zeros(2), ("a", "b"), "test")})
    with pytest.raises(InputError, match="those of pictures in RGB; bands has 13 bands"):
        next(corruptions.evaluate_corruptions(None, dataset, "test"))
