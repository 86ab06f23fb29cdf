"""Images of differing sizes: every way to run the model gives the answers that were evaluated."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, SMALLEST
from PIL import Image

from resnetd_tf import runtimes
from resnetd_tf.data import datasets, images, synthetic
from resnetd_tf.deployment import export
from resnetd_tf.saved import open_classifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Synthetic scenes enlarged to 120 to 150 pixels, which the model makes smaller."""
    root = tmp_path_factory.mktemp("mixed") / "data"
    rng = np.random.default_rng(0)
    for index, (pixels, label) in enumerate(zip(*synthetic.draw_scenes(400, seed=2))):
        path = root / synthetic.CLASSES[label] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = tuple(map(int, rng.integers(120, 151, 2)))
        Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(path)
    return root


@pytest.mark.long
def test_every_way_gives_the_evaluated_answers(program, folder, tmp_path):
    base = tmp_path / "model"
    arguments = (*SMALLEST, "--epochs=8", "--weights=none", f"--dataset=folder:{folder}", f"--output_dir={base}")
    trained = program("train.py", *arguments)
    assert trained.returncode == 0, trained.stderr
    first = json.loads((base / "run-1/evaluation-test-1/metrics.json").read_text())
    assert first["accuracy"] > 0.2  # it has learned something

    # This is the command that training printed.
    command = re.search(r"^Evaluate it: +python (evaluate\.py) (.*)$", trained.stdout, re.M)
    evaluated = program(command[1], *command[2].split())
    assert evaluated.returncode == 0, evaluated.stderr
    second = json.loads((base / "run-1/evaluation-test-2/metrics.json").read_text())
    assert second["confusion_matrix"] == first["confusion_matrix"]

    split = datasets.load_dataset(f"folder:{folder}", ("test",)).splits["test"]
    assert split.shape == (None, None, 3) and len({image.shape for image in split.images}) > 20
    predicted = program("predict.py", f"--model={base}", "--top=10", *split.names)
    assert predicted.returncode == 0, predicted.stderr
    printed = np.zeros((len(split), 10))
    for row, line in zip(printed, predicted.stdout.splitlines()[1:], strict=True):  # the first says which model
        for name, percent in re.findall(r"(\w+) ([\d.]+) %", line):
            row[synthetic.CLASSES.index(name)] = float(percent) / 100
    assert np.mean(printed.argmax(1) == split.labels) == first["accuracy"]

    signatures = tf.saved_model.load(str(base / "1")).signatures
    files = tf.constant([(ROOT / name).read_bytes() for name in split.names])
    encoded = signatures["encoded"](image_bytes=files)["probabilities"].numpy()
    pixels = np.concatenate(
        [signatures["serving_default"](pixels=image[np.newaxis])["probabilities"] for image in split.images]
    )
    from_keras = open_classifier(base / "run-1/model.keras").predict(split.images)
    np.testing.assert_allclose(encoded, pixels, atol=1e-5)
    np.testing.assert_allclose(from_keras, pixels, atol=1e-5)
    np.testing.assert_allclose(printed, pixels, atol=1e-4)

    export.export_classifier(str(base), output=str(tmp_path / "model.tflite"))
    resized = np.stack([images.resize_image(image, 32, 32) for image in split.images])  # the file takes one size
    answers = runtimes.run_exported(tmp_path / "model.tflite", resized)["probabilities"]
    np.testing.assert_allclose(answers, pixels, atol=0.05)  # but for rounding to whole grey levels
    assert np.mean(answers.argmax(1) == pixels.argmax(1)) >= 0.9
