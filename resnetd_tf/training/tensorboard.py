"""What is written for TensorBoard while training goes on."""

import pathlib
import sys
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg

from resnetd_tf.errors import first_line
from resnetd_tf.evaluation import report
from resnetd_tf.training.callbacks import warn_of_full_disk
from resnetd_tf.training.checkpoint import Progress


class Logs(keras.callbacks.Callback):
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
        figure = report.confusion(metric.counts.numpy(), self.classes, title)
        figure.set_layout_engine("constrained")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())


class Profile(keras.callbacks.Callback):
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
