"""Evaluates a trained classifier: accuracy, scores of each class, confusion matrix, most confident mistakes.

Examples:
    python evaluate.py --model=saved_models/resnet50d
    python evaluate.py --model=my_model.keras --dataset=folder:my_patches --split=validation
    python evaluate.py --model=eurosat --dataset=folder:my_patches --split=all
    python evaluate.py --model=saved_models/resnet50d --corruptions
    python evaluate.py --dataset=imagenet2012 --variant=d --weights=imagenet
"""

import re

from absl import flags

from resnetd_tf.cli import program
from resnetd_tf.training.settings import Settings

FLAGS = flags.FLAGS


def evaluate(arguments: list[str]) -> None:
    network = Settings(depth=FLAGS.depth, variant=FLAGS.variant)
    on_imagenet = bool(FLAGS.weights or re.match("imagenet(2012|_)", FLAGS.dataset or ""))
    if FLAGS.weights:
        program.refuse_flags("beside --weights", "model", "trust")
    else:
        program.refuse_flags("without --weights", "variant", "depth")
    if on_imagenet:
        program.refuse_flags("for ImageNet", "eurosat_zip", "split_files", "corruptions", "turns")
    program.import_tensorflow()
    from resnetd_tf.evaluation import run

    if on_imagenet:
        run.evaluate_on_imagenet(
            None if FLAGS.weights else program.open_model(),
            weights=FLAGS.weights,
            depth=network.depth,
            variant=network.variant,
            dataset=FLAGS.dataset or "imagenet2012",
            split=FLAGS.split or "validation",
            output_dir=FLAGS.output_dir,
            data_dir=FLAGS.data_dir,
        )
    else:
        run.evaluate(
            program.open_model(),
            split=FLAGS.split or "test",
            under_corruptions=FLAGS.corruptions,
            over_turns=FLAGS.turns,
            output_dir=FLAGS.output_dir,
            trust=FLAGS.trust,
            **program.dataset_arguments(),
        )


def define_flags() -> None:
    program.define_model_flags()
    flags.DEFINE_string(
        "split",
        None,
        "Images to evaluate on: train, validation or test as in training, all for every image, or a TFDS slice such as "
        "train[90%:]; default test, or validation for ImageNet.",
    )
    program.define_dataset_flags(
        "Dataset as for train.py, or imagenet2012 for 1000 classes; default the one the model was trained on."
    )
    flags.DEFINE_string(
        "weights",
        None,
        "Weights to evaluate on ImageNet, as for train.py, instead of --model; --depth and --variant name the network.",
    )
    program.define_settings_flags("variant", "depth")
    flags.DEFINE_bool("turns", False, "Average the probabilities over the eight rotations and flips of each image.")
    flags.DEFINE_bool(
        "corruptions",
        False,
        "Measure accuracy and calibration on noisy, blurred, compressed and otherwise corrupted images.",
    )
    flags.DEFINE_string(
        "output_dir",
        None,
        "A new folder for the results; default evaluation-SPLIT-K beside the model, or here for eurosat.",
    )


def main() -> None:
    define_flags()
    program.run_program(evaluate)
