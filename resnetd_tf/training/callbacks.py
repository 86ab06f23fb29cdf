"""What is written and told while training goes on."""

import csv
import io
import pathlib
import time

import keras
import tensorflow as tf

from resnetd_tf import rundir
from resnetd_tf.networks.copies import portable


class RunWriter(keras.callbacks.Callback):
    """Writes the history after every epoch, the model after every best one, and tells the time left.

    A run that is interrupted, or killed, has its best model so far in its folder.
    """

    def __init__(self, folder: pathlib.Path, epochs: int):
        super().__init__()
        self.folder, self.epochs = folder, epochs
        self.copy: keras.Model | None = None
        self.history: list[dict] = []
        self.best: dict | None = None
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since training began."""
        return time.monotonic() - self.start

    def on_train_begin(self, logs=None):
        self.start = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_start = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, **logs, "seconds": time.monotonic() - self.epoch_start}
        left = self.seconds / (epoch + 1) * (self.epochs - epoch - 1)
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        self.history.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, row, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        rundir.write_text(self.folder / "history.csv", text.getvalue())
        if self.best is None or row["val_accuracy"] > self.best["val_accuracy"]:
            if self.copy is None:
                self.copy = portable(self.model)
            self.copy.set_weights(self.model.get_weights())
            with rundir.atomic(self.folder / "model.keras") as temporary:
                self.copy.save(temporary)
            self.best = row
        print(
            f"Epoch {epoch + 1} of {self.epochs}: validation accuracy {100 * row['val_accuracy']:.2f} %, "
            f"best {100 * self.best['val_accuracy']:.2f} % (epoch {self.best['epoch']})"
            + (f", {duration(left)} left" if left else ""),
            flush=True,
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


class DurationEstimate(keras.callbacks.Callback):
    """Tells once, after fifty steps or at the end of a shorter epoch, how long training will take.

    Args:
        validation_share: Validation images over training images. Classifying one is a third of the work of
            training on one.
        image_size: Side in pixels that the model resizes images to.
    """

    STEPS = 50
    async_safe = True  # it reads no logs, so Keras need not wait for a step to call it

    def __init__(self, validation_share: float, image_size: int):
        super().__init__()
        self.validation_share, self.image_size = validation_share, image_size
        self.told = False

    def on_train_batch_end(self, batch, logs=None):
        last = min(self.STEPS, self.params["steps"] - 1)
        first = last // 5  # those before are slower: tracing, caches
        if batch == first:
            self.start = time.monotonic()
        elif batch == last and not self.told:
            self.told = True
            step = (time.monotonic() - self.start) / (last - first)
            total = step * self.params["steps"] * self.params["epochs"] * (1 + self.validation_share / 3)
            advice = ""
            if self.image_size >= 224 and not tf.config.list_logical_devices("GPU"):
                advice = "; without a GPU --image_size=64 takes a tenth of that"
            epochs = f"{self.params['epochs']} epoch{'s' if self.params['epochs'] > 1 else ''}"
            print(f"\n{step:.2f} s a step: {duration(total)} for {epochs}{advice}", flush=True)


def duration(seconds: float) -> str:
    """In words: "about 4 h 5 min", "about 40 s"."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return "about " + (f"{hours} h " if hours else "") + f"{minutes} min"
