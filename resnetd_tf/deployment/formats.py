"""What a classifier is exported as. Imports nothing that takes long: `--help` and a wrong flag answer at once."""

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
NAMES = {
    "tflite": "model-{}.tflite",
    "savedmodel": "savedmodel-{}",
    "onnx": "model-{}.onnx",
    "openvino": "openvino-{}",
    "safetensors": "model-{}.safetensors",
}


def check(format: str, precision: str, batch: int = 1, output_type: str = "float32") -> None:
    """Raises InputError if these make no sense together, with those that do."""
    possible = PRECISIONS[format]
    if precision not in possible:
        raise InputError(f"--format={format} --precision={precision}: not made; it is made in {' or '.join(possible)}")
    if batch != 1 and format != "tflite":
        raise InputError(f"--batch={batch}: of TFLite alone; {format} takes any number of images")
    if output_type != "float32" and (format, precision) != ("tflite", "int8"):
        raise InputError(f"--output_type={output_type}: of TFLite in int8 alone; others give float32")


def check_name(format: str, path: pathlib.Path) -> None:
    """Raises InputError if a file's name does not end as those of its format do, by which it is known."""
    suffix = pathlib.Path(NAMES[format]).suffix
    if suffix and path.suffix != suffix:
        raise InputError(f"{path}: the name of the file must end in {suffix}, by which it is known")
