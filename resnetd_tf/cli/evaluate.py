"""Evaluates a trained classifier: accuracy, per-class scores, confusion matrix, worst mistakes.

Examples:
    python evaluate.py --model=saved_models/resnet50d
    python evaluate.py --model=my_model.keras --dataset=folder:my_patches --split=validation
    python evaluate.py --dataset=imagenet2012 --variant=d --weights=imagenet
"""

from absl import flags

from resnetd_tf.cli import program

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "model", "saved_models/resnet50d", "A folder of versions (the newest counts), SavedModel or .keras."
)
flags.DEFINE_string(
    "split",
    None,
    "train, validation or test (70/20/10), or a TFDS slice such as train[90%:]; default test, of ImageNet validation.",
)
flags.DEFINE_string(
    "dataset", None, "As for train.py, or imagenet2012 for 1000 classes; default the one the model was trained on."
)
flags.DEFINE_string(
    "weights", None, "For imagenet2012: evaluate these weights, as for train.py, of --depth and --variant, not --model."
)
flags.DEFINE_enum("variant", "d", ["base", "b", "c", "d"], "Refinement of the network that --weights are for.")
flags.DEFINE_enum("depth", "50", ["18", "34", "50", "101", "152"], "Layers of the network that --weights are for.")
flags.DEFINE_string("data_dir", None, "Where TFDS keeps datasets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.")
flags.DEFINE_string("eurosat_zip", None, "A EuroSAT archive to prepare the dataset from instead of downloading it.")
flags.DEFINE_string("output_dir", None, "A new folder for the results; default evaluation-SPLIT-K beside the model.")


def main(argv):
    from resnetd_tf.evaluation import imagenet
    from resnetd_tf.evaluation import metrics as evaluation

    if FLAGS.weights or (FLAGS.dataset or "").startswith("imagenet"):
        imagenet.run(
            FLAGS.dataset or "imagenet2012",
            model=FLAGS.model,
            depth=int(FLAGS.depth),
            variant=FLAGS.variant,
            weights=FLAGS.weights,
            split=FLAGS.split or "validation",
            data_dir=FLAGS.data_dir,
            output_dir=FLAGS.output_dir,
        )
    else:
        evaluation.run(
            FLAGS.model,
            FLAGS.dataset,
            FLAGS.split or "test",
            FLAGS.output_dir,
            data_dir=FLAGS.data_dir,
            eurosat_zip=FLAGS.eurosat_zip,
        )


if __name__ == "__main__":
    program.run(main)
