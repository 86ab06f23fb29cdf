"""Labels image files with a trained classifier.

Examples:
    python predict.py field.jpg forest.png
    python predict.py --model=saved_models/mine --top=10 *.jpg
"""

from absl import flags

from resnetd_tf.cli import common_flags, program
from resnetd_tf.errors import InputError

FLAGS = flags.FLAGS


def predict(paths: list[str]) -> None:
    if not paths:
        raise InputError("no image given")
    program.import_tensorflow()
    from resnetd_tf.imagery import patches

    patches.predict(common_flags.model(), paths, FLAGS.top, max_pixels=FLAGS.max_pixels, trust=FLAGS.trust)


def define_flags() -> None:
    common_flags.define_model()
    flags.DEFINE_integer("top", 3, "Number of classes to print for each image.", lower_bound=1)
    flags.DEFINE_integer("max_pixels", 2**26, "The most pixels that an image may have.", lower_bound=1)


def main() -> None:
    define_flags()
    program.run(predict, takes_arguments=True)
