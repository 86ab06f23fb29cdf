"""Labels image files with a trained classifier.

Examples:
    python predict.py field.jpg forest.png
    python predict.py --model=saved_models/mine --top=10 *.jpg
"""

from absl import flags

from resnetd_tf.cli import program

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "model", "saved_models/resnet50d", "A folder of versions (the newest counts), SavedModel or .keras."
)
flags.DEFINE_integer("top", 3, "Classes to print for each image.", lower_bound=1)


def main(argv):
    from resnetd_tf.imagery import patches as imagery

    imagery.predict(FLAGS.model, argv[1:], FLAGS.top)


if __name__ == "__main__":
    program.run(main)
