"""From a trained classifier to what is deployed: SavedModel and TFLite."""

import pathlib

import keras
import numpy as np
import tensorflow as tf

from resnetd_tf import data, rundir
from resnetd_tf.errors import InputError


def savedmodel(classifier: keras.Model, classes: tuple[str, ...], path: pathlib.Path) -> None:
    """Writes a SavedModel for TensorFlow Serving, whole or not at all.

    Signatures:
        serving_default: `pixels` (n, height, width, bands) raw pixels -> `probabilities` (n, classes) float32.
        encoded: `image_bytes` (n,) JPEG or PNG files, of any sizes -> the same. RGB classifiers only.

    Args:
        classifier: As built by `resnetd_tf.classifier.build`, or its `portable` copy.
        classes: Class names; stored in assets.extra/labels.txt.
        path: Where; must not exist.

    Raises:
        InputError: It cannot be written.
    """
    pixels = classifier.inputs[0]
    preprocessing = [classifier.get_layer(name) for name in ("normalization", "resizing")]
    network = classifier.layers[-1]

    def from_pixels(pixels):
        return {"probabilities": classifier(pixels, training=False)}

    def from_bytes(image_bytes):
        def preprocess(encoded):
            x = data.decode(encoded)[tf.newaxis]
            for layer in preprocessing:
                x = layer(x)
            return x[0]

        size = preprocessing[-1].height, preprocessing[-1].width
        images = tf.map_fn(preprocess, image_bytes, fn_output_signature=tf.TensorSpec((*size, 3), tf.float32))
        return {"probabilities": network(images, training=False)}

    archive = keras.export.ExportArchive()
    archive.track(classifier)
    spec = tf.TensorSpec(pixels.shape, pixels.dtype, name="pixels")
    archive.add_endpoint("serving_default", from_pixels, input_signature=[spec])
    if pixels.shape[-1] == 3:
        spec = tf.TensorSpec((None,), tf.string, name="image_bytes")
        archive.add_endpoint("encoded", from_bytes, input_signature=[spec])
    with rundir.atomic(path) as temporary:
        archive.write_out(str(temporary), verbose=False)
        extra = temporary / "assets.extra"
        extra.mkdir()
        (extra / "labels.txt").write_text("\n".join(classes) + "\n")


def tflite(
    model: str,
    precision: str,
    output: str | None,
    dataset: str | None = None,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
) -> pathlib.Path:
    """Converts a SavedModel to TFLite, preprocessing included, and checks it in the LiteRT interpreter.

    The file takes one image: (1, height, width, bands) raw pixels, of the size the model was trained on. It
    returns (1, classes) float32 probabilities.

    Args:
        model: A path as `rundir.locate` takes it, of a SavedModel.
        precision: "float32", or "int8" for weights and activations in 8 bits, calibrated on the training
            split.
        output: The file; `None` for model-PRECISION.tflite in the run's folder.
        dataset: For int8: what to calibrate on; `None` for the dataset the model was trained on.
        data_dir, eurosat_zip: As for `data.load`.

    Returns:
        The path of the file.

    Raises:
        InputError: Something given cannot be used, or the converted model disagrees with the SavedModel.
    """
    classifier = rundir.open_classifier(model)
    if classifier.path.is_file():
        raise InputError(f"{classifier.path}: TFLite is made from a SavedModel; give its folder")
    path = pathlib.Path(output) if output else (classifier.folder or pathlib.Path()) / f"model-{precision}.tflite"
    if path.exists():
        raise InputError(f"{path} exists already; give another --output")
    shape = classifier.metadata.get("patch_shape", [64, 64, classifier.bands])
    if precision == "int8":
        dataset = dataset or classifier.metadata.get("dataset")
        if dataset is None:
            raise InputError(f"{classifier.path} does not say what it was trained on; int8 needs --dataset")
        loaded = data.load(
            dataset, ("train", "validation"), data_dir=data_dir, eurosat_zip=eurosat_zip, image_size=shape[0]
        )
        if loaded.patch_shape[-1] != classifier.bands:
            raise InputError(
                f"{classifier.path} takes {classifier.bands} bands, {dataset} has {loaded.patch_shape[-1]}"
            )
        shape = loaded.patch_shape
        calibration, check = loaded.splits["train"].images[:200], loaded.splits["validation"].images[:200]
    else:
        calibration = None
        dtype = "uint8" if classifier.bands == 3 else "uint16"
        check = np.random.default_rng(0).integers(0, 256, (16, *shape)).astype(dtype)

    content = _convert(classifier.path, shape, calibration)
    probabilities = run_tflite(content, check)
    expected = classifier.predict(check)
    difference = float(np.abs(probabilities - expected).max())
    agreement = float((probabilities.argmax(1) == expected.argmax(1)).mean())
    if precision == "float32" and difference > 1e-4:
        raise InputError(f"{path} not written: its probabilities differ from the SavedModel's by {difference:.1e}")
    with rundir.atomic(path) as temporary:
        temporary.write_bytes(content)
    print(f"{path}: {len(content) / 1e6:.1f} MB, input {'x'.join(map(str, (1, *shape)))}")
    images = "validation images" if calibration is not None else "random images"
    print(
        f"Against the SavedModel on {len(check)} {images}: same class for {100 * agreement:.1f} %, "
        f"largest difference of a probability {difference:.1e}"
    )
    return path


def _convert(savedmodel_path: pathlib.Path, shape, calibration: np.ndarray | None) -> bytes:
    """TFLite flatbuffer for one image of `shape`, quantised to int8 if there are images to calibrate on."""
    loaded = tf.saved_model.load(str(savedmodel_path))
    signature = loaded.signatures["serving_default"]
    ((key, spec),) = signature.structured_input_signature[1].items()
    function = tf.function(lambda pixels: signature(**{key: pixels}))
    concrete = function.get_concrete_function(tf.TensorSpec((1, *shape), spec.dtype, name="pixels"))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], loaded)
    if calibration is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[np.newaxis]] for image in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter.convert()


def run_tflite(content: bytes, images: np.ndarray) -> np.ndarray:
    """Probabilities (n, classes) of images, one at a time, in the LiteRT interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (input_,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    results = []
    for image in images:
        interpreter.set_tensor(input_["index"], image[np.newaxis].astype(input_["dtype"]))
        interpreter.invoke()
        results.append(interpreter.get_tensor(output["index"])[0])
    return np.stack(results)
