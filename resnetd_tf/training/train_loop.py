"""Training itself, from wherever a run has come to, and what is written and printed meanwhile."""

import contextlib
import csv
import io
import math
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg

from resnetd_tf import rundir
from resnetd_tf.data import batches
from resnetd_tf.data.splits import Dataset
from resnetd_tf.errors import InputError, first_line
from resnetd_tf.evaluation import report
from resnetd_tf.networks import checkpoints
from resnetd_tf.networks.layers import portable_copy
from resnetd_tf.process import Termination
from resnetd_tf.training import checkpoint
from resnetd_tf.training.checkpoint import Progress
from resnetd_tf.training.optimizer import learning_rate_of_epoch
from resnetd_tf.training.settings import Settings


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
        if not checkpoint.has_finite_weights(self.model):
            raise Diverged("weights are", epoch + 1, self.progress.step)
        best = checkpoint.best_epoch([*self.progress.history, row])
        if best is row:
            self.copied = 0  # an interrupt can come at any moment
            if self.copy is None:
                self.copy = portable_copy(self.model)
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
            + (f", {format_duration(left)} left" if left else ""),
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
            with rundir.write_atomically(self.folder / "model.keras") as temporary:
                checkpoints.save_keras(self.copy, temporary)
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
        self.folder, self.minutes, self.started = writer.folder / checkpoint.UNFINISHED_FOLDER, minutes, started
        self.first_step = self.progress.step  # of this process in its first epoch
        self.earlier_seconds = self.progress.wall_seconds
        self.sums = self.progress.sums
        self.written = time.monotonic()
        self.begun = (self.progress.epoch, self.progress.step)

    def on_epoch_begin(self, epoch, logs=None):
        if self.first_step:  # Keras has just reset the metrics
            checkpoint.restore_metric_sums(self.model, self.sums)

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
        if not epoch_ended and not checkpoint.has_finite_weights(self.model):
            raise Diverged("weights are", progress.epoch + 1, progress.step)
        progress.sums, progress.seconds = self.sums, self.writer.seconds
        progress.epoch_seconds = 0.0 if epoch_ended else self.writer.epoch_seconds
        progress.wall_seconds = self.earlier_seconds + time.time() - self.started
        with warn_of_full_disk("checkpoint"):
            if self.writer.unwritten:
                self.writer.write()
            checkpoint.save_checkpoint(self.folder, self.model, progress, self.writer.folder / "model.keras")
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


class StopWhenNotFinite(keras.callbacks.Callback):
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


# How long training will take.


class DurationEstimate(keras.callbacks.Callback):
    """Tells once, after fifty steps or at the end of a shorter epoch, how long training will take.

    Args:
        validation_share: Validation images over training images. Classifying one is a third of the work of
            training on one.
        image_size: Side in pixels that the model resizes images to.
        steps: Steps of training that are left.
    """

    STEPS = 50

    def __init__(self, validation_share: float, image_size: int, steps: int):
        super().__init__()
        self.validation_share, self.image_size, self.steps = validation_share, image_size, steps
        self.told = False

    def on_train_batch_end(self, batch, logs=None):
        last = min(self.STEPS, self.params["steps"] - 1)
        first = last // 5  # those before are slower: tracing, caches
        if batch == first:
            self.start = time.monotonic()
        elif batch == last and not self.told:
            self.told = True
            step = (time.monotonic() - self.start) / (last - first)
            total = step * self.steps * (1 + self.validation_share / 3)
            advice = ""
            if self.image_size >= 224 and not tf.config.list_logical_devices("GPU"):
                advice = "; without a GPU --image_size=64 takes a tenth of that"
            epochs = self.params["epochs"]
            part = f"{epochs} epoch{'s' if epochs > 1 else ''}"
            if self.steps < epochs * self.params["steps"]:
                part = f"what is left of {part}"
            print(f"\n{step:.2f} s a step: {format_duration(total)} for {part}{advice}", flush=True)


def format_duration(seconds: float) -> str:
    """In words: "about 4 h 5 min", "about 40 s"."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return "about " + (f"{hours} h " if hours else "") + f"{minutes} min"


# What is written for TensorBoard while training goes on.


class TensorBoardLogs(keras.callbacks.Callback):
    """Writes curves for TensorBoard, named as Keras names them, to logs/train/ and logs/validation/.

    Of the validation it also writes the confusion matrix as a picture. Steps are epochs, from 1 as in history.csv.
    """

    def __init__(self, folder: pathlib.Path, classes: Sequence[str], progress: Progress):
        super().__init__()
        self.folder, self.classes, self.progress = folder / "logs", classes, progress

    def on_epoch_end(self, epoch, logs=None):
        rate = self.progress.history[-1]["learning_rate"]
        trained = {name: value for name, value in logs.items() if not name.startswith("val_")}
        validated = {name.removeprefix("val_"): value for name, value in logs.items() if name.startswith("val_")}
        with warn_of_full_disk("TensorBoard's logs"):
            for place, values in (("train", trained | {"learning_rate": rate}), ("validation", validated)):
                writer = tf.summary.create_file_writer(str(self.folder / place))
                with writer.as_default(epoch + 1):
                    for name, value in values.items():
                        tf.summary.scalar(f"epoch_{name}", value)
                    if place == "validation":
                        self._draw(epoch, values)
                writer.close()

    def _draw(self, epoch: int, values: dict) -> None:
        """The confusion matrix of the validation just done."""
        try:
            tf.summary.image("epoch_confusion", self._confusion(epoch, values)[np.newaxis])
        except Exception as error:  # whatever matplotlib makes of names and numbers
            print(f"Warning: confusion matrix not drawn: {first_line(error)}", file=sys.stderr, flush=True)

    def _confusion(self, epoch: int, values: dict) -> np.ndarray:
        """The picture (height, width, 4) of it."""
        (metric,) = (one for one in self.model.metrics[-1].metrics if one.name == "mean_recall")
        title = f"epoch {epoch + 1}: validation accuracy {100 * values['accuracy']:.2f} %"
        figure = report.draw_confusion(metric.counts.numpy(), self.classes, title)
        figure.set_layout_engine("constrained")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())


class ProfilerCallback(keras.callbacks.Callback):
    """Records for TensorBoard's profiler what ten steps of this process do."""

    FIRST, LAST = 20, 29  # those before are slower: tracing, caches

    def __init__(self, folder: pathlib.Path):
        super().__init__()
        self.folder, self.state = folder / "logs" / "profile", "waiting"

    def on_train_batch_begin(self, batch, logs=None):
        if self.state == "waiting" and batch == min(self.FIRST, self.params["steps"] - 1):
            tf.profiler.experimental.start(str(self.folder))
            self.state = "recording"

    def on_train_batch_end(self, batch, logs=None):
        if self.state == "recording" and batch == min(self.LAST, self.params["steps"] - 1):
            self._stop()

    def on_train_end(self, logs=None):
        if self.state == "recording":
            self._stop()

    def _stop(self) -> None:
        tf.profiler.experimental.stop()
        self.state = "done"
        print(
            f"\nProfile: {self.folder}; pip install tensorboard-plugin-profile, then tensorboard "
            f"--logdir={self.folder}",
            flush=True,
        )


# Training itself, from wherever a run has come to.


def run_epochs(
    model: keras.Model,
    settings: Settings,
    dataset: Dataset,
    writer: RunWriter,
    termination: Termination,
    started: float,
    profile: bool = False,
) -> bool:
    """Trains from where `writer.progress` is to the end; whether it was interrupted.

    It returns only if there is an epoch that is complete.

    Raises:
        InputError: Training diverged, or memory is not enough.
        KeyboardInterrupt: It was interrupted before the end of the first epoch.
    """
    training, validation = dataset.splits["train"], dataset.splits["validation"]
    classes, replicas = len(dataset.classes), model.distribute_strategy.num_replicas_in_sync
    check_batch = batches.fit_batch_size(len(validation), settings.batch_size, replicas)
    checks = batches.evaluation_batches(validation, classes, check_batch)
    progress, steps = writer.progress, len(training) // settings.batch_size
    draw = partial(
        batches.training_batches,
        training,
        classes,
        settings.batch_size,
        seed=settings.seed,
        cutmix=settings.cutmix,
        varied=settings.varied if dataset.bands == 3 else 0.0,
        # Rising: at the start a network has enough to learn from images as they are.
        strength=lambda step: tf.cast(step / (settings.epochs * steps), "float32"),
    )
    left = steps * (settings.epochs - progress.epoch) - progress.step
    callbacks = [
        keras.callbacks.ProgbarLogger(),  # first, so that it ends its line before others print theirs
        *([AverageReplicas()] if replicas > 1 else []),
        writer,
        StopWhenNotFinite(progress),
        TensorBoardLogs(writer.folder, dataset.classes, progress),
        *([ProfilerCallback(writer.folder)] if profile else []),
        Checkpoints(writer, termination, settings.checkpoint_minutes, started),
        DurationEstimate(len(validation) / len(training), settings.image_size, left),
    ]
    try:
        if progress.step == steps:
            finish_validation(model, checks, writer, callbacks[1:])
        while progress.epoch < settings.epochs:
            first, whole = progress.epoch * steps + progress.step, progress.step == 0
            model.fit(
                draw(first_step=first),
                steps_per_epoch=steps - progress.step,
                validation_data=checks,
                initial_epoch=progress.epoch,
                epochs=settings.epochs,
                shuffle=False,  # `batches.for_training` shuffles
                verbose=1 if sys.stdout.isatty() else 2,
                # What is left of an epoch is trained alone: Keras wants as many steps in all.
                callbacks=[*callbacks, StopAfter(settings.epochs if whole else progress.epoch + 1)],
            )
        termination.deferred = False
        if termination.requested:  # since the last batch
            termination.end()
    except KeyboardInterrupt:
        termination.deferred = False
        termination.interrupt_answered()
        if progress.best is None:
            raise
        print(f"\nInterrupted: keeping the best of {len(progress.history)} epochs", flush=True)
        return True
    except tf.errors.ResourceExhaustedError as error:
        raise InputError("memory is not enough: try a smaller --batch_size or --image_size") from error
    finally:
        termination.deferred = False
    return False


def finish_validation(model: keras.Model, checks: tf.data.Dataset, writer: RunWriter, callbacks: list) -> None:
    """Ends an epoch that lacks its validation alone."""
    epoch = writer.progress.epoch
    checkpoint.restore_metric_sums(model, writer.progress.sums)
    logs = model.get_metrics_result()
    told = keras.callbacks.CallbackList(callbacks, model=model, steps=0)
    told.on_train_begin()
    writer.on_epoch_begin(epoch)
    validated = model.evaluate(checks, callbacks=told, return_dict=True, verbose=0)
    told.on_epoch_end(epoch, logs | {f"val_{name}": value for name, value in validated.items()})
    told.on_train_end()
