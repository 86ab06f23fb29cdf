"""The average of weights, and the learning rate while weights are averaged."""

import numpy as np
import pytest

from resnetd_tf.data import synthetic
from resnetd_tf.data.splits import Dataset, Split
from resnetd_tf.networks import classifier
from resnetd_tf.normalization import EUROSAT_RGB
from resnetd_tf.training import Settings, train_loop
from resnetd_tf.training.optimizer import AVERAGED_RATE, compile_classifier, learning_rate_of_epoch
from resnetd_tf.training.train_loop import WeightAverage

SETTINGS = Settings(depth=10, image_size=32, weights="none", epochs=4, batch_size=10, learning_rate=0.4, average=0.5)


@pytest.fixture
def run(monkeypatch):
    """A run of two steps in an epoch, without a folder."""
    monkeypatch.setattr(WeightAverage, "MIN_UPDATES", 2)
    images, labels = synthetic.draw_scenes(20)
    split = Split(images, labels, synthetic.CLASSES, "all")
    model = classifier.build_classifier(10, "d", classes=10, statistics=EUROSAT_RGB, image_size=32)
    compile_classifier(model, SETTINGS, 2)
    return train_loop.Run(
        folder=None,
        lock=None,
        settings=SETTINGS,
        dataset=Dataset("synthetic", synthetic.CLASSES, {"train": split}),
        model=model,
        metadata={},
        progress=None,
        termination=None,
        start_time=0.0,
    )


def test_weights_of_the_last_part_are_averaged(run):
    average = WeightAverage(run, run.dataset.splits["train"])
    expected = []
    for step in range(1, 9):
        for weight in run.model.trainable_weights:
            weight.assign_add(np.full(weight.shape, 0.01 * step))
        assert average.has_started == (step > 6)
        average.update_if_due(step)
        if step in (6, 8):
            expected.append(run.model.get_weights())
    before = run.model.get_weights()
    averaged = average.compute_model()
    for weight, source, first, second in zip(averaged.weights, run.model.weights, *expected):
        if source.trainable:
            np.testing.assert_allclose(weight.numpy(), (first + second) / 2, atol=1e-5)
    for weight, expected_weight in zip(run.model.get_weights(), before):
        np.testing.assert_array_equal(weight, expected_weight)  # the average does not disturb training


def test_statistics_are_the_mean_of_training_batches(run):
    """The first normalisation is tested, whose inputs depend on one convolution alone."""
    average = WeightAverage(run, run.dataset.splits["train"])
    average.update_if_due(6)
    averaged = average.compute_model()
    network = averaged.layers[-1]
    convolution = network.get_layer("stem_1_conv")
    means = []
    for images, _ in average.batches:
        pixels = averaged.get_layer("resizing")(averaged.get_layer("normalization")(images), training=False)
        means.append(convolution(network.get_layer("stem_1_conv_pad")(pixels)).numpy().mean((0, 1, 2)))
    np.testing.assert_allclose(network.get_layer("stem_1_bn").moving_mean.numpy(), np.mean(means, 0), atol=1e-4)


def test_the_learning_rate_stays_up_while_weights_are_averaged():
    rates = [learning_rate_of_epoch(SETTINGS, 100, epoch) for epoch in range(4)]
    peak = SETTINGS.learning_rate * SETTINGS.batch_size / 256
    assert rates[0] > rates[1] > AVERAGED_RATE * peak
    assert rates[2:] == pytest.approx([AVERAGED_RATE * peak] * 2)
