"""From a classifier to TFLite, for devices and for the LiteRT interpreter."""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import tensorflow as tf

from resnetd_tf import metadata, rundir
from resnetd_tf.deployment import comparison, litert, savedmodel
from resnetd_tf.errors import InputError, damage_told
from resnetd_tf.networks.resizing import Resizing
from resnetd_tf.saved import open_classifier, open_network


def convert(
    model: str,
    precision: str,
    output: str | None,
    dataset: str | None = None,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
    split_files: str | None = None,
    trust: bool = False,
) -> pathlib.Path:
    """Converts a classifier to TFLite, preprocessing included, and checks it in the LiteRT interpreter.

    The file takes one image: (1, height, width, bands) raw pixels, of the size the model was trained on. It
    returns (1, classes) float32 probabilities.

    Args:
        model: A path as `saved.locate` takes it.
        precision: "float32", or "int8" for weights and activations in 8 bits, calibrated on the training
            split.
        output: The file; `None` for model-PRECISION.tflite in the run's folder.
        dataset: What to compare on, and for int8 to calibrate on; `None` for the dataset the model was trained on.
        data_dir, eurosat_zip, split_files: As for `sources.load`.
        trust: As for `saved.open_classifier`.

    Returns:
        The path of the file.

    Raises:
        InputError: Something given cannot be used, or the converted model disagrees with the SavedModel.
    """
    classifier = open_classifier(model, trust=trust)
    path = pathlib.Path(output) if output else classifier.folder / f"model-{precision}.tflite"
    rundir.must_not_exist(path)
    splits = ("validation", "train") if precision == "int8" else ("validation",)
    check, *calibration = comparison.patches(classifier, splits, dataset, data_dir, eurosat_zip, split_files)

    with damage_told(f"{classifier.path}: cannot be converted"), tempfile.TemporaryDirectory() as folder:
        source = classifier.path
        if source.is_file():
            source = pathlib.Path(folder) / "savedmodel"
            savedmodel.write(open_network(model, trust)[1], classifier.classes, classifier.metadata, source)
        content = _flatbuffer(source, check.shape[1:], *calibration)
    with rundir.atomic(path) as temporary:
        temporary.write_bytes(content)
        probabilities, expected = run(temporary, check), classifier.predict(check)
        difference = float(np.abs(probabilities - expected).max())
        if precision == "float32" and not difference <= 1e-4:  # not-a-number neither
            raise InputError(f"{path} not written: its probabilities differ from the SavedModel's by {difference:.1e}")
    print(f"{path}: {len(content) / 1e6:.1f} MB, input {'x'.join(map(str, (1, *check.shape[1:])))}")
    agreement = comparison.agreement(probabilities, expected)
    print(f"Against the SavedModel on {len(check)} validation images: {agreement}")
    return path


def _flatbuffer(savedmodel: pathlib.Path, shape: tuple[int, int, int], calibration: np.ndarray | None = None) -> bytes:
    """TFLite flatbuffer for one image of `shape`, quantised to int8 if there are images to calibrate on."""
    loaded = tf.saved_model.load(str(savedmodel))  # which was opened before, and so is known or trusted
    extra = savedmodel / "assets.extra" / "metadata.json"
    if not hasattr(loaded, "network") or not extra.is_file():
        raise InputError(f"{savedmodel} is of an older version: export.py --format=savedmodel makes it anew")
    described = metadata.read(extra, ("exported_precision", "image_size", "interpolation", "antialias"))
    if described["exported_precision"] != "float32":
        raise InputError(f"{savedmodel} computes in {described['exported_precision']}; TFLite is made from float32")
    size, dtype = described["image_size"], loaded.normalization.input_signature[0].dtype
    resizing = Resizing(size, size, described["interpolation"], antialias=described["antialias"], dtype="float32")

    def classify(pixels):
        normalised = tf.ensure_shape(loaded.normalization(pixels), (1, *shape))
        return loaded.network(resizing(normalised))

    concrete = tf.function(classify).get_concrete_function(tf.TensorSpec((1, *shape), dtype, name="pixels"))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], loaded)
    if calibration is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[np.newaxis]] for image in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter.convert()


def run(model: pathlib.Path, images: np.ndarray) -> np.ndarray:
    """Probabilities (n, classes) of images (n, height, width, bands) by a TFLite file, in a process of its own.

    Raises:
        InputError: The file is damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, answer = pathlib.Path(folder, "images.npy"), pathlib.Path(folder, "probabilities.npy")
        np.save(given, images)
        command = [sys.executable, litert.__file__, str(model), str(given), str(answer)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            said = (result.stderr.strip() or "no word").splitlines()[-1]
            raise InputError(f"the TFLite model cannot be run: LiteRT ended with {result.returncode} ({said[:500]})")
        return np.load(answer)
