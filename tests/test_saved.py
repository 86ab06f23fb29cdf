"""Opening classifiers, good and bad, and those that version 0.1.0 wrote."""

import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from conftest import ROOT

from resnetd_tf.data import synthetic
from resnetd_tf.errors import InputError
from resnetd_tf.saved import open_classifier


def test_bad_models(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no SavedModel"):
        open_classifier(tmp_path / "empty")
    (tmp_path / "broken.keras").write_text("not a model")
    with pytest.raises(InputError, match=r"broken\.keras: cannot be loaded"):
        open_classifier(tmp_path / "broken.keras")
    shutil.copytree(run / "1", tmp_path / "1")
    (tmp_path / "1/variables/variables.index").write_text("")
    with pytest.raises(InputError, match="1: cannot be loaded"):
        open_classifier(tmp_path)


@pytest.fixture
def old(tmp_path):
    """A run, a network's own file and what both give for four images, written by version 0.1.0's code.

    Networks of one block a stage whose weights repeat 997 numbers, so that they compress.
    """
    with tarfile.open(ROOT / "tests/golden/saved_by_0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "saved_by_0.1.0"


def test_classifiers_of_0_1_0(old):
    expected = np.load(old / "outputs.npz")["classifier"]
    assert expected.std(axis=0).max() > 0.01
    images = synthetic.draw(4, seed=1)[0]
    for model, path in ((old, old / "1"), (old / "run-1/model.keras", old / "run-1/model.keras")):
        classifier = open_classifier(model)
        assert classifier.path == path and classifier.classes == synthetic.CLASSES
        assert classifier.metadata["dataset"] == "synthetic" and classifier.metadata["patch_shape"] == [64, 64, 3]
        np.testing.assert_allclose(classifier.predict(images), expected, atol=1e-5)


@pytest.mark.parametrize("imports", ["import keras, resnetd_tf", "import resnetd_tf, keras"])
def test_networks_of_0_1_0(old, imports):
    """With our layers in them, in a process that has imported our package before or after Keras."""
    script = f"""
import numpy as np
{imports}
from resnetd_tf.data import synthetic
network = keras.saving.load_model("network.keras")
outputs = network((synthetic.draw(4, seed=1)[0] / 127.5 - 1).astype("float32"), training=False)
np.testing.assert_allclose(outputs, np.load("outputs.npz")["network"], atol=1e-5)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=old, timeout=200)
