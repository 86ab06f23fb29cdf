"""The benchmarks run and print their tables. The numbers that they measure are not tested."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, needs_eurosat
from PIL import Image

from resnetd_tf.data import synthetic


def benchmark(name: str, *arguments: str, folder) -> tuple[str, str, dict]:
    """Runs a benchmark: what it prints, the table that it writes into the folder, and the numbers in the table."""
    command = [sys.executable, "-m", f"benchmarks.{name}", f"--output_dir={folder}", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob(f"{name}*.json")
    return result.stdout, path.with_suffix(".md").read_text(), json.loads(path.read_text())


@pytest.mark.long
def test_train_step(tmp_path):
    arguments = ("--rounds=1", "--size=32", "--precision=float32", "--batch=8", "--only=ours,matrix products")
    _, text, results = benchmark("train_step", *arguments, folder=tmp_path)
    (result,) = results["results"]
    ours, products = result["rates"]["ours"], result["rates"]["matrix products"]
    assert len(ours) == len(products) == 1 and 0 < max(ours) < min(products)
    profile = result["profiles"]["ours"]
    assert profile["convolutions"] > profile["batch normalisation"] > 0
    assert "| matrix products |" in text and "| convolutions |" in text


@pytest.mark.long
def test_inference(tmp_path):
    arguments = ("--rounds=2", "--size=32", "--precision=bfloat16", "--batch=1", "--only=ours,ONNX Runtime")
    _, text, results = benchmark("inference", *arguments, folder=tmp_path)
    (result,) = results["results"]
    assert min(result["rates"]["ours"]) > 0
    assert "ONNX Runtime left out" in text


@pytest.mark.long
@needs_eurosat
def test_startup(tmp_path):
    _, text, results = benchmark("startup", "--only=ours", "--rounds=1", folder=tmp_path)
    (result,) = results["results"]
    (rates,), (phases,) = result["rates"].values(), result["profiles"].values()
    assert set(phases) > {"import of TensorFlow", "data into memory", "tracing and first step"}
    assert min(phases.values()) > 0 and sum(phases.values()) == pytest.approx(rates[-1])
    assert "| tracing and first step |" in text


@pytest.mark.long
def test_table(tmp_path):
    """A run that exists is not trained again. Two seeds have a mean and a spread."""
    for index, (image, label) in enumerate(zip(*synthetic.draw_scenes(150))):
        path = tmp_path / f"patches/{label}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    ours = ("--image_size=32", "--variants=d", f"--runs_dir={tmp_path / 'runs'}")
    trainings = ("--", "--depth=10", f"--dataset=folder:{tmp_path / 'patches'}", "--epochs=1")
    folder = tmp_path / "results"
    for seeds, trained in (("0", 1), ("0,1", 1)):
        printed, text, results = benchmark("table", *ours, f"--seeds={seeds}", *trainings, folder=folder)
        assert printed.count("python train.py") == trained
    (row,) = results["rows"]
    accuracies = list(row["accuracies"].values())
    assert row["accuracy"] == pytest.approx(sum(accuracies) / 2) and row["spread"] is not None
    assert row["interval"][0] < row["accuracy"] < row["interval"][1] and 0 < row["mean_under_corruptions"] < 1
    assert "| ResNet-10-D | `d` | not given | not given | " in text and text in printed
    assert "| {:.2f}, {:.2f} % |".format(*(100 * value for value in row["validation_accuracies"].values())) in text
    fastest = min(epoch["seconds"] for history in row["history"].values() for epoch in history)
    assert row["images_per_second"] == pytest.approx(105 / fastest)  # 70 % of 150
    assert (folder / "table-default-32.png").is_file()


def trainings(name: str, *arguments: str, folder) -> list[dict[str, str]]:
    """The flags of train.py, by name, of each training that a benchmark asks for. Nothing is trained."""
    stubbed = f"""
import json, sys
import numpy as np
from benchmarks import runs, {name} as benchmark
def print_flags(base, own_flags, further_flags):
    print("asked:", json.dumps([*own_flags, *further_flags]))
    return {{"test_accuracy": 0.5, "validation_accuracy": 0.5}}
runs.train_once = print_flags
means = dict.fromkeys(("mean_accuracy", "calibration_error", "mean_calibration_error"), 0)
runs.evaluate_under_corruptions = lambda *_: means
runs.find_wrong_images = lambda *_: np.zeros(4, bool)
runs.read_history = lambda *_: [{{"seconds": 1.0}}]
benchmark.main()
"""
    places = [f"--output_dir={folder}", f"--runs_dir={folder / 'runs'}"]
    command = [sys.executable, "-c", stubbed, *places, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    asked = [json.loads(line.removeprefix("asked:")) for line in result.stdout.splitlines() if "asked:" in line]
    return [dict(flag.removeprefix("--").split("=", 1) for flag in each) for each in asked]


@needs_eurosat
def test_few_images(tmp_path):
    """Both ways to start train on the same few images, which are in neither the validation nor the test split."""

    def lists(asked):
        return [pathlib.Path(path).read_text().split() for path in asked["split_files"].split(",")]

    first, *few = trainings("few_images", "--seeds=2", folder=tmp_path)
    assert first["weights"] == "none"
    eight = {name.partition("_")[0] for listed in lists(first) for name in listed}
    assert len(eight) == 8 and not eight & {"Highway", "River"}
    assert len(few) == 3 * 2 * 2
    for fine_tuning, random in zip(few[::2], few[1::2]):
        assert random.pop("weights") == "none" and fine_tuning.pop("weights").endswith(
            "eight-classes/run-1/model.keras"
        )
        assert random == fine_tuning and random["recipe"] == "few"
        training, validation, test = lists(random)
        assert len(training) in (10, 40, 200) and len(validation) == 100 and len(test) == 497
        assert not set(training) & set(validation) and not set(test) & {*training, *validation}
    assert len({each["split_files"] for each in few}) == 6


@needs_eurosat
def test_own_classes(tmp_path):
    """The scene and its polygons show the classes that the outlines say, and each cell is judged by its image."""
    geopandas, rasterio = pytest.importorskip("geopandas"), pytest.importorskip("rasterio")
    from benchmarks import own_classes

    classes = own_classes.GROUPS[0]
    ground = own_classes.write_scene(tmp_path, classes, seed=0)
    polygons = geopandas.read_file(tmp_path / "polygons.gpkg")
    assert ground["cover"].value_counts().to_dict() == dict.fromkeys(classes, 25)
    assert polygons["cover"].value_counts().to_dict() == dict.fromkeys(classes, 5)
    with rasterio.open(tmp_path / "scene.tif") as file:
        scene, transform = file.read(), file.transform
    column, row = ~transform * (ground.geometry[27].bounds[0], ground.geometry[27].bounds[3])
    assert (round(column), round(row)) == (7 * 64, 2 * 64)
    blue_excess = scene[2].astype(int) - scene[0]
    means = blue_excess.reshape(10, 64, 10, 64).mean((1, 3)).ravel()
    assert means[ground["cover"] == "SeaLake"].mean() > means[ground["cover"] == "AnnualCrop"].mean() + 20

    cells = np.array([classes.index(name) for name in ground["cover"]]).reshape(10, 10).repeat(2, 0).repeat(2, 1)
    cells[:, 0] = 255  # empty
    profile = {"width": 20, "height": 20, "count": 1, "dtype": "uint8", "nodata": 255, "crs": own_classes.CRS}
    with rasterio.open(tmp_path / "map.tif", "w", transform=transform * transform.scale(32), **profile) as file:
        file.write(cells.astype("uint8"), 1)
        file.update_tags(classes=json.dumps(dict(enumerate(classes))))
    assert own_classes.share_of_right_cells(tmp_path / "map.tif", ground) == pytest.approx(0.95)


def test_ablation(tmp_path):
    """Each further training changes one setting of the recipe; two change two and four."""
    first, *ablations = trainings("ablation", "--image_size=32", "--depth=18", folder=tmp_path)
    assert first == {"recipe": "default", "image_size": "32", "depth": "18", "variant": "d", "weights": "none"}
    for settings in ablations:
        assert first.items() <= settings.items()
    assert [len(settings) - len(first) for settings in ablations] == [1] * 9 + [2, 4, 1]


def test_wrong_images_are_compared_in_pairs():
    from benchmarks import ablation

    recipe = np.arange(20) < 8
    assert ablation.compare_wrong_images(recipe, recipe) == "0, 0"
    # Of eight images that one classifier alone has wrong, all eight are the recipe's: 2 * 0.5**8.
    assert ablation.compare_wrong_images(np.zeros(20, bool), recipe) == "0, 8: p = 0.01"
    assert ablation.compare_wrong_images(np.arange(20) >= 16, np.arange(20) < 4) == "4, 4: p = 1.00"


@pytest.mark.parametrize(("name", "flag"), [("ablation", "varied"), ("few_images", "recipe"), ("table", "seed")])
def test_a_benchmark_keeps_its_own_flags(name, flag, tmp_path):
    command = [sys.executable, "-m", f"benchmarks.{name}", f"--runs_dir={tmp_path / 'runs'}", "--"]
    result = subprocess.run([*command, f"--{flag}=1"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and not list(tmp_path.iterdir())
    assert result.stderr.strip() == f"{name}.py: --{flag} after --: this benchmark sets it; leave it out there"


@pytest.mark.long
def test_a_stopped_benchmark(tmp_path):
    """Ctrl-C in its terminal leaves a run that can be resumed, and no result of its first epochs."""
    base = tmp_path / "runs/default-32/d-seed0"
    ours = (
        "--image_size=32",
        "--variants=d",
        f"--runs_dir={tmp_path / 'runs'}",
        f"--output_dir={tmp_path / 'results'}",
    )
    trainings = ("--", "--depth=10", "--dataset=synthetic", "--epochs=200")
    command = [sys.executable, "-m", "benchmarks.table", *ours, *trainings]
    # Tests that run in the background ignore Ctrl-C, and so would it.
    terminal = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, **terminal) as process:
        try:
            for _ in range(600):
                time.sleep(0.2)
                if (log := pathlib.Path(f"{base}.log")).exists() and "Epoch 3/200" in log.read_text():
                    break
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(timeout=100) == 130, process.stderr.read()
        finally:
            process.terminate()
    assert "is kept as it was after" in log.read_text()
    assert not (base / "1").exists() and not (tmp_path / "results").exists()


@pytest.mark.long
def test_bad_input(tmp_path):
    """Each of four damaged files of every kind gives a result or an error in one line."""
    command = [sys.executable, "-m", "benchmarks.bad_input", "--count=4", f"--output_dir={tmp_path}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    rows = [row.strip("|").split("|") for row in result.stdout.splitlines()[2:]]
    assert len(rows) == 28 and all(sum(map(int, counts)) == 4 for _, *counts in rows)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_bad_scenes(tmp_path):
    """Each of eight damaged files of every kind that maps read gives a result or an error in one line."""
    command = [sys.executable, "-m", "benchmarks.bad_input", "--only=scenes", "--count=8", f"--output_dir={tmp_path}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    rows = [row.strip("|").split("|") for row in result.stdout.splitlines()[2:]]
    assert len(rows) == 12 and all(sum(map(int, counts)) == 8 for _, *counts in rows)
    assert any(int(results) for _, results, *_ in rows) and any(int(refusals) for *_, refusals, _ in rows)


@pytest.mark.long
def test_maps(run, tmp_path):
    printed, text, results = benchmark("maps", f"--model={run}", "--sides=200,300", "--rounds=2", folder=tmp_path)
    assert len(results["map"]) == len(results["classifier"]) == 2 and set(results["commands"]) == {"200", "300"}
    assert all(0.1 < row["peak_gib"] < 4 and row["seconds"] > 0 for row in results["commands"].values())
    assert results["mosaics"]["images"] == 289
    assert all(0.2 < results["mosaics"][name] <= 1 for name in ("alone", "centres", "cells"))
    assert text in printed


@pytest.mark.long
def test_serving(run, tmp_path):
    _, _, results = benchmark("serving", f"--model={run}", "--seconds=2", folder=tmp_path)
    assert len(results["first_answers"]) == 3 and min(results["first_answers"]) > 0
    for protocol in ("grpc", "http"):
        assert results[protocol]["requests"] > 20 and not results[protocol]["errors"]


@pytest.mark.long
def test_deployment(run, tmp_path):
    ours = (f"--model={run}", "--formats=onnx", "--images=40", "--calls=3")
    printed, text, results = benchmark("deployment", *ours, folder=tmp_path / "check")
    export = results["exports"]["onnx float32"]
    assert export["same_class"] == 1 and export["accuracy"] > 0.3 and export["images_per_second"] > 1
    assert text in printed


@pytest.mark.long
def test_int8(run, tmp_path):
    """A runtime that is not installed is left out."""
    ours = (f"--model={run}", "--image_size=64", "--images=20", "--rounds=1")
    printed, text, results = benchmark("int8", *ours, folder=tmp_path)
    rows = results["results"]
    assert {"export.py (TFLite)", "ONNX Runtime"} <= set(rows)
    assert all(len(each["milliseconds"]["2"]) == 1 and each["megabytes"] > 1 for each in rows.values())
    assert text in printed


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--sizes=32", "--sizes"),
        ("--precision=int8", "int8 not among bfloat16, float32"),
        ("--rounds=0", "0 is below 1"),
    ],
)
def test_bad_flags(flag, message):
    command = [sys.executable, "-m", "benchmarks.inference", flag]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--seeds=", "expected at least one of each"),
        ("--seeds=-1", "seeds from 0 upwards"),
        ("--variants=", "expected at least one of each"),
        ("extra", "unexpected argument 'extra'"),
    ],
)
def test_bad_flags_of_the_table(flag, message, tmp_path):
    command = [sys.executable, "-m", "benchmarks.table", f"--runs_dir={tmp_path / 'runs'}", flag]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())
