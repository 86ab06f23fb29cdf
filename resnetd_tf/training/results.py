"""What a run leaves: the best epoch exported, evaluated and published, and metadata that says how it came about."""

import dataclasses
import json
import pathlib
import shlex
import shutil
import sys
import time

import keras

from resnetd_tf import rundir
from resnetd_tf.data import images
from resnetd_tf.data.split_files import digest
from resnetd_tf.data.splits import Dataset, Split
from resnetd_tf.deployment import comparison, savedmodel
from resnetd_tf.deployment.warmup import LARGEST
from resnetd_tf.environment import free_memory, peak_memory, program
from resnetd_tf.errors import first_line
from resnetd_tf.evaluation import metrics, report
from resnetd_tf.networks import checkpoints, keras_files
from resnetd_tf.normalization import Statistics
from resnetd_tf.saved import open_classifier
from resnetd_tf.training import calibration
from resnetd_tf.training.checkpoint import Progress
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
        "split_files_sha256": digest(settings.split_files) if settings.split_files else None,
        "splits": {name: split.slice for name, split in dataset.splits.items()},
        "split_sizes": {name: len(split) for name, split in dataset.splits.items()},
        "command": shlex.join(sys.argv),
    }


def finish(
    folder: pathlib.Path, path: pathlib.Path, dataset: Dataset, progress: Progress, metadata: dict, started: float
) -> None:
    """Exports the best epoch, evaluates the export on the test split, and publishes it last.

    What a process did that died in the middle of this is not done again.

    Args:
        folder: The run's folder.
        path: Where the SavedModel goes, if it is not there yet.
        dataset: All three splits.
        progress: Where training has come to.
        metadata: What metadata.json says beside the results.
        started: Time at which the run began, as `time.time` gives it.
    """
    assert progress.best is not None
    published = path.exists()
    exported = path if published else folder / "savedmodel"
    free_memory()
    validation, test = dataset.splits["validation"], dataset.splits["test"]
    check = validation.images[: comparison.IMAGES]
    epoch = f"epoch {progress.best['epoch']}"
    if not published:
        print(f"Calibrating {epoch} on {len(validation)} validation images ...", flush=True)
        shutil.rmtree(exported, ignore_errors=True)
        examples = images.of_one_size(check[:LARGEST], *metadata["patch_shape"][:2])
        network = calibrated(folder, validation, metadata)
        print(f"Exporting {epoch} as a SavedModel ...", flush=True)
        savedmodel.write(network, dataset.classes, metadata, exported, examples=examples)
        del network
    expected = open_classifier(folder / "model.keras").predict(check)
    free_memory()
    served = open_classifier(exported)
    free_memory()
    print(f"Evaluating the SavedModel on {len(check)} validation and {len(test)} test images ...", flush=True)
    agreement = comparison.words(comparison.compared(served.predict(check), expected))
    evaluation = dataclasses.replace(metrics.evaluate(served, dataset, "test"), model=path.name)
    if not published:
        accuracies = {
            "best_epoch": progress.best["epoch"],
            "validation_accuracy": progress.best["val_accuracy"],
            "test_accuracy": evaluation.result["accuracy"],
            "test_accuracy_interval": evaluation.result["accuracy_interval"],
        }
        of_savedmodel = exported / "assets.extra" / "metadata.json"  # goes where the SavedModel goes
        rundir.write_json(of_savedmodel, json.loads(of_savedmodel.read_text(encoding="utf-8")) | accuracies)
        metadata |= {
            **accuracies,
            "training_seconds": progress.seconds,
            "wall_seconds": time.time() - started,
            "peak_memory_gib": peak_memory(),
        }
        rundir.write_json(folder / "metadata.json", metadata)
        exported.rename(path)
    draw(folder, progress.history, evaluation)
    print(report.table(evaluation.result))
    print(f"\nSavedModel: {path}\nThe rest of the run: {folder}")
    print(f"SavedModel against model.keras on {len(check)} validation images: {agreement}")
    base, name, place = (shlex.quote(str(text)) for text in (path.parent, path.parent.name, path.parent.resolve()))
    print(f"Evaluate it:  {program('evaluate')} --model={base}")
    print(f"Serve it:     tensorflow_model_server --rest_api_port=8501 --model_name={name} --model_base_path={place}")


def calibrated(folder: pathlib.Path, validation: Split, metadata: dict) -> keras.Model:
    """The best epoch's classifier, its probabilities calibrated on validation images, and kept so in model.keras."""
    path = folder / "model.keras"
    probabilities = open_classifier(path).predict(validation.images)
    free_memory()
    network = keras_files.load(path)
    metadata["temperature"] = calibration.temperature(validation.labels, probabilities)
    calibration.divide_logits(network, metadata["temperature"])
    with rundir.atomic(path) as temporary:
        keras_files.save(network, temporary)
    return network


def draw(folder: pathlib.Path, history: list[dict], evaluation: metrics.Evaluation) -> None:
    """Writes the evaluation and the plots of a run that is published already: none of them can end it."""
    try:
        found = list(folder.glob("evaluation-test-*"))
        for place in found:
            if not (place / "metrics.json").is_file():  # a killed process's
                shutil.rmtree(place)
        if not any(written(place, evaluation) for place in found):
            with rundir.new_evaluation(folder, "test") as evaluated:
                report.write(evaluation, evaluated)
        report.plot_history(history, folder / "history.png")
    except Exception as error:  # whatever matplotlib, or a full disk, makes of it
        print(f"Not all plots were drawn: {first_line(error)}", file=sys.stderr)


def written(place: pathlib.Path, evaluation: metrics.Evaluation) -> bool:
    """Whether an evaluation is in this folder already."""
    found = place / "metrics.json"
    expected = json.loads(json.dumps(evaluation.result))
    return found.is_file() and json.loads(found.read_text(encoding="utf-8")) == expected
