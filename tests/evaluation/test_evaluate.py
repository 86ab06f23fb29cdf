"""Evaluation of saved classifiers, through the program."""

import json
import shutil

import numpy as np
import pytest

from resnetd_tf import rundir
from resnetd_tf.data import synthetic
from resnetd_tf.errors import InputError
from resnetd_tf.evaluation import metrics
from resnetd_tf.evaluation.run import evaluate
from resnetd_tf.saved import open_classifier


def test_a_savedmodel_that_was_copied_alone(run, program, tmp_path):
    shutil.copytree(run / "1", tmp_path / "alone")  # as someone else would receive it
    result = program(
        "evaluate.py", f"--model={tmp_path / 'alone'}", "--dataset=synthetic", f"--output_dir={tmp_path / 'o'}"
    )
    assert result.returncode == 0, result.stderr
    assert "(synthetic images)" in result.stdout and "SeaLake" in result.stdout
    first = json.loads((run / "run-1/evaluation-test-1/metrics.json").read_text())
    again = json.loads((tmp_path / "o/metrics.json").read_text())
    assert again["confusion_matrix"] == first["confusion_matrix"]
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        "metrics.json",
        "confusion_matrix.png",
        "examples.png",
        "mistakes.png",
    }


def test_evaluations_do_not_overwrite(run, tmp_path):
    folder = tmp_path / "run-1"
    shutil.copytree(run / "run-1", folder)
    model = str(folder / "model.keras")
    for number in (1, 2):
        evaluate(model, split="validation")
        assert (folder / f"evaluation-validation-{number}/metrics.json").is_file()
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match="exists already"):
        evaluate(model, split="validation", output_dir=str(folder / "evaluation-validation-1"))
    assert sorted(folder.rglob("*")) == before


def test_over_turns(run, program, tmp_path):
    """Told apart, and nearer to each other for the turns of one image than without."""
    result = program("evaluate.py", f"--model={run}", "--turns", f"--output_dir={tmp_path / 'o'}")
    assert result.returncode == 0, result.stderr
    assert "test accuracy of synthetic, over eight turns (synthetic images): " in result.stdout
    found = json.loads((tmp_path / "o/metrics.json").read_text())
    assert found["over_turns"] and found["count"] == 300
    classifier, images = open_classifier(run), synthetic.draw(20, seed=9)[0]
    turned = [np.rot90(image, 3)[:, ::-1] for image in images]
    plain, over = (
        np.abs(metrics.predict(classifier, turned, how) - metrics.predict(classifier, images, how)).max()
        for how in (False, True)
    )
    assert over < 1e-5 < plain


def test_a_failed_evaluation_leaves_no_folder(tmp_path):
    with pytest.raises(InputError, match="no"), rundir.new_evaluation(tmp_path, "test") as folder:
        assert folder.is_dir()
        raise InputError("no")
    with pytest.raises(InputError, match="no"), rundir.new_evaluation(tmp_path, "other") as folder:
        (folder / "metrics.json").touch()
        raise InputError("no")
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation-other-1"]
