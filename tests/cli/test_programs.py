"""The programs: help, bad input, a disk that is full, and what an installation without extras can do."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio
from conftest import ROOT, SMALLEST, THREE_STEPS
from PIL import Image

from resnetd_tf.cli.program import EXTRAS, missing_module_message
from resnetd_tf.data import synthetic
from resnetd_tf.rundir import savedmodel_versions

PROGRAMS = ("train", "evaluate", "predict", "map", "assess", "patches", "export")


@pytest.mark.parametrize(
    ("flag", "name"), [("--variant=e", "variant"), ("--depth=42", "depth"), ("--dataset=no_such", "no_such")]
)
def test_a_bad_setting_is_named(bad_input, flag, name, tmp_path):
    assert name in bad_input("train.py", flag, "--weights=none", f"--output_dir={tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("train", "split_files"),
        ("evaluate", "split_files"),
        ("evaluate", "model"),
        ("predict", "model"),
        ("map", "model"),
        ("export", "model"),
    ],
)
def test_an_empty_flag_is_refused(bad_input, name, flag):
    """It comes from a variable of a script that is not set."""
    assert f"--{flag}= is empty" in bad_input(f"{name}.py", f"--{flag}=")


@pytest.mark.parametrize("name", ["train", "evaluate", "export"])
def test_an_unexpected_argument_is_refused(bad_input, name):
    assert "unexpected argument 'stray'" in bad_input(f"{name}.py", "stray")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--variant=b",), "--variant has no effect without --weights"),
        (("--depth=18", "--dataset=imagenet2012"), "--depth has no effect without --weights"),
        (("--weights=imagenet", "--model=x"), "--model has no effect beside --weights"),
        (("--dataset=imagenet2012", "--eurosat_zip=x"), "--eurosat_zip has no effect for ImageNet"),
        (("--dataset=imagenet2012", "--corruptions"), "--corruptions has no effect for ImageNet"),
    ],
)
def test_a_flag_without_effect_is_refused(bad_input, flags, message):
    assert message in bad_input("evaluate.py", *flags)


def test_a_flag_of_another_dataset_is_refused(bad_input, run):
    line = bad_input("evaluate.py", "--dataset=synthetic", "--eurosat_zip=x", f"--model={run}")
    assert "--eurosat_zip is of no use" in line


def test_a_missing_model_is_named(bad_input, tmp_path):
    assert "no such file" in bad_input("evaluate.py", f"--model={tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()


def test_a_file_that_is_no_image_is_named(bad_input, run):
    assert "not a readable" in bad_input("predict.py", f"--model={run}", ROOT / "train.py")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_bad_flag_ends_the_process_with_one_line(program_process, name):
    result = program_process(f"{name}.py", "--no_such_flag")
    assert result.returncode == 2 and not result.stdout
    assert result.stderr.startswith(f"{name}.py: ") and result.stderr.count("\n") == 1


def test_a_file_that_is_no_raster_ends_the_process_with_one_line(program_process, tmp_path):
    (tmp_path / "map.tif").write_text("no map")
    result = program_process("assess.py", str(tmp_path / "map.tif"), "--design")
    assert result.returncode == 2
    assert result.stderr.startswith("assess.py: ") and result.stderr.count("\n") == 1


@contextlib.contextmanager
def limit_file_size(bytes: int):
    """Lets this process write no file larger than that."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.skipif(importlib.util.find_spec("resource") is None, reason="limits are set as on Unix")
def test_full_disk(bad_input, run, tmp_path):
    """Files over 10 MB cannot be written: the first checkpoint of the second run. The first run is untouched."""
    base = tmp_path / "small"
    shutil.copytree(run, base)
    with limit_file_size(10_000_000):
        message = bad_input("train.py", *SMALLEST, *THREE_STEPS, "--weights=none", f"--output_dir={base}")
    assert "cannot write" in message and "epoch-0-step-0" in message
    assert savedmodel_versions(base) == [1]
    assert {path.name for path in base.iterdir()} == {"1", "run-1", "stdout.txt"}
    with limit_file_size(10_000_000):
        assert "cannot write" in bad_input("export.py", f"--model={base}")
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


def test_a_reader_that_stops_ends_the_program_quietly(run, tmp_path):
    """`head` stops reading; that is no error of the program."""
    for index, image in enumerate(synthetic.draw_scenes(100)[0]):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    command = [sys.executable, "-u", str(ROOT / "predict.py"), f"--model={run}", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 141


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_is_quick_and_readable(program_process, name):
    start = time.monotonic()
    result = program_process(f"{name}.py", "--help")
    assert time.monotonic() - start < 3  # without importing TensorFlow
    assert result.returncode == 0 and not result.stderr
    assert "Examples:" in result.stdout


def test_installed_commands_speak_of_themselves(tmp_path):
    """As a wheel's scripts call the programs; `.ci/run` installs a real one."""
    script = "import sys; sys.argv[0] = 'resnetd-train'; from resnetd_tf.cli.train import main; main()"
    result = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and "resnetd-train --variant=d" in result.stdout and "train.py" not in result.stdout


def test_errors_of_installed_commands_name_installed_commands():
    script = "import sys; sys.argv[0] = 'resnetd-predict'; from resnetd_tf.cli.predict import main; main()"
    command = [sys.executable, "-c", script, "scene.tif", "--stride=8"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr == (
        "resnetd-predict: --stride is a flag of resnetd-map, which maps scenes; use resnetd-map --stride\n"
    )


def test_another_backend_is_refused(bad_input):
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    assert "KERAS_BACKEND=jax: the programs need tensorflow" in bad_input(
        "predict.py", "x.png", environment=environment
    )


def test_programs_can_be_imported_together():
    script = f"from resnetd_tf.cli import {', '.join(PROGRAMS)}"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def run_without_extras(name: str, *arguments: str, folder) -> subprocess.CompletedProcess:
    """Runs a program as an installation without extras does: their modules cannot be imported."""
    missing = EXTRAS.keys() - {"grpc", "requests"}  # TensorFlow itself installs these two
    script = f"""
import sys
class WithoutExtras:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(missing)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, WithoutExtras())
sys.argv = ["{name}.py", *{list(map(str, arguments))}]
from resnetd_tf.cli.{name} import main
main()
"""
    command = [sys.executable, "-P", "-c", script]
    # JAX, imported by Keras in this process, sets TensorFlow's log level for its children.
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), os.environ["PYTHONPATH"]))
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, env=environment)


def test_labels_need_no_extra(tmp_path):
    Image.fromarray(synthetic.draw_scenes(1)[0][0]).save(tmp_path / "patch.png")
    result = run_without_extras("predict", "--model=eurosat", "patch.png", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "patch.png" in result.stdout


def test_maps_need_no_extra(run, tmp_path):
    rows = np.split(np.concatenate(synthetic.draw_scenes(9)[0], axis=1), 3, axis=1)
    Image.fromarray(np.concatenate(rows)).save(tmp_path / "scene.png")  # three rows of three patches
    result = run_without_extras("map", f"--model={run}", "scene.png", "--output=map", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "map_landcover.tif").is_file()


@pytest.mark.parametrize(
    ("name", "flags", "module", "extra"),
    [
        ("evaluate", ("--dataset=eurosat/rgb",), "tensorflow_datasets", "train"),
        ("train", ("--dataset=synthetic",), "tensorboard", "train"),
        ("predict", ("--server=grpc://localhost:1", "patch.png"), "tensorflow_serving", "serving"),
        ("assess", ("map.tif", "--design"), "geopandas", "geo"),
    ],
)
def test_a_program_names_the_extra_of_a_missing_module(run, name, flags, module, extra, tmp_path):
    flags += (f"--model={run}",) if name == "evaluate" else ()
    Image.fromarray(synthetic.draw_scenes(1)[0][0]).save(tmp_path / "patch.png")
    profile = {"driver": "GTiff", "width": 4, "height": 4, "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(tmp_path / "map.tif", "w", **profile, transform=rasterio.Affine.scale(10)) as file:
        file.write(np.zeros((4, 4), "uint8"), 1)
    result = run_without_extras(name, *flags, folder=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and result.stderr.startswith(f"{name}.py: ")
    assert module in result.stderr and f"pip install 'resnetd_tf[{extra}]'" in result.stderr


def test_a_missing_module_of_no_extra_is_a_defect():
    assert missing_module_message(ModuleNotFoundError("no module", name="resnetd_tf.nothing")) is None
