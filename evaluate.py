"""Evaluates a trained classifier: accuracy, per-class scores, confusion matrix, worst mistakes.

Examples:
    python evaluate.py --model=saved_models/resnet50d
    python evaluate.py --model=my_model.keras --dataset=folder:my_patches --split=validation
"""

from absl import flags

import door

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "model", "saved_models/resnet50d", "A folder of versions (the newest counts), SavedModel or .keras."
)
flags.DEFINE_string("split", "test", "train, validation or test (70/20/10), or a TFDS slice such as train[90%:].")
flags.DEFINE_string("dataset", None, "As for train.py; default the one the model was trained on.")
flags.DEFINE_string("data_dir", None, "Where TFDS keeps datasets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.")
flags.DEFINE_string("eurosat_zip", None, "A EuroSAT archive to prepare the dataset from instead of downloading it.")
flags.DEFINE_string("output_dir", None, "A new folder for the results; default evaluation-SPLIT-K beside the model.")


def main(argv):
    from resnetd_tf import evaluation

    evaluation.run(
        FLAGS.model,
        FLAGS.dataset,
        FLAGS.split,
        FLAGS.output_dir,
        data_dir=FLAGS.data_dir,
        eurosat_zip=FLAGS.eurosat_zip,
    )


if __name__ == "__main__":
    door.run(main)
