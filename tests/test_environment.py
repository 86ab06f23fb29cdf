"""Hardware, memory and revision, also on systems without Linux's interfaces."""

import os
import subprocess
import sys
import types

import psutil
import pytest
from conftest import ROOT

from resnetd_tf import environment


def test_hardware_is_described_without_linux(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(
        environment.pathlib.Path, "read_text", lambda path, **_: (_ for _ in ()).throw(FileNotFoundError)
    )
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: types.SimpleNamespace(peak_wset=3 * 2**29))
    hardware = environment.environment_info()["hardware"]
    assert hardware["cores"] >= 1 and hardware["memory_gib"] > 0 and hardware["cpu"]
    assert environment.read_cpu_info() == "" and environment.peak_memory_gib() == 1.5


@pytest.mark.parametrize(("platform", "unit"), [("linux", 2**10), ("darwin", 1)])
def test_peak_memory_in_the_units_of_the_system(monkeypatch, platform, unit):
    usage = types.SimpleNamespace(ru_maxrss=5 * 2**30 // unit)
    resource = types.SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: usage)
    monkeypatch.setitem(sys.modules, "resource", resource)
    monkeypatch.setattr(sys, "platform", platform)
    assert environment.peak_memory_gib() == 5


def test_programs_are_called_as_this_one_was(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/resnetd-train"])
    assert environment.program_command("evaluate") == "resnetd-evaluate"
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert environment.program_command("evaluate") == "python evaluate.py"


def test_the_revision_of_a_repository_around_the_installation_is_ignored(monkeypatch, tmp_path):
    assert bool(environment.environment_info()["git_revision"]) == (ROOT / ".git").exists()
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", tmp_path, *author, "commit", "--quiet", "--allow-empty", "-m", "theirs"], check=True)
    (tmp_path / "environment.py").touch()
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    assert environment.environment_info()["git_revision"] is None


def test_memory_of_a_container_includes_its_file_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "PROC", tmp_path)
    monkeypatch.setattr(environment, "CONTROL_GROUPS", tmp_path / "groups")
    machine = environment.available_memory_bytes()
    assert 0 < machine <= psutil.virtual_memory().total
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/job/step\n")
    group = tmp_path / "groups/job/step"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("7000000\n")
    (group / "memory.stat").write_text("anon 1000\ninactive_file 2000000\nactive_file 1000000\n")
    assert environment.available_memory_bytes() > 4_000_000
    (group / "memory.max").write_text("8000000\n")
    assert environment.available_memory_bytes() == 4_000_000
