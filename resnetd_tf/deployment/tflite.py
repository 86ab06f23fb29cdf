"""From a SavedModel to TFLite, for devices and for the LiteRT interpreter."""

import json
import pathlib
import zipfile

import numpy as np
import tensorflow as tf

from resnetd_tf.deployment import frozen


def write(
    savedmodel: pathlib.Path,
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    metadata: dict,
    path: pathlib.Path,
    precision: str = "float32",
    batch: int = 1,
    output_type: str = "float32",
    calibration: np.ndarray | None = None,
) -> None:
    """Writes a TFLite file, preprocessing included.

    Its signature `serving_default` takes `pixels` (batch, height, width, bands), raw, and returns `probabilities`
    (batch, classes). labels.txt and metadata.json are zipped onto it, which the interpreter does not mind.

    Args:
        savedmodel: The folder, as `frozen.function` takes it.
        shape: Height, width and bands of the images.
        classes: Class names.
        metadata: What is known of how it was trained.
        path: The file.
        precision: "float32"; "float16" and "dynamic" for kernels in 16 or 8 bits; or "int8" for weights and
            activations in 8 bits.
        batch: Images at once; zero for any number, to which the interpreter's input is to be resized.
        output_type: "float32" or, of int8, "uint8", quantised probabilities.
        calibration: For int8, raw pixels (n, height, width, bands) to find the ranges of the activations with.

    Raises:
        InputError: As for `frozen.function`.
    """
    concrete, owner = frozen.function(savedmodel, (batch or None, *shape))
    if precision == "int8":
        concrete = frozen.with_pools_as_convolutions(concrete)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        assert calibration is not None
        step = batch or 1
        count = -(-len(calibration) // step)  # the last batch is filled up from the first
        batches = np.resize(calibration, (count, step, *shape))
        converter.representative_dataset = lambda: ([images] for images in batches)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.inference_output_type = tf.as_dtype(output_type)
    path.write_bytes(converter.convert())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "\n".join(classes) + "\n")
        archive.writestr("metadata.json", json.dumps(metadata))
