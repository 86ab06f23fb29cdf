"""Temperature scaling: alone, and in a run."""

import json

import numpy as np
import pytest
from scipy.special import softmax

from resnetd_tf.data import datasets
from resnetd_tf.evaluation import metrics
from resnetd_tf.saved import open_classifier


def drawn(count: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that are drawn with the probabilities that these mean."""
    random = np.random.default_rng(0)
    logits = 3 * random.standard_normal((count, classes))
    return logits, np.array([random.choice(classes, p=row) for row in softmax(logits, axis=1)])


@pytest.mark.parametrize("too_sure", [0.4, 1, 2.5])
def test_temperature(too_sure):
    """It finds by what logits were multiplied, and nothing more to do once they are divided by it."""
    logits, labels = drawn(5000)
    found = metrics.fit_temperature(labels, softmax(logits * too_sure, axis=1).astype("float32"))
    assert found == pytest.approx(too_sure, rel=0.06)
    scaled = softmax(logits * too_sure / found, axis=1).astype("float32")
    assert metrics.fit_temperature(labels, scaled) == pytest.approx(1, abs=0.02)
    assert metrics.expected_calibration_error(labels, scaled) < 0.02


def test_few_images_promise_no_certainty():
    labels = np.arange(20) % 10
    right = softmax(5.0 * np.eye(10)[labels], axis=1)
    found = metrics.fit_temperature(labels, right)
    confidence = softmax(5.0 * np.eye(10)[labels] / found, axis=1).max(axis=1)
    assert 0.9 < confidence.mean() < 0.99


def test_a_run(run):
    """What it leaves is calibrated, the SavedModel and the Keras model alike."""
    validation = datasets.load_dataset("synthetic", ("validation",)).splits["validation"]
    assert json.loads((run / "run-1/metadata.json").read_text())["temperature"] != 1
    for model in (run, run / "run-1/model.keras"):
        probabilities = open_classifier(model).predict(validation.images)
        assert metrics.fit_temperature(validation.labels, probabilities) == pytest.approx(1, abs=0.02)
        right = (probabilities.argmax(1) == validation.labels).mean()
        assert abs(probabilities.max(axis=1).mean() - right) < 0.1
