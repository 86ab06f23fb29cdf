"""Numbers of runs, and what is written of them."""

import json

import pytest

from resnetd_tf import rundir


def test_whatever_has_a_number_is_taken(tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "7").write_text("a file")
    (tmp_path / "run-8").mkdir()
    (tmp_path / "0012").mkdir()
    assert rundir.new_run(tmp_path) == (9, tmp_path / "run-9")
    assert rundir.versions(tmp_path) == []


def test_metadata_is_valid_json(tmp_path):
    content = {"loss": float("nan"), "rates": (0.5, float("inf")), "classes": {"a": {"f1": float("-inf")}}, "n": 3}
    rundir.write_json(tmp_path / "metadata.json", content)
    read = json.loads((tmp_path / "metadata.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert read == {"loss": None, "rates": [0.5, None], "classes": {"a": {"f1": None}}, "n": 3}
