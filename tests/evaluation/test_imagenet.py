"""Evaluation on ImageNet, with a small dataset that has its features, and labels that the network itself chose."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from safetensors.numpy import save_file

from benchmarks import parity
from resnetd_tf.evaluation import imagenet
from resnetd_tf.networks import checkpoints, classifier
from resnetd_tf.networks.resnet import resnet
from resnetd_tf.normalization import IMAGENET

COUNT = 20


@pytest.mark.parametrize("shape", [(300, 400), (500, 333), (224, 224), (97, 250)])
@pytest.mark.parametrize(("size", "crop", "name"), [(224, 0.875, "bicubic"), (288, 0.95, "bilinear")])
def test_the_center_crop_is_pillows(shape, size, crop, name):
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize(shape[::-1], Image.Resampling.BICUBIC)
    shorter = int(size / crop)
    scaled = [side * shorter // min(picture.size) for side in picture.size]
    left, top = (round((side - size) / 2) for side in scaled)
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    expected = picture.resize(scaled, filters[name]).crop((left, top, left + size, top + size))
    center_crop = imagenet.CenterCrop(size, crop, name)
    ours = center_crop(tf.constant(np.asarray(picture)))
    difference = np.abs(np.asarray(expected, int) - np.asarray(ours, int))
    assert ours.shape == (size, size, 3) and difference.max() <= 1


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """imagenet2012 as TFDS prepares it, with images of noise. Half of the labels are the network's own answers."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("data")
    save_file(parity.draw_state_dict(resnet(18, "d")), folder / "weights.safetensors")
    checkpoint = checkpoints.read_checkpoint(folder / "weights.safetensors", 18, "d")
    model = classifier.build_classifier(
        18, "d", classes=1000, statistics=IMAGENET, image_size=288, checkpoint=checkpoint
    )
    rng = np.random.default_rng(0)
    labels = []
    for index in range(COUNT):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        small.resize((320, 310), Image.Resampling.BICUBIC).save(folder / f"{index}.jpg", quality=95)
        picture = tf.constant(np.asarray(Image.open(folder / f"{index}.jpg")))
        pixels = imagenet.CenterCrop(288, 0.95)(picture)
        ranked = np.argsort(-model(pixels[tf.newaxis]).numpy()[0])
        labels.append(int(ranked[0 if index < 10 else 3 if index < 15 else 500]))

    builder = tfds.builder("imagenet2012", data_dir=str(folder))
    builder._split_generators = lambda dl_manager: {
        "validation": (
            (index, {"image": str(folder / f"{index}.jpg"), "label": label, "file_name": f"{index}.JPEG"})
            for index, label in enumerate(labels)
        )
    }
    builder.download_and_prepare()
    return folder


def test_published_weights(program, data_dir, tmp_path):
    arguments = ("--dataset=imagenet2012", "--depth=18", f"--weights={data_dir / 'weights.safetensors'}")
    result = program("evaluate.py", *arguments, f"--data_dir={data_dir}", f"--output_dir={tmp_path / 'out'}")
    assert result.returncode == 0, result.stderr
    assert "288x288 of 303: top-1 50.00 % [29.93, 70.07], top-5 75.00 %, 20 images" in result.stdout
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["top1"] == 0.5 and metrics["top5"] == 0.75 and metrics["count"] == COUNT


def test_a_saved_model(program, data_dir, tmp_path):
    checkpoint = checkpoints.read_checkpoint(data_dir / "weights.safetensors", 18, "d")
    model = classifier.build_classifier(
        18, "d", classes=1000, statistics=IMAGENET, image_size=288, checkpoint=checkpoint
    )
    model.save(tmp_path / "model.keras")
    result = program(
        "evaluate.py", "--dataset=imagenet2012", f"--model={tmp_path / 'model.keras'}", f"--data_dir={data_dir}"
    )
    assert result.returncode == 0, result.stderr
    assert "224x224 of 256: top-1" in result.stdout
    assert (tmp_path / "evaluation-imagenet2012-validation-1/metrics.json").is_file()


def test_a_classifier_of_other_classes_is_refused(bad_input, data_dir, run):
    line = bad_input("evaluate.py", "--dataset=imagenet2012", f"--model={run}", f"--data_dir={data_dir}")
    assert "knows 10 classes; ImageNet has 1000" in line


def test_a_missing_dataset_is_refused_with_advice(bad_input, data_dir, tmp_path):
    weights = f"--weights={data_dir / 'weights.safetensors'}"
    line = bad_input("evaluate.py", "--depth=18", weights, f"--data_dir={tmp_path}")
    assert "imagenet2012/5.1.0 is not in" in line and "ILSVRC2012_img_val.tar" in line


def test_weights_of_another_depth_are_refused(bad_input, data_dir):
    weights = f"--weights={data_dir / 'weights.safetensors'}"
    line = bad_input("evaluate.py", "--depth=50", weights, f"--data_dir={data_dir}")
    assert "of depth 18, variant d, not 50, d" in line
