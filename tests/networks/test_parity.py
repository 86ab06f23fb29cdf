"""Our networks give the outputs of other implementations.

`python -m benchmarks.parity --write` stored the outputs of timm and KerasHub. The tests draw the same weights again.
"""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from nets import randomize

import resnetd_tf
from benchmarks import parity
from resnetd_tf.networks import checkpoints
from resnetd_tf.normalization import IMAGENET


def test_there_are_as_many_comparisons_as_docs_say():
    assert sum(4 * len(strides) for *_, strides in parity.NETWORKS) == 180


def difference(case):
    outputs = keras.ops.convert_to_numpy(parity.ours(*case)(parity.images(case[3], case[5])))
    with np.load(parity.GOLDEN) as golden:
        expected = golden[parity.key(*case)]
    assert np.abs(expected).max() > 0.1
    return np.abs(outputs - expected).max()


@pytest.mark.parametrize("case", parity.STORED, ids=lambda case: parity.key(*case))
def test_outputs_equal_those_of_peers(case):
    assert difference(case) < 1e-4


@pytest.mark.filterwarnings("ignore:This model usually expects 1 or 3 input channels")  # keras.applications, of 13
@pytest.mark.parametrize(("depth", "bands"), [(50, 3), (50, 13)])
def test_logits_equal_those_of_keras_applications(depth, bands):
    case = ("keras.applications", depth, "base", (97, 129), 32, bands)
    model = parity.ours(*case)
    expected = parity.theirs(*case, model)
    np.testing.assert_allclose(model(parity.images(case[3], bands)), expected, atol=1e-4)
    assert np.abs(expected).max() > 0.1


def test_grey_levels_normalised_with_the_statistics_give_keras_applications_logits():
    """Our network takes `resnetd_tf.statistics`, and keras.applications its own preprocessing."""
    model = parity.ours("keras.applications", 50, "base", (64, 64), 32, 3)
    options = {"classes": parity.CLASSES, "classifier_activation": None}
    peer = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), **options)
    randomize(peer)
    checkpoints.assign_weights(
        model, checkpoints.Checkpoint("keras.applications", checkpoints.convert_keras_applications(peer))
    )
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype("float32")
    expected = np.asarray(peer(keras.applications.resnet.preprocess_input(pixels.copy())))

    def relative_error(statistics):
        return np.abs(np.asarray(model(statistics.normalize(pixels))) - expected).max() / np.abs(expected).max()

    assert relative_error(resnetd_tf.statistics("imagenet", 50, "base")) < 1e-5
    assert relative_error(IMAGENET) > 0.1


@pytest.mark.long
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_backends_agree(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    script = """
import sys
sys.modules["tensorflow"] = None
from test_parity import difference, parity
cases = [case for case in parity.STORED if case[2] == "d"]
assert len(cases) == 7 and max(difference(case) for case in cases) < 1e-4
"""
    path = os.pathsep.join(map(str, (ROOT / "tests", ROOT / "tests/networks", ROOT)))
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
