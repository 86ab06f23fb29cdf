"""Training on few images: the head first, the best of equal epochs, and where such a classifier applies."""

import re
import shutil

import numpy as np
import pytest
from conftest import ROOT

from resnetd_tf import applicability, saved
from resnetd_tf.training import checkpoint
from resnetd_tf.training.run import fit_logistic_regression

# Classes of samples/patches by names of one's own.
OWN_NAMES = {"AnnualCrop": "field", "Forest": "wood", "SeaLake": "water"}


@pytest.fixture
def patches(tmp_path):
    """A folder of three classes, whose splits have copies of one image each."""
    for source, name in OWN_NAMES.items():
        (path,) = (ROOT / "samples/patches" / source).iterdir()
        for split, count in (("train", 3), ("validation", 1), ("test", 1)):
            (tmp_path / "mine" / split / name).mkdir(parents=True)
            for index in range(count):
                shutil.copy(path, tmp_path / "mine" / split / name / f"{split}-{index}.jpg")
    return tmp_path / "mine"


def test_of_equal_accuracies_the_lower_loss_is_best():
    rows = [(1, 1.0, 0.9), (2, 0.9, 0.1), (3, 1.0, 0.2), (4, 1.0, 0.3)]
    history = [{"epoch": epoch, "val_accuracy": accuracy, "val_loss": loss} for epoch, accuracy, loss in rows]
    assert checkpoint.best_epoch(history) is history[2]


def test_the_head_is_fitted_to_features():
    generator = np.random.default_rng(0)
    centres, labels = generator.random((3, 50)), generator.integers(3, size=40)
    features = (centres[labels] + 0.1 * generator.normal(size=(40, 50))).astype("float32")
    start = generator.normal(size=(50, 3)).astype("float32"), np.zeros(3, "float32")
    kernel, bias = fit_logistic_regression(features, labels, *start, smoothing=0.1)
    logits = features @ kernel + bias
    assert (logits.argmax(1) == labels).all()
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert abs(probabilities.max(1).mean() - (0.9 + 0.1 / 3)) < 0.02  # the smoothed target
    # Features of another size have the same probabilities.
    kernel, bias = fit_logistic_regression(100 * features, labels, start[0] / 100, start[1], smoothing=0.1)
    np.testing.assert_allclose(100 * features @ kernel + bias, logits, atol=0.2)


def test_weights_of_features_that_no_image_has_stay():
    """As those of EuroSAT's classes do with --keep_classes, where the images say nothing."""
    features, labels = np.eye(4, dtype="float32"), np.arange(4)
    features[3] = 0
    kernel = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
    fitted, _ = fit_logistic_regression(features, labels, kernel, np.zeros(4, "float32"), smoothing=0.1)
    np.testing.assert_array_equal(fitted[3], kernel[3])
    assert np.abs(fitted[:3] - kernel[:3]).min() > 0.001


@pytest.mark.long
def test_one_image_of_each_class_suffices_for_classes_that_eurosat_has(program, tmp_path, patches):
    arguments = ("--weights=eurosat", "--recipe=few", "--epochs=1", "--batch_size=9", f"--dataset=folder:{patches}")
    result = program("train.py", *arguments, f"--output_dir={tmp_path / 'model'}")
    assert result.returncode == 0, result.stderr
    assert "Fitting the head to the features of 9 training images" in result.stdout
    assert re.search(r"test accuracy of .*: 100.00 %", result.stdout)
    classifier = saved.open_classifier(tmp_path / "model/run-1/model.keras")
    # EuroSAT's images, which the weights have seen, are not unlike the training images, though nine images are few.
    assert classifier.applicability is not None
    eurosat_images = [next((ROOT / "samples/patches" / name).iterdir()) for name in ("River", "Highway", "Residential")]
    result = program("predict.py", f"--model={tmp_path / 'model'}", *eurosat_images)
    assert "unlike" not in result.stdout


def test_a_frozen_network_and_few_validation_images(run, tmp_path, patches, program):
    """The head is fitted before the backbone is frozen, and three validation images give no score."""
    arguments = ("--depth=10", "--image_size=32", "--recipe=few", "--epochs=1", "--batch_size=9", "--freeze=backbone")
    weights = f"--weights={run / 'run-1/model.keras'}"
    result = program("train.py", *arguments, weights, f"--dataset=folder:{patches}", f"--output_dir={tmp_path / 'm'}")
    assert result.returncode == 0, result.stderr
    assert "Fitting the head to the features of 9 training images" in result.stdout
    assert "No score of applicability, which takes 100 validation images" in result.stdout
    assert not (tmp_path / "m/run-1" / applicability.FILE_NAME).exists()
