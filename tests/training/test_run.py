"""Whole runs on the synthetic dataset."""

import contextlib
import csv
import dataclasses
import io
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
from functools import partial

import keras
import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
import tifffile
from conftest import ROOT, SMALLEST, THREE_STEPS
from PIL import Image
from tensorboard.compat.proto import event_pb2

from resnetd_tf.data import batches, datasets, synthetic
from resnetd_tf.errors import InputError
from resnetd_tf.evaluation import report
from resnetd_tf.networks import checkpoints, classifier
from resnetd_tf.normalization import EUROSAT_RGB
from resnetd_tf.rundir import savedmodel_versions
from resnetd_tf.saved import open_classifier
from resnetd_tf.training import Settings, optimizer, train, train_loop
from resnetd_tf.training.optimizer import MeanRecall, compile_classifier
from resnetd_tf.training.train_loop import DurationEstimate, format_duration


def test_a_run_leaves_what_it_promises(run):
    folder = run / "run-1"
    names = {"model.keras", "labels.txt", "metadata.json", "history.csv", "history.png", "logs", "evaluation-test-1"}
    assert names <= {path.name for path in folder.iterdir()}
    assert not list(run.rglob("*.tmp.*"))
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["depth"] == 10 and metadata["seed"] == 0 and metadata["dataset"] == "synthetic"
    assert len(metadata["data_sha256"]) == 64 and metadata["wall_seconds"] > metadata["training_seconds"] > 0
    assert metadata["versions"]["keras"] == keras.__version__ and metadata["hardware"]["cores"] >= 1
    with (folder / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert metadata["validation_accuracy"] == max(float(row["val_accuracy"]) for row in history)
    assert float(history[0]["val_mean_recall"]) > 0
    assert list((folder / "logs" / "train").glob("events*"))
    assert len(confusion_pictures(folder)) == 2
    printed = (run / "stdout.txt").read_text()
    assert f"SavedModel: {run / '1'}" in printed
    assert "validation images: same class for 100.0 %" in printed
    assert re.search(r"\d\.\d\d s a step: about \d+ s for 2 epochs\n", printed)


class Terminal(io.StringIO):
    """Text that is written to a terminal."""

    def isatty(self):
        return True


SMALL_SETTINGS = {"depth": 10, "image_size": 32, "epochs": 1, "batch_size": 700, "weights": "none"}


@dataclasses.dataclass(frozen=True)
class ObservedRun:
    """A run of one epoch and three steps, whose report cannot be written.

    Attributes:
        folder: The folder of the run.
        stdout: The text that it printed on a terminal.
        stderr: The text that it printed as errors.
        batch_arguments: The keyword arguments of the training batches.
        files_before_training: The names in its folder when training began.
        models_at_report: The path of the model that `open_classifier` found under the base path when the report failed.
    """

    folder: pathlib.Path
    stdout: str
    stderr: str
    batch_arguments: dict
    files_before_training: set[str]
    models_at_report: list[pathlib.Path]


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory):
    """One run that several tests look at, because a run takes seconds."""
    base, terminal, errors = tmp_path_factory.mktemp("one") / "model", Terminal(), io.StringIO()
    batch_arguments, files, models = {}, set(), []
    training_batches, train_epoch = batches.training_batches, train_loop.TrainLoop.train_epoch

    def record_arguments(*args, **keywords):
        batch_arguments.update(keywords)
        return training_batches(*args, **keywords)

    def record_files(loop):
        files.update(path.name for path in (base / "run-1").iterdir())
        return train_epoch(loop)

    def fail(evaluation, folder):
        models.append(open_classifier(base).path)
        raise MemoryError("too large")

    settings = Settings(
        **SMALL_SETTINGS, dataset="synthetic", varied=0.5, cutmix=0.25, precision="bfloat16", output_dir=base
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "training_batches", record_arguments)
        patch.setattr(train_loop.TrainLoop, "train_epoch", record_files)
        patch.setattr(report, "write_report", fail)
        with contextlib.redirect_stdout(terminal), contextlib.redirect_stderr(errors):
            train(settings)
    return ObservedRun(base / "run-1", terminal.getvalue(), errors.getvalue(), batch_arguments, files, models)


def test_the_learning_rate_of_an_epoch_is_one_that_it_trained_with(one_epoch):
    """The rate is that of step 1 of 3: half of 0.4 * 700 / 256, to which the warm-up rises in two steps."""
    with (one_epoch.folder / "history.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["learning_rate"]) == pytest.approx(0.4 * 700 / 256 / 2)
    events = [
        (event.step, value.tag, tf.make_ndarray(value.tensor))
        for path in (one_epoch.folder / "logs/train").glob("events*")
        for record in tf.data.TFRecordDataset(str(path))
        for event in [event_pb2.Event.FromString(record.numpy())]
        for value in event.summary.value
    ]
    assert [step for step, *_ in events] == [1] * len(events)  # the first epoch, as in history.csv
    (rate,) = (value for _, tag, value in events if tag == "epoch_learning_rate")
    assert rate == pytest.approx(float(row["learning_rate"]))


def test_on_a_terminal_each_line_stands_alone(one_epoch):
    lines = re.split(r"[\r\n]", one_epoch.stdout)
    assert any("━" in line for line in lines)  # Keras's bar
    (line,) = (line for line in lines if "Epoch 1 of 1: validation" in line)
    assert line.startswith("Epoch 1 of 1: validation accuracy")


def test_what_follows_the_last_epoch_is_told(one_epoch):
    """With a large dataset it takes more than a minute."""
    texts = (
        "Epoch 1 of 1",
        "Calibrating epoch 1 on 600 validation images",
        "Exporting epoch 1 as a SavedModel",
        "Evaluating the SavedModel on 256 validation and 300 test images",
        "test accuracy of synthetic",
    )
    positions = [one_epoch.stdout.index(text) for text in texts]
    assert positions == sorted(positions)


def test_training_needs_tensorflow(monkeypatch, tmp_path):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(InputError, match="training needs Keras on TensorFlow, and it runs on jax; set KERAS_BACKEND"):
        train(Settings(dataset="synthetic", output_dir=tmp_path / "model"))
    assert not list(tmp_path.iterdir())


def confusion_pictures(folder) -> list[np.ndarray]:
    """Returns the pictures of confusion matrices in a run's logs, one for each epoch."""
    pictures = []
    for path in sorted((folder / "logs/validation").glob("events*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(record.numpy())
            pictures += [tf.io.decode_png(v.tensor.string_val[2]) for v in event.summary.value if "confusion" in v.tag]
    assert all(picture.shape[-1] == 4 and min(picture.shape[:2]) > 300 for picture in pictures)
    return pictures


def test_the_confusion_matrix_of_the_validation(run, small_classifier):
    """The counts of the metric at the end of an epoch are the confusion matrix of the validation split."""
    split = datasets.load_dataset("synthetic", ("validation",)).splits["validation"]
    predicted = small_classifier.predict(split.images).argmax(1)
    expected = sklearn.metrics.confusion_matrix(split.labels, predicted)
    metric = MeanRecall(10)
    for part in (slice(0, 500), slice(500, None)):
        metric.update_state(*(keras.utils.to_categorical(values[part], 10) for values in (split.labels, predicted)))
    np.testing.assert_array_equal(metric.counts.numpy(), expected)
    recalls = sklearn.metrics.recall_score(split.labels, predicted, average="macro")
    assert float(metric.result()) == pytest.approx(recalls)
    with (run / "run-1/history.csv").open() as file:
        assert max(float(row["val_mean_recall"]) for row in csv.DictReader(file)) == pytest.approx(recalls, abs=0.01)


def test_profile(run):
    assert f"Profile: {run / 'run-1/logs/profile'}; " in (run / "stdout.txt").read_text()
    assert list((run / "run-1/logs/profile").rglob("*.xplane.pb"))


def test_it_learns(run):
    """There are ten classes: a pipeline with shuffled labels stays near 10 %."""
    metrics = json.loads((run / "run-1/evaluation-test-1/metrics.json").read_text())
    assert metrics["accuracy"] > 0.5
    low, high = metrics["accuracy_interval"]
    assert low < metrics["accuracy"] < high
    confusion = np.array(metrics["confusion_matrix"])
    assert confusion.sum() == metrics["count"] == 300
    assert np.trace(confusion) == round(metrics["accuracy"] * 300)
    assert [row["support"] for row in metrics["classes"].values()] == confusion.sum(axis=1).tolist()


@pytest.mark.long
def test_next_run_continues_from_weights_and_keeps_the_first(run, program, tmp_path):
    base = tmp_path / "small"
    shutil.copytree(run, base)
    modification_times = {path: path.stat().st_mtime_ns for path in base.rglob("*") if path.is_file()}
    weights = run / "run-1/model.keras"
    arguments = (f"--weights={weights}", "--freeze=stem", f"--output_dir={base}")
    result = program("train.py", *SMALLEST, *THREE_STEPS, *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"Weights: {weights}")
    assert savedmodel_versions(base) == [1, 2] and (base / "run-2/metadata.json").is_file()
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in modification_times.items())
    assert open_classifier(base).path == base / "2"
    first, second = (
        checkpoints.read_checkpoint(base / f"run-{number}/model.keras", 10, "d").tensors for number in (1, 2)
    )
    unchanged = {name for name in first if np.array_equal(first[name], second[name])}
    assert unchanged == {name for name in first if name.startswith(("conv1.", "bn1."))}  # the stem


@pytest.mark.long
def test_interrupt_keeps_the_best_epoch(tmp_path):
    command = [
        sys.executable,
        "-u",
        str(ROOT / "train.py"),
        *SMALLEST,
        "--epochs=50",
        "--weights=none",
        f"--output_dir={tmp_path / 'm'}",
    ]
    # Tests that run in the background ignore SIGINT, and children inherit that.
    heed_interrupts = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)
    for line in process.stdout:
        if line.startswith("Epoch 1 of 50"):
            process.send_signal(signal.SIGINT)
            break
    try:
        printed = process.communicate(timeout=200)[0]
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Interrupted: keeping the best of" in printed
    metadata = json.loads((tmp_path / "m/run-1/metadata.json").read_text())
    assert metadata["interrupted"] and metadata["best_epoch"] >= 1
    assert open_classifier(tmp_path / "m").path == tmp_path / "m/1"


def test_a_step_is_traced_once(monkeypatch):
    """If the first step created variables, TensorFlow would trace it again, which takes seconds for a ResNet-50."""
    model = classifier.build_classifier(10, "d", classes=10, statistics=EUROSAT_RGB, image_size=32)
    compile_classifier(model, Settings(learning_rate=0.1), steps_per_epoch=1)
    network, traces = model.layers[-1], []
    call = network.call
    monkeypatch.setattr(network, "call", lambda *args, **kwargs: traces.append(1) or call(*args, **kwargs))
    images, labels = synthetic.draw_scenes(16)
    model.fit(images, keras.utils.to_categorical(labels, 10), batch_size=8, verbose=0)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 31}, "image_size=31"),
        ({"weights": "missing.keras"}, "no such file"),
        ({"batch_size": 100_000}, "larger than the training split"),
        ({"epochs": 0}, "epochs=0"),
        ({"image_size": 100_000}, "image_size=100000: must be at least 32 and at most 16384"),
        ({"weight_decay": 2.0}, "weight_decay=2.0: must be at least 0 and at most 1"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"learning_rate": -1.0}, "learning_rate=-1"),
        ({"variant": "e"}, "variant=e: must be one of base, b, c, d"),
        ({"freeze": "stem"}, "random weights would stay"),
        ({"seed": 2**32}, "seed=4294967296: must be at least 0 and at most 4294967295"),
        ({"momentum": 1.0}, "momentum=1.0: must be at least 0 and below 1"),
        ({"label_smoothing": 2.0}, "label_smoothing=2.0"),
        ({"weight_decay": float("inf")}, "weight_decay=inf"),
        ({"warmup_epochs": 11}, "warmup_epochs=11: must be at most --epochs=10"),
        ({"output_dir": f"{__file__}/model"}, "cannot create"),
    ],
)
def test_bad_settings_leave_nothing(tmp_path, change, message):
    settings = {"depth": 10, "dataset": "synthetic", "image_size": 32, "weights": "none"}
    settings["output_dir"] = str(tmp_path / "none")
    with pytest.raises(InputError, match=message):
        train(Settings(**{**settings, **change}))
    assert not list(tmp_path.iterdir())


def test_images_are_varied_and_mixed_as_asked(one_epoch):
    assert one_epoch.batch_arguments["varied"] == 0.5 and one_epoch.batch_arguments["cutmix"] == 0.25


def test_pixels_are_varied_more_and_more(one_epoch):
    """From not at all before the first of three steps to fully after the last."""
    strength = one_epoch.batch_arguments["strength"]
    np.testing.assert_allclose([strength(tf.constant(step)) for step in (0, 1.5, 3)], (0, 0.5, 1))


@pytest.fixture(scope="module")
def bands_folder(tmp_path_factory):
    """Twenty patches of 13 bands in two classes, as a dataset."""
    folder = tmp_path_factory.mktemp("bands") / "patches"
    for index in range(20):
        path = folder / f"{index % 2}/{index}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, np.full((32, 32, 13), 600 + index, "uint16"))
    return folder


def test_pixels_of_thirteen_bands_cannot_be_varied(bands_folder, tmp_path):
    settings = SMALL_SETTINGS | {"dataset": f"folder:{bands_folder}", "batch_size": 4}
    with pytest.raises(InputError, match=r"--varied=0.5 has no effect on images of 13 bands"):
        train(Settings(**settings, varied=0.5, output_dir=tmp_path / "model"))
    for name in ("relit", "unlike"):
        with pytest.raises(InputError, match=rf"--{name}=0.5 has no effect on images of 13 bands"):
            train(Settings(**settings, **{name: 0.5}, output_dir=tmp_path / "model"))


def test_images_of_thirteen_bands_are_mixed_but_not_varied(bands_folder, monkeypatch, tmp_path):
    """The default recipe varies images, which has no effect here."""
    requested, training_batches = [], batches.training_batches

    def record_arguments(*args, **keywords):
        requested.append((keywords["varied"], keywords["cutmix"]))
        return training_batches(*args, **keywords)

    def stop(loop):
        raise InputError("far enough")

    monkeypatch.setattr(batches, "training_batches", record_arguments)
    monkeypatch.setattr(train_loop.TrainLoop, "train_epoch", stop)
    settings = SMALL_SETTINGS | {"dataset": f"folder:{bands_folder}", "batch_size": 4}
    with pytest.raises(InputError, match="far enough"):
        train(Settings(**settings, cutmix=0.5, output_dir=tmp_path / "model"))
    assert requested == [(0.0, 0.5)]


def test_labels_are_smoothed():
    """The cross-entropy of 0.95 and 0.05, where the labels are 1 and 0, with 0.8 and 0.2."""
    loss = float(optimizer.make_loss(Settings(label_smoothing=0.1))([[1.0, 0.0]], [[0.8, 0.2]]))
    assert loss == pytest.approx(-0.95 * np.log(0.8) - 0.05 * np.log(0.2), abs=1e-5)


def test_a_failed_report_does_not_end_a_run(one_epoch):
    assert "Not all plots were drawn: too large" in one_epoch.stderr
    assert one_epoch.folder.with_name("1").is_dir() and (one_epoch.folder / "model.keras").is_file()


def test_labels_and_metadata_are_written_before_training(one_epoch):
    assert {"labels.txt", "metadata.json"} <= one_epoch.files_before_training


def test_the_savedmodel_is_published_before_the_report_is_written(one_epoch):
    assert one_epoch.models_at_report == [one_epoch.folder.with_name("1")]


def test_the_precision_of_the_caller_is_restored(one_epoch):
    assert keras.config.dtype_policy().name == "float32"


def test_duration_in_words():
    durations = [format_duration(seconds) for seconds in (41.2, 90, 3599, 4 * 3600 + 299)]
    assert durations == ["about 41 s", "about 2 min", "about 1 h 0 min", "about 4 h 5 min"]


def count_steps(steps: int, **changes) -> None:
    """Has the duration estimated in the first steps of an epoch of 100 steps, of ten epochs."""
    arguments = {"epochs": 10, "steps_left": 1000, "is_resumed": False, "validation_share": 0.3, "image_size": 64}
    estimate = DurationEstimate(steps, **(arguments | changes))
    for _ in range(2 * steps):
        estimate.count_step()


@pytest.mark.parametrize(("size", "is_advised"), [(224, True), (64, False)])
def test_estimate_advises_smaller_images_without_a_gpu(capsys, size, is_advised):
    count_steps(100, image_size=size)
    printed = capsys.readouterr().out
    assert printed.count("for 10 epochs") == 1
    assert ("without a GPU --image_size=64 takes a tenth of that" in printed) == is_advised


@pytest.mark.parametrize("steps", [2, 7, 36, 51])
def test_estimate_of_short_epochs(capsys, steps):
    count_steps(steps, epochs=3, steps_left=3 * steps)
    assert "for 3 epochs" in capsys.readouterr().out


def test_estimate_of_a_resumed_run(capsys):
    count_steps(40, is_resumed=True, steps_left=540)
    assert "for what is left of 10 epochs" in capsys.readouterr().out


def test_a_teacher_labels_the_images(one_epoch, tmp_path):
    teacher = one_epoch.folder / "model.keras"
    settings = SMALL_SETTINGS | {"dataset": "synthetic", "teacher": str(teacher)}
    train(Settings(**settings, output_dir=tmp_path / "model"))
    metadata = json.loads((tmp_path / "model/run-1/metadata.json").read_text())
    assert metadata["teacher"] == str(teacher) and metadata["best_epoch"] == 1


def test_a_teacher_of_other_images(bands_folder, tmp_path):
    for index in range(20):
        path = tmp_path / f"pictures/{'ab'[index % 2]}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), index, "uint8")).save(path)
    pictures = f"folder:{tmp_path / 'pictures'}"
    for dataset, name, message in (
        (pictures, "eurosat", "its classes are AnnualCrop, .*, those of .* are a, b"),
        (f"folder:{bands_folder}", "eurosat", "takes 3 bands, .* has 13"),
        (pictures, "missing.keras", "missing.keras"),
    ):
        settings = SMALL_SETTINGS | {"dataset": dataset, "teacher": name, "batch_size": 4}
        with pytest.raises(InputError, match=message):
            train(Settings(**settings, output_dir=tmp_path / "other"))
    assert not (tmp_path / "other").exists()
