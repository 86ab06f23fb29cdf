"""Labels image files with a trained classifier.

Examples:
    python predict.py field.jpg forest.png
    python predict.py --model=saved_models/mine --top=10 *.jpg
"""

from absl import flags

from resnetd_tf.cli import common_flags, program

FLAGS = flags.FLAGS
common_flags.define_model()
flags.DEFINE_integer("top", 3, "Number of classes to print for each image.", lower_bound=1)


def predict(paths: list[str]) -> None:
    program.import_tensorflow()
    from resnetd_tf.imagery import patches

    patches.predict(FLAGS.model, paths, FLAGS.top)


def main() -> None:
    program.run(predict, takes_arguments=True)
