"""What is written and told while training goes on."""

import contextlib
import csv
import io
import math
import pathlib
import sys
import time
from collections.abc import Iterator

import keras
import tensorflow as tf

from resnetd_tf import rundir
from resnetd_tf.errors import InputError, first_line
from resnetd_tf.networks import keras_files
from resnetd_tf.networks.copies import portable
from resnetd_tf.training import checkpoint, unfinished
from resnetd_tf.training.checkpoint import Progress
from resnetd_tf.training.duration import duration
from resnetd_tf.training.optimizer import learning_rate_of_epoch
from resnetd_tf.training.settings import Settings
from resnetd_tf.training.termination import Termination


class RunWriter(keras.callbacks.Callback):
    """Writes the history after every epoch, the model after every best one, and tells the time left.

    On a disk that is full it warns, and tries again after the next epoch.
    """

    def __init__(self, folder: pathlib.Path, settings: Settings, progress: Progress, steps_per_epoch: int):
        super().__init__()
        self.folder, self.settings, self.progress = folder, settings, progress
        self.steps_per_epoch = steps_per_epoch
        self.copy: keras.Model | None = None
        self.copied = self.written = 0  # epochs whose weights are in `copy` and, of this process, in model.keras
        self.start = 0.0

    @property
    def unwritten(self) -> bool:
        """Whether `copy` is what belongs into model.keras."""
        return self.progress.best is not None and self.progress.best["epoch"] == self.copied != self.written

    @property
    def seconds(self) -> float:
        """Time that training took so far, in earlier processes too."""
        return time.monotonic() - self.start

    @property
    def epoch_seconds(self) -> float:
        """Time since the epoch began, likewise."""
        return time.monotonic() - self.epoch_start

    def on_train_begin(self, logs=None):
        self.start = time.monotonic() - self.progress.seconds

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_start = time.monotonic() - self.progress.epoch_seconds

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, **logs, "seconds": self.epoch_seconds}
        # Not the optimizer's, which is that of the next step: zero after the last epoch.
        row["learning_rate"] = learning_rate_of_epoch(self.settings, self.steps_per_epoch, epoch)
        if not math.isfinite(row["val_loss"]):
            raise Diverged("validation loss is", epoch + 1, self.progress.step)
        if not checkpoint.finite(self.model):
            raise Diverged("weights are", epoch + 1, self.progress.step)
        best = checkpoint.best_of([*self.progress.history, row])
        if best is row:
            self.copied = 0  # an interrupt can come at any moment
            if self.copy is None:
                self.copy = portable(self.model)
            self.copy.set_weights(self.model.get_weights())
            self.copied = epoch + 1
        self.progress.history.append(row)
        with warn_of_full_disk("history and model"):
            self.write()
        epochs = self.settings.epochs
        left = self.seconds / (epoch + 1) * (epochs - epoch - 1)
        print(
            f"Epoch {epoch + 1} of {epochs}: validation accuracy {100 * row['val_accuracy']:.2f} %, "
            f"best {100 * best['val_accuracy']:.2f} % (epoch {best['epoch']})"
            + (f", {duration(left)} left" if left else ""),
            flush=True,
        )

    def write(self) -> None:
        """Writes history.csv, and model.keras where it is not that of the best epoch yet.

        Raises:
            InputError: They cannot be written.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, self.progress.history[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.progress.history)
        rundir.write_text(self.folder / "history.csv", text.getvalue())
        if self.unwritten:
            assert self.copy is not None
            with rundir.atomic(self.folder / "model.keras") as temporary:
                keras_files.save(self.copy, temporary)
            self.written = self.copied


@contextlib.contextmanager
def warn_of_full_disk(what: str) -> Iterator[None]:
    """Turns an error in writing into a warning: training goes on."""
    try:
        yield
    except (InputError, tf.errors.OpError) as error:
        print(f"Warning: {what} not written, training goes on: {first_line(error)}", file=sys.stderr, flush=True)


class Checkpoints(keras.callbacks.Callback):
    """Writes checkpoints: every few minutes, at every epoch's end, and when the process is told to end.

    Beginnings of batches, unlike their ends, wait for it: what it writes is not changed meanwhile.
    """

    def __init__(self, writer: RunWriter, termination: Termination, minutes: float, started: float):
        super().__init__()
        self.writer, self.progress, self.termination = writer, writer.progress, termination
        self.folder, self.minutes, self.started = writer.folder / unfinished.FOLDER, minutes, started
        self.first_step = self.progress.step  # of this process in its first epoch
        self.earlier_seconds = self.progress.wall_seconds
        self.sums = self.progress.sums
        self.written = time.monotonic()
        self.begun = (self.progress.epoch, self.progress.step)

    def on_epoch_begin(self, epoch, logs=None):
        if self.first_step:  # Keras has just reset the metrics
            checkpoint.set_metric_sums(self.model, self.sums)

    def on_train_batch_begin(self, batch, logs=None):
        self._come_to(self.first_step + batch)
        due = self.termination.deferred and time.monotonic() - self.written > 60 * self.minutes
        if self.termination.requested or due:
            self.sums = checkpoint.metric_sums(self.model)
            self.save()

    def on_test_begin(self, logs=None):
        """After the last step of an epoch, before Keras resets the metrics for the validation."""
        self._come_to(self.params["steps"] + self.first_step)
        self.sums = checkpoint.metric_sums(self.model)

    def on_test_batch_begin(self, batch, logs=None):
        if self.termination.requested:
            self.save()

    def on_epoch_end(self, epoch, logs=None):
        self.progress.epoch, self.progress.step, self.first_step, self.sums = epoch + 1, 0, 0, []
        self.save()

    def _come_to(self, step: int) -> None:
        """Counts the steps of the epoch, and defers the end of the process once there is work to lose.

        Until then the first step is traced, for half a minute perhaps.
        """
        self.progress.step = step
        self.termination.deferred = self.begun != (self.progress.epoch, step)

    def save(self) -> None:
        """Writes a checkpoint, and ends training if the process is told to end."""
        progress = self.progress
        epoch_ended = progress.step == 0
        if not epoch_ended and not checkpoint.finite(self.model):
            raise Diverged("weights are", progress.epoch + 1, progress.step)
        progress.sums, progress.seconds = self.sums, self.writer.seconds
        progress.epoch_seconds = 0.0 if epoch_ended else self.writer.epoch_seconds
        progress.wall_seconds = self.earlier_seconds + time.time() - self.started
        with warn_of_full_disk("checkpoint"):
            if self.writer.unwritten:
                self.writer.write()
            checkpoint.save(self.folder, self.model, progress, self.writer.folder / "model.keras")
        self.written = time.monotonic()
        if self.termination.requested:
            self.termination.end()


class StopAfter(keras.callbacks.Callback):
    """Ends a call of `fit` when so many epochs of the run are complete."""

    def __init__(self, epochs: int):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            self.model.stop_training = True


class StopNotFinite(keras.callbacks.Callback):
    """Ends a run whose loss is not finite any more."""

    def __init__(self, progress: Progress):
        super().__init__()
        self.progress = progress

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise Diverged("loss is", self.progress.epoch + 1, self.progress.step + 1)


class Diverged(InputError):
    """The loss or the weights of a run are not finite any more."""

    def __init__(self, what: str, epoch: int, step: int):
        super().__init__(
            f"the {what} not finite at epoch {epoch}, step {step}: try a lower --learning_rate, a longer "
            "--warmup_epochs or --precision=float32"
        )


class AverageReplicas(keras.callbacks.Callback):
    """Averages over replicas, before validation, what each keeps for itself: batch norm's moving averages.

    They are linear in the batches' statistics, and training does not read them: it is as if every step had averaged.
    What is validated is what is saved then.
    """

    def on_test_begin(self, logs=None):
        for layer in self.model.layers[-1].layers:
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
                for average in (layer.moving_mean.value, layer.moving_variance.value):
                    average.assign(tf.add_n([copy.read_value() for copy in average.values]) / len(average.values))
