"""Training that keeps EuroSAT's classes and adds others."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import ROOT, SMALLEST, needs_eurosat

from resnetd_tf import saved
from resnetd_tf.data import datasets, rehearsal
from resnetd_tf.errors import InputError
from resnetd_tf.networks import checkpoints, classifier
from resnetd_tf.normalization import EUROSAT_RGB

CLASSES = rehearsal.read_sample().classes


@pytest.fixture
def patches(tmp_path):
    """Two folders of images: Forest, which EuroSAT has, and orchard, which it has not."""
    for name, source in (("Forest", "Forest"), ("orchard", "PermanentCrop")):
        (path,) = (ROOT / "samples/patches" / source).iterdir()
        for index in range(10):
            (tmp_path / "mine" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "mine" / name / f"{index}.jpg")
    return tmp_path / "mine"


def test_the_sample_has_eurosat_images_in_their_splits():
    sample = rehearsal.read_sample()
    assert len(sample.classes) == 10 and sample.bands == 3
    for split, count in (("train", 20), ("validation", 10)):
        assert np.bincount(sample.splits[split].labels).tolist() == [count] * 10
        names = sample.splits[split].names
        assert [name.partition("/")[0] for name in names] == [CLASSES[label] for label in sample.splits[split].labels]
    digests = [digest for split in sample.splits.values() for digest in split.digests]
    assert len(set(digests)) == 300


@needs_eurosat
def test_the_sample_is_of_eurosat():
    sample, eurosat = rehearsal.read_sample(), datasets.load_dataset("eurosat/rgb", ("validation",))
    assert set(sample.splits["validation"].digests) <= set(eurosat.splits["validation"].digests)


def test_classes_are_added_after_eurosats(patches):
    dataset = datasets.load_dataset(f"folder:{patches}")
    widened = rehearsal.add_eurosat_classes(dataset)
    assert widened.classes == (*CLASSES, "orchard")
    split = widened.splits["train"]
    own = len(dataset.splits["train"])
    expected = [widened.classes.index(dataset.classes[label]) for label in dataset.splits["train"].labels]
    assert split.labels[:own].tolist() == expected and len(split) == own + 200
    np.testing.assert_array_equal(split.images[:own], dataset.splits["train"].images)
    test = widened.splits["test"]
    assert len(test) == len(dataset.splits["test"])  # the user's own
    assert set(test.labels) <= {CLASSES.index("Forest"), 10}


def test_images_of_the_sample_and_names_in_other_case_are_refused(patches):
    dataset = datasets.load_dataset(f"folder:{patches}")
    with pytest.raises(InputError, match="class forest differs from EuroSAT's Forest in case alone"):
        rehearsal.add_eurosat_classes(dataclasses.replace(dataset, classes=("forest", "orchard")))
    sample = rehearsal.read_sample()
    splits = dataset.splits | {"test": sample.splits["validation"]}
    with pytest.raises(InputError, match="has 100 of the images of EuroSAT"):
        rehearsal.add_eurosat_classes(dataclasses.replace(dataset, classes=CLASSES, splits=splits))


def test_other_sizes_are_refused(patches):
    dataset = datasets.load_dataset(f"folder:{patches}")
    small = {
        name: dataclasses.replace(split, images=split.images[:, :32, :32]) for name, split in dataset.splits.items()
    }
    with pytest.raises(InputError, match="are 32x32x3, EuroSAT's 64x64x3"):
        rehearsal.add_eurosat_classes(dataclasses.replace(dataset, splits=small))


def test_a_damaged_sample(monkeypatch, tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK")
    monkeypatch.setattr(rehearsal, "SAMPLE_FILE", tmp_path / "x.zip")
    with pytest.raises(InputError, match="missing or damaged"):
        rehearsal.read_sample()


def test_old_classes_keep_their_part_of_the_head():
    """Where the new classes get nothing, the old ones get the probabilities that they had."""
    old = classifier.build_classifier(10, "d", classes=10, statistics=EUROSAT_RGB, image_size=32)
    tensors = checkpoints.pytorch_state_dict(old.layers[-1])
    checkpoint = checkpoints.Checkpoint("old", tensors, depth=10, variant="d")
    new = classifier.build_classifier(
        10, "d", classes=12, statistics=EUROSAT_RGB, image_size=32, checkpoint=checkpoint, keep_classes=True
    )
    images = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), "uint8")
    expected, widened = old.predict(images, verbose=0), new.predict(images, verbose=0)
    np.testing.assert_allclose(widened[:, :10] / widened[:, :10].sum(1, keepdims=True), expected, atol=1e-5)
    np.testing.assert_allclose(widened[:, 10], widened[:, 11], rtol=1e-5)


@pytest.mark.long
def test_packaged_classes_are_kept(program, patches, tmp_path):
    arguments = ("--weights=eurosat", "--keep_classes", f"--dataset=folder:{patches}", "--recipe=few", "--epochs=4")
    result = program("train.py", *arguments, f"--output_dir={tmp_path / 'model'}")
    assert result.returncode == 0, result.stderr
    metadata = json.loads((tmp_path / "model/run-1/metadata.json").read_text())
    assert metadata["classes"] == [*CLASSES, "orchard"] and metadata["split_sizes"]["train"] == 214
    classifier_of_eleven = saved.open_classifier(tmp_path / "model/run-1/model.keras")
    validation = rehearsal.read_sample().splits["validation"]
    assert (classifier_of_eleven.predict(validation.images).argmax(1) == validation.labels).mean() > 0.9
    assert metadata["split_sizes"]["test"] == 2
    result = program("evaluate.py", f"--model={tmp_path / 'model'}")
    assert result.returncode == 0, result.stderr
    assert f"{100 * metadata['test_accuracy']:.2f} %" in result.stdout  # on the user's own images, as the run said


def test_weights_of_other_classes_are_refused(run, bad_input, patches, tmp_path):
    """The synthetic dataset has EuroSAT's classes; here their order is another one."""
    dataset = (f"--dataset=folder:{patches}", "--keep_classes", "--batch_size=4", f"--output_dir={tmp_path / 'm'}")
    metadata = json.loads((run / "run-1/metadata.json").read_text())
    (tmp_path / "metadata.json").write_text(json.dumps(metadata | {"classes": metadata["classes"][::-1]}))
    shutil.copy(run / "run-1/model.keras", tmp_path / "model.keras")
    for weights in ("none", tmp_path / "model.keras"):
        message = bad_input("train.py", *SMALLEST[:2], *dataset, f"--weights={weights}")
        assert f"--keep_classes: weights {weights} are of other classes than EuroSAT's ten" in message
