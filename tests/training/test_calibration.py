"""Temperature scaling: alone, and in a run."""

import json

import numpy as np
import pytest
from scipy.special import softmax

from resnetd_tf.data import datasets
from resnetd_tf.evaluation import metrics
from resnetd_tf.saved import open_classifier


def draw_logits(count: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits, and labels that are drawn with the probabilities of these logits."""
    random = np.random.default_rng(0)
    logits = 3 * random.standard_normal((count, classes))
    return logits, np.array([random.choice(classes, p=row) for row in softmax(logits, axis=1)])


@pytest.mark.parametrize("factor", [0.4, 1, 2.5])
def test_temperature_is_the_factor_of_the_logits(factor):
    logits, labels = draw_logits(5000)
    temperature = metrics.fit_temperature(labels, softmax(logits * factor, axis=1).astype("float32"))
    assert temperature == pytest.approx(factor, rel=0.06)


@pytest.mark.parametrize("factor", [0.4, 1, 2.5])
def test_scaled_logits_are_calibrated(factor):
    logits, labels = draw_logits(5000)
    temperature = metrics.fit_temperature(labels, softmax(logits * factor, axis=1).astype("float32"))
    scaled = softmax(logits * factor / temperature, axis=1).astype("float32")
    assert metrics.fit_temperature(labels, scaled) == pytest.approx(1, abs=0.02)
    assert metrics.expected_calibration_error(labels, scaled) < 0.02


def test_few_images_promise_no_certainty():
    labels = np.arange(20) % 10
    logits = 5.0 * np.eye(10)[labels]  # They are right for every image.
    temperature = metrics.fit_temperature(labels, softmax(logits, axis=1))
    confidence = softmax(logits / temperature, axis=1).max(axis=1)
    assert 0.9 < confidence.mean() < 0.99


def test_the_models_of_a_run_are_calibrated(run):
    """This holds for the SavedModel and the Keras model."""
    validation = datasets.load_dataset("synthetic", ("validation",)).splits["validation"]
    assert json.loads((run / "run-1/metadata.json").read_text())["temperature"] != 1
    for model in (run, run / "run-1/model.keras"):
        probabilities = open_classifier(model).predict(validation.images)
        assert metrics.fit_temperature(validation.labels, probabilities) == pytest.approx(1, abs=0.02)
        accuracy = (probabilities.argmax(1) == validation.labels).mean()
        assert abs(probabilities.max(axis=1).mean() - accuracy) < 0.1
