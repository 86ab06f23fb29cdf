"""Converts a trained classifier for deployment.

Examples:
    python export.py --model=saved_models/resnet50d --format=tflite --precision=float32
    python export.py --model=saved_models/resnet50d --format=tflite --precision=int8
    python export.py --model=saved_models/resnet50d --format=savedmodel --precision=bfloat16
"""

from absl import flags

from resnetd_tf.cli import common_flags, program
from resnetd_tf.errors import InputError

FLAGS = flags.FLAGS


def export(arguments: list[str]) -> None:
    if (FLAGS.format == "savedmodel") != (FLAGS.precision == "bfloat16"):
        raise InputError(
            f"--format={FLAGS.format} --precision={FLAGS.precision}: not made; bfloat16 needs --format=savedmodel, "
            "float32 and int8 need --format=tflite"
        )
    program.import_tensorflow()
    from resnetd_tf.deployment import savedmodel, tflite

    if FLAGS.format == "savedmodel":
        savedmodel.convert_to_bfloat16(FLAGS.model, FLAGS.output, **common_flags.source())
    else:
        tflite.convert(FLAGS.model, FLAGS.precision, FLAGS.output, **common_flags.source())


def define_flags() -> None:
    common_flags.define_model()
    flags.DEFINE_enum("format", "tflite", ["tflite", "savedmodel"], "What to make.")
    flags.DEFINE_enum(
        "precision",
        "float32",
        ["float32", "int8", "bfloat16"],
        "TFLite: float32, or int8, calibrated on the training split. SavedModel: bfloat16; training leaves float32.",
    )
    flags.DEFINE_string(
        "output", None, "A new file or folder; default model-... or savedmodel-... in the run's folder."
    )
    common_flags.define_dataset("For int8 and bfloat16; default the one the model was trained on.")


def main() -> None:
    define_flags()
    program.run(export)
