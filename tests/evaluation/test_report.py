"""The pictures of a report, which leave matplotlib's settings alone."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from resnetd_tf import figures
from resnetd_tf.data.splits import Split
from resnetd_tf.evaluation import report
from resnetd_tf.evaluation.metrics import Evaluation


def test_the_users_backend_stays(tmp_path):
    script = """
import matplotlib
matplotlib.use("svg")
from resnetd_tf.evaluation import report
history = [{"epoch": 1, "accuracy": 1, "loss": 1, "val_accuracy": 1, "val_loss": 1}]
report.plot_history(history, report.pathlib.Path("history.png"))
assert matplotlib.get_backend() == "svg"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=100, cwd=tmp_path)


@pytest.mark.parametrize(("bands", "dtype"), [(3, "uint8"), (13, "uint16")])
def test_pictures(tmp_path, bands, dtype):
    """Two of three classes have images, and the last image is a mistake."""
    images = np.random.default_rng(0).integers(0, 255, (4, 16, 16, bands)).astype(dtype)
    split = Split(images, np.array([0, 0, 2, 2]), tuple("abcd"), "test")
    probabilities = np.array([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.1, 0.2, 0.7], [0.9, 0.1, 0.0]])
    evaluation = Evaluation("model.keras", "fields", "test", split, ("Forest", "low$_$high", "SeaLake"), probabilities)
    assert evaluation.examples.tolist() == [0, 2] and evaluation.mistakes.tolist() == [3]
    assert evaluation.result["mistakes"] == [
        {"name": "d", "true": "SeaLake", "predicted": "Forest", "probability": 0.9}
    ]
    report.write_report(evaluation, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(report.REPORT_FILES.split(", "))
    for path in tmp_path.glob("*.png"):
        assert np.asarray(Image.open(path)).std() > 5


@pytest.mark.parametrize("count", [1, 2, 50])
def test_epochs_are_whole_numbers(monkeypatch, tmp_path, count):
    """The axis of a single epoch would go from 0.96 to 1.04 by itself."""
    drawn_figures = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn_figures.append(figure))
    row = {"accuracy": 0.5, "loss": 1.0, "val_accuracy": 0.6, "val_loss": 0.9}
    report.plot_history([{"epoch": epoch + 1, **row} for epoch in range(count)], tmp_path / "history.png")
    for axis in drawn_figures[0].axes:
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks and all(tick == int(tick) and 1 <= tick <= count for tick in ticks)


def test_many_classes(tmp_path):
    """The picture of four hundred classes has a few megapixels at most."""
    names = tuple(f"class {index}" for index in range(400))
    split = Split(np.zeros((400, 16, 16, 3), "uint8"), np.arange(400), names, "test")
    report.plot_confusion(
        Evaluation("model.keras", "fields", "test", split, names, np.eye(400)).result, tmp_path / "matrix.png"
    )
    with Image.open(tmp_path / "matrix.png") as picture:
        assert max(picture.size) < 3000


def test_no_mistakes(tmp_path):
    split = Split(np.zeros((2, 16, 16, 3), "uint8"), np.array([0, 1]), ("a", "b"), "test")
    evaluation = Evaluation("model.keras", "fields", "test", split, ("Forest", "River"), np.eye(2))
    report.write_report(evaluation, tmp_path)
    assert evaluation.result["accuracy"] == 1 and (tmp_path / "mistakes.png").is_file()
