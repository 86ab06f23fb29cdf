"""Evaluation of saved classifiers, through the program."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from resnetd_tf import rundir
from resnetd_tf.data import datasets, synthetic
from resnetd_tf.data.splits import read_split_record, split_record
from resnetd_tf.errors import InputError
from resnetd_tf.evaluation import metrics
from resnetd_tf.evaluation.run import evaluate
from resnetd_tf.saved import open_classifier


def test_a_savedmodel_that_was_copied_alone(run, program, tmp_path):
    shutil.copytree(run / "1", tmp_path / "alone")  # as someone else would receive it
    result = program(
        "evaluate.py", f"--model={tmp_path / 'alone'}", "--dataset=synthetic", f"--output_dir={tmp_path / 'o'}"
    )
    assert result.returncode == 0, result.stderr
    assert "(synthetic images)" in result.stdout and "SeaLake" in result.stdout
    first = json.loads((run / "run-1/evaluation-test-1/metrics.json").read_text())
    copied = json.loads((tmp_path / "o/metrics.json").read_text())
    assert copied["confusion_matrix"] == first["confusion_matrix"]
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        "metrics.json",
        "confusion_matrix.png",
        "examples.png",
        "mistakes.png",
    }


def test_evaluations_do_not_overwrite(run, tmp_path):
    folder = tmp_path / "run-1"
    shutil.copytree(run / "run-1", folder)
    model = str(folder / "model.keras")
    for number in (1, 2):
        evaluate(model, split="validation")
        assert (folder / f"evaluation-validation-{number}/metrics.json").is_file()
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match="exists already"):
        evaluate(model, split="validation", output_dir=str(folder / "evaluation-validation-1"))
    assert sorted(folder.rglob("*")) == before


def test_mean_over_turns(run, small_classifier, program, tmp_path):
    """The result says so, and the turns of one image get the same probabilities."""
    result = program("evaluate.py", f"--model={run}", "--turns", f"--output_dir={tmp_path / 'o'}")
    assert result.returncode == 0, result.stderr
    assert "test accuracy of synthetic, over eight turns (synthetic images): " in result.stdout
    result_json = json.loads((tmp_path / "o/metrics.json").read_text())
    assert result_json["over_turns"] and result_json["count"] == 300
    classifier, images = small_classifier, synthetic.draw_scenes(20, seed=9)[0]
    turned = [np.rot90(image, 3)[:, ::-1] for image in images]
    plain_difference, mean_difference = (
        np.abs(
            metrics.predict_probabilities(classifier, turned, over_turns)
            - metrics.predict_probabilities(classifier, images, over_turns)
        ).max()
        for over_turns in (False, True)
    )
    assert mean_difference < 1e-5 < plain_difference


def test_images_of_some_classes(run, small_classifier, program, bad_input, tmp_path):
    """They may be some of those that the classifier knows, in any order, but no other one."""
    images, labels = synthetic.draw_scenes(60, seed=9)
    for number in (7, 2):
        for index in np.flatnonzero(labels == number):
            path = tmp_path / f"pictures/{synthetic.CLASSES[number]}/{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index]).save(path)
    ours = (f"--model={run}", f"--dataset=folder:{tmp_path / 'pictures'}", "--split=train")
    result = program("evaluate.py", *ours, f"--output_dir={tmp_path / 'result'}")
    assert result.returncode == 0, result.stderr
    result_json = json.loads((tmp_path / "result/metrics.json").read_text())
    split = datasets.load_dataset(f"folder:{tmp_path / 'pictures'}", ("train",)).splits["train"]
    predicted = small_classifier.predict(split.images).argmax(axis=1)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (labels[[int(pathlib.Path(name).stem) for name in split.names]], predicted), 1)
    assert result_json["confusion_matrix"] == expected.tolist() and tuple(result_json["classes"]) == synthetic.CLASSES
    assert np.count_nonzero(expected.sum(axis=1)) == 2
    (tmp_path / f"pictures/{synthetic.CLASSES[2]}").rename(tmp_path / "pictures/Vineyard")
    assert "pictures has Vineyard; " in bad_input("evaluate.py", *ours, f"--output_dir={tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()


@pytest.fixture
def folder_run(run, tmp_path):
    """A classifier that looks as if it was trained on a folder of thirty images, and the folder."""
    folder, model = tmp_path / "patches", tmp_path / "model/run-1"
    add_images(folder, range(30))
    shutil.copytree(run / "run-1", model)
    dataset = datasets.load_dataset(f"folder:{folder}")
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    metadata = json.loads((model / "metadata.json").read_text()) | {"dataset": dataset.name, "split_sizes": sizes}
    rundir.write_json(model / "metadata.json", metadata)
    rundir.write_text(model / "splits.csv", split_record(dataset))
    return str(model / "model.keras"), folder


def add_images(folder, numbers):
    images, labels = synthetic.draw_scenes(100, seed=9)
    for number in numbers:
        path = folder / synthetic.CLASSES[labels[number]] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number]).save(path)


def test_the_share_of_training_images_is_printed(folder_run, tmp_path, capsys):
    """It counts the images of its folder, and the same images elsewhere under other names."""
    model, folder = folder_run
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    for path in list(elsewhere.rglob("*.png")):
        path.rename(path.with_name(f"renamed_{path.name}"))
    for number, dataset in enumerate((None, f"folder:{elsewhere}")):
        result = evaluate(model, split="all", dataset=dataset, output_dir=str(tmp_path / f"o{number}"))
        printed = capsys.readouterr().out
        assert "trained on 21 of these 30 images (70.0 %); on those it is better than on others" in printed
        assert "On the 9 images that it was not trained on: " in printed and "changed" not in printed
        assert result["count"] == 30 and result["trained_on"] == 21
        examples = datasets.load_dataset(f"folder:{folder}", ("validation", "test")).splits.values()
        right = sum((open_classifier(model).predict(s.images).argmax(1) == labels_of(s)).sum() for s in examples)
        assert result["not_trained_on"]["accuracy"] == pytest.approx(right / 9)
        assert json.loads((tmp_path / f"o{number}/metrics.json").read_text())["trained_on"] == 21


def labels_of(split):
    """The labels of a split of a folder, by the classes of the classifier."""
    return [synthetic.CLASSES.index(pathlib.Path(name).parent.name) for name in split.names]


def test_a_folder_that_has_grown_is_noticed(folder_run, tmp_path, capsys):
    """New images move the ends of the splits: what is the test split now was in part trained on."""
    model, folder = folder_run
    evaluate(model, output_dir=str(tmp_path / "before"))
    assert "trained on" not in capsys.readouterr().out
    add_images(folder, range(30, 70))
    now = datasets.load_dataset(f"folder:{folder}", ("test",)).splits["test"]
    new = sum(int(pathlib.Path(name).stem) >= 30 for name in now.names)
    evaluate(model, split="all", output_dir=str(tmp_path / "all"))
    printed = capsys.readouterr().out
    assert "has changed since training: 40 of 70 images of 'all' are new" in printed
    assert "trained on 21 of these 70 images (30.0 %)" in printed
    evaluate(model, output_dir=str(tmp_path / "test"))
    assert f"has changed since training: {new} of 7 images of 'test' are new" in capsys.readouterr().out


def test_without_a_record_the_numbers_of_images_are_compared(folder_run, tmp_path, capsys):
    """Runs of earlier versions recorded only how many images each split had."""
    model, folder = folder_run
    pathlib.Path(model).with_name("splits.csv").unlink()
    result = evaluate(model, split="all", output_dir=str(tmp_path / "before"))
    assert "trained on 21 of these 30 images (70.0 %)" in capsys.readouterr().out and "trained_on" not in result
    add_images(folder, range(30, 50))
    evaluate(model, output_dir=str(tmp_path / "test"))
    expected = (
        "has changed since training: 'test' has 5 images, and had 3; which of them the model was trained on is not"
    )
    assert expected in capsys.readouterr().out


def test_a_damaged_record_is_named(folder_run, tmp_path):
    record = pathlib.Path(folder_run[0]).with_name("splits.csv")
    for text in ("", "my,own,table\n1,2,3\n", "name,split,blake2b\nonly two,columns\n"):
        record.write_text(text)
        with pytest.raises(InputError, match=r"splits\.csv: cannot be read \(.*\); restore or delete it"):
            evaluate(folder_run[0], output_dir=str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_run_records_its_splits(run):
    """Synthetic images are drawn anew each time, and known again."""
    splits = datasets.load_dataset("synthetic").splits
    split_of = read_split_record(run / "run-1/splits.csv")
    for name, split in splits.items():
        assert {split_of[digest] for digest in split.digests} == {name}


def test_a_failed_evaluation_leaves_no_folder(tmp_path):
    with pytest.raises(InputError, match="no"), rundir.create_evaluation_folder(tmp_path, "test") as folder:
        assert folder.is_dir()
        raise InputError("no")
    with pytest.raises(InputError, match="no"), rundir.create_evaluation_folder(tmp_path, "other") as folder:
        (folder / "metrics.json").touch()
        raise InputError("no")
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation-other-1"]
