"""Labels of image files."""

import csv
import io
import json
import pathlib
import re

import numpy as np
import pytest
from conftest import needs_eurosat, needs_sentinel2, sentinel2_dir
from PIL import Image
from scenes import CLASSES, colour_classifier, draw_fields, predict_by_colour

from resnetd_tf.cli.predict import MOVED_FLAGS
from resnetd_tf.data import synthetic
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import patches
from resnetd_tf.imagery.patches import label_patches
from resnetd_tf.saved import SavedClassifier


def write_patches(folder: pathlib.Path, count: int = 6) -> tuple[list[pathlib.Path], np.ndarray]:
    """Writes drawn images in folders named as classes; returns their paths in order and their probabilities."""
    images = [draw_fields(64, 64, seed) for seed in range(count)]
    paths = [folder / CLASSES[index % 2] / f"{index}.png" for index in range(count)]
    for path, image in zip(paths, images):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    order = sorted(range(count), key=paths.__getitem__)
    return [paths[index] for index in order], predict_by_colour([images[index] for index in order])


def test_the_program_prints_a_line_for_each_image(run, small_classifier, program, tmp_path):
    images, labels = synthetic.draw_scenes(10, seed=9)
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    result = program("predict.py", f"--model={run}", *sorted(tmp_path.glob("*.png")))
    assert result.returncode == 0, result.stderr
    expected = small_classifier.predict(images).argmax(axis=1)
    model, *lines = result.stdout.splitlines()
    assert model.startswith(f"Model: {run / 'run-1'}, ") and len(lines) == 10
    for index, line in enumerate(lines):
        assert line.startswith(f"{tmp_path / str(index)}.png: {synthetic.CLASSES[expected[index]]} ")
    assert (expected == labels).mean() > 0.3


def test_good_files_beside_bad_ones_and_scenes_are_labelled(capsys, tmp_path):
    """The others are named at the end; nothing but labels goes to stdout as JSON."""
    paths, probabilities = write_patches(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"no image")
    Image.fromarray(draw_fields(192, 256)).save(tmp_path / "scene.png")
    with pytest.raises(InputError) as refusal:
        label_patches(colour_classifier(), [tmp_path], format="json", top=1)
    bad, scene = str(refusal.value).split("; ", 1)
    assert bad.startswith(f"1 of 7 images have no label: {tmp_path / 'bad.png'}: not a readable image")
    assert f"{tmp_path / 'scene.png'}: larger than a patch (128 pixels a side); map.py maps scenes" in scene
    rows = json.loads(capsys.readouterr().out)
    assert [row["path"] for row in rows] == list(map(str, paths))
    assert [list(row["probabilities"]) for row in rows] == [[CLASSES[each.argmax()]] for each in probabilities]


@pytest.mark.parametrize("name", MOVED_FLAGS)
def test_a_flag_of_maps_names_its_program(bad_input, name):
    message = bad_input("predict.py", "scene.tif", f"--{name}" if name == "probabilities" else f"--{name}=8")
    assert message == f"predict.py: --{name} is a flag of map.py, which maps scenes; use map.py --{name}\n"


def test_flags_of_maps_are_in_the_help_of_their_program_alone(program_process):
    help_texts = [program_process(name, "--help").stdout for name in ("map.py", "predict.py")]
    for name in MOVED_FLAGS:
        assert [bool(re.search(rf"--(\[no\])?{name}:", text)) for text in help_texts] == [True, False]


def test_the_program_wants_an_image(bad_input):
    assert "no image given" in bad_input("predict.py")


def test_folders_as_comma_separated_values(capsys, tmp_path):
    paths, probabilities = write_patches(tmp_path)
    label_patches(colour_classifier(), [tmp_path], top=2, format="csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["path"] for row in rows] == list(map(str, paths)) and len(rows[0]) == 6
    assert {row["dissimilarity"] for row in rows} == {""}  # the model does not know it
    for row, expected in zip(rows, probabilities):
        assert row["class_1"] == CLASSES[expected.argmax()]
        assert float(row["probability_1"]) == pytest.approx(expected.max(), abs=1e-5)
        assert float(row["probability_2"]) == pytest.approx(np.sort(expected)[-2], abs=1e-5)


def write_unlike_patch(folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes a patch of noise; returns a patch that is like those of the training, and the patch of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8")
    Image.fromarray(noise).save(folder / "noise.png")
    return [next(pathlib.Path("samples/patches/River").iterdir()), folder / "noise.png"]


def test_patches_that_are_unlike_the_training_images_are_marked(program, tmp_path):
    paths = write_unlike_patch(tmp_path)
    result = program("predict.py", "--model=eurosat", *paths, "--top=1", f"--picture={tmp_path / 'labels.png'}")
    _, like, unlike = result.stdout.splitlines()
    assert like.endswith(" %") and unlike.endswith(" %; unlike the training images")
    assert result.stderr == "Patches: unlike the training images: 1 of 2\n"


@pytest.mark.parametrize("format", ["json", "csv"])
def test_programs_read_how_unlike_the_training_images_a_patch_is(program, tmp_path, format):
    paths = write_unlike_patch(tmp_path)
    stdout = program("predict.py", "--model=eurosat", *paths, "--top=1", f"--format={format}").stdout
    rows = json.loads(stdout) if format == "json" else list(csv.DictReader(io.StringIO(stdout)))
    like, unlike = (float(row["dissimilarity"]) for row in rows)
    assert 0 < like <= 1 < unlike


def test_a_picture_of_the_labels(tmp_path):
    write_patches(tmp_path / "patches")
    label_patches(colour_classifier(), [tmp_path / "patches"], picture=str(tmp_path / "labels.png"))
    with Image.open(tmp_path / "labels.png") as picture:
        assert picture.width > 1000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"picture": "labels.xyz"}, r"cannot draw labels\.xyz: its name must end in one of \.avif"),
        ({"picture": "x.png", "explain": "x.png"}, r"--picture and --explain are both x\.png"),
        ({"picture": "0.png"}, "it exists; give another name, or --overwrite"),
        ({"explain": "0.png"}, "it exists; give another name, or --overwrite"),
        ({"explain": "missing/x.png"}, "cannot draw .*: No such file"),
        ({"explain": f"{'x' * 250}.png"}, "cannot draw .*: File name too long"),
    ],
)
def test_pictures_that_cannot_be_drawn_are_refused(monkeypatch, capsys, tmp_path, flags, message):
    """Before anything is labelled."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(draw_fields(64, 64)).save("0.png")
    with pytest.raises(InputError, match=message):
        label_patches(colour_classifier(), ["0.png"], **flags)
    assert capsys.readouterr().out == ""


def test_scenes_alone_print_no_labels(capsys, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(draw_fields(192, 256)).save(tmp_path / name)
    with pytest.raises(InputError, match=r"a\.png and 1 more: larger than a patch \(128 pixels a side\); map\.py maps"):
        label_patches(colour_classifier(), [tmp_path], format="json")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("format", patches.FORMATS)
def test_labels_before_a_server_goes_away_are_printed(monkeypatch, capsys, tmp_path, format):
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
    with pytest.raises(InputError, match=r"^3 of 5 images have no label: grpc://localhost:8500: no server answers$"):
        label_patches(classifier, paths, top=1, format=format)
    printed = capsys.readouterr().out
    if format == "json":
        assert [row["probabilities"] for row in json.loads(printed)] == [{"a": 1.0}, {"b": 1.0}]
    else:
        assert len(printed.splitlines()) == (3 if format == "csv" else 2)


def test_a_server_that_never_answers_leaves_an_empty_list(capsys, tmp_path):
    def predict(pixels):
        raise InputError("grpc://localhost:8500: no server answers")

    paths, _ = write_patches(tmp_path)
    with pytest.raises(InputError, match=r"^6 of 6 images have no label: grpc://localhost:8500: no server answers$"):
        label_patches(colour_classifier(predict), paths, format="json")
    assert json.loads(capsys.readouterr().out) == []


def test_a_few_errors_of_many_are_listed(tmp_path):
    for index in range(8):
        (tmp_path / f"{index}.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"^8 of 8 images have no label: .*; and 3 more$") as error:
        label_patches(colour_classifier(lambda images: np.empty((0, 4))), sorted(tmp_path.iterdir()))
    assert str(error.value).count("not a readable image") == 5


@needs_eurosat
@needs_sentinel2
def test_patches_of_13_bands_for_a_model_of_rgb(eurosat_pictures):
    """Shown as EuroSAT shows them, they are its pictures: pixel for pixel, so that labels are the same."""
    classified = []

    def predict(images):
        classified.extend(images)
        return np.eye(10, dtype="float32")[np.zeros(len(images), int)]

    paths = sorted((sentinel2_dir() / "eurosat_all").rglob("*.tif"))
    label_patches(SavedClassifier(pathlib.Path("model"), pathlib.Path(), synthetic.CLASSES, 3, predict), paths)
    assert len(paths) == 80
    for path, image in zip(paths, classified, strict=True):
        np.testing.assert_array_equal(image, eurosat_pictures[f"{path.stem}.jpg"])
