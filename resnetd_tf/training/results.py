"""What a run leaves: the best epoch exported, evaluated and published, and metadata that says how it came about."""

import dataclasses
import pathlib
import shlex
import sys
import time

import keras

from resnetd_tf import rundir
from resnetd_tf.data.splits import Dataset
from resnetd_tf.deployment import comparison, savedmodel
from resnetd_tf.environment import peak_memory, program
from resnetd_tf.errors import first_line
from resnetd_tf.evaluation import metrics, report
from resnetd_tf.networks import checkpoints
from resnetd_tf.normalization import Statistics
from resnetd_tf.saved import open_classifier
from resnetd_tf.training.callbacks import RunWriter
from resnetd_tf.training.settings import Settings


def describe(
    settings: Settings,
    statistics: Statistics,
    dataset: Dataset,
    checkpoint: checkpoints.Checkpoint | None,
) -> dict:
    """What metadata.json says of settings, preprocessing and data."""
    return {
        **dataclasses.asdict(settings),
        **(checkpoint.identity if checkpoint else {"weights_source": "random"}),
        "normalization": {"of": statistics.name, "mean": statistics.mean, "std": statistics.std},
        "interpolation": checkpoint.interpolation if checkpoint else "bilinear",
        "patch_shape": dataset.splits["train"].shape,
        "classes": dataset.classes,
        "data_sha256": dataset.fingerprint,
        "splits": {name: split.slice for name, split in dataset.splits.items()},
        "split_sizes": {name: len(split) for name, split in dataset.splits.items()},
        "command": shlex.join(sys.argv),
    }


def finish(
    folder: pathlib.Path, path: pathlib.Path, dataset: Dataset, writer: RunWriter, metadata: dict, started: float
) -> pathlib.Path:
    """Exports the best epoch, evaluates the export on the test split, and publishes it last.

    Args:
        folder: The run's folder.
        path: Where the SavedModel goes.
        dataset: All three splits.
        writer: The callback that was there in training.
        metadata: What metadata.json says beside the results.
        started: Time at which the run began, as `time.time` gives it.

    Returns:
        `path`.
    """
    assert writer.best is not None
    training_seconds = writer.seconds
    best = keras.saving.load_model(folder / "model.keras", compile=False)
    exported = folder / "savedmodel"
    savedmodel.write(best, dataset.classes, metadata, exported)
    served = open_classifier(exported)
    check = dataset.splits["validation"].images[: comparison.IMAGES]
    agreement = comparison.agreement(served.predict(check), open_classifier(folder / "model.keras").predict(check))
    evaluation = metrics.evaluate(served, dataset, "test")
    metadata |= {
        "best_epoch": writer.best["epoch"],
        "validation_accuracy": writer.best["val_accuracy"],
        "test_accuracy": evaluation.result["accuracy"],
        "test_accuracy_interval": evaluation.result["accuracy_interval"],
        "training_seconds": training_seconds,
        "wall_seconds": time.time() - started,
        "peak_memory_gib": peak_memory(),
    }
    rundir.write_json(folder / "metadata.json", metadata)
    exported.rename(path)
    draw(folder, writer.history, evaluation)
    print(report.table(evaluation.result))
    print(f"\nSavedModel: {path}\nThe rest of the run: {folder}")
    print(f"SavedModel against model.keras on {len(check)} validation images: {agreement}")
    base, name, place = (shlex.quote(str(text)) for text in (path.parent, path.parent.name, path.parent.resolve()))
    print(f"Evaluate it:  {program('evaluate')} --model={base}")
    print(f"Serve it:     tensorflow_model_server --rest_api_port=8501 --model_name={name} --model_base_path={place}")
    return path


def draw(folder: pathlib.Path, history: list[dict], evaluation: metrics.Evaluation) -> None:
    """Writes the evaluation and the plots of a run that is published already: none of them can end it."""
    try:
        with rundir.new_evaluation(folder, "test") as evaluated:
            report.write(evaluation, evaluated)
        report.plot_history(history, folder / "history.png")
    except Exception as error:  # whatever matplotlib, or a full disk, makes of it
        print(f"Not all plots were drawn: {first_line(error)}", file=sys.stderr)
