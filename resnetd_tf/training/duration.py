"""How long training will take."""

import time

import keras
import tensorflow as tf


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
            print(f"\n{step:.2f} s a step: {duration(total)} for {part}{advice}", flush=True)


def duration(seconds: float) -> str:
    """In words: "about 4 h 5 min", "about 40 s"."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return "about " + (f"{hours} h " if hours else "") + f"{minutes} min"
