"""Datasets of TFDS other than EuroSAT: the builders are TFDS's, the images are drawn here."""

import json
import sys
import typing

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from resnetd_tf.data import datasets
from resnetd_tf.errors import InputError
from resnetd_tf.saved import open_classifier
from resnetd_tf.training import Settings, train

CONFIGURATIONS = ("labelled", "unlabelled", "trainless", "sixteen_bits", "floats", "numbered", "nested", "video")


class ManyClasses(tfds.core.GeneratorBasedBuilder):
    """A dataset of 400 classes with its own three splits; each configuration has one peculiarity."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: typing.ClassVar = [tfds.core.BuilderConfig(name=name) for name in CONFIGURATIONS]

    def _info(self):
        image = tfds.features.Image(shape=(32, 32, 3))
        if self.builder_config.name == "sixteen_bits":
            image = tfds.features.Image(shape=(None, None, 3), dtype=np.uint16)
        if self.builder_config.name == "floats":
            image = tfds.features.Tensor(shape=(32, 32, 3), dtype=np.float32)
        if self.builder_config.name == "video":
            image = tfds.features.Video(shape=(None, 32, 32, 3))
        features = {"image": image, "label": tfds.features.ClassLabel(num_classes=400)}
        if self.builder_config.name == "numbered":
            features["filename"] = np.int64
        keys = ({"pixels": "image"}, "label") if self.builder_config.name == "nested" else ("image", "label")
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=keys)

    def _split_generators(self, dl_manager):
        raise NotImplementedError

    def _generate_examples(self):
        raise NotImplementedError


def prepare(folder, name, splits, size=None, name_features=()):
    """Lets TFDS prepare a dataset with a number of images of one colour in each split.

    The examples have their file name, or their number as the name, in each of the `name_features`.
    """
    builder = tfds.builder(name, data_dir=str(folder))
    classes = builder.info.features["label"].num_classes
    rng = np.random.default_rng(0)

    def examples(count, labelled=True):
        for index in range(count):
            shape = size or rng.integers(40, 80, 2)
            image = np.full((*shape, 3), index % 250, "uint8")
            label = index % classes if labelled else -1
            names = {key: index if "numbered" in name else f"{index}.png" for key in name_features}
            yield index, {"image": image, "label": label, **names}

    unlabelled = "test" if "unlabelled" in name else None
    builder._split_generators = lambda dl_manager: {
        split: examples(count, split != unlabelled) for split, count in splits.items()
    }
    builder.download_and_prepare()
    return builder


@pytest.mark.parametrize(
    ("name", "splits", "slices", "counts"),
    [
        ("cifar10", {"train": 50, "test": 20}, ("train[:80%]", "train[80%:]", "test"), (40, 10, 20)),
        ("uc_merced", {"train": 60}, ("train[:70%]", "train[70%:90%]", "train[90%:]"), (42, 12, 6)),
        ("imagenette", {"train": 40, "validation": 20}, ("train[:90%]", "validation", "train[90%:]"), (36, 20, 4)),
        (
            "many_classes/labelled",
            {"train": 800, "validation": 30, "test": 10},
            ("train", "validation", "test"),
            (800, 30, 10),
        ),
    ],
)
def test_own_splits_are_used(tmp_path, name, splits, slices, counts):
    name_features = {"cifar10": ["id"], "uc_merced": ["filename"]}.get(name, [])
    size = {"cifar10": (32, 32), "many_classes/labelled": (32, 32)}.get(name)
    builder = prepare(tmp_path, name, splits, size, name_features)
    loaded = datasets.load_dataset(name, data_dir=str(tmp_path))
    assert tuple(split.slice for split in loaded.splits.values()) == slices
    assert tuple(map(len, loaded.splits.values())) == counts
    for split in loaded.splits.values():
        expected = list(builder.as_dataset(split=split.slice).as_numpy_iterator())
        np.testing.assert_array_equal(split.labels, [example["label"] for example in expected])
        for image, example in zip(split.images, expected):
            np.testing.assert_array_equal(image, example["image"])  # at its own size
    resized = datasets.load_dataset(name, data_dir=str(tmp_path), image_size=48)
    shapes = [split.shape for split in resized.splits.values()]
    assert shapes == [(32, 32, 3)] * 3 if size else [(48, 48, 3)] * 2 + [(None, None, 3)]


@pytest.mark.long
def test_a_run_on_another_dataset(tmp_path, capsys):
    """The run uses the dataset's test split, statistics and 400 classes, prints them and keeps them in its metadata."""
    prepare(tmp_path / "data", "many_classes/labelled", {"train": 800, "validation": 400, "test": 60}, (32, 32))
    path = train(
        Settings(
            depth=10,
            dataset="many_classes/labelled",
            data_dir=str(tmp_path / "data"),
            image_size=32,
            weights="none",
            epochs=1,
            batch_size=400,
            output_dir=str(tmp_path / "model"),
        )
    )
    printed = capsys.readouterr()
    assert "images: 800 train (train), 400 validation (validation), 60 test (test)" in printed.out
    assert "Normalisation: the training split of many_classes/labelled, mean" in printed.out
    assert "test accuracy of many_classes/labelled" in printed.out
    metadata = json.loads((tmp_path / "model/run-1/metadata.json").read_text())
    assert metadata["splits"] == {"train": "train", "validation": "validation", "test": "test"}
    loaded = datasets.load_dataset("many_classes/labelled", ("train",), data_dir=str(tmp_path / "data"))
    mean = loaded.splits["train"].images.reshape(-1, 3).mean(0)
    np.testing.assert_allclose(metadata["normalization"]["mean"], mean)
    classifier = open_classifier(path)
    assert len(classifier.classes) == 400
    assert datasets.resolve_dataset(classifier.path, classifier.metadata, None, None, None) == (
        "many_classes/labelled",
        str(tmp_path / "data"),
        None,
    )


def test_imagenette_is_not_imagenet(tmp_path, run, bad_input):
    prepare(tmp_path, "imagenette", {"train": 40, "validation": 20})
    arguments = (f"--model={run}", "--dataset=imagenette", f"--data_dir={tmp_path}")
    assert "imagenette has n01440764" in bad_input("evaluate.py", *arguments)


def test_a_split_without_labels_is_refused(tmp_path):
    prepare(tmp_path, "many_classes/unlabelled", {"train": 20, "test": 10}, (32, 32))
    with pytest.raises(InputError, match="split 'test' of many_classes/unlabelled has no labels"):
        datasets.load_dataset("many_classes/unlabelled", data_dir=str(tmp_path))


def test_only_splits_that_a_dataset_has_can_be_loaded(tmp_path):
    prepare(tmp_path, "many_classes/trainless", {"test": 10}, (32, 32))
    loaded = datasets.load_dataset("many_classes/trainless", ("test", "test[:50%]"), data_dir=str(tmp_path))
    assert [len(split) for split in loaded.splits.values()] == [10, 5]
    with pytest.raises(InputError, match="split 'train' of many_classes/trainless: Unknown split"):
        datasets.load_dataset("many_classes/trainless", data_dir=str(tmp_path))
    with pytest.raises(InputError, match="split 'nonsense' of many_classes/trainless: Unknown split"):
        datasets.load_dataset("many_classes/trainless", ("nonsense",), data_dir=str(tmp_path))
    with pytest.raises(InputError, match=r"split 'test\[:0\]' of .* no data"):
        datasets.load_dataset("many_classes/trainless", ("test[:0]",), data_dir=str(tmp_path))


def test_images_of_other_types_or_bands_are_refused(tmp_path):
    for name, dtype in (("many_classes/sixteen_bits", "uint16"), ("many_classes/floats", "float32")):
        with pytest.raises(InputError, match=f"images of 3 bands are {dtype}, of unknown scale; expected uint8"):
            datasets.load_dataset(name, data_dir=str(tmp_path))
    with pytest.raises(InputError, match=r"images have 1 bands; expected 3 \(RGB\) or 13"):
        datasets.load_dataset("mnist", data_dir=str(tmp_path))


def test_locations_that_a_dataset_does_not_use_are_refused(tmp_path):
    with pytest.raises(InputError, match="--eurosat_zip is of no use for dataset cifar10"):
        datasets.load_dataset("cifar10", data_dir=str(tmp_path), eurosat_zip="EuroSAT.zip")
    for name in ("synthetic", f"folder:{tmp_path}"):
        with pytest.raises(InputError, match="--data_dir is of no use"):
            datasets.load_dataset(name, data_dir=str(tmp_path))
        with pytest.raises(InputError, match="--eurosat_zip is of no use"):
            datasets.load_dataset(name, eurosat_zip="EuroSAT.zip")


def test_a_missing_library_names_the_extra_that_has_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match=r"dataset cifar10 needs TensorFlow Datasets .*resnetd_tf\[train\]"):
        datasets.load_dataset("cifar10")


def test_a_download_that_fails_gives_the_hint_of_tfds(tmp_path, monkeypatch):
    """The hint is complete, and the message has no advice for EuroSAT alone."""
    hint = "Manual download required. Get VIS.zip from the project's site.\n" + "Then put it there. " * 20 + "The end."

    def fail(self, dl_manager):
        raise AssertionError(hint)

    monkeypatch.setattr(ManyClasses, "_split_generators", fail)
    with pytest.raises(InputError) as error:
        datasets.load_dataset("many_classes/labelled", data_dir=str(tmp_path))
    assert hint in str(error.value) and "--dataset=folder:PATH" in str(error.value)
    assert "eurosat" not in str(error.value).lower()


def test_an_unreadable_picture_is_named(tmp_path):
    prepare(tmp_path, "uc_merced", {"train": 60}, name_features=["filename"])
    (record,) = tmp_path.rglob("*.tfrecord*")
    examples = [tf.train.Example.FromString(raw.numpy()) for raw in tf.data.TFRecordDataset(str(record))]
    examples[5].features.feature["image"].bytes_list.value[0] = b"no picture"
    with tf.io.TFRecordWriter(str(record)) as writer:
        for example in examples:
            writer.write(example.SerializeToString())
    name = examples[5].features.feature["filename"].bytes_list.value[0].decode()
    with pytest.raises(InputError, match=rf"{name} in it is not a readable JPEG or PNG image"):
        datasets.load_dataset("uc_merced", data_dir=str(tmp_path))


def test_images_that_do_not_fit_into_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    prepare(tmp_path, "cifar10", {"train": 50, "test": 20}, (32, 32), ["id"])
    prepare(tmp_path, "uc_merced", {"train": 60}, name_features=["filename"])
    monkeypatch.setattr("resnetd_tf.data.splits.available_memory_bytes", lambda: 100_000)
    monkeypatch.setattr("resnetd_tf.data.tfds.hold_in_memory", None)
    for name in ("cifar10", "uc_merced"):
        with pytest.raises(InputError, match=rf"dataset {name}: its images take 0.0 GiB of memory, of which 0.0 GiB"):
            datasets.load_dataset(name, data_dir=str(tmp_path))


def test_images_without_file_names_are_numbered(tmp_path):
    prepare(tmp_path, "many_classes/labelled", {"train": 600}, (32, 32))
    loaded = datasets.load_dataset("many_classes/labelled", ("all",), data_dir=str(tmp_path)).splits["all"]
    assert loaded.names == tuple(f"all#{index}" for index in range(600))


def test_file_names_that_are_numbers_name_images_in_lists(tmp_path):
    builder = prepare(tmp_path / "data", "many_classes/numbered", {"train": 20}, (32, 32), ["filename"])
    order = [str(example["filename"]) for example in builder.as_dataset(split="train").as_numpy_iterator()]
    paths = [tmp_path / f"{split}.txt" for split in ("train", "validation", "test")]
    for path, names in zip(paths, (["3", "17"], ["4"], ["0"])):
        path.write_text("\n".join(names))
    split_files = ",".join(map(str, paths))
    named = {"data_dir": str(tmp_path / "data"), "split_files": split_files}
    splits = datasets.load_dataset("many_classes/numbered", ("train", "all"), **named).splits
    assert sorted(splits["train"].names) == ["17", "3"] and list(splits["all"].names) == order


@pytest.mark.parametrize("split", ["all", "test"])
def test_all_is_every_split(tmp_path, split):
    prepare(tmp_path, "many_classes/labelled", {"train": 30, "validation": 5, "test": 10}, (32, 32))
    loaded = datasets.load_dataset("many_classes/labelled", (split,), data_dir=str(tmp_path)).splits[split]
    assert len(loaded) == {"all": 45, "test": 10}[split] and loaded.slice == split


def test_features_that_are_no_image_and_label_are_refused(tmp_path):
    for name, message in (
        ("nested", r"is labelled \(\{'pixels': 'image'\}, 'label'\); a classifier needs the name of one image"),
        ("video", r"'image' has shape \(None, 32, 32, 3\); expected \(height, width, bands\)"),
    ):
        with pytest.raises(InputError, match=message):
            datasets.load_dataset(f"many_classes/{name}", data_dir=str(tmp_path))
