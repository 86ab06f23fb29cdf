"""Runs that have not ended: which there are, which process has them, and how they go on."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import socket

import filelock
import psutil

from resnetd_tf import metadata, rundir
from resnetd_tf.environment import program
from resnetd_tf.errors import InputError
from resnetd_tf.training import checkpoint
from resnetd_tf.training.settings import Settings

FOLDER = "unfinished"  # in that of the run
# What may differ from one process of a run to the next. The images themselves are compared, and the run was found.
MAY_DIFFER = ("checkpoint_minutes", "data_dir", "eurosat_zip", "output_dir", "split_files")

NEEDED = ("data_sha256", "interpolation", "normalization", "replicas", "weights_source")  # of metadata.json


class InUse(InputError):
    """Another process has the run."""


def newest(base: pathlib.Path) -> pathlib.Path | None:
    """The folder of the newest run under a base path that has not ended; one with a checkpoint, if there is any."""
    found = []
    for folder in reversed(rundir.runs(base)):
        for ended, process in rundir.temporaries(folder).items():  # one died when all but this was done
            if ended.name.endswith(FOLDER) and not _lives(process):
                shutil.rmtree(ended, ignore_errors=True)
        if (folder / FOLDER).is_dir() or not any(folder.iterdir()):  # one died before it wrote anything
            found.append(folder)
    return next((folder for folder in found if checkpoint.newest(folder / FOLDER)), found[0] if found else None)


def _lives(process: int) -> bool:
    """Whether there is another process of that number. In containers those that died had ours."""
    return process != os.getpid() and psutil.pid_exists(process)


def claim_newest(base: pathlib.Path) -> tuple[pathlib.Path, filelock.FileLock] | None:
    """Claims the newest run under a base path that has not ended, if there is one.

    Raises:
        InUse: Another process has it.
    """
    while folder := newest(base):
        lock = claim(folder)
        if checkpoint.newest(folder / FOLDER) or not rundir.savedmodel(folder).exists():
            return folder, lock
        checkpoint.remove(folder / FOLDER)  # the run ended just before it was claimed
        lock.release()
    return None


def claim(folder: pathlib.Path) -> filelock.FileLock:
    """Takes a run for this process, until the lock that is returned is released or the process ends.

    Raises:
        InUse: Another process has it.
    """
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    lock = filelock.FileLock(place / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InUse(f"{folder} is in use by {_owner(place)}; wait for it, or end it") from None
    rundir.write_json(place / "process.json", {"process": os.getpid(), "host": socket.gethostname()})
    for temporary, process in (rundir.temporaries(folder) | rundir.temporaries(place)).items():  # a killed process's
        if not _lives(process) or temporary.parent == place:
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
    return lock


def _owner(place: pathlib.Path) -> str:
    try:
        owner = json.loads((place / "process.json").read_text(encoding="utf-8"))
        return f"process {owner['process']} on {owner['host']}"
    except (OSError, ValueError, KeyError):  # it has only just taken it
        return "another process"


def new(base: pathlib.Path) -> tuple[pathlib.Path, filelock.FileLock]:
    """Claims the next run under a base path; says which one is unfinished.

    Raises:
        InputError: The base path cannot be written.
    """
    before = newest(base)
    with contextlib.suppress(InputError, ValueError):  # one died before it wrote metadata.json
        if before:
            command = metadata.read(before / "metadata.json", ("command",))["command"]
            print(f"{before.name} is unfinished: {how_to_go_on(shlex.split(command))}")
    while True:
        folder = rundir.new_run(base)[1]
        try:
            return folder, claim(folder)
        except InUse:  # one that resumes took it for a dead one's
            continue


def how_to_go_on(command: list[str]) -> str:
    """In words, what goes on with a run that was started by this command."""
    started, *arguments = command
    if pathlib.Path(started).name not in ("train.py", "resnetd-train"):
        return "train(settings, resume=True) goes on with it"
    again = [*program("train").split(), *arguments, *([] if "--resume" in arguments else ["--resume"])]
    return f"{shlex.join(again)} goes on with it"


def must_agree(folder: pathlib.Path, settings: Settings, described: dict) -> None:
    """Raises InputError if settings are others than those that a run was started with, naming them."""
    fields = [field.name for field in dataclasses.fields(settings)]
    if not set(fields) <= described.keys():
        raise InputError(
            f"{folder} was started by an older version of resnetd_tf, and only that can go on with it; leave out "
            "--resume to start another run"
        )
    different = [
        f"--{name}={described[name]}, now {value}"
        for name in fields
        if name not in MAY_DIFFER and described[name] != (value := getattr(settings, name))
    ]
    if different:
        raise InputError(
            f"{folder} was started with {'; '.join(different)}: give the same to go on with it, or leave out --resume "
            "to start another run"
        )
