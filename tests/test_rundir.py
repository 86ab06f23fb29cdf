"""Numbers of runs, and the writing of files."""

import json

import pytest

from resnetd_tf import rundir
from resnetd_tf.errors import InputError


def test_a_number_is_taken_by_any_file_or_folder(tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "7").write_text("a file")
    (tmp_path / "run-8").mkdir()
    (tmp_path / "0012").mkdir()
    assert rundir.create_run_folder(tmp_path) == (9, tmp_path / "run-9")
    assert rundir.savedmodel_versions(tmp_path) == []


def test_metadata_is_valid_json(tmp_path):
    content = {"loss": float("nan"), "rates": (0.5, float("inf")), "classes": {"a": {"f1": float("-inf")}}, "n": 3}
    rundir.write_json(tmp_path / "metadata.json", content)
    read = json.loads((tmp_path / "metadata.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert read == {"loss": None, "rates": [0.5, None], "classes": {"a": {"f1": None}}, "n": 3}


def test_folders_of_a_new_file_are_created(tmp_path):
    path = tmp_path / "a/b/model.tflite"
    rundir.require_absent(path)
    rundir.write_text(path, "model")
    assert path.read_text() == "model" and [*path.parent.iterdir()] == [path]


def test_created_folders_are_removed_if_nothing_was_written(tmp_path):
    with pytest.raises(RuntimeError), rundir.write_atomically(tmp_path / "a/b/savedmodel") as temporary:
        temporary.mkdir()
        (temporary / "saved_model.pb").touch()
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    with pytest.raises(RuntimeError), rundir.write_atomically(tmp_path / "a/b/model.tflite") as temporary:
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [tmp_path / "a"] and not list((tmp_path / "a").iterdir())


def test_a_file_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file/models/model.tflite"
    with pytest.raises(InputError, match=r"file is a file, not a folder that .*model\.tflite could lie in"):
        rundir.require_absent(path)
    with pytest.raises(InputError, match=r"cannot write .*model\.tflite: Not a directory"):
        rundir.write_text(path, "model")


def test_temporary_paths_are_beside_the_file_and_never_the_same(tmp_path):
    """Two processes may write the same file at once. The suffix stays, because writers choose the format by it."""
    first, second = (rundir.temporary_path(tmp_path / "model.keras") for _ in range(2))
    assert first != second and first.parent == second.parent == tmp_path and first.suffix == ".keras"


def test_temporaries_are_removed(tmp_path):
    """Those of other versions have the number of their process in their name."""
    for name in (".123.tmp.savedmodel", ".0123abcd.tmp.epoch-1-step-0"):
        (tmp_path / name / "variables").mkdir(parents=True)
    rundir.temporary_path(tmp_path / "history.csv").touch()
    (tmp_path / "history.csv").touch()
    rundir.remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]
