"""Exports of a classifier, and the client of a server: the formats, their precisions and the names of their files.

Read `export` first, which is what `export.py` does. `savedmodel` writes what TensorFlow Serving runs, `converters` writes
TFLite, ONNX, OpenVINO and safetensors, `client` asks a server. This module imports nothing slow: `--help` and a wrong flag
answer at once.
"""

import pathlib

from resnetd_tf.errors import InputError

# By format, the precisions that it is made in
PRECISIONS = {
    "tflite": ("float32", "float16", "dynamic", "int8"),
    "savedmodel": ("float32", "bfloat16"),
    "onnx": ("float32",),
    "openvino": ("float32", "float16", "bfloat16"),
    "safetensors": ("float32", "float16"),
}
# What a file or folder is called in the run's folder, where no name is given
DEFAULT_NAMES = {
    "tflite": "model-{}.tflite",
    "savedmodel": "savedmodel-{}",
    "onnx": "model-{}.onnx",
    "openvino": "openvino-{}",
    "safetensors": "model-{}.safetensors",
}


def check_options(format: str, precision: str, batch: int = 1, output_type: str = "float32") -> None:
    """Raises InputError if these make no sense together, with those that do."""
    possible = PRECISIONS[format]
    if precision not in possible:
        raise InputError(f"--format={format} --precision={precision}: not made; it is made in {' or '.join(possible)}")
    if batch != 1 and format != "tflite":
        raise InputError(f"--batch={batch}: of TFLite alone; {format} takes any number of images")
    if output_type != "float32" and (format, precision) != ("tflite", "int8"):
        raise InputError(f"--output_type={output_type}: of TFLite in int8 alone; others give float32")


def check_suffix(format: str, path: pathlib.Path) -> None:
    """Raises InputError if a file's name does not end as those of its format do, by which it is known."""
    suffix = pathlib.Path(DEFAULT_NAMES[format]).suffix
    if suffix and path.suffix != suffix:
        raise InputError(f"{path}: the name of the file must end in {suffix}, by which it is known")
