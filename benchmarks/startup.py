"""Measures the seconds from the command to the end of the first training step, beside TensorFlow's own import.

    python -m benchmarks.startup            # needs eurosat/rgb prepared in $TFDS_DATA_DIR

"Ours" is `python train.py --variant=d --image_size=64 --weights=none`. "KerasHub" is KerasHub's network trained with
plain `fit` on a pipeline as users of TFDS write it. This pipeline decodes images during training, so that it loads
nothing before.
"""

import functools
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from benchmarks import contest
from resnetd_tf.cli import program


class Command:
    """Measures the seconds that `python -c CODE` takes; the code prints the duration of its phases."""

    def __init__(self, code: str):
        self.code = code

    def __call__(self) -> float:
        start = time.time()
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", self.code, folder]
            output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
        *_, line = output.splitlines()
        phases = json.loads(line)
        total = phases.pop("end") - start
        self.phases = phases | {"rest": total - sum(phases.values())}
        return total

    def profile(self) -> dict[str, float]:
        return self.phases


class Phases(dict):
    """The seconds of each phase by its name."""

    def measure(self, name: str, function: Callable) -> Callable:
        """Returns a function that also records the seconds that it takes under a name."""

        @functools.wraps(function)
        def run(*args, **kwargs):
            start = time.time()
            result = function(*args, **kwargs)
            self[name] = time.time() - start
            return result

        return run

    def end_after_first_step(self, trainer: type, start_method: str, step_method: str) -> None:
        """Makes the process print the phases and end after the first training step.

        Args:
            trainer: The class whose methods are called in training.
            start_method: Name of the method that is called before the first step.
            step_method: Name of the method whose first call ends with, or follows, the first step.
        """
        start_training, finish_step = getattr(trainer, start_method), getattr(trainer, step_method)

        def start(*args, **kwargs):
            self["tracing and first step"] = -time.time()
            return start_training(*args, **kwargs)

        def finish(*args, **kwargs):
            finish_step(*args, **kwargs)
            now = time.time()
            self["tracing and first step"] += now
            print("\n" + json.dumps({**self, "end": now}), flush=True)
            os._exit(0)

        setattr(trainer, start_method, start)
        setattr(trainer, step_method, finish)


def start_ours(folder: str) -> None:
    phases = Phases()
    phases.measure("import of TensorFlow", program.import_tensorflow)()
    from resnetd_tf.data import datasets
    from resnetd_tf.networks import classifier
    from resnetd_tf.training import train_loop

    datasets.load_dataset = phases.measure("data into memory", datasets.load_dataset)
    classifier.build_classifier = phases.measure("building the model", classifier.build_classifier)
    phases.end_after_first_step(train_loop.TrainLoop, "train_epoch", "_train_step")
    sys.argv = ["train.py", "--variant=d", "--image_size=64", "--weights=none", f"--output_dir={folder}/model"]
    runpy.run_path("train.py", run_name="__main__")


def start_kerashub(folder: str) -> None:
    phases = Phases()
    phases.measure("import of TensorFlow", program.import_tensorflow)()
    import keras
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from benchmarks import train_step

    phases.end_after_first_step(keras.callbacks.CallbackList, "on_train_begin", "on_train_batch_end")
    dataset = phases.measure("data", tfds.load)("eurosat/rgb", split="train[:70%]", as_supervised=True)
    dataset = dataset.map(lambda image, label: (image, tf.one_hot(label, train_step.CLASSES)))
    train_step.set_precision("bfloat16")
    model = phases.measure("building the model", train_step.kerashub_classifier)(64)
    train_step.plain_compile(model, keras)
    model.fit(dataset.shuffle(1000).batch(32).prefetch(tf.data.AUTOTUNE), verbose=0)


def ours() -> Command:
    return Command("import sys; from benchmarks import startup; startup.start_ours(sys.argv[1])")


def kerashub() -> Command:
    return Command("import sys; from benchmarks import startup; startup.start_kerashub(sys.argv[1])")


def tensorflow() -> Command:
    return Command("import json, time, tensorflow; print(json.dumps({'end': time.time()}))")


if __name__ == "__main__":
    contest.main(
        "startup",
        {"ours": ours, "KerasHub": kerashub, "import of TensorFlow alone": tensorflow},
        {},
        unit="s",
        profiled=("ours", "KerasHub"),
        profile_of="s",
    )
