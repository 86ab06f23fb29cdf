"""Checkpoints of a run, and the lock that gives an unfinished run to one process.

An unfinished run has these files beside those that `resnetd_tf.rundir` lists:

    run-3/unfinished/           exists until the run has ended
        lock                    locked by the process that works on the run
        process.json            that process, for messages
        epoch-4-step-120/       the newest checkpoint; it appears by one rename
            variables.*         weights, batch-norm statistics and optimizer, by tf.train.Checkpoint
            progress.json       everything else
            model.keras         the model of the best epoch so far
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
from typing import Any

import filelock
import keras
import numpy as np
import tensorflow as tf

from resnetd_tf import metadata, rundir
from resnetd_tf.environment import program_command
from resnetd_tf.errors import InputError
from resnetd_tf.training.settings import Settings

UNFINISHED_FOLDER = "unfinished"
# These settings may change when a run is resumed. The images are compared by their digest, and the run was located.
CHANGEABLE_SETTINGS = ("checkpoint_minutes", "data_dir", "eurosat_zip", "output_dir", "split_files")
# Entries of metadata.json that a resumed run reads.
NEEDED_METADATA = ("data_sha256", "interpolation", "normalization", "replicas", "weights_source")


@dataclass
class Progress:
    """How far a run has come; progress.json holds these fields.

    Attributes:
        epoch: Number of complete epochs, each with its validation.
        step: Number of completed steps in the next epoch.
        history: A row for each complete epoch, as in history.csv.
        sums: The sums that the metrics hold after the steps of the unfinished epoch, on each replica.
        seconds: Training time, s.
        epoch_seconds: Training time of the unfinished epoch, s.
        wall_seconds: Time since the run was started, without the time between two processes, s.
        threads: Number of threads that an operation may use.
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
        """The row of the best epoch so far, `None` before the end of the first epoch."""
        return best_epoch(self.history) if self.history else None

    def __str__(self) -> str:
        if self.step:
            return f"after step {self.step} of epoch {self.epoch + 1}"
        return f"after epoch {self.epoch}" if self.epoch else "at its start"


def best_epoch(history: list[dict]) -> dict:
    """Returns the row with the highest validation accuracy, and of several such rows the one with the lowest loss.

    With a handful of validation images many epochs have the same accuracy, and the first of them has hardly learned.
    """
    return max(history, key=lambda row: (row["val_accuracy"], -row["val_loss"]))


def newest_checkpoint(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the newest checkpoint of the run in `folder`, `None` if it has none."""
    return max(_checkpoints(folder), key=_checkpoint_position, default=None)


def _checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        return list((folder / UNFINISHED_FOLDER).glob("epoch-*-step-*"))
    except FileNotFoundError:  # Another process has just removed the folder.
        return []


def _checkpoint_position(path: pathlib.Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", path.name)))


def save_checkpoint(folder: pathlib.Path, model: keras.Model, progress: Progress) -> None:
    """Writes a checkpoint and then deletes the previous ones; on failure those stay.

    Args:
        folder: The folder of the run. Its model.keras, if any, must be the model of the best epoch.
        model: The compiled classifier.
        progress: How far the classifier has been trained.

    Raises:
        InputError: The checkpoint cannot be written.
    """
    path = folder / UNFINISHED_FOLDER / f"epoch-{progress.epoch}-step-{progress.step}"
    if not path.exists():
        with rundir.write_atomically(path) as temporary:
            temporary.mkdir()
            tf.train.Checkpoint(variables=model_variables(model)).write(str(temporary / "variables"))
            rundir.write_json(temporary / "progress.json", dataclasses.asdict(progress))
            if progress.best:
                _link_or_copy(folder / "model.keras", temporary / "model.keras")
            # The content must be on disk before the checkpoint has its name, even if the power fails.
            for checkpoint_file in temporary.iterdir():
                with checkpoint_file.open("rb") as file:
                    os.fsync(file.fileno())
    for previous in _checkpoints(folder):
        if previous != path:
            shutil.rmtree(previous, ignore_errors=True)


def _link_or_copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Gives a file a second name, or copies it where the file system has no hard links.

    A link suffices because model.keras is only ever replaced as a file and never written in place.
    """
    try:
        target.hardlink_to(source)
    except (OSError, NotImplementedError):
        shutil.copyfile(source, target)


def read_progress(path: pathlib.Path) -> Progress:
    """Reads how far a checkpoint has come.

    Raises:
        InputError: The checkpoint is damaged.
    """
    try:
        return Progress(**json.loads((path / "progress.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read: delete {path.parent.parent} and train anew") from error


def restore_checkpoint(path: pathlib.Path, model: keras.Model, folder: pathlib.Path) -> None:
    """Restores the variables of a classifier, and model.keras.

    Args:
        path: The checkpoint.
        model: A compiled classifier with the same layers as the one that was saved.
        folder: The folder of the run, in which model.keras is replaced by that of the checkpoint.

    Raises:
        InputError: The checkpoint is damaged.
    """
    try:
        tf.train.Checkpoint(variables=model_variables(model)).read(str(path / "variables")).assert_consumed()
    except (tf.errors.OpError, ValueError, AssertionError) as error:
        raise InputError(f"{path} cannot be read: delete {path.parent.parent} and train anew") from error
    if (path / "model.keras").is_file():
        with rundir.write_atomically(folder / "model.keras") as temporary:
            _link_or_copy(path / "model.keras", temporary)


def model_variables(model: keras.Model) -> list[tf.Variable]:
    """Returns all variables that training changes, with one entry per replica where replicas differ."""
    variables = []
    for weight in model.weights:  # Batch norm's averages, which are not trainable, differ between replicas.
        variables += [weight.value] if weight.trainable else _replica_variables(weight)
    return [*variables, *(variable.value for variable in model.optimizer.variables)]


def _replica_variables(variable: keras.Variable) -> list[tf.Variable]:
    return list(getattr(variable.value, "values", [variable.value]))


def metric_sums(model: keras.Model) -> list[float | list]:
    """Returns the sums that the metrics hold, on each replica."""
    return [
        replica_sum.numpy().tolist()
        for variable in model.metrics_variables
        for replica_sum in _replica_variables(variable)
    ]


def restore_metric_sums(model: keras.Model, sums: list[float | list]) -> None:
    """Gives the metrics the sums that `metric_sums` returned."""
    variables = [replica_sum for variable in model.metrics_variables for replica_sum in _replica_variables(variable)]
    for variable, value in zip(variables, sums, strict=True):
        variable.assign(value)


def has_finite_weights(model: keras.Model) -> bool:
    """Returns whether all weights are finite numbers."""
    return all(np.isfinite(weights).all() for weights in model.get_weights())


class RunInUse(InputError):
    """Another process works on the run."""


class RunRemoved(InputError):
    """Another process has removed or finished the run since it was found."""


def unfinished_runs(base: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of the unfinished runs under a base path: newest first, those without a checkpoint last.

    Also finishes the deletion that a process was killed in at the very end of a run.
    """
    folders = []
    for folder in reversed(rundir.run_folders(base)):
        with contextlib.suppress(FileNotFoundError):  # Another process has just removed the folder.
            for deleted in folder.glob(f".*.tmp.{UNFINISHED_FOLDER}"):
                shutil.rmtree(deleted, ignore_errors=True)
            # A folder is empty if its process was killed right after creating it.
            if (folder / UNFINISHED_FOLDER).is_dir() or not any(folder.iterdir()):
                folders.append(folder)
    return sorted(folders, key=lambda folder: newest_checkpoint(folder) is None)


def claim_newest_run(base: pathlib.Path) -> tuple[pathlib.Path, filelock.FileLock] | None:
    """Locks the newest unfinished run under a base path for this process.

    Returns:
        The folder of the run and its lock, or `None` if no run is unfinished.

    Raises:
        RunInUse: Another process works on the run.
    """
    for folder in unfinished_runs(base):
        try:
            lock = claim_run(folder)
        except RunRemoved:
            continue
        if newest_checkpoint(folder) or not rundir.savedmodel_path(folder).exists():
            return folder, lock
        remove_unfinished(folder)  # The run ended just before it was locked.
        lock.release()
    return None


def create_run(base: pathlib.Path) -> tuple[pathlib.Path, filelock.FileLock]:
    """Creates and locks the next run under a base path, and says which run is unfinished.

    Returns:
        The folder of the run and its lock.

    Raises:
        InputError: The base path cannot be written.
    """
    with contextlib.suppress(InputError, ValueError):  # The run was killed before it wrote metadata.json.
        for folder in unfinished_runs(base)[:1]:
            command = metadata.read_metadata(folder / "metadata.json", ("command",))["command"]
            print(f"{folder.name} is unfinished: {resume_advice(shlex.split(command))}")
    while True:
        _, folder = rundir.create_run_folder(base)
        # A process with --resume may take the empty folder for an unfinished run, and remove it.
        with contextlib.suppress(RunInUse, RunRemoved):
            return folder, claim_run(folder)


def claim_run(folder: pathlib.Path) -> filelock.FileLock:
    """Locks a run for this process until the lock is released or the process ends.

    Raises:
        RunInUse: Another process works on the run.
        RunRemoved: Another process has just removed or finished the run.
    """
    unfinished = folder / UNFINISHED_FOLDER
    lock = filelock.FileLock(unfinished / "lock")
    try:
        unfinished.mkdir(exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunInUse(f"{folder} is in use by {_lock_owner(unfinished)}; wait for it, or end it") from None
    except (FileExistsError, FileNotFoundError) as error:  # Python raises the former for a folder that vanishes.
        raise RunRemoved(f"{folder} was removed by another process") from error
    # Only the process that holds the lock trains here, so killed processes have left these.
    rundir.remove_temporaries(folder)
    rundir.remove_temporaries(unfinished)
    rundir.write_json(unfinished / "process.json", {"process": os.getpid(), "host": socket.gethostname()})
    return lock


def _lock_owner(unfinished: pathlib.Path) -> str:
    try:
        owner = json.loads((unfinished / "process.json").read_text(encoding="utf-8"))
        return f"process {owner['process']} on {owner['host']}"
    except (OSError, ValueError, KeyError):  # The other process has only just locked the run.
        return "another process"


def remove_unfinished(folder: pathlib.Path) -> None:
    """Deletes unfinished/ of a run that has ended; the rename first makes this one step for other processes."""
    temporary = rundir.temporary_path(folder / UNFINISHED_FOLDER)
    with contextlib.suppress(OSError):
        (folder / UNFINISHED_FOLDER).rename(temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def resume_advice(command: list[str]) -> str:
    """Returns a sentence that names the command or call which resumes a run.

    Args:
        command: The program and arguments that started the run, as in `sys.argv`.
    """
    program, *arguments = command
    if pathlib.Path(program).name not in ("train.py", "resnetd-train"):
        return "train(settings, resume=True) goes on with it"
    if "--resume" not in arguments:
        arguments.append("--resume")
    return f"{shlex.join([*program_command('train').split(), *arguments])} goes on with it"


def check_same_settings(folder: pathlib.Path, settings: Settings, run_metadata: dict[str, Any]) -> None:
    """Raises InputError if settings differ from those that a run was started with.

    Args:
        folder: The folder of the run.
        settings: The settings of this process, complete.
        run_metadata: The content of the run's metadata.json.
    """
    names = [setting.name for setting in dataclasses.fields(settings)]
    if not set(names) <= run_metadata.keys():
        raise InputError(
            f"{folder} was started by an older version of resnetd_tf, and only that can go on with it; leave out "
            "--resume to start another run"
        )
    differences = [
        f"--{name}={run_metadata[name]}, now {getattr(settings, name)}"
        for name in names
        if name not in CHANGEABLE_SETTINGS and run_metadata[name] != getattr(settings, name)
    ]
    if differences:
        raise InputError(
            f"{folder} was started with {'; '.join(differences)}: give the same to go on with it, or leave out "
            "--resume to start another run"
        )
