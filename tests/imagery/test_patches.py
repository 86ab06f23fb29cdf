"""Labels for image files, through the program."""

import csv
import io
import json
import pathlib

import numpy as np
import pytest
import rasterio
from conftest import eurosat_dir, needs_eurosat, needs_sentinel2, sentinel2_dir
from PIL import Image

from resnetd_tf.data import datasets, synthetic
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import landcover, patches
from resnetd_tf.saved import SavedClassifier, open_classifier


def test_labels(run, program, tmp_path):
    images, labels = synthetic.draw_scenes(10, seed=9)
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    result = program("predict.py", f"--model={run}", *sorted(tmp_path.glob("*.png")))
    assert result.returncode == 0, result.stderr
    expected = open_classifier(run).predict(images).argmax(axis=1)
    model, *lines = result.stdout.splitlines()
    assert model.startswith(f"Model: {run / 'run-1'}, ") and len(lines) == 10
    for index, line in enumerate(lines):
        assert line.startswith(f"{tmp_path / str(index)}.png: {synthetic.CLASSES[expected[index]]} ")
    assert (expected == labels).mean() > 0.3


def test_folders_formats_and_bad_files(run, program, tmp_path):
    """A bad file among good ones is named, the others are done; the picture has their labels."""
    images, _ = synthetic.draw_scenes(8, seed=9)
    expected = open_classifier(run).predict(images)
    for index, image in enumerate(images):
        path = tmp_path / f"patches/{synthetic.CLASSES[index % 2]}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    paths = sorted((tmp_path / "patches").rglob("*.png"))
    picture = tmp_path / "labels.png"
    model = f"--model={run}"
    result = program("predict.py", model, tmp_path / "patches", "--format=csv", "--top=2", f"--picture={picture}")
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["path"] for row in rows] == list(map(str, paths)) and len(rows[0]) == 5
    for row in rows:
        probabilities = expected[int(pathlib.Path(row["path"]).stem)]
        assert row["class_1"] == synthetic.CLASSES[probabilities.argmax()]
        assert float(row["probability_1"]) == pytest.approx(probabilities.max(), abs=1e-5)
    with Image.open(picture) as drawn:
        assert drawn.width > 1000
    paths[2].write_bytes(b"no image")
    result = program("predict.py", model, *paths, "--format=json", "--top=1")
    assert result.returncode == 2
    model, problem = result.stderr.splitlines()
    assert model.startswith("Model: ")
    assert problem.startswith(f"predict.py: 1 of 8 images have no label: {paths[2]}: not a readable image")
    assert [row["path"] for row in json.loads(result.stdout)] == [str(path) for path in paths if path != paths[2]]


def test_a_server_that_goes_away_in_the_middle(monkeypatch, capsys, tmp_path):
    """Labels of the files that were asked for before are told, as JSON too, and how many there are not."""
    monkeypatch.setattr(patches, "FILES_AT_ONCE", 2)
    paths = [tmp_path / f"{index}.png" for index in range(5)]
    for path in paths:
        Image.fromarray(np.zeros((32, 32, 3), "uint8")).save(path)
    answers = iter([np.eye(2, dtype="float32")])

    def predict(pixels):
        for answer in answers:
            return answer
        raise InputError("grpc://localhost:8500: no server answers")

    classifier = SavedClassifier(tmp_path, tmp_path, ("a", "b"), 3, predict)
    failed = patches.label_patches(classifier, paths, 1, "json")
    assert failed == ["3 of 5 images have no label: grpc://localhost:8500: no server answers"]
    assert [row["probabilities"] for row in json.loads(capsys.readouterr().out)] == [{"a": 1.0}, {"b": 1.0}]
    failed = patches.label_patches(classifier, paths, 1, "json")
    assert failed == ["5 of 5 images have no label: grpc://localhost:8500: no server answers"]
    assert json.loads(capsys.readouterr().out) == []


def test_nothing_to_label(bad_input, run):
    assert "no image given" in bad_input("predict.py", f"--model={run}")


def test_scenes_and_patches_are_told_apart(run, program, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    images = synthetic.draw_scenes(12, seed=3)[0]
    scene = images.reshape(3, 4, 64, 64, 3).swapaxes(1, 2).reshape(192, 256, 3)
    Image.fromarray(scene).save(tmp_path / "scene.png")
    Image.fromarray(scene[:64, :64]).save(tmp_path / "patch.png")
    result = program("predict.py", f"--model={run}", tmp_path / "scene.png", "--stride=64", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "scene.png: picture of 8 bits: colours as they are" in result.stdout
    with rasterio.open(tmp_path / "scene_landcover.tif") as file:
        mapped = file.read(1)
    np.testing.assert_array_equal(mapped.ravel(), open_classifier(run).predict(images).argmax(1))
    with pytest.raises(InputError, match=r"scene_landcover\.tif exists; give another --output, or --overwrite"):
        landcover.label_or_map(run, ["scene.png"])
    both = (tmp_path / "scene.png", tmp_path / "other/scene.png")
    both[1].parent.mkdir()
    both[0].rename(both[1].with_name("copy.png")).rename(both[1])
    Image.fromarray(scene).save(both[0])
    with pytest.raises(InputError, match="--output=x is of one map, 2 scenes are given"):
        landcover.label_or_map(run, both, output="x")
    landcover.label_or_map(run, both[:1], output=f"{tmp_path}/maps/", stride=64)
    assert (tmp_path / "maps/scene_landcover.tif").is_file()
    for given, told in (
        ({"output": "x"}, "--output is of maps, and no image has more than 128 pixels a side; --window maps them"),
        ({"stride": 8}, "--stride is of maps"),
    ):
        with pytest.raises(InputError, match=told):
            landcover.label_or_map(run, ["patch.png"], **given)
    for given in ({"picture": "x.png"}, {"format": "json"}):
        with pytest.raises(InputError, match=f"--{next(iter(given))} is of labels, and only scenes are given"):
            landcover.label_or_map(run, both[:1], **given)
    with pytest.raises(InputError, match="several scenes would be called scene; map one at a time"):
        landcover.label_or_map(run, both, overwrite=True)
    assert not list(tmp_path.glob("x*"))


@needs_eurosat
@needs_sentinel2
def test_patches_of_13_bands_for_a_model_of_rgb():
    """Shown as EuroSAT shows them, they are its pictures: pixel for pixel, so that labels are the same."""
    dataset = datasets.load_dataset("eurosat/rgb", data_dir=eurosat_dir())
    jpegs = {name: image for split in dataset.splits.values() for name, image in zip(split.names, split.images)}
    seen = []

    def predict(images):
        seen.extend(images)
        return np.eye(10, dtype="float32")[np.zeros(len(images), int)]

    paths = sorted((sentinel2_dir() / "eurosat_all").rglob("*.tif"))
    patches.label_patches(SavedClassifier(pathlib.Path("model"), pathlib.Path(), dataset.classes, 3, predict), paths)
    assert len(paths) == 80
    for path, image in zip(paths, seen, strict=True):
        np.testing.assert_array_equal(image, jpegs[f"{path.stem}.jpg"])
