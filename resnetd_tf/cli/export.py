"""Converts a trained classifier for deployment.

Examples:
    python export.py --model=saved_models/resnet50d --format=tflite --precision=float32
    python export.py --model=saved_models/resnet50d --format=tflite --precision=int8
    python export.py --model=saved_models/resnet50d --format=savedmodel --precision=bfloat16
"""

from absl import flags

from resnetd_tf.cli import program

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "saved_models/resnet50d", "A folder of versions (the newest counts) or a SavedModel.")
flags.DEFINE_enum("format", "tflite", ["tflite", "savedmodel"], "What to make.")
flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "int8", "bfloat16"],
    "TFLite: float32, or int8, calibrated on the training split. SavedModel: bfloat16; training leaves float32.",
)
flags.DEFINE_string("output", None, "A new file or folder; default model-... or savedmodel-... in the run's folder.")
flags.DEFINE_string("dataset", None, "For int8 and bfloat16; default the one the model was trained on.")
flags.DEFINE_string("data_dir", None, "Where TFDS keeps datasets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.")
flags.DEFINE_string("eurosat_zip", None, "A EuroSAT archive to prepare the dataset from instead of downloading it.")


def main(argv):
    from resnetd_tf.deployment import savedmodel as export
    from resnetd_tf.errors import InputError

    chosen = FLAGS.dataset, FLAGS.data_dir, FLAGS.eurosat_zip
    if (FLAGS.format == "savedmodel") != (FLAGS.precision == "bfloat16"):
        raise InputError(f"--format={FLAGS.format} --precision={FLAGS.precision}: not made; see --help for what is")
    if FLAGS.format == "savedmodel":
        export.bfloat16(FLAGS.model, FLAGS.output, *chosen)
    else:
        export.tflite(FLAGS.model, FLAGS.precision, FLAGS.output, *chosen)


if __name__ == "__main__":
    program.run(main)
