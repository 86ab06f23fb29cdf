"""Hardware and memory, also where Linux's ways to ask for them are missing."""

import os
import subprocess
import sys
import types

import psutil
import pytest
from conftest import ROOT

from resnetd_tf import environment


def test_where_linux_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(
        environment.pathlib.Path, "read_text", lambda path, **_: (_ for _ in ()).throw(FileNotFoundError)
    )
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: types.SimpleNamespace(peak_wset=3 * 2**29))
    hardware = environment.environment()["hardware"]
    assert hardware["cores"] >= 1 and hardware["memory_gib"] > 0 and hardware["cpu"]
    assert environment.cpu_info() == "" and environment.peak_memory() == 1.5


@pytest.mark.parametrize(("platform", "unit"), [("linux", 2**10), ("darwin", 1)])
def test_peak_memory_in_the_units_of_the_system(monkeypatch, platform, unit):
    usage = types.SimpleNamespace(ru_maxrss=5 * 2**30 // unit)
    resource = types.SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: usage)
    monkeypatch.setitem(sys.modules, "resource", resource)
    monkeypatch.setattr(sys, "platform", platform)
    assert environment.peak_memory() == 5


def test_programs_are_called_as_this_one_was(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/resnetd-train"])
    assert environment.program("evaluate") == "resnetd-evaluate"
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert environment.program("evaluate") == "python evaluate.py"


def test_revision_of_a_repository_that_it_is_only_installed_in(monkeypatch, tmp_path):
    assert bool(environment.environment()["git_revision"]) == (ROOT / ".git").exists()
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", tmp_path, *who, "commit", "--quiet", "--allow-empty", "-m", "theirs"], check=True)
    (tmp_path / "environment.py").touch()
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    assert environment.environment()["git_revision"] is None
