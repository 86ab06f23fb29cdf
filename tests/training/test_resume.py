"""Runs that are killed, told to terminate, or diverge, and what goes on from them."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import NO_HUB, ROOT, SMALLEST

from resnetd_tf import rundir
from resnetd_tf.data import batches, synthetic
from resnetd_tf.errors import InputError
from resnetd_tf.networks import classifier
from resnetd_tf.normalization import EUROSAT_RGB
from resnetd_tf.process import Termination
from resnetd_tf.saved import open_classifier
from resnetd_tf.training import Settings, checkpoint, run, train, train_loop
from resnetd_tf.training.optimizer import compile_classifier

SMALLEST_SETTINGS = {"depth": 10, "dataset": "synthetic", "image_size": 32, "weights": "none", "batch_size": 700}
SMALL = ("--epochs=2", "--weights=none", "--deterministic", "--checkpoint_minutes=0.005")


def start(base, *arguments) -> subprocess.Popen:
    command = [sys.executable, "-u", str(ROOT / "train.py"), *SMALLEST, *SMALL, f"--output_dir={base}", *arguments]
    variables = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"} | NO_HUB
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables)


def wait_for(process: subprocess.Popen, found) -> None:
    """Waits until something is there that a run writes."""
    until = time.monotonic() + 120
    while not found():
        assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
        time.sleep(0.002)


def left_by(base) -> tuple[list, list, dict]:
    with (base / "run-1/history.csv").open() as file:
        history = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    weights = keras.saving.load_model(base / "run-1/model.keras").get_weights()
    return history, weights, json.loads((base / "run-1/evaluation-test-1/metrics.json").read_text())


@pytest.mark.long
def test_killed_and_terminated_it_ends_as_if_undisturbed(program, tmp_path):
    """Killed in its first epoch, told to terminate in its second, killed while it exports."""
    undisturbed = start(tmp_path / "undisturbed")
    base, place = tmp_path / "killed", tmp_path / "killed/run-1/unfinished"
    process = start(base)
    wait_for(process, lambda: any(place.glob("epoch-0-step-[1-9]*")))
    process.kill()
    process.communicate()
    undisturbed.communicate(timeout=200)
    assert undisturbed.returncode == 0

    process = start(base, "--resume")
    wait_for(process, lambda: any(place.glob("epoch-1-step-*")))
    refused = program("train.py", *SMALLEST, *SMALL, f"--output_dir={base}", "--resume")
    assert refused.returncode == 2 and f"in use by process {process.pid} on" in refused.stderr
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and time.monotonic() - told < 10, printed
    assert re.search(r"run-1 goes on after step \d+ of epoch 1\n", printed) and "--resume goes on with it" in printed

    process = start(base, "--resume")
    wait_for(process, lambda: any((base / "run-1").glob(".*.tmp.savedmodel")))
    process.kill()
    process.communicate()
    assert not (base / "1").exists()

    result = program("train.py", *SMALLEST, *SMALL, f"--output_dir={base}", "--resume")
    assert result.returncode == 0, result.stderr
    assert "run-1 goes on after epoch 2\n" in result.stdout
    (history, weights, metrics), expected = left_by(base), left_by(tmp_path / "undisturbed")
    assert history == expected[0] and metrics == expected[2]
    for found, value in zip(weights, expected[1], strict=True):
        np.testing.assert_array_equal(found, value)
    names = [{path.name for path in (place / "run-1").iterdir()} for place in (base, tmp_path / "undisturbed")]
    assert names[0] == names[1] and "unfinished" not in names[0]


class Wrong:
    def __del__(self):
        raise ValueError


def test_interrupts_are_deferred(monkeypatch):
    """Raised inside of TensorFlow they can crash the process: while it trains, it looks for them between steps."""
    monkeypatch.setattr(sys, "unraisablehook", lambda error: None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Termination() as termination:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            termination.requested, termination.deferred = None, True
            signal.raise_signal(signal.SIGINT)
            assert termination.requested == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):  # twice is meant
                signal.raise_signal(signal.SIGINT)
            termination.interrupt_answered()
            assert termination.requested is None
            signal.raise_signal(signal.SIGINT)
            Wrong()  # what is wrong elsewhere does not interrupt a second time
            time.sleep(0.3)
            signal.raise_signal(signal.SIGTERM)  # stands above
            with pytest.raises(SystemExit):
                signal.raise_signal(signal.SIGINT)
            with pytest.raises(SystemExit):
                termination.interrupt_answered()
    finally:
        signal.signal(signal.SIGINT, before)


def test_told_to_terminate_in_a_destructor(monkeypatch):
    """Where Python ignores what is raised."""

    class Told:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    with pytest.raises(SystemExit) as ended, Termination():
        for _ in range(2):
            Told()
        time.sleep(30)
    assert ended.value.code == 143 and before == (signal.getsignal(signal.SIGTERM), sys.unraisablehook)
    # And where it comes while something else that went wrong in one is told.
    monkeypatch.setattr(sys, "unraisablehook", lambda error: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit), Termination():
        Wrong()
        time.sleep(30)
    time.sleep(0.3)  # no signal comes after its end, or this process would


@pytest.mark.long
def test_told_to_terminate_while_it_validates(monkeypatch, tmp_path):
    """Its epoch then lacks the validation alone."""
    runs = {
        name: Settings(**SMALLEST_SETTINGS, epochs=2, output_dir=str(tmp_path / name)) for name in ("whole", "told")
    }
    train(runs["whole"])

    def told(self, batch, logs=None):
        self.termination.requested = signal.SIGTERM
        validates(self, batch, logs)

    validates = train_loop.Checkpoints.on_test_batch_begin
    monkeypatch.setattr(train_loop.Checkpoints, "on_test_batch_begin", told)
    with pytest.raises(SystemExit) as ended:
        train(runs["told"])
    assert ended.value.code == 143
    assert [path.name for path in tmp_path.glob("told/run-1/unfinished/epoch-*")] == ["epoch-0-step-3"]
    monkeypatch.undo()
    train(runs["told"], resume=True)
    (history, _, _), (expected, _, _) = (left_by(tmp_path / name) for name in ("told", "whole"))
    for row, other in zip(history, expected, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            assert float(value) == pytest.approx(float(other[name]), rel=1e-3), name


@pytest.mark.long
def test_a_run_that_dies_once_it_is_published(monkeypatch, tmp_path):
    """The Keras model stays the one that the SavedModel was made of, and there is one evaluation."""

    def dies(*arguments):
        draws(*arguments)
        raise KeyboardInterrupt

    settings = Settings(**SMALLEST_SETTINGS, epochs=1, output_dir=str(tmp_path / "model"))
    draws = run.write_plots
    monkeypatch.setattr(run, "write_plots", dies)
    with pytest.raises(KeyboardInterrupt):
        train(settings)
    monkeypatch.undo()
    assert train(settings, resume=True) == tmp_path / "model/1"
    images = synthetic.draw_scenes(20, seed=5)[0]
    served, trained = (open_classifier(tmp_path / "model" / name) for name in ("1", "run-1/model.keras"))
    np.testing.assert_allclose(served.predict(images), trained.predict(images), atol=1e-4)
    (evaluation,) = (tmp_path / "model/run-1").glob("evaluation-*")
    assert json.loads((evaluation / "metrics.json").read_text())["model"] == "1"


@pytest.mark.long
def test_a_job_script_can_always_say_resume(program, bad_input, tmp_path):
    base = tmp_path / "model"
    process = start(base, "--resume")  # there is none yet: it starts one
    wait_for(process, lambda: any(base.glob("run-1/unfinished/epoch-0-step-[1-9]*")))
    process.kill()
    process.communicate()
    arguments = (*SMALLEST, *SMALL, f"--output_dir={base}")
    told = bad_input("train.py", *arguments, "--resume", "--learning_rate=0.1", "--seed=7")
    assert "--learning_rate=0.4, now 0.1; --seed=0, now 7" in told
    assert "--epochs=2, now 3" in bad_input("train.py", *arguments, "--resume", "--epochs=3")
    written = base / "run-1/metadata.json"
    text = written.read_text()
    damaged = json.loads(text)
    damaged["normalization"]["mean"].pop()
    written.write_text(json.dumps(damaged))
    assert "(2 means and 3 standard deviations)" in bad_input("train.py", *arguments, "--resume")
    written.write_text(text)
    result = program("train.py", *arguments, "--epochs=1", "--batch_size=700")
    assert "run-1 is unfinished: python train.py" in result.stdout and (base / "2").is_dir()
    assert any(base.glob("run-1/unfinished/epoch-*"))


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    built = classifier.build_classifier(10, "d", classes=10, statistics=EUROSAT_RGB, image_size=32)
    compile_classifier(built, Settings(learning_rate=0.1), steps_per_epoch=4)
    return built


def test_every_variable_is_restored(model, tmp_path):
    split = synthetic_split()
    model.fit(batches.training_batches(split, 10, 8), steps_per_epoch=2, verbose=0, shuffle=False)
    before = [variable.numpy() for variable in checkpoint.model_variables(model)]
    sums = checkpoint.metric_sums(model)
    assert len(before) == len(model.weights) + len(model.trainable_weights) + 1  # momentum, step
    progress = checkpoint.Progress(epoch=0, step=2, sums=sums)
    checkpoint.save_checkpoint(tmp_path, model, progress, tmp_path / "none.keras")
    model.fit(batches.training_batches(split, 10, 8, first_step=2), steps_per_epoch=1, verbose=0, shuffle=False)
    assert (
        sum((variable.numpy() != value).any() for variable, value in zip(checkpoint.model_variables(model), before))
        > 50
    )
    saved = checkpoint.newest_checkpoint(tmp_path)
    checkpoint.restore_checkpoint(saved, model, tmp_path / "model.keras")
    for variable, value in zip(checkpoint.model_variables(model), before):
        np.testing.assert_array_equal(variable.numpy(), value)
    read = checkpoint.read_progress(saved)
    checkpoint.restore_metric_sums(model, read.sums)
    assert read == progress and checkpoint.metric_sums(model) == sums


def synthetic_split():
    from resnetd_tf.data.splits import Split

    images, labels = synthetic.draw_scenes(64)
    return Split(images, labels, tuple(map(str, range(64))), "train")


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    settings = {"depth": 10, "dataset": "synthetic", "image_size": 32, "weights": "none", "warmup_epochs": 0.0}
    with pytest.raises(InputError, match=r"not finite at epoch 1, step \d+: try a lower --learning_rate"):
        train(Settings(**settings, epochs=1, learning_rate=1e30, output_dir=str(tmp_path / "model")))
    assert not list(tmp_path.iterdir())


def test_a_validation_loss_that_is_not_finite_ends_the_run(tmp_path):
    """That of its only step is still finite."""
    settings = {"depth": 10, "dataset": "synthetic", "image_size": 32, "weights": "none", "warmup_epochs": 0.0}
    given = Settings(**settings, epochs=2, learning_rate=1e30, batch_size=2100, output_dir=str(tmp_path / "model"))
    with pytest.raises(InputError, match=r"the validation loss is not finite at epoch 1, step 1: try a lower"):
        train(given)
    assert not list(tmp_path.iterdir())


def test_interrupted_while_the_best_weights_are_copied(model, monkeypatch, tmp_path):
    """The epoch does not count: what is kept is the best of those before it."""
    writer = train_loop.RunWriter(tmp_path, Settings(epochs=2, learning_rate=0.1), checkpoint.Progress(), 1)
    writer.set_model(model)
    writer.on_train_begin()
    writer.on_epoch_begin(0)
    writer.on_epoch_end(0, {"val_accuracy": 0.5, "val_loss": 1.0})
    before = model.get_weights()
    model.set_weights([weights + 1 for weights in before])

    def interrupt(weights):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer.copy, "set_weights", interrupt)
    with pytest.raises(KeyboardInterrupt):
        writer.on_epoch_end(1, {"val_accuracy": 0.6, "val_loss": 1.0})
    writer.write()
    assert writer.progress.best["epoch"] == len(writer.progress.history) == 1
    kept = keras.saving.load_model(tmp_path / "model.keras").get_weights()
    assert any(np.array_equal(weights, kept[-1]) for weights in before)


def test_a_full_disk_ends_no_training(monkeypatch, capsys, tmp_path):
    """Neither checkpoint nor model can be written while it trains; at its end there is space again."""
    atomic, full = rundir.write_atomically, []

    def write(path):
        if (path.name.startswith("epoch-") and path.name != "epoch-0-step-0") or (
            path.name == "model.keras" and not full
        ):
            full.append(path)
            raise InputError(f"cannot write {path}: No space left on device")
        return atomic(path)

    monkeypatch.setattr(rundir, "write_atomically", write)
    monkeypatch.setattr(tf.summary, "create_file_writer", full_disk)
    settings = {"depth": 10, "dataset": "synthetic", "image_size": 32, "weights": "none", "epochs": 1}
    path = train(Settings(**settings, batch_size=700, output_dir=str(tmp_path / "model")))
    assert path.is_dir() and (tmp_path / "model/run-1/model.keras").is_file() and len(full) == 2
    printed = capsys.readouterr().err
    assert "Warning: history and model not written, training goes on" in printed
    assert "Warning: TensorBoard's logs not written, training goes on" in printed


def full_disk(path):
    raise tf.errors.ResourceExhaustedError(None, None, f"{path}; No space left on device")


@pytest.mark.long
def test_a_disk_that_is_full_at_the_end(monkeypatch, capsys, tmp_path):
    """The run is kept, and goes on from its last checkpoint, here the first, once there is space."""
    atomic = rundir.write_atomically

    def write(path):
        if path.name in ("history.csv", "epoch-1-step-0"):
            raise InputError(f"cannot write {path}: No space left on device")
        return atomic(path)

    monkeypatch.setattr(rundir, "write_atomically", write)
    settings = {"depth": 10, "dataset": "synthetic", "image_size": 32, "weights": "none", "epochs": 1}
    given = Settings(**settings, batch_size=700, output_dir=str(tmp_path / "model"))
    with pytest.raises(InputError, match=r"cannot write .*history\.csv"):
        train(given)
    assert "run-1 is kept as it was at its start: " in capsys.readouterr().out
    monkeypatch.undo()
    assert train(given, resume=True) == tmp_path / "model/1"


def test_what_each_device_keeps_is_restored(tmp_path):
    """Two devices, whose averages of batch norm differ until the epoch's end."""
    script = """
import pathlib, sys
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from resnetd_tf import rundir
from resnetd_tf.data import batches, synthetic
from resnetd_tf.data.splits import Split
from resnetd_tf.networks import classifier
from resnetd_tf.normalization import EUROSAT_RGB
from resnetd_tf.training import Settings, checkpoint
from resnetd_tf.training.optimizer import compile_classifier
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = classifier.build_classifier(10, "d", classes=10, statistics=EUROSAT_RGB, image_size=32)
    compile_classifier(model, Settings(learning_rate=0.1), 4)
images, labels = synthetic.draw_scenes(64)
split = Split(images, labels, tuple(map(str, range(64))), "train")
train = lambda first: model.fit(batches.training_batches(split, 10, 8, first_step=first), steps_per_epoch=2, verbose=0,
                                shuffle=False)
everywhere = lambda: [copy.numpy() for weight in [*model.weights, *model.optimizer.variables]
                      for copy in weight.value.values]
train(0)
before, sums = everywhere(), checkpoint.metric_sums(model)
assert sum((a != b).any() for a, b in zip(before[::2], before[1::2])) > 20
folder = pathlib.Path(sys.argv[1])
checkpoint.save_checkpoint(folder, model, checkpoint.Progress(step=2, sums=sums), folder / "none")
train(2)
checkpoint.restore_checkpoint(checkpoint.newest_checkpoint(folder), model, folder / "none")
checkpoint.restore_metric_sums(model, sums)
for value, expected in zip(everywhere(), before, strict=True):
    np.testing.assert_array_equal(value, expected)
assert checkpoint.metric_sums(model) == sums
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=ROOT, timeout=200)


def test_a_run_that_ends_while_it_is_claimed(tmp_path):
    """Its unfinished/, which the claim has made anew, goes again, and an older run is found."""
    for name in ("run-1", "run-2/unfinished", "2"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run-2/model.keras").touch()
    folder, lock = checkpoint.claim_newest_run(tmp_path)
    assert folder.name == "run-1" and not (tmp_path / "run-2/unfinished").exists()
    lock.release()


def test_an_empty_run_hides_no_work(tmp_path):
    for name in ("run-1/unfinished/epoch-3-step-0", "run-2"):
        (tmp_path / name).mkdir(parents=True)
    assert checkpoint.newest_unfinished_run(tmp_path).name == "run-1"


def test_a_lock_left_by_a_dead_process_is_no_obstacle(tmp_path):
    script = f"""
import os, pathlib
from resnetd_tf.training import checkpoint
folder, lock = checkpoint.create_run(pathlib.Path({str(tmp_path)!r}))
print(folder.name, flush=True)
os.kill(os.getpid(), 9)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == -9 and result.stdout == "run-1\n"
    folder = checkpoint.newest_unfinished_run(tmp_path)
    with checkpoint.claim_run(folder), pytest.raises(InputError, match=f"in use by process {os.getpid()} on"):
        checkpoint.claim_run(folder)
