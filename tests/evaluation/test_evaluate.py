"""Evaluation of saved classifiers, through the program."""

import json
import shutil


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


def test_evaluations_do_not_overwrite(run, program):
    for number in (1, 2):
        result = program(
            "evaluate.py", f"--model={run / 'run-1/model.keras'}", "--split=validation", "--dataset=synthetic"
        )
        assert result.returncode == 0, result.stderr
        assert (run / f"run-1/evaluation-validation-{number}/metrics.json").is_file()
