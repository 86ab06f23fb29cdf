"""What a killed run goes on from.

run-3/unfinished/           there until the run has ended
    lock, process.json      which process has it
    epoch-4-step-120/       the newest checkpoint: whole, or not there
        variables.*         weights, batch-norm statistics and optimizer, by tf.train.Checkpoint
        progress.json       all else
        model.keras         the best epoch so far
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import socket
from dataclasses import dataclass, field

import filelock
import keras
import numpy as np
import psutil
import tensorflow as tf

from resnetd_tf import metadata, rundir
from resnetd_tf.environment import program_command
from resnetd_tf.errors import InputError
from resnetd_tf.training.settings import Settings


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch: Epochs that are complete, with their validation.
        step: Steps of the next that are done.
        history: A row for each complete epoch, as in history.csv.
        sums: What the metrics have summed up in the steps of the unfinished epoch, on each replica.
        seconds: Time that training took.
        epoch_seconds: Of that, in the unfinished epoch.
        wall_seconds: Time since the run was started, without that between a process's end and the next one's start.
        threads: Threads that an operation may use.
    """

    epoch: int = 0
    step: int = 0
    history: list[dict] = field(default_factory=list)
    sums: list[float | list] = field(default_factory=list)
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    wall_seconds: float = 0.0
    threads: int = 0

    @property
    def best(self) -> dict | None:
        """The row of the best epoch so far, `best_of`; `None` before the end of the first."""
        return best_epoch(self.history) if self.history else None

    def __str__(self) -> str:
        if self.step:
            return f"after step {self.step} of epoch {self.epoch + 1}"
        return f"after epoch {self.epoch}" if self.epoch else "at its start"


def best_epoch(history: list[dict]) -> dict:
    """The row of the epoch with the highest validation accuracy, the first of them."""
    return max(history, key=lambda row: row["val_accuracy"])


def newest_checkpoint(folder: pathlib.Path) -> pathlib.Path | None:
    """The newest checkpoint in a run's unfinished/, if there is one."""
    return max(folder.glob("epoch-*-step-*"), key=_checkpoint_position, default=None)


def _checkpoint_position(path: pathlib.Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", path.name)))


def save_checkpoint(folder: pathlib.Path, model: keras.Model, progress: Progress, best: pathlib.Path) -> None:
    """Writes a checkpoint to a run's unfinished/, whole or not at all, and then deletes those before it.

    Args:
        folder: The run's unfinished/.
        model: The compiled classifier.
        progress: How far it has been trained.
        best: The file of the best epoch's model, if there is one yet.

    Raises:
        InputError: It cannot be written.
    """
    path = folder / f"epoch-{progress.epoch}-step-{progress.step}"
    if not path.exists():
        with rundir.write_atomically(path) as temporary:
            temporary.mkdir()
            tf.train.Checkpoint(variables=model_variables(model)).write(str(temporary / "variables"))
            rundir.write_json(temporary / "progress.json", dataclasses.asdict(progress))
            if progress.best:
                _link_or_copy(best, temporary / "model.keras")
            for file in temporary.iterdir():  # on disk before it has its name, even if the power goes
                with file.open("rb") as written:
                    os.fsync(written.fileno())
    for other in folder.glob("epoch-*-step-*"):
        if other != path:
            shutil.rmtree(other, ignore_errors=True)


def _link_or_copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """A second name for a file that is only ever replaced whole; a copy where the file system has no such thing."""
    try:
        target.hardlink_to(source)
    except (OSError, NotImplementedError):
        shutil.copyfile(source, target)


def read_progress(path: pathlib.Path) -> Progress:
    """How far a checkpoint has come.

    Raises:
        InputError: It is damaged.
    """
    try:
        return Progress(**json.loads((path / "progress.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read: delete {path.parent.parent} and train anew") from error


def restore_checkpoint(path: pathlib.Path, model: keras.Model, best: pathlib.Path) -> None:
    """Puts a checkpoint into a compiled classifier like that which it was made of, and the best model into its file.

    Raises:
        InputError: The checkpoint is damaged.
    """
    try:
        tf.train.Checkpoint(variables=model_variables(model)).read(str(path / "variables")).assert_consumed()
    except (tf.errors.OpError, ValueError, AssertionError) as error:
        raise InputError(f"{path} cannot be read: delete {path.parent.parent} and train anew") from error
    if (path / "model.keras").is_file():
        with rundir.write_atomically(best) as temporary:
            _link_or_copy(path / "model.keras", temporary)


def model_variables(model: keras.Model) -> list[tf.Variable]:
    """All variables that training changes, of every replica those that it keeps for itself."""
    found = []
    for weight in model.weights:  # batch norm's averages, which are not trained, differ from replica to replica
        found += [weight.value] if weight.trainable else _replica_variables(weight)
    return [*found, *(variable.value for variable in model.optimizer.variables)]


def _replica_variables(variable: keras.Variable) -> list[tf.Variable]:
    return list(getattr(variable.value, "values", [variable.value]))


def metric_sums(model: keras.Model) -> list[float | list]:
    """What the metrics have summed up, on each replica."""
    return [sum_.numpy().tolist() for variable in model.metrics_variables for sum_ in _replica_variables(variable)]


def restore_metric_sums(model: keras.Model, sums: list[float | list]) -> None:
    """Puts back what `metric_sums` returned."""
    places = [place for variable in model.metrics_variables for place in _replica_variables(variable)]
    for place, value in zip(places, sums, strict=True):
        place.assign(value)


def has_finite_weights(model: keras.Model) -> bool:
    """Whether all weights are finite numbers."""
    return all(np.isfinite(weights).all() for weights in model.get_weights())


def remove_unfinished(folder: pathlib.Path) -> None:
    """Deletes a run's unfinished/: by its name at once, then what was in it."""
    ended = rundir.temporary_path(folder)
    with contextlib.suppress(OSError):
        folder.rename(ended)
        shutil.rmtree(ended, ignore_errors=True)


# Runs that have not ended: which there are, which process has them, and how they go on.


UNFINISHED_FOLDER = "unfinished"  # in that of the run
# What may differ from one process of a run to the next. The images themselves are compared, and the run was found.
CHANGEABLE_SETTINGS = ("checkpoint_minutes", "data_dir", "eurosat_zip", "output_dir", "split_files")

NEEDED_METADATA = ("data_sha256", "interpolation", "normalization", "replicas", "weights_source")  # of metadata.json


class RunInUse(InputError):
    """Another process has the run."""


def newest_unfinished_run(base: pathlib.Path) -> pathlib.Path | None:
    """The folder of the newest run under a base path that has not ended; one with a checkpoint, if there is any."""
    found = []
    for folder in reversed(rundir.run_folders(base)):
        for ended, process in rundir.temporary_paths(folder).items():  # one died when all but this was done
            if ended.name.endswith(UNFINISHED_FOLDER) and not _process_lives(process):
                shutil.rmtree(ended, ignore_errors=True)
        if (folder / UNFINISHED_FOLDER).is_dir() or not any(folder.iterdir()):  # one died before it wrote anything
            found.append(folder)
    return next(
        (folder for folder in found if newest_checkpoint(folder / UNFINISHED_FOLDER)), found[0] if found else None
    )


def _process_lives(process: int) -> bool:
    """Whether there is another process of that number. In containers those that died had ours."""
    return process != os.getpid() and psutil.pid_exists(process)


def claim_newest_run(base: pathlib.Path) -> tuple[pathlib.Path, filelock.FileLock] | None:
    """Claims the newest run under a base path that has not ended, if there is one.

    Raises:
        InUse: Another process has it.
    """
    while folder := newest_unfinished_run(base):
        lock = claim_run(folder)
        if newest_checkpoint(folder / UNFINISHED_FOLDER) or not rundir.savedmodel_path(folder).exists():
            return folder, lock
        remove_unfinished(folder / UNFINISHED_FOLDER)  # the run ended just before it was claimed
        lock.release()
    return None


def claim_run(folder: pathlib.Path) -> filelock.FileLock:
    """Takes a run for this process, until the lock that is returned is released or the process ends.

    Raises:
        InUse: Another process has it.
    """
    place = folder / UNFINISHED_FOLDER
    place.mkdir(exist_ok=True)
    lock = filelock.FileLock(place / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunInUse(f"{folder} is in use by {_lock_owner(place)}; wait for it, or end it") from None
    rundir.write_json(place / "process.json", {"process": os.getpid(), "host": socket.gethostname()})
    for temporary, process in (
        rundir.temporary_paths(folder) | rundir.temporary_paths(place)
    ).items():  # a killed process's
        if not _process_lives(process) or temporary.parent == place:
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
    return lock


def _lock_owner(place: pathlib.Path) -> str:
    try:
        owner = json.loads((place / "process.json").read_text(encoding="utf-8"))
        return f"process {owner['process']} on {owner['host']}"
    except (OSError, ValueError, KeyError):  # it has only just taken it
        return "another process"


def create_run(base: pathlib.Path) -> tuple[pathlib.Path, filelock.FileLock]:
    """Claims the next run under a base path; says which one is unfinished.

    Raises:
        InputError: The base path cannot be written.
    """
    before = newest_unfinished_run(base)
    with contextlib.suppress(InputError, ValueError):  # one died before it wrote metadata.json
        if before:
            command = metadata.read_metadata(before / "metadata.json", ("command",))["command"]
            print(f"{before.name} is unfinished: {resume_advice(shlex.split(command))}")
    while True:
        folder = rundir.create_run_folder(base)[1]
        try:
            return folder, claim_run(folder)
        except RunInUse:  # one that resumes took it for a dead one's
            continue


def resume_advice(command: list[str]) -> str:
    """In words, what goes on with a run that was started by this command."""
    started, *arguments = command
    if pathlib.Path(started).name not in ("train.py", "resnetd-train"):
        return "train(settings, resume=True) goes on with it"
    again = [*program_command("train").split(), *arguments, *([] if "--resume" in arguments else ["--resume"])]
    return f"{shlex.join(again)} goes on with it"


def check_same_settings(folder: pathlib.Path, settings: Settings, described: dict) -> None:
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
        if name not in CHANGEABLE_SETTINGS and described[name] != (value := getattr(settings, name))
    ]
    if different:
        raise InputError(
            f"{folder} was started with {'; '.join(different)}: give the same to go on with it, or leave out --resume "
            "to start another run"
        )
