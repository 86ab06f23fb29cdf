"""The training loop: steps, validation, checkpoints, and what is written and printed meanwhile."""

import contextlib
import csv
import io
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import filelock
import keras
import numpy as np
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg

from resnetd_tf import environment, rundir
from resnetd_tf.data import batches
from resnetd_tf.data.splits import Dataset, Split
from resnetd_tf.errors import InputError, first_line
from resnetd_tf.evaluation import report
from resnetd_tf.networks import checkpoints
from resnetd_tf.networks.layers import portable_copy
from resnetd_tf.process import Termination
from resnetd_tf.sentinel2 import OPEN_WATER_CLASS
from resnetd_tf.training import checkpoint
from resnetd_tf.training.checkpoint import Progress
from resnetd_tf.training.optimizer import first_averaged_step, learning_rate_of_epoch, make_loss, make_metrics
from resnetd_tf.training.settings import Settings


@dataclass(kw_only=True)
class Run:
    """A run and its state.

    Attributes:
        folder: The folder run-N/.
        lock: The lock that keeps other processes from this run.
        settings: The settings, complete.
        dataset: The three splits.
        model: The compiled classifier.
        metadata: The content of metadata.json.
        progress: How far the run has come.
        termination: The signals that ask this process to end.
        start_time: Time at which the run was started, s since the epoch, moved by the time between its processes.
        teacher: Function from images to the probabilities of `settings.teacher`; `None` without teachers.
    """

    folder: pathlib.Path
    lock: filelock.FileLock
    settings: Settings
    dataset: Dataset
    model: keras.Model
    metadata: dict[str, Any]
    progress: Progress
    termination: Termination
    start_time: float
    teacher: Callable[[tf.Tensor], tf.Tensor] | None = None

    @property
    def savedmodel_path(self) -> pathlib.Path:
        """The path N/ at which the SavedModel is published."""
        return rundir.savedmodel_path(self.folder)

    @property
    def steps_per_epoch(self) -> int:
        """Number of training steps in an epoch."""
        return len(self.dataset.splits["train"]) // self.settings.batch_size

    @property
    def total_steps(self) -> int:
        """Number of training steps in the run."""
        return self.settings.epochs * self.steps_per_epoch


class Diverged(InputError):
    """The loss or the weights of a run are no longer finite."""

    def __init__(self, subject: str, epoch: int, step: int):
        super().__init__(
            f"the {subject} not finite at epoch {epoch}, step {step}: try a lower --learning_rate, a longer "
            "--warmup_epochs or --precision=float32"
        )


def run_epochs(run: Run, profile: bool = False) -> bool:
    """Trains a run from where it stands to its last epoch.

    Args:
        run: The run. Its `progress` is advanced.
        profile: Whether to record ten steps for TensorBoard's profiler.

    Returns:
        Whether Ctrl-C ended training early. At least one epoch is complete then.

    Raises:
        InputError: Training diverged, memory is not enough, or the disk is full at the end.
        KeyboardInterrupt: Ctrl-C ended training before the end of the first epoch.
        SystemExit: SIGTERM ended training.
    """
    loop = TrainLoop(run, profile)
    is_interrupted = False
    try:
        while run.progress.epoch < run.settings.epochs:
            training_metrics = loop.train_epoch()
            validation_metrics = loop.validate()
            loop.finish_epoch(training_metrics, validation_metrics)
        run.termination.raise_if_requested()
    except KeyboardInterrupt:
        run.termination.clear_interrupt()
        if run.progress.best is None:
            raise
        print(f"\nInterrupted: keeping the best of {len(run.progress.history)} epochs", flush=True)
        is_interrupted = True
    except tf.errors.ResourceExhaustedError as error:
        raise InputError("memory is not enough: try a smaller --batch_size or --image_size") from error
    finally:
        run.termination.deferred = False
    loop.results.write()  # The disk may have been full before.
    return is_interrupted


class TrainLoop:
    """Trains and validates a run epoch by epoch, from wherever its `progress` stands.

    Keras's `fit` cannot continue within an epoch, so this loop calls the compiled steps of the Keras model directly.

    Args:
        run: The run. Its `progress` is advanced.
        profile: Whether to record ten steps for TensorBoard's profiler.
    """

    def __init__(self, run: Run, profile: bool = False):
        settings, progress, dataset = run.settings, run.progress, run.dataset
        training, validation = dataset.splits["train"], dataset.splits["validation"]
        classes, strategy = len(dataset.classes), run.model.distribute_strategy
        self.run, self.model, self.progress = run, run.model, progress
        self.replicas, self.steps = strategy.num_replicas_in_sync, run.steps_per_epoch
        first_step = progress.epoch * self.steps + progress.step
        training_batches = augmented_batches(run, training, first_step)
        self.average = WeightAverage(run, training) if settings.average else None
        self.evaluated_model = self.model
        validation_batches = batches.evaluation_batches(
            validation, classes, batches.fit_batch_size(len(validation), settings.batch_size, self.replicas)
        )
        self.training_iterator = iter(strategy.experimental_distribute_dataset(training_batches))
        self.validation_batches = strategy.experimental_distribute_dataset(validation_batches)
        self.validation_steps = len(validation_batches)
        self.model.make_train_function()
        self.model.make_test_function()

        self.results = ResultsWriter(run.folder, self.model, progress)
        steps_in_first_epoch = self.steps - progress.step % self.steps
        self.profiler = StepProfiler(run.folder / "logs" / "profile", steps_in_first_epoch) if profile else None
        self.estimate = DurationEstimate(
            steps_in_first_epoch,
            steps_left=run.total_steps - first_step,
            epochs=settings.epochs,
            is_resumed=first_step > 0,
            validation_share=len(validation) / len(training),
            image_size=settings.image_size,
        )
        self.start = time.monotonic() - progress.seconds
        self.epoch_start = self.checkpoint_time = time.monotonic()
        self.steps_done = 0  # by this process

    def train_epoch(self) -> dict[str, float]:
        """Trains to the end of the current epoch and returns its metrics."""
        progress, first_step = self.progress, self.progress.step
        self.epoch_start = time.monotonic() - progress.epoch_seconds
        self.model.reset_metrics()
        if first_step:
            checkpoint.restore_metric_sums(self.model, progress.sums)
        if self.run.settings.epochs > 1:
            print(f"Epoch {progress.epoch + 1}/{self.run.settings.epochs}", flush=True)
        self.progress_bar = keras.utils.Progbar(
            self.steps - first_step,
            verbose=1 if sys.stdout.isatty() else 2,
            stateful_metrics=list(self.model.get_metrics_result()),
        )
        while progress.step < self.steps:
            self._save_checkpoint_if_due()
            metrics = self._train_step()
            self.progress_bar.update(progress.step - first_step, list(metrics.items()), finalize=False)
            self.estimate.count_step()
        progress.sums = checkpoint.metric_sums(self.model)
        return to_floats(self.model.get_metrics_result())

    def _train_step(self) -> dict[str, float]:
        """Trains on one batch and returns the metrics of the epoch so far."""
        if self.profiler:
            self.profiler.start_if_due(self.steps_done)
        metrics = to_floats(self.model.train_function(self.training_iterator))
        if not math.isfinite(metrics["loss"]):
            raise Diverged("loss is", self.progress.epoch + 1, self.progress.step + 1)
        self.progress.step += 1
        self.steps_done += 1
        if self.average:
            self.average.update_if_due(self.progress.epoch * self.steps + self.progress.step)
        # From now on there is work to lose. Until then signals end the process at once: tracing the first step takes
        # up to half a minute.
        self.run.termination.deferred = True
        if self.profiler:
            self.profiler.stop_if_due(self.steps_done)
        return metrics

    def validate(self) -> dict[str, float]:
        """Evaluates the model, or the average of its weights, on the validation split and returns its metrics."""
        if self.replicas > 1:
            average_batch_norm(self.model)
        self.evaluated_model = self.model
        if self.average and self.average.has_started:
            self.evaluated_model = self.average.compute_model()
        self.evaluated_model.reset_metrics()
        iterator = iter(self.validation_batches)
        for _ in range(self.validation_steps):
            if self.run.termination.requested:
                self._save_checkpoint()
            self.evaluated_model.test_function(iterator)
        return to_floats(self.evaluated_model.get_metrics_result())

    def finish_epoch(self, training_metrics: dict[str, float], validation_metrics: dict[str, float]) -> None:
        """Records, writes and prints the results of a complete epoch, and saves a checkpoint."""
        progress, epoch = self.progress, self.progress.epoch + 1
        metrics = training_metrics | {f"val_{name}": value for name, value in validation_metrics.items()}
        if steps := self.progress_bar.target:  # zero if the validation alone was missing
            self.progress_bar.update(steps, list(metrics.items()), finalize=True)
        if not math.isfinite(metrics["val_loss"]):
            raise Diverged("validation loss is", epoch, progress.step)
        if not all(map(checkpoint.has_finite_weights, {self.model, self.evaluated_model})):
            raise Diverged("weights are", epoch, progress.step)
        # The optimizer's own rate would be that of the next step, which may be zero after the last epoch.
        learning_rate = learning_rate_of_epoch(self.run.settings, self.steps, progress.epoch)
        seconds = time.monotonic() - self.epoch_start
        row = {"epoch": epoch, **metrics, "seconds": seconds, "learning_rate": learning_rate}
        self.results.add_epoch(row, self.evaluated_model)
        self._print_epoch(progress.history[-1])
        logged_metrics = training_metrics | {"learning_rate": learning_rate}
        write_tensorboard_logs(self.run, self.evaluated_model, logged_metrics, validation_metrics)
        progress.epoch, progress.step, progress.sums = epoch, 0, []
        self._save_checkpoint()

    def _print_epoch(self, row: dict) -> None:
        epoch, epochs, best = row["epoch"], self.run.settings.epochs, checkpoint.best_epoch(self.progress.history)
        seconds_left = (time.monotonic() - self.start) / epoch * (epochs - epoch)
        print(
            f"Epoch {epoch} of {epochs}: validation accuracy {100 * row['val_accuracy']:.2f} %, "
            f"best {100 * best['val_accuracy']:.2f} % (epoch {best['epoch']})"
            + (f", {format_duration(seconds_left)} left" if seconds_left else ""),
            flush=True,
        )

    def _save_checkpoint_if_due(self) -> None:
        """Saves a checkpoint if the last one is too old or the process is asked to end."""
        is_old = time.monotonic() - self.checkpoint_time > 60 * self.run.settings.checkpoint_minutes
        if self.run.termination.requested or (is_old and self.steps_done):
            self.progress.sums = checkpoint.metric_sums(self.model)
            self._save_checkpoint()

    def _save_checkpoint(self) -> None:
        """Saves a checkpoint; then ends training if the process is asked to end. A full disk gives a warning."""
        progress, now = self.progress, time.monotonic()
        if progress.step and not checkpoint.has_finite_weights(self.model):
            raise Diverged("weights are", progress.epoch + 1, progress.step)
        progress.seconds = now - self.start
        progress.epoch_seconds = now - self.epoch_start if progress.step else 0.0
        progress.wall_seconds = time.time() - self.run.start_time
        with warn_of_full_disk("checkpoint"):
            if self.results.is_model_outdated:  # The disk was full before.
                self.results.write()
            checkpoint.save_checkpoint(self.run.folder, self.model, progress)
        self.checkpoint_time = time.monotonic()
        self.run.termination.raise_if_requested()


def augmented_batches(run: Run, training: Split, first_step: int) -> tf.data.Dataset:
    """Makes the batches of a run from a step on, counted from the start of training."""
    settings, total_steps = run.settings, run.total_steps
    return batches.training_batches(
        training,
        len(run.dataset.classes),
        settings.batch_size,
        first_step=first_step,
        **augmentation_arguments(run),
        unlike=settings.unlike,
        teacher=run.teacher,
        # The strength rises, because at the start a network has enough to learn from unvaried images.
        strength=lambda step: tf.cast(step / total_steps, "float32"),
    )


def augmentation_arguments(run: Run) -> dict[str, Any]:
    """Returns the arguments of `batches.training_batches` that say how a run varies images of its classes."""
    settings, classes = run.settings, run.dataset.classes
    return {
        "seed": settings.seed,
        "cutmix": settings.cutmix,
        "varied": settings.varied if run.dataset.bands == 3 else 0.0,
        "relit": settings.relit,
        "open_water": classes.index(OPEN_WATER_CLASS) if OPEN_WATER_CLASS in classes else None,
    }


def to_floats(metrics: dict[str, tf.Tensor]) -> dict[str, float]:
    """Returns the values of metrics as Python numbers, in alphabetical order."""
    return {name: float(value) for name, value in sorted(metrics.items())}


def average_batch_norm(model: keras.Model) -> None:
    """Averages batch norm's moving averages, of which every replica has its own, over the replicas.

    The averages are linear in the statistics of the batches, and training does not read them. So this gives the same
    result as averaging after every step, and the validated model is the saved one.
    """
    for layer in model.layers[-1].layers:
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            for average in (layer.moving_mean.value, layer.moving_variance.value):
                average.assign(tf.add_n([copy.read_value() for copy in average.values]) / len(average.values))


class WeightAverage:
    """The mean of a model's weights over the last part of the training (arXiv 1803.05407).

    It is never used for training. Batch norm's statistics are measured anew for it.

    Args:
        run: The run. Its optimizer holds the averages, so that they are part of checkpoints.
        training: The training split.
    """

    MAX_INTERVAL = 16  # steps from one update to the next: each reads and writes all weights
    MIN_UPDATES = 16  # if there are as many steps
    BATCHES = 32  # training batches by which the statistics of batch normalisation are measured

    def __init__(self, run: Run, training: Split):
        settings, strategy = run.settings, run.model.distribute_strategy
        self.strategy = strategy
        self.optimizer = getattr(run.model.optimizer, "inner_optimizer", run.model.optimizer)
        self.first_step = first_averaged_step(settings, run.steps_per_epoch)
        self.interval = max(1, min(self.MAX_INTERVAL, (run.total_steps - self.first_step) // self.MIN_UPDATES))
        with strategy.scope():
            uncompiled = keras.Model(run.model.input, run.model.output)
            self.model = keras.models.clone_model(uncompiled, clone_function=_clone_layer, recursive=True)
            self.model.set_weights(run.model.get_weights())
            self.model.compile(
                loss=make_loss(settings),
                metrics=make_metrics(len(run.dataset.classes)),
                jit_compile=environment.uses_xla(),
            )
            self.momentum = tf.Variable(0.0, trainable=False)
        self.normalizations = [
            layer for layer in self.model.layers[-1].layers if isinstance(layer, keras.layers.BatchNormalization)
        ]
        for layer in self.normalizations:
            layer.momentum = self.momentum
        self.model.make_test_function()
        measured_batches = augmented_batches(run, training, first_step=max(0, run.total_steps - self.BATCHES))
        self.batches = strategy.experimental_distribute_dataset(measured_batches.take(self.BATCHES))

    @property
    def has_started(self) -> bool:
        """Whether weights have been averaged already."""
        return self.optimizer.average_count.value.numpy() > 0

    def update_if_due(self, step: int) -> None:
        """Adds the weights after a step, counted from the start of training, to the averages."""
        if step > self.first_step and (step - self.first_step) % self.interval == 0:
            self.optimizer.average_weights()

    def compute_model(self) -> keras.Model:
        """Returns the classifier with the averaged weights."""
        for weight, average in zip(self.model.trainable_weights, self.optimizer.averages, strict=True):
            weight.value.assign(average.value)
        for index, (images, _) in enumerate(self.batches):
            self.momentum.assign(index / (index + 1))  # the mean of all batches so far
            self._measure_statistics(images)
        if self.strategy.num_replicas_in_sync > 1:
            average_batch_norm(self.model)
        return self.model

    @tf.function
    def _measure_statistics(self, images):
        self.strategy.run(lambda replica_images: self.model(replica_images, training=True), (images,))


def _clone_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    return type(layer).from_config(layer.get_config())


class ResultsWriter:
    """Keeps the best epoch's weights, and writes history.csv and model.keras.

    Args:
        folder: The folder of the run.
        model: The classifier that is trained.
        progress: How far the run has come. Complete epochs are added to its history.
    """

    def __init__(self, folder: pathlib.Path, model: keras.Model, progress: Progress):
        self.folder, self.model, self.progress = folder, model, progress
        self.best_model: keras.Model | None = None
        self.copied_epoch = 0  # Its weights are in `best_model`. Zero while they are copied.
        self.written_epoch = 0  # Its weights are in model.keras, by this process.

    @property
    def is_model_outdated(self) -> bool:
        """Whether model.keras lacks the weights of the best epoch."""
        best = self.progress.best
        return best is not None and best["epoch"] == self.copied_epoch != self.written_epoch

    def add_epoch(self, row: dict[str, Any], model: keras.Model) -> None:
        """Adds a complete epoch to the history and writes the results; a full disk gives a warning.

        Args:
            row: The row of history.csv.
            model: The classifier that was validated.
        """
        if checkpoint.best_epoch([*self.progress.history, row]) is row:
            self.copied_epoch = 0  # An interrupt can come at any moment.
            if self.best_model is None:
                self.best_model = portable_copy(self.model)
            self.best_model.set_weights(model.get_weights())
            self.copied_epoch = row["epoch"]
        self.progress.history.append(row)
        with warn_of_full_disk("history and model"):
            self.write()

    def write(self) -> None:
        """Writes history.csv, and model.keras if it is outdated.

        Raises:
            InputError: A file cannot be written.
        """
        table = io.StringIO()
        writer = csv.DictWriter(table, self.progress.history[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.progress.history)
        rundir.write_text(self.folder / "history.csv", table.getvalue())
        if self.is_model_outdated:
            with rundir.write_atomically(self.folder / "model.keras") as temporary:
                checkpoints.save_keras(self.best_model, temporary)
            self.written_epoch = self.copied_epoch


@contextlib.contextmanager
def warn_of_full_disk(content: str) -> Iterator[None]:
    """Turns an error in writing into a warning, so that training goes on.

    Args:
        content: What is written, for the warning.
    """
    try:
        yield
    except (InputError, tf.errors.OpError) as error:
        print(f"Warning: {content} not written, training goes on: {first_line(error)}", file=sys.stderr, flush=True)


class DurationEstimate:
    """Prints once, after fifty steps or at the end of a shorter epoch, how long training will take.

    Args:
        steps_in_first_epoch: Number of steps that this process does in its first epoch.
        steps_left: Number of steps that this process does in all.
        epochs: Number of epochs of the run.
        is_resumed: Whether an earlier process did a part of the steps.
        validation_share: Number of validation images, divided by the number of training images.
        image_size: Side in pixels to which the model resizes images.
    """

    STEPS = 50

    def __init__(
        self,
        steps_in_first_epoch: int,
        *,
        steps_left: int,
        epochs: int,
        is_resumed: bool,
        validation_share: float,
        image_size: int,
    ):
        self.last = min(self.STEPS, steps_in_first_epoch - 1)
        self.first = self.last // 5  # The steps before are slower: tracing, caches.
        self.steps_left, self.epochs, self.is_resumed = steps_left, epochs, is_resumed
        self.validation_share, self.image_size = validation_share, image_size
        self.step, self.start = 0, 0.0

    def count_step(self) -> None:
        """Counts a step that has just ended, and prints the estimate after the last one that it needs."""
        if self.step == self.first:
            self.start = time.monotonic()
        elif self.step == self.last:
            self._print((time.monotonic() - self.start) / (self.last - self.first))
        self.step += 1

    def _print(self, seconds_per_step: float) -> None:
        # To classify a validation image is a third of the work of training on an image.
        seconds = seconds_per_step * self.steps_left * (1 + self.validation_share / 3)
        advice = ""
        if self.image_size >= 224 and not tf.config.list_logical_devices("GPU"):
            advice = "; without a GPU --image_size=64 takes a tenth of that"
        epochs = f"{'what is left of ' if self.is_resumed else ''}{self.epochs} epoch{'s' if self.epochs > 1 else ''}"
        print(f"\n{seconds_per_step:.2f} s a step: {format_duration(seconds)} for {epochs}{advice}", flush=True)


def format_duration(seconds: float) -> str:
    """Returns a duration in words: "about 4 h 5 min", "about 40 s"."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return "about " + (f"{hours} h " if hours else "") + f"{minutes} min"


class StepProfiler:
    """Records ten steps of this process for TensorBoard's profiler.

    Args:
        folder: Where the profile is written.
        steps: Number of steps in the first epoch of this process; the recording ends within that epoch.
    """

    def __init__(self, folder: pathlib.Path, steps: int):
        self.folder = folder
        # The steps before are slower: tracing, caches.
        self.first, self.last = min(20, steps - 1), min(29, steps - 1)

    def start_if_due(self, steps_done: int) -> None:
        """Starts recording before the first of the ten steps."""
        if steps_done == self.first:
            tf.profiler.experimental.start(str(self.folder))

    def stop_if_due(self, steps_done: int) -> None:
        """Stops recording after the last of the ten steps."""
        if steps_done == self.last + 1:
            tf.profiler.experimental.stop()
            print(
                f"\nProfile: {self.folder}; pip install tensorboard-plugin-profile, then tensorboard "
                f"--logdir={self.folder}",
                flush=True,
            )


def write_tensorboard_logs(
    run: Run, model: keras.Model, training_metrics: dict[str, float], validation_metrics: dict[str, float]
) -> None:
    """Writes the metrics of an epoch to logs/train/ and logs/validation/, under the names that Keras gives them.

    The validation also gets a picture of the confusion matrix. Steps are epochs, from 1 as in history.csv.
    """
    with warn_of_full_disk("TensorBoard's logs"):
        for name, metrics in (("train", training_metrics), ("validation", validation_metrics)):
            writer = tf.summary.create_file_writer(str(run.folder / "logs" / name))
            with writer.as_default(run.progress.epoch + 1):
                for metric, value in metrics.items():
                    tf.summary.scalar(f"epoch_{metric}", value)
                if name == "validation":
                    write_confusion_picture(run, model, metrics["accuracy"])
            writer.close()


def write_confusion_picture(run: Run, model: keras.Model, accuracy: float) -> None:
    """Writes the confusion matrix of the last validation, whose counts the metrics still hold, as a picture."""
    try:
        (metric,) = (metric for metric in model.metrics[-1].metrics if metric.name == "mean_recall")
        title = f"epoch {run.progress.epoch + 1}: validation accuracy {100 * accuracy:.2f} %"
        figure = report.draw_confusion(metric.counts.numpy(), run.dataset.classes, title)
        figure.set_layout_engine("constrained")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        picture = np.asarray(canvas.buffer_rgba())  # (height, width, 4) uint8
        tf.summary.image("epoch_confusion", picture[np.newaxis])
    except Exception as error:  # Matplotlib raises many kinds of errors for unusual names and numbers.
        print(f"Warning: confusion matrix not drawn: {first_line(error)}", file=sys.stderr, flush=True)
