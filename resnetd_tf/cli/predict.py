"""Labels image patches with a trained classifier.

A patch is an image of about the size of the training's images. Larger images are scenes, which map.py maps.

Examples:
    python predict.py samples/patches
    python predict.py --model=saved_models/mine --top=10 *.jpg
    python predict.py my_patches --format=csv --picture=labels.png
    python predict.py samples/patches/Forest --explain=forest.png
    python predict.py --server=grpc://localhost:8500 --model_name=resnet50d my_patches
"""

import sys
import typing

from absl import flags

from resnetd_tf.cli import program
from resnetd_tf.errors import InputError

if typing.TYPE_CHECKING:
    from resnetd_tf.saved import SavedClassifier

FLAGS = flags.FLAGS
# Flags of map.py that predict.py once had. They are hidden from --help, and the error says where they are now.
MOVED_FLAGS = (
    "area",
    "clouds",
    "min_probability",
    "output",
    "probabilities",
    "resolution",
    "stride",
    "window",
)


def predict(paths: list[str]) -> None:
    for name in MOVED_FLAGS:
        if FLAGS[name].present:
            raise InputError(f"--{name} is a flag of map.py, which maps scenes; use map.py --{name}")
    if not paths:
        raise InputError("no image given; name files or folders of pictures")
    stream = sys.stdout if FLAGS.format == "table" else sys.stderr  # stdout has nothing but labels as JSON or CSV
    classifier = open_model_or_server(stream)
    from resnetd_tf.imagery import patches

    patches.label_patches(
        classifier,
        paths,
        top=FLAGS.top,
        format=FLAGS.format,
        picture=FLAGS.picture,
        explain=FLAGS.explain,
        trust=FLAGS.trust,
        raster_options=program.raster_options_from_flags(),
        missing=FLAGS.missing,
        overwrite=FLAGS.overwrite,
    )


def open_model_or_server(stream: typing.TextIO) -> "SavedClassifier":
    """Opens the model of --model, or the one on the server of --server, and prints which one it is.

    Args:
        stream: Where the line goes.

    Raises:
        InputError: The model cannot be opened, the server does not answer, or flags of both are given.
    """
    if FLAGS.server is None:
        program.refuse_flags("without --server", "model_name", "version", "timeout")
        program.import_tensorflow()
        return program.open_model(stream)
    program.refuse_flags("beside --server", "model", "trust", "explain")
    program.import_tensorflow()
    from resnetd_tf.deployment import client

    classifier = client.open_served_classifier(FLAGS.server, FLAGS.model_name, FLAGS.version, FLAGS.timeout)
    version = "the newest version" if FLAGS.version is None else f"version {FLAGS.version}"
    print(f"Model: {FLAGS.model_name} at {FLAGS.server}, {version} there, test accuracy not known", file=stream)
    return classifier


def define_model_and_raster_flags() -> None:
    """Defines the flags that predict.py and map.py share: the model or server, and what files do not say."""
    program.define_model_flags()
    flags.DEFINE_string(
        "server",
        None,
        "Address of a TensorFlow Serving to use instead of --model: grpc://HOST:8500 or http://HOST:8501.",
    )
    flags.DEFINE_string("model_name", "resnet50d", "Name of the model on the server.")
    flags.DEFINE_integer(
        "version", None, "Version of the model on the server; default its newest.", lower_bound=1, upper_bound=2**63 - 1
    )
    flags.DEFINE_float("timeout", 30, "Seconds in which the server must answer a request.")
    program.define_settings_flags("bands", "offset", "scale")
    flags.DEFINE_enum(
        "missing",
        "refuse",
        ["refuse", "mean"],
        "Refuse images that lack a band, or fill the band with its mean in the training.",
    )


def define_flags() -> None:
    define_model_and_raster_flags()
    flags.DEFINE_integer("top", 3, "Number of classes to print for each image.", lower_bound=1)
    flags.DEFINE_enum("format", "table", ["table", "json", "csv"], "Format of the printed labels.")
    flags.DEFINE_string("picture", None, "Picture to draw of the first 60 images with their labels.")
    flags.DEFINE_string(
        "explain",
        None,
        "Picture to draw of the first 60 images beside their Grad-CAM, which shows what speaks for each label.",
    )
    flags.DEFINE_bool("overwrite", False, "Replace pictures of the same name.")
    for name in MOVED_FLAGS:
        is_boolean = name == "probabilities"
        flag = (
            flags.BooleanFlag(name, None, "")
            if is_boolean
            else flags.Flag(flags.ArgumentParser(), None, name, None, "")
        )
        flags.DEFINE_flag(flag, module_name="resnetd_tf.cli.map")


def main() -> None:
    define_flags()
    program.run_program(predict, takes_arguments=True)
