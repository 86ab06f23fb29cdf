"""The programs as subprocesses: help, bad input, a disk that is full."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from conftest import ROOT, SMALLEST, THREE_STEPS
from PIL import Image

from resnetd_tf.data import synthetic
from resnetd_tf.rundir import savedmodel_versions


def test_bad_flags_and_files_are_told_in_one_line(bad_input, run, tmp_path):
    place = f"--output_dir={tmp_path / 'none'}"
    assert "variant" in bad_input("train.py", "--variant=e", place)
    assert "depth" in bad_input("train.py", "--depth=42", place)
    assert "no_such" in bad_input("train.py", "--dataset=no_such", place)
    for name in ("train", "evaluate"):  # as where a script's variable is not set
        assert "--split_files= is empty" in bad_input(f"{name}.py", "--split_files=")
    for name in ("evaluate", "predict", "export"):
        assert "--model= is empty" in bad_input(f"{name}.py", "--model=")
    assert "no such file" in bad_input("evaluate.py", f"--model={tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()
    for name in ("train", "evaluate", "export"):
        assert "unexpected argument 'stray'" in bad_input(f"{name}.py", "stray")
    for flags, named in (
        (("--variant=b",), "--variant has no effect without --weights"),
        (("--depth=18", "--dataset=imagenet2012"), "--depth has no effect without --weights"),
        (("--weights=imagenet", "--model=x"), "--model has no effect beside --weights"),
        (("--dataset=imagenet2012", "--eurosat_zip=x"), "--eurosat_zip has no effect for ImageNet"),
        (("--dataset=synthetic", "--eurosat_zip=x", f"--model={run}"), "--eurosat_zip is of no use"),
    ):
        assert named in bad_input("evaluate.py", *flags)
    assert "not a readable" in bad_input("predict.py", f"--model={run}", ROOT / "train.py")


@pytest.mark.skipif(importlib.util.find_spec("resource") is None, reason="limits are set as on Unix")
def test_full_disk(bad_input, run, tmp_path):
    """Files over 10 MB cannot be written: the first checkpoint of the second run. The first run is untouched."""
    base = tmp_path / "small"
    shutil.copytree(run, base)

    def limit():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))

    message = bad_input("train.py", *SMALLEST, *THREE_STEPS, f"--output_dir={base}", preexec_fn=limit)
    assert "cannot write" in message and "epoch-0-step-0" in message
    assert savedmodel_versions(base) == [1]
    assert {path.name for path in base.iterdir()} == {"1", "run-1", "stdout.txt"}
    assert "cannot write" in bad_input("export.py", f"--model={base}", preexec_fn=limit)
    assert not list(base.rglob("*.tflite")) and not list(base.rglob("*.tmp.*"))


@pytest.mark.long
def test_each_program_says_which_model_answers(run, program, tmp_path):
    """The newest run in the current folder's saved_models/ is taken before the package's classifier."""
    shutil.copytree(run, tmp_path / "saved_models/resnet50d")
    image = tmp_path / "patch.png"
    Image.fromarray(synthetic.draw_scenes(1)[0][0]).save(image)
    accuracy = json.loads((run / "run-1/metadata.json").read_text())["test_accuracy"]
    model = f"saved_models/resnet50d/run-1, ResNet-10-D, 2 epochs, {100 * accuracy:.2f} % on synthetic test"
    line = f"Model: {model} (the newest run; --model=eurosat for the package's)\n"
    for name, arguments in (("evaluate", ("--split=validation",)), ("export", ()), ("predict", (image,))):
        result = program(f"{name}.py", *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(line) and not result.stderr
    result = program("predict.py", image, "--format=json", cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == line and json.loads(result.stdout)


def test_output_that_is_read_no_more(run, tmp_path):
    """As `head` does; it is no defect of the program."""
    for index, image in enumerate(synthetic.draw_scenes(600)[0]):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    command = [sys.executable, "-u", str(ROOT / "predict.py"), f"--model={run}", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 141


def test_help_is_quick_and_readable(program):
    for name in ("train", "evaluate", "predict", "export"):
        start = time.monotonic()
        result = program(f"{name}.py", "--help")
        assert time.monotonic() - start < 3  # without importing TensorFlow
        assert result.returncode == 0 and not result.stderr
        assert "Examples:" in result.stdout


def test_installed_commands_speak_of_themselves(tmp_path):
    """As a wheel's scripts call the programs; `.ci/run` installs a real one."""
    script = "import sys; sys.argv[0] = 'resnetd-train'; from resnetd_tf.cli.train import main; main()"
    result = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and "resnetd-train --variant=d" in result.stdout and "train.py" not in result.stdout


def test_another_backend_is_refused(bad_input):
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    assert "KERAS_BACKEND=jax: the programs need tensorflow" in bad_input(
        "predict.py", "x.png", environment=environment
    )


def test_programs_can_be_imported_together():
    script = "from resnetd_tf.cli import evaluate, export, predict, train"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
