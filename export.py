"""Converts a trained classifier for deployment.

Examples:
    python export.py --model=saved_models/resnet50d --format=tflite --precision=float32
    python export.py --model=saved_models/resnet50d --format=tflite --precision=int8
"""

from absl import flags

import door

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "saved_models/resnet50d", "A folder of versions (the newest counts) or a SavedModel.")
flags.DEFINE_enum("format", "tflite", ["tflite"], "What to make.")
flags.DEFINE_enum("precision", "float32", ["float32", "int8"], "int8 is calibrated on the training split.")
flags.DEFINE_string("output", None, "A new file; default model-PRECISION.tflite in the run's folder.")
flags.DEFINE_string("dataset", None, "For int8; default the one the model was trained on.")
flags.DEFINE_string("data_dir", None, "Where TFDS keeps datasets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.")
flags.DEFINE_string("eurosat_zip", None, "A EuroSAT archive to prepare the dataset from instead of downloading it.")


def main(argv):
    from resnetd_tf import export

    export.tflite(FLAGS.model, FLAGS.precision, FLAGS.output, FLAGS.dataset, FLAGS.data_dir, FLAGS.eurosat_zip)


if __name__ == "__main__":
    door.run(main)
