"""Exports of a classifier for deployment, and the client of a server that runs one.

Read `export` first, which is what `export.py` does. `savedmodel` writes what TensorFlow Serving runs, `converters`
writes TFLite, ONNX, OpenVINO and safetensors, `client` asks a server. This module has the formats, their precisions and
the names of their files. It imports nothing slow, so that `--help` and a wrong flag answer at once.
"""

import pathlib

from resnetd_tf.errors import InputError

# By format, the precisions that it is written in
PRECISIONS = {
    "tflite": ("float32", "float16", "dynamic", "int8"),
    "savedmodel": ("float32", "bfloat16"),
    "onnx": ("float32",),
    "openvino": ("float32", "float16", "bfloat16"),
    "safetensors": ("float32", "float16"),
}
# By format, the name of the file or folder in the run's folder, where no name is given
DEFAULT_NAMES = {
    "tflite": "model-{}.tflite",
    "savedmodel": "savedmodel-{}",
    "onnx": "model-{}.onnx",
    "openvino": "openvino-{}",
    "safetensors": "model-{}.safetensors",
}


def check_options(format: str, precision: str, batch: int = 1, output_type: str = "float32") -> None:
    """Raises InputError, which names the choices, if these options do not go together.

    Args:
        format: One of `PRECISIONS`.
        precision: The precision asked for.
        batch: Number of images that the model takes at once, zero for any number.
        output_type: Type of the probabilities.
    """
    precisions = PRECISIONS[format]
    if precision not in precisions:
        raise InputError(
            f"--format={format} has no --precision={precision}; it is written in {' or '.join(precisions)}"
        )
    if batch != 1 and format != "tflite":
        raise InputError(f"--batch={batch} is for TFLite alone; {format} takes any number of images")
    if output_type != "float32" and (format, precision) != ("tflite", "int8"):
        raise InputError(f"--output_type={output_type} is for TFLite in int8 alone; the others give float32")


def check_suffix(format: str, path: pathlib.Path) -> None:
    """Raises InputError if the name of a file does not end in the suffix by which its format is known.

    Args:
        format: One of `PRECISIONS`. Formats that are folders have no suffix.
        path: The file or folder to write.
    """
    suffix = pathlib.Path(DEFAULT_NAMES[format]).suffix
    if suffix and path.suffix != suffix:
        raise InputError(f"{path}: the name of the file must end in {suffix}, by which it is known")
