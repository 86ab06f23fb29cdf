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
import shutil
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from resnetd_tf import rundir
from resnetd_tf.errors import InputError


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
        return best_of(self.history) if self.history else None

    def __str__(self) -> str:
        if self.step:
            return f"after step {self.step} of epoch {self.epoch + 1}"
        return f"after epoch {self.epoch}" if self.epoch else "at its start"


def best_of(history: list[dict]) -> dict:
    """The row of the epoch with the highest validation accuracy, the first of them."""
    return max(history, key=lambda row: row["val_accuracy"])


def newest(folder: pathlib.Path) -> pathlib.Path | None:
    """The newest checkpoint in a run's unfinished/, if there is one."""
    return max(folder.glob("epoch-*-step-*"), key=_place, default=None)


def _place(path: pathlib.Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", path.name)))


def save(folder: pathlib.Path, model: keras.Model, progress: Progress, best: pathlib.Path) -> None:
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
        with rundir.atomic(path) as temporary:
            temporary.mkdir()
            tf.train.Checkpoint(variables=variables(model)).write(str(temporary / "variables"))
            rundir.write_json(temporary / "progress.json", dataclasses.asdict(progress))
            if progress.best:
                _copy(best, temporary / "model.keras")
            for file in temporary.iterdir():  # on disk before it has its name, even if the power goes
                with file.open("rb") as written:
                    os.fsync(written.fileno())
    for other in folder.glob("epoch-*-step-*"):
        if other != path:
            shutil.rmtree(other, ignore_errors=True)


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """A second name for a file that is only ever replaced whole; a copy where the file system has no such thing."""
    try:
        target.hardlink_to(source)
    except (OSError, NotImplementedError):
        shutil.copyfile(source, target)


def read(path: pathlib.Path) -> Progress:
    """How far a checkpoint has come.

    Raises:
        InputError: It is damaged.
    """
    try:
        return Progress(**json.loads((path / "progress.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read: delete {path.parent.parent} and train anew") from error


def restore(path: pathlib.Path, model: keras.Model, best: pathlib.Path) -> None:
    """Puts a checkpoint into a compiled classifier like that which it was made of, and the best model into its file.

    Raises:
        InputError: The checkpoint is damaged.
    """
    try:
        tf.train.Checkpoint(variables=variables(model)).read(str(path / "variables")).assert_consumed()
    except (tf.errors.OpError, ValueError, AssertionError) as error:
        raise InputError(f"{path} cannot be read: delete {path.parent.parent} and train anew") from error
    if (path / "model.keras").is_file():
        with rundir.atomic(best) as temporary:
            _copy(path / "model.keras", temporary)


def variables(model: keras.Model) -> list[tf.Variable]:
    """All variables that training changes, of every replica those that it keeps for itself."""
    found = []
    for weight in model.weights:  # batch norm's averages, which are not trained, differ from replica to replica
        found += [weight.value] if weight.trainable else _replicas(weight)
    return [*found, *(variable.value for variable in model.optimizer.variables)]


def _replicas(variable: keras.Variable) -> list[tf.Variable]:
    return list(getattr(variable.value, "values", [variable.value]))


def metric_sums(model: keras.Model) -> list[float | list]:
    """What the metrics have summed up, on each replica."""
    return [sum_.numpy().tolist() for variable in model.metrics_variables for sum_ in _replicas(variable)]


def set_metric_sums(model: keras.Model, sums: list[float | list]) -> None:
    """Puts back what `metric_sums` returned."""
    places = [place for variable in model.metrics_variables for place in _replicas(variable)]
    for place, value in zip(places, sums, strict=True):
        place.assign(value)


def finite(model: keras.Model) -> bool:
    """Whether all weights are finite numbers."""
    return all(np.isfinite(weights).all() for weights in model.get_weights())


def remove(folder: pathlib.Path) -> None:
    """Deletes a run's unfinished/: by its name at once, then what was in it."""
    ended = rundir.temporary_name(folder)
    with contextlib.suppress(OSError):
        folder.rename(ended)
        shutil.rmtree(ended, ignore_errors=True)
