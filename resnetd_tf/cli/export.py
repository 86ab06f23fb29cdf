"""Converts a trained classifier for deployment.

Examples:
    python export.py --model=saved_models/resnet50d --format=tflite --precision=float32
    python export.py --model=saved_models/resnet50d --format=tflite --precision=int8
    python export.py --model=saved_models/resnet50d --format=savedmodel --precision=bfloat16
    python export.py --model=saved_models/resnet50d/run-1/model.keras --format=savedmodel --precision=float32
    python export.py --model=saved_models/resnet50d --format=safetensors --precision=float16
"""

from absl import flags

from resnetd_tf.cli import common_flags, program
from resnetd_tf.errors import InputError

FLAGS = flags.FLAGS
PRECISIONS = {
    "tflite": ("float32", "int8"),
    "savedmodel": ("float32", "bfloat16"),
    "safetensors": ("float32", "float16"),
}


def export(arguments: list[str]) -> None:
    possible = PRECISIONS[FLAGS.format]
    if FLAGS.precision not in possible:
        raise InputError(
            f"--format={FLAGS.format} --precision={FLAGS.precision}: not made; it is made in {' or '.join(possible)}"
        )
    program.import_tensorflow()
    from resnetd_tf.deployment import savedmodel, tflite, weights

    convert = {"tflite": tflite.convert, "savedmodel": savedmodel.convert, "safetensors": weights.convert}[FLAGS.format]
    convert(common_flags.model(), FLAGS.precision, FLAGS.output, trust=FLAGS.trust, **common_flags.source())


def define_flags() -> None:
    common_flags.define_model()
    flags.DEFINE_enum("format", "tflite", list(PRECISIONS), "What to make.")
    flags.DEFINE_enum(
        "precision",
        "float32",
        ["float32", "int8", "bfloat16", "float16"],
        "TFLite: float32, or int8, calibrated on the training split. SavedModel: float32, as training leaves it, or "
        "bfloat16. safetensors, weights that PyTorch reads too: float32, or float16, half the size.",
    )
    flags.DEFINE_string(
        "output", None, "A new file or folder; default model-... or savedmodel-... in the run's folder."
    )
    common_flags.define_dataset(
        "What to compare on, and to calibrate on for int8; default the one the model was trained on."
    )


def main() -> None:
    define_flags()
    program.run(export)
