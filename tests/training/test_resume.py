"""Runs that are killed, terminated or diverge, and how they are resumed."""

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
from resnetd_tf.data.splits import Split
from resnetd_tf.errors import InputError
from resnetd_tf.networks import classifier
from resnetd_tf.normalization import EUROSAT_RGB
from resnetd_tf.process import Termination
from resnetd_tf.saved import open_classifier
from resnetd_tf.training import Settings, checkpoint, run, train, train_loop
from resnetd_tf.training.optimizer import compile_classifier

SMALLEST_SETTINGS = {"depth": 10, "dataset": "synthetic", "image_size": 32, "weights": "none", "batch_size": 700}
SMALL = ("--epochs=2", "--weights=none", "--deterministic", "--checkpoint_minutes=0.005")
SMALL += ("--average=0.75", "--relit=0.5", "--cutmix=0.5", "--unlike=0.2")


def start(base, *arguments) -> subprocess.Popen:
    command = [sys.executable, "-u", str(ROOT / "train.py"), *SMALLEST, *SMALL, f"--output_dir={base}", *arguments]
    variables = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"} | NO_HUB
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables)


def wait_for(process: subprocess.Popen, condition) -> None:
    """Waits until a run has written something."""
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.002)


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def read_results(base) -> tuple[list, list, dict]:
    """The history without times, the weights and the evaluation of a finished run."""
    with (base / "run-1/history.csv").open() as file:
        history = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    weights = keras.saving.load_model(base / "run-1/model.keras").get_weights()
    return history, weights, json.loads((base / "run-1/evaluation-test-1/metrics.json").read_text())


@pytest.mark.long
def test_killed_and_terminated_it_ends_as_if_undisturbed(program, tmp_path):
    """The run is killed in its first epoch, terminated in its second, and killed while it exports."""
    undisturbed = start(tmp_path / "undisturbed")
    base, unfinished = tmp_path / "killed", tmp_path / "killed/run-1/unfinished"
    process = start(base)
    wait_for(process, lambda: any(unfinished.glob("epoch-0-step-[1-9]*")))
    kill(process)
    undisturbed.communicate(timeout=200)
    assert undisturbed.returncode == 0

    process = start(base, "--resume")
    wait_for(process, lambda: any(unfinished.glob("epoch-1-step-*")))
    refused = program("train.py", *SMALLEST, *SMALL, f"--output_dir={base}", "--resume")
    assert refused.returncode == 2 and f"in use by process {process.pid} on" in refused.stderr
    signal_time = time.monotonic()
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and time.monotonic() - signal_time < 10, printed
    assert re.search(r"run-1 goes on after step \d+ of epoch 1\n", printed) and "--resume goes on with it" in printed

    process = start(base, "--resume")
    wait_for(process, lambda: any((base / "run-1").glob(".*.tmp.savedmodel")))
    kill(process)
    assert not (base / "1").exists()

    result = program("train.py", *SMALLEST, *SMALL, f"--output_dir={base}", "--resume")
    assert result.returncode == 0, result.stderr
    assert "run-1 goes on after epoch 2\n" in result.stdout
    (history, weights, metrics), expected = read_results(base), read_results(tmp_path / "undisturbed")
    assert history == expected[0] and metrics == expected[2]
    for weight, expected_weight in zip(weights, expected[1], strict=True):
        np.testing.assert_array_equal(weight, expected_weight)
    names, expected_names = (
        {path.name for path in (folder / "run-1").iterdir()} for folder in (base, tmp_path / "undisturbed")
    )
    assert names == expected_names and "unfinished" not in names


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, even where the tests run in the background."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_ends_the_program_at_once(interruptible, number, error):
    with Termination(), pytest.raises(error) as exit_info:
        signal.raise_signal(number)
    assert number == signal.SIGINT or exit_info.value.code == 143


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_deferred_signal_waits_for_the_program(interruptible, number, error):
    """An exception raised inside TensorFlow can crash the process, so training checks for signals between steps."""
    with Termination() as termination:
        termination.deferred = True
        signal.raise_signal(number)
        assert termination.requested == number
        with pytest.raises(error):
            termination.raise_if_requested()


def test_a_second_interrupt_is_not_deferred(interruptible):
    with Termination() as termination:
        termination.deferred = True
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_answered_interrupt_is_forgotten(interruptible):
    with Termination() as termination:
        termination.deferred = True
        signal.raise_signal(signal.SIGINT)
        termination.clear_interrupt()
        assert termination.requested is None
        termination.raise_if_requested()
        signal.raise_signal(signal.SIGINT)  # It is the first one again, and deferred.


def test_sigterm_takes_precedence_over_an_interrupt(interruptible):
    with Termination() as termination:
        termination.deferred = True
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit):
            termination.clear_interrupt()


def test_a_signal_in_a_destructor_is_not_lost(monkeypatch):
    """Python ignores an exception that is raised there. The next check ends the program."""

    class SignalsWhenDeleted:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(sys, "unraisablehook", lambda error: None)
    with pytest.raises(SystemExit) as exit_info, Termination() as termination:
        SignalsWhenDeleted()
        termination.raise_if_requested()
    assert exit_info.value.code == 143


def test_signal_handlers_are_restored(interruptible):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Termination():
        assert signal.getsignal(signal.SIGTERM) != handlers[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


@pytest.mark.long
def test_terminated_while_it_validates(monkeypatch, tmp_path):
    """The resumed run does the validation alone, and ends as if undisturbed."""
    settings = {
        name: Settings(**SMALLEST_SETTINGS, epochs=2, output_dir=str(tmp_path / name))
        for name in ("undisturbed", "terminated")
    }
    train(settings["undisturbed"])

    def validate(loop):
        loop.run.termination.requested = signal.SIGTERM
        return undisturbed_validate(loop)

    undisturbed_validate = train_loop.TrainLoop.validate
    monkeypatch.setattr(train_loop.TrainLoop, "validate", validate)
    with pytest.raises(SystemExit) as exit_info:
        train(settings["terminated"])
    assert exit_info.value.code == 143
    assert [path.name for path in tmp_path.glob("terminated/run-1/unfinished/epoch-*")] == ["epoch-0-step-3"]
    monkeypatch.undo()
    train(settings["terminated"], resume=True)
    history, expected_history = (read_results(tmp_path / name)[0] for name in ("terminated", "undisturbed"))
    for row, expected_row in zip(history, expected_history, strict=True):
        assert row.keys() == expected_row.keys()
        for name, value in row.items():
            assert float(value) == pytest.approx(float(expected_row[name]), rel=1e-3), name


@pytest.mark.long
def test_a_run_that_dies_once_it_is_published(monkeypatch, tmp_path):
    """The Keras model stays the one that the SavedModel was made of, and there is one evaluation."""

    def write_plots_and_die(*arguments):
        write_plots(*arguments)
        raise KeyboardInterrupt

    settings = Settings(**SMALLEST_SETTINGS, epochs=1, output_dir=str(tmp_path / "model"))
    write_plots = run.write_plots
    monkeypatch.setattr(run, "write_plots", write_plots_and_die)
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
    process = start(base, "--resume")  # There is no run yet: it starts one.
    wait_for(process, lambda: any(base.glob("run-1/unfinished/epoch-0-step-[1-9]*")))
    kill(process)
    arguments = (*SMALLEST, *SMALL, f"--output_dir={base}")
    message = bad_input("train.py", *arguments, "--resume", "--learning_rate=0.1", "--seed=7")
    assert "--learning_rate=0.4, now 0.1; --seed=0, now 7" in message
    assert "--epochs=2, now 3" in bad_input("train.py", *arguments, "--resume", "--epochs=3")
    metadata_path = base / "run-1/metadata.json"
    metadata_text = metadata_path.read_text()
    damaged = json.loads(metadata_text)
    damaged["normalization"]["mean"].pop()
    metadata_path.write_text(json.dumps(damaged))
    assert "(2 means and 3 standard deviations)" in bad_input("train.py", *arguments, "--resume")
    metadata_path.write_text(metadata_text)
    result = program("train.py", *arguments, "--epochs=1", "--batch_size=700")
    assert "run-1 is unfinished: python train.py" in result.stdout and (base / "2").is_dir()
    assert any(base.glob("run-1/unfinished/epoch-*"))


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    built = classifier.build_classifier(10, "d", classes=10, statistics=EUROSAT_RGB, image_size=32)
    compile_classifier(built, Settings(learning_rate=0.1), steps_per_epoch=4)
    return built


def synthetic_split():
    images, labels = synthetic.draw_scenes(64)
    return Split(images, labels, tuple(map(str, range(64))), "train")


def test_every_variable_is_restored(model, tmp_path):
    split = synthetic_split()
    model.fit(batches.training_batches(split, 10, 8), steps_per_epoch=2, verbose=0, shuffle=False)
    expected = [variable.numpy() for variable in checkpoint.model_variables(model)]
    sums = checkpoint.metric_sums(model)
    assert len(expected) == len(model.weights) + len(model.trainable_weights) + 1  # momentum, step
    progress = checkpoint.Progress(epoch=0, step=2, sums=sums)
    checkpoint.save_checkpoint(tmp_path, model, progress)
    model.fit(batches.training_batches(split, 10, 8, first_step=2), steps_per_epoch=1, verbose=0, shuffle=False)
    changed = [
        (variable.numpy() != value).any() for variable, value in zip(checkpoint.model_variables(model), expected)
    ]
    assert sum(changed) > 50
    newest = checkpoint.newest_checkpoint(tmp_path)
    checkpoint.restore_checkpoint(newest, model, tmp_path)
    for variable, value in zip(checkpoint.model_variables(model), expected):
        np.testing.assert_array_equal(variable.numpy(), value)
    restored = checkpoint.read_progress(newest)
    checkpoint.restore_metric_sums(model, restored.sums)
    assert restored == progress and checkpoint.metric_sums(model) == sums


@pytest.fixture
def few_scenes():
    """Leaves the dataset "synthetic" a tenth of its scenes: 210 for training, for tests in which nothing is learned."""
    draw_scenes = synthetic.draw_scenes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "draw_scenes", lambda count=300, seed=0: draw_scenes(count, seed))
        yield


def test_a_loss_that_is_not_finite_ends_the_run(few_scenes, tmp_path):
    diverging = SMALLEST_SETTINGS | {"warmup_epochs": 0.0, "learning_rate": 1e30, "batch_size": 32}
    with pytest.raises(InputError, match=r"not finite at epoch 1, step \d+: try a lower --learning_rate"):
        train(Settings(**diverging, epochs=1, output_dir=str(tmp_path / "model")))
    assert not list(tmp_path.iterdir())


def test_a_validation_loss_that_is_not_finite_ends_the_run(few_scenes, tmp_path):
    """The loss of the only step is still finite."""
    diverging = SMALLEST_SETTINGS | {"warmup_epochs": 0.0, "learning_rate": 1e30, "batch_size": 210}
    settings = Settings(**diverging, epochs=2, output_dir=str(tmp_path / "model"))
    with pytest.raises(InputError, match=r"the validation loss is not finite at epoch 1, step 1: try a lower"):
        train(settings)
    assert not list(tmp_path.iterdir())


def test_interrupted_while_the_best_weights_are_copied(model, monkeypatch, tmp_path):
    """The epoch does not count: the best of the epochs before it is kept."""
    results = train_loop.ResultsWriter(tmp_path, model, checkpoint.Progress())
    results.add_epoch({"epoch": 1, "val_accuracy": 0.5, "val_loss": 1.2}, model)
    expected = model.get_weights()
    model.set_weights([weights + 1 for weights in expected])

    def interrupt(weights):
        raise KeyboardInterrupt

    monkeypatch.setattr(results.best_model, "set_weights", interrupt)
    with pytest.raises(KeyboardInterrupt):
        results.add_epoch({"epoch": 2, "val_accuracy": 0.6, "val_loss": 1.0}, model)
    results.write()
    assert results.progress.best["epoch"] == len(results.progress.history) == 1
    written = keras.saving.load_model(tmp_path / "model.keras").get_weights()
    assert any(np.array_equal(weights, written[-1]) for weights in expected)


def test_a_full_disk_ends_no_training(few_scenes, monkeypatch, capsys, tmp_path):
    """Neither checkpoint nor model can be written while it trains; at its end there is space again."""
    write_atomically, refused = rundir.write_atomically, []

    def refuse(path):
        is_checkpoint = path.name.startswith("epoch-") and path.name != "epoch-0-step-0"
        if is_checkpoint or (path.name == "model.keras" and not refused):
            refused.append(path)
            raise InputError(f"cannot write {path}: No space left on device")
        return write_atomically(path)

    monkeypatch.setattr(rundir, "write_atomically", refuse)
    monkeypatch.setattr(tf.summary, "create_file_writer", full_disk)
    settings = SMALLEST_SETTINGS | {"batch_size": 70, "epochs": 1}
    path = train(Settings(**settings, output_dir=str(tmp_path / "model")))
    assert path.is_dir() and (tmp_path / "model/run-1/model.keras").is_file() and len(refused) == 2
    printed = capsys.readouterr().err
    assert "Warning: history and model not written, training goes on" in printed
    assert "Warning: TensorBoard's logs not written, training goes on" in printed


def full_disk(path):
    raise tf.errors.ResourceExhaustedError(None, None, f"{path}; No space left on device")


@pytest.mark.long
def test_a_disk_that_is_full_at_the_end(monkeypatch, capsys, tmp_path):
    """The run is kept, and goes on from its last checkpoint, here the first, once there is space."""
    write_atomically = rundir.write_atomically

    def refuse(path):
        if path.name in ("history.csv", "epoch-1-step-0"):
            raise InputError(f"cannot write {path}: No space left on device")
        return write_atomically(path)

    monkeypatch.setattr(rundir, "write_atomically", refuse)
    settings = Settings(**SMALLEST_SETTINGS, epochs=1, output_dir=str(tmp_path / "model"))
    with pytest.raises(InputError, match=r"cannot write .*history\.csv"):
        train(settings)
    assert "run-1 is kept as it was at its start: " in capsys.readouterr().out
    monkeypatch.undo()
    assert train(settings, resume=True) == tmp_path / "model/1"


@pytest.mark.long
def test_variables_of_each_device_are_restored(tmp_path):
    """The batch-norm averages of two devices differ until the end of the epoch."""
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
read_replicas = lambda: [replica.numpy() for weight in [*model.weights, *model.optimizer.variables]
                         for replica in weight.value.values]
train(0)
expected, sums = read_replicas(), checkpoint.metric_sums(model)
assert sum((a != b).any() for a, b in zip(expected[::2], expected[1::2])) > 20
folder = pathlib.Path(sys.argv[1])
checkpoint.save_checkpoint(folder, model, checkpoint.Progress(step=2, sums=sums))
train(2)
checkpoint.restore_checkpoint(checkpoint.newest_checkpoint(folder), model, folder)
checkpoint.restore_metric_sums(model, sums)
for value, expected_value in zip(read_replicas(), expected, strict=True):
    np.testing.assert_array_equal(value, expected_value)
assert checkpoint.metric_sums(model) == sums
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=ROOT, timeout=200)


def test_a_run_that_ends_while_it_is_claimed(tmp_path):
    """Claiming it created unfinished/ again. That is removed, and an older run is claimed."""
    for name in ("run-1", "run-2/unfinished", "2"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run-2/model.keras").touch()
    folder, lock = checkpoint.claim_newest_run(tmp_path)
    assert folder.name == "run-1" and not (tmp_path / "run-2/unfinished").exists()
    lock.release()


def test_a_run_that_is_removed_while_it_is_claimed(monkeypatch, tmp_path):
    """Its process had nothing to keep. An older run is claimed."""
    older, removed = tmp_path / "run-1", tmp_path / "run-2"
    older.mkdir()
    monkeypatch.setattr(checkpoint, "unfinished_runs", lambda base: [removed, older])
    folder, lock = checkpoint.claim_newest_run(tmp_path)
    lock.release()
    assert folder == older and not removed.exists()


def test_an_empty_run_hides_no_work(tmp_path):
    for name in ("run-1/unfinished/epoch-3-step-0", "run-2"):
        (tmp_path / name).mkdir(parents=True)
    assert [folder.name for folder in checkpoint.unfinished_runs(tmp_path)] == ["run-1", "run-2"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    """Whoever holds the lock removes temporary files, even if they are those of a process with the same number."""
    folder = tmp_path / "run-1"
    leftovers = (f".{os.getpid()}.tmp.savedmodel", "unfinished/.0123abcd.tmp.epoch-0-step-3")
    for name in leftovers:
        (folder / name).mkdir(parents=True)
    (folder / ".0123abcd.tmp.history.csv").touch()
    with checkpoint.claim_run(folder):
        assert sorted(path.name for path in folder.rglob("*")) == ["lock", "process.json", "unfinished"]


def test_a_deletion_that_was_killed_is_finished(tmp_path):
    """The run has ended: it is not unfinished, and nothing of its checkpoint stays."""
    (tmp_path / "run-1/.0123abcd.tmp.unfinished/epoch-1-step-0").mkdir(parents=True)
    (tmp_path / "run-1/model.keras").touch()
    assert checkpoint.unfinished_runs(tmp_path) == []
    assert [path.name for path in (tmp_path / "run-1").iterdir()] == ["model.keras"]


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
    (folder,) = checkpoint.unfinished_runs(tmp_path)
    with checkpoint.claim_run(folder), pytest.raises(InputError, match=f"in use by process {os.getpid()} on"):
        checkpoint.claim_run(folder)
