"""Evaluation of saved classifiers, through the program."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from resnetd_tf import rundir
from resnetd_tf.data import sources, synthetic
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


def test_images_of_some_classes(run, program, bad_input, tmp_path):
    """Of some that the classifier knows, in any order; not of one that it does not know."""
    images, labels = synthetic.draw(60, seed=9)
    for number in (7, 2):
        for index in np.flatnonzero(labels == number):
            path = tmp_path / f"pictures/{synthetic.CLASSES[number]}/{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index]).save(path)
    ours = (f"--model={run}", f"--dataset=folder:{tmp_path / 'pictures'}", "--split=train")
    result = program("evaluate.py", *ours, f"--output_dir={tmp_path / 'found'}")
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "found/metrics.json").read_text())
    split = sources.load(f"folder:{tmp_path / 'pictures'}", ("train",)).splits["train"]
    predicted = open_classifier(run).predict(split.images).argmax(axis=1)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (labels[[int(pathlib.Path(name).stem) for name in split.names]], predicted), 1)
    assert found["confusion_matrix"] == expected.tolist() and tuple(found["classes"]) == synthetic.CLASSES
    assert np.count_nonzero(expected.sum(axis=1)) == 2
    (tmp_path / f"pictures/{synthetic.CLASSES[2]}").rename(tmp_path / "pictures/Vineyard")
    assert "pictures has Vineyard; " in bad_input("evaluate.py", *ours, f"--output_dir={tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()


def test_a_failed_evaluation_leaves_no_folder(tmp_path):
    with pytest.raises(InputError, match="no"), rundir.new_evaluation(tmp_path, "test") as folder:
        assert folder.is_dir()
        raise InputError("no")
    with pytest.raises(InputError, match="no"), rundir.new_evaluation(tmp_path, "other") as folder:
        (folder / "metrics.json").touch()
        raise InputError("no")
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation-other-1"]
