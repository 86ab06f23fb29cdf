"""Numbers of runs."""

from resnetd_tf import rundir


def test_whatever_has_a_number_is_taken(tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "7").write_text("a file")
    (tmp_path / "run-8").mkdir()
    (tmp_path / "0012").mkdir()
    assert rundir.new_run(tmp_path) == (9, tmp_path / "run-9")
    assert rundir.versions(tmp_path) == []
