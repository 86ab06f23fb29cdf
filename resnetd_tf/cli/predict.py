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

from absl import flags

from resnetd_tf.cli import program
from resnetd_tf.errors import InputError

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
    classifier = program.open_model_or_server(stream)
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


def define_flags() -> None:
    program.define_imagery_flags()
    flags.DEFINE_integer("top", 3, "Number of classes to print for each image.", lower_bound=1)
    flags.DEFINE_enum("format", "table", ["table", "json", "csv"], "Format of the printed labels.")
    flags.DEFINE_string("picture", None, "Picture to draw of the first 60 images with their labels.")
    flags.DEFINE_string(
        "explain",
        None,
        "Picture to draw of the first 60 images beside their Grad-CAM, which shows what speaks for each label.",
    )
    flags.DEFINE_bool("overwrite", False, "Replace pictures of the same name.")
    map_module = "resnetd_tf.cli.map"  # so that --help does not show them
    for name in MOVED_FLAGS:
        if name == "probabilities":
            flags.DEFINE_bool(name, None, "", module_name=map_module)
        else:
            flags.DEFINE(flags.ArgumentParser(), name, None, "", module_name=map_module)


def main() -> None:
    define_flags()
    program.run_program(predict, takes_arguments=True)
