"""Metrics, against SciPy and scikit-learn."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import sklearn.metrics

from resnetd_tf.evaluation import metrics


@pytest.mark.parametrize("count", [1, 2, 10, 300, 5400, 50_000])
def test_wilsons_interval_is_scipys(count):
    for correct in {0, 1, count // 3, count - 1, count}:
        expected = scipy.stats.binomtest(correct, count).proportion_ci(method="wilson")
        assert metrics.wilson_interval(correct, count) == pytest.approx([expected.low, expected.high], abs=1e-12)


@pytest.mark.parametrize("count", [1, 5, 400])
def test_scores_of_classes_are_scikit_learns(count):
    """Some classes have no image, some are never predicted."""
    rng = np.random.default_rng(count)
    labels, probabilities = rng.integers(0, 7, count), rng.random((count, 10)) * (np.arange(10) != 4)
    predictions, indices = probabilities.argmax(axis=1), range(10)
    result = metrics.compute_metrics(labels, probabilities, tuple("abcdefghij"))
    columns = sklearn.metrics.precision_recall_fscore_support(labels, predictions, labels=indices, zero_division=0)
    assert [tuple(row.values()) for row in result["classes"].values()] == list(zip(*columns))
    assert result["confusion_matrix"] == sklearn.metrics.confusion_matrix(labels, predictions, labels=indices).tolist()


@pytest.mark.parametrize("true_temperature", [0.3, 0.9, 1.0, 1.7, 4.0])
def test_the_temperature_has_the_least_log_loss(true_temperature):
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((400, 6))
    labels = np.array([rng.choice(6, p=row) for row in scipy.special.softmax(logits / true_temperature, axis=1)])
    smooth_targets = np.full((400, 6), 1 / 402 / 6)
    smooth_targets[np.arange(400), labels] += 1 - 1 / 402

    def log_loss(temperature):
        return -(smooth_targets * scipy.special.log_softmax(logits / temperature, axis=1)).sum(axis=1).mean()

    expected = scipy.optimize.minimize_scalar(log_loss, bounds=(0.1, 10), method="bounded").x
    fitted = metrics.fit_temperature(labels, scipy.special.softmax(logits, axis=1))
    assert fitted == pytest.approx(expected, abs=0.006)


def test_temperature_has_limits():
    uniform = np.full((10, 3), 1 / 3)
    assert metrics.fit_temperature(np.zeros(10, int), uniform) == metrics.MAX_TEMPERATURE
