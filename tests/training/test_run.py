"""Training, evaluation and deployment through the doors, on the synthetic dataset."""

import csv
import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import keras
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from resnetd_tf import sentinel2
from resnetd_tf.data import synthetic
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import patches as imagery
from resnetd_tf.networks import classifier
from resnetd_tf.rundir import open_classifier, versions
from resnetd_tf.training import run as training
from resnetd_tf.training.optimizer import Recipe

SMALL = ("--depth=18", "--dataset=synthetic", "--image_size=32", "--epochs=1")


def test_a_run_leaves_what_it_promises(run):
    folder = run / "run-1"
    names = {"model.keras", "labels.txt", "metadata.json", "history.csv", "history.png", "logs", "evaluation-test-1"}
    assert names <= {path.name for path in folder.iterdir()}
    assert not list(run.rglob("*.tmp.*"))
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["depth"] == 18 and metadata["seed"] == 0 and metadata["dataset"] == "synthetic"
    assert len(metadata["data_sha256"]) == 64 and metadata["wall_seconds"] > metadata["training_seconds"] > 0
    assert metadata["versions"]["keras"] == keras.__version__ and metadata["hardware"]["cores"] >= 1
    with (folder / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert metadata["validation_accuracy"] == max(float(row["val_accuracy"]) for row in history)
    assert list((folder / "logs" / "train").glob("events*"))
    printed = (run / "stdout.txt").read_text()
    assert f"SavedModel: {run / '1'}" in printed
    assert "validation images: same class for 100.0 %" in printed


def test_it_learns(run):
    """Ten classes; a pipeline with shuffled labels stays near 10 %."""
    metrics = json.loads((run / "run-1/evaluation-test-1/metrics.json").read_text())
    assert metrics["accuracy"] > 0.5
    low, high = metrics["accuracy_interval"]
    assert low < metrics["accuracy"] < high
    confusion = np.array(metrics["confusion_matrix"])
    assert confusion.sum() == metrics["count"] == 300
    assert np.trace(confusion) == round(metrics["accuracy"] * 300)
    assert [row["support"] for row in metrics["classes"].values()] == confusion.sum(axis=1).tolist()


def in_a_process_without_our_package(script, *arguments, cwd):
    command = [sys.executable, "-c", "import sys; sys.modules['resnetd_tf'] = None\n" + script, *map(str, arguments)]
    subprocess.run(command, check=True, cwd=cwd, timeout=200)


def test_savedmodel_equals_keras_model_without_our_package(run, tmp_path):
    images = synthetic.draw(20, seed=5)[0]
    np.save(tmp_path / "images.npy", images)
    script = """
import numpy as np, tensorflow as tf
images = np.load("images.npy")
signature = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
np.save("savedmodel.npy", signature(pixels=tf.constant(images))["probabilities"])
import keras
np.save("keras.npy", keras.saving.load_model(sys.argv[2], compile=False).predict(images, verbose=0))
"""
    in_a_process_without_our_package(script, run / "1", run / "run-1/model.keras", cwd=tmp_path)
    exported, ours = np.load(tmp_path / "savedmodel.npy"), np.load(tmp_path / "keras.npy")
    np.testing.assert_allclose(exported, ours, atol=1e-5)
    np.testing.assert_allclose(exported.sum(axis=1), 1, atol=1e-5)
    assert exported.std(axis=0).max() > 0.01  # not the same answer to everything


def test_encoded_signature_takes_files_of_any_size(run, tmp_path):
    import tensorflow as tf

    encoded = []
    for index, (image, name) in enumerate(zip(synthetic.draw(3)[0], ("a.jpg", "b.png", "c.jpg"))):
        Image.fromarray(image[: 64 - 10 * index]).save(tmp_path / name)
        encoded.append((tmp_path / name).read_bytes())
    signature = tf.saved_model.load(str(run / "1")).signatures["encoded"]
    together = signature(image_bytes=tf.constant(encoded))["probabilities"].numpy()
    classifier = open_classifier(run)
    for name, probabilities in zip(("a.jpg", "b.png", "c.jpg"), together):
        pixels = np.asarray(Image.open(tmp_path / name))
        np.testing.assert_allclose(probabilities, classifier.predict(pixels[np.newaxis])[0], atol=1e-5)


def test_evaluate_door(run, door, tmp_path):
    shutil.copytree(run / "1", tmp_path / "alone")  # as someone else would receive it
    result = door(
        "evaluate.py", f"--model={tmp_path / 'alone'}", "--dataset=synthetic", f"--output_dir={tmp_path / 'o'}"
    )
    assert result.returncode == 0, result.stderr
    assert "(synthetic images)" in result.stdout and "SeaLake" in result.stdout
    first = json.loads((run / "run-1/evaluation-test-1/metrics.json").read_text())
    again = json.loads((tmp_path / "o/metrics.json").read_text())
    assert again["confusion_matrix"] == first["confusion_matrix"]
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        "metrics.json",
        "confusion_matrix.png",
        "mistakes.png",
    }


def test_evaluations_do_not_overwrite(run, door):
    for number in (1, 2):
        result = door(
            "evaluate.py", f"--model={run / 'run-1/model.keras'}", "--split=validation", "--dataset=synthetic"
        )
        assert result.returncode == 0, result.stderr
        assert (run / f"run-1/evaluation-validation-{number}/metrics.json").is_file()


def test_predict_door(run, door, tmp_path):
    images, labels = synthetic.draw(10, seed=9)
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    result = door("predict.py", f"--model={run}", *sorted(tmp_path.glob("*.png")))
    assert result.returncode == 0, result.stderr
    expected = open_classifier(run).predict(images).argmax(axis=1)
    lines = result.stdout.splitlines()
    assert len(lines) == 10
    for index, line in enumerate(lines):
        assert line.startswith(f"{tmp_path / str(index)}.png: {synthetic.CLASSES[expected[index]]} ")
    assert (expected == labels).mean() > 0.3


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_tflite_in_the_interpreter(run, door, tmp_path, precision):
    from ai_edge_litert.interpreter import Interpreter

    path = tmp_path / "model.tflite"
    result = door("export.py", f"--model={run}", "--format=tflite", f"--precision={precision}", f"--output={path}")
    assert result.returncode == 0, result.stderr
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (pixels,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert pixels["shape"].tolist() == [1, 64, 64, 3] and pixels["dtype"] == np.uint8
    images = synthetic.draw(40, seed=7)[0]
    probabilities = []
    for image in images:
        interpreter.set_tensor(pixels["index"], image[np.newaxis])
        interpreter.invoke()
        probabilities.append(interpreter.get_tensor(output["index"])[0])
    expected = open_classifier(run).predict(images)
    if precision == "float32":
        np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    else:
        assert (np.argmax(probabilities, 1) == expected.argmax(1)).mean() >= 0.8
        assert path.stat().st_size < 15e6
    before = path.read_bytes()
    again = door("export.py", f"--model={run}", f"--precision={precision}", f"--output={path}")
    assert again.returncode == 2 and path.read_bytes() == before


def test_savedmodel_in_bfloat16(run, door, bad_input, tmp_path):
    arguments = (f"--model={run}", "--format=savedmodel", f"--output={tmp_path / 'bfloat16'}")
    result = door("export.py", *arguments, "--precision=bfloat16")
    assert result.returncode == 0, result.stderr
    assert "validation images: same class for" in result.stdout
    images = synthetic.draw(40, seed=7)[0]
    probabilities, expected = (open_classifier(path).predict(images) for path in (tmp_path / "bfloat16", run))
    np.testing.assert_allclose(probabilities, expected, atol=0.05)
    assert (probabilities != expected).any()
    sizes = [(path / "saved_model.pb").stat().st_size for path in (tmp_path / "bfloat16", run / "1")]
    assert sizes[0] < 0.6 * sizes[1]  # the weights, in half the bytes
    assert "exists already" in bad_input("export.py", *arguments, "--precision=bfloat16")
    assert "not made" in bad_input("export.py", *arguments, "--precision=int8")


def test_next_run_continues_from_weights_and_keeps_the_first(run, door, tmp_path):
    base = tmp_path / "small"
    shutil.copytree(run, base)
    before = {path: path.stat().st_mtime_ns for path in base.rglob("*") if path.is_file()}
    result = door("train.py", *SMALL, f"--weights={run / 'run-1/model.keras'}", f"--output_dir={base}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"Weights: {run / 'run-1/model.keras'}")
    assert versions(base) == [1, 2] and (base / "run-2/metadata.json").is_file()
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in before.items())
    assert open_classifier(base).path == base / "2"


def test_interrupt_keeps_the_best_epoch(tmp_path):
    command = [
        sys.executable,
        "-u",
        str(ROOT / "train.py"),
        *SMALL[:3],
        "--epochs=50",
        "--weights=none",
        f"--output_dir={tmp_path / 'm'}",
    ]
    # Where the tests themselves run in the background, SIGINT is ignored, and children inherit that.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=listen)
    for line in process.stdout:
        if line.startswith("Epoch 1 of 50"):
            process.send_signal(signal.SIGINT)
            break
    try:
        rest = process.communicate(timeout=200)[0]
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Interrupted: keeping the best of" in rest
    metadata = json.loads((tmp_path / "m/run-1/metadata.json").read_text())
    assert metadata["interrupted"] and metadata["best_epoch"] >= 1
    assert open_classifier(tmp_path / "m").path == tmp_path / "m/1"


def test_a_step_is_traced_once(monkeypatch):
    """Variables that the first step creates would have TensorFlow trace it again, seconds for a ResNet-50."""
    model = classifier.build(18, "d", classes=10, statistics=sentinel2.statistics(3), image_size=32)
    training.prepare(model, Recipe(learning_rate=0.1), steps_per_epoch=1)
    network, traced = model.layers[-1], []
    call = network.call
    monkeypatch.setattr(network, "call", lambda *args, **kwargs: traced.append(1) or call(*args, **kwargs))
    images, labels = synthetic.draw(16)
    model.fit(images, keras.utils.to_categorical(labels, 10), batch_size=8, verbose=0)
    assert len(traced) == 1


def test_two_devices_train(tmp_path):
    """A whole run under MirroredStrategy on two logical CPU devices, with synchronized batch normalisation."""
    script = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from resnetd_tf.training import run as training
from resnetd_tf.training.optimizer import Recipe
training.train(depth=18, variant="d", dataset="synthetic", data_dir=None, eurosat_zip=None, image_size=32,
    weights="none", synchronized=True, precision="float32", seed=0, output_dir="two",
    recipe=Recipe(epochs=1, batch_size=32))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=280, cwd=tmp_path)
    metadata = json.loads((tmp_path / "two/run-1/metadata.json").read_text())
    assert metadata["replicas"] == 2 and metadata["synchronized"] and metadata["test_accuracy"] > 0.3


def test_a_step_of_two_devices_is_that_of_one():
    """Without batch statistics, and with synchronized ones; with each device's own it is another step."""
    script = """
import keras, numpy as np, tensorflow as tf
from resnetd_tf.networks.resnet import resnet
from resnetd_tf.training.optimizer import Recipe, loss, optimizer
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
images, labels = rng.normal(size=(8, 32, 32, 3)).astype("float32"), np.eye(4, dtype="float32")[rng.integers(0, 4, 8)]

def step(strategy, frozen=False, synchronized=False):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = resnet(18, "d", input_shape=(32, 32, 3), classes=4, synchronized=synchronized)
        for layer in model.layers:
            layer.trainable = not (frozen and isinstance(layer, keras.layers.BatchNormalization))
        recipe = Recipe(learning_rate=0.4, warmup_epochs=0)
        model.compile(optimizer(recipe, 10), loss(recipe), jit_compile=False)
    model.fit(tf.data.Dataset.from_tensor_slices((images, labels)).batch(8), epochs=1, verbose=0, shuffle=False)
    return model.get_weights()

one, two = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for options in ({"frozen": True}, {"synchronized": True}):
    for a, b in zip(step(one, **options), step(two, **options)):
        np.testing.assert_allclose(a, b, atol=1e-5)
assert max(abs(a - b).max() for a, b in zip(step(one), step(two))) > 1e-3
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=200)


def test_bad_flags_and_files_are_told_in_one_line(bad_input, run, tmp_path):
    place = f"--output_dir={tmp_path / 'none'}"
    assert "variant" in bad_input("train.py", "--variant=e", place)
    assert "depth" in bad_input("train.py", "--depth=42", place)
    assert "no_such" in bad_input("train.py", "--dataset=no_such", place)
    assert "no such file" in bad_input("evaluate.py", f"--model={tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()
    assert "not a readable" in bad_input("predict.py", f"--model={run}", ROOT / "train.py")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 31}, "image size 31"),
        ({"weights": "missing.keras"}, "no such file"),
        ({"recipe": Recipe(batch_size=100_000)}, "larger than the training split"),
        ({"recipe": Recipe(epochs=0)}, "epochs 0"),
        ({"output_dir": f"{__file__}/model"}, "cannot create"),
    ],
)
def test_bad_settings_leave_nothing(tmp_path, change, message):
    settings = {"depth": 18, "variant": "d", "dataset": "synthetic", "data_dir": None, "eurosat_zip": None}
    settings |= {"image_size": 32, "weights": "none", "precision": "float32", "seed": 0, "recipe": Recipe()}
    with pytest.raises(InputError, match=message):
        training.train(**{**settings, "output_dir": str(tmp_path / "none"), **change})
    assert not list(tmp_path.iterdir())


def test_bad_models(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no SavedModel"):
        open_classifier(tmp_path / "empty")
    (tmp_path / "broken.keras").write_text("not a model")
    with pytest.raises(InputError, match=r"broken\.keras: cannot be loaded"):
        open_classifier(tmp_path / "broken.keras")
    shutil.copytree(run / "1", tmp_path / "1")
    (tmp_path / "1/variables/variables.index").write_text("")
    with pytest.raises(InputError, match="1: cannot be loaded"):
        open_classifier(tmp_path)
    with pytest.raises(InputError, match="no image given"):
        imagery.predict(str(run), [])


def test_batch_smaller_than_replicas(tmp_path):
    script = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)
from resnetd_tf.training import run as training
from resnetd_tf.errors import InputError
from resnetd_tf.training.optimizer import Recipe
try:
    training.train(depth=18, variant="d", dataset="synthetic", data_dir=None, eurosat_zip=None, image_size=32,
        weights="none", precision="float32", seed=0, output_dir="model", recipe=Recipe(batch_size=2))
except InputError as error:
    assert "batch size 2 is smaller than the number of replicas, 3" in str(error)
else:
    raise AssertionError("accepted")
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, timeout=200)
    assert not (tmp_path / "model").exists()


def test_full_disk(door, bad_input, run, tmp_path):
    """Files over 20 MB cannot be written: the first model of the second run. The first run is untouched."""
    base = tmp_path / "small"
    shutil.copytree(run, base)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, 20_000_000))

    message = bad_input("train.py", *SMALL, f"--output_dir={base}", preexec_fn=limit)
    assert "cannot write" in message and "model.keras" in message
    assert versions(base) == [1]
    assert {path.name for path in base.iterdir()} == {"1", "run-1", "stdout.txt"}
    result = door("export.py", f"--model={base}", preexec_fn=limit)
    assert result.returncode == 2 and "cannot write" in result.stderr.splitlines()[-1]  # after LiteRT's own lines
    assert not list(base.rglob("*.tflite")) and not list(base.rglob("*.tmp.*"))


def test_help_is_quick_and_readable(door):
    for program in ("train.py", "evaluate.py", "predict.py", "export.py"):
        start = time.monotonic()
        result = door(program, "--help")
        assert time.monotonic() - start < 3  # without importing TensorFlow
        assert "Examples:" in result.stdout
