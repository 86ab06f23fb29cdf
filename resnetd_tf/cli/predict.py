"""Labels images with a trained classifier, and maps scenes.

An image of about the size of the training's patches gets a label. Whatever is larger becomes a map of land cover:
Sentinel-2 products (a .SAFE folder or its .zip), GeoTIFFs, one file per band, true-colour pictures.

Examples:
    python predict.py samples/patches
    python predict.py --model=saved_models/mine --top=10 *.jpg
    python predict.py my_patches --format=csv --picture=labels.png
    python predict.py samples/scene.tif --output=maps/wachapreague
    python predict.py S2B_MSIL1C_20240601.SAFE --output=maps/june
    python predict.py --server=grpc://localhost:8500 --model_name=resnet50d my_patches
    python predict.py T33UUP_B02.jp2 T33UUP_B03.jp2 T33UUP_B04.jp2 --stride=16 --probabilities
"""

import sys
import typing

from absl import flags

from resnetd_tf.cli import program
from resnetd_tf.errors import InputError

FLAGS = flags.FLAGS


def predict(paths: list[str]) -> None:
    if not paths:
        raise InputError("no image given; name files or folders of pictures")
    if FLAGS.server is not None:
        program.refuse_flags("beside --server", "model", "trust", "explain")
    else:
        program.refuse_flags("without --server", "model_name", "version", "timeout")
    program.import_tensorflow()
    from resnetd_tf.imagery import landcover

    stream = sys.stdout if FLAGS.format == "table" else sys.stderr  # labels as JSON or CSV are to stay such
    classifier = program.open_model(stream) if FLAGS.server is None else _served(stream)
    landcover.label_or_map(
        classifier,
        paths,
        top=FLAGS.top,
        format=FLAGS.format,
        picture=FLAGS.picture,
        explain=FLAGS.explain,
        trust=FLAGS.trust,
        window=FLAGS.window,
        stride=FLAGS.stride,
        output=FLAGS.output,
        bands=FLAGS.bands and FLAGS.bands.split(","),
        scale=FLAGS.scale,
        offset=FLAGS.offset,
        missing=FLAGS.missing,
        area=FLAGS.area,
        keep_clouds=FLAGS.clouds == "keep",
        min_probability=FLAGS.min_probability,
        whole=FLAGS.resolution == "scene",
        probabilities=FLAGS.probabilities,
        overwrite=FLAGS.overwrite,
    )


def _served(stream: typing.TextIO):
    """The classifier on the server that --server says; prints which one it is."""
    from resnetd_tf.deployment import client

    classifier = client.open_served_classifier(FLAGS.server, FLAGS.model_name, FLAGS.version, FLAGS.timeout)
    version = "the newest version" if FLAGS.version is None else f"version {FLAGS.version}"
    print(f"Model: {FLAGS.model_name} at {FLAGS.server}, {version} there, test accuracy not known", file=stream)
    return classifier


def define_flags() -> None:
    program.define_model_flags()
    flags.DEFINE_string(
        "server", None, "Ask a TensorFlow Serving instead of --model: grpc://HOST:8500 or http://HOST:8501."
    )
    flags.DEFINE_string("model_name", "resnet50d", "Of a server: what the model is called there.")
    flags.DEFINE_integer(
        "version",
        None,
        "Of a server: the version of the model; default its newest.",
        lower_bound=1,
        upper_bound=2**63 - 1,
    )
    flags.DEFINE_float("timeout", 30, "Of a server: seconds in which a request must be answered.")
    flags.DEFINE_integer("top", 3, "Number of classes to print for each image.", lower_bound=1)
    flags.DEFINE_enum("format", "table", ["table", "json", "csv"], "How labels are printed.")
    flags.DEFINE_string("picture", None, "Where to draw the first images with their labels.")
    flags.DEFINE_string(
        "explain",
        None,
        "Where to draw what in the first images speaks for their label, or in a scene for each class (Grad-CAM).",
    )
    flags.DEFINE_integer(
        "window",
        None,
        "Of maps: side in pixels of the windows that are classified; default the side of the training's patches. If "
        "given, images of any size are mapped.",
        lower_bound=1,
    )
    flags.DEFINE_integer("stride", None, "Of maps: side of a cell in pixels; default half a window.", lower_bound=1)
    flags.DEFINE_string(
        "output", None, "Of maps: what their files' names begin with, or a folder/; default the scene's name."
    )
    program.define_settings_flags("bands", "offset", "scale")
    flags.DEFINE_enum(
        "missing",
        "refuse",
        ["refuse", "mean"],
        "What becomes of images that lack a band: they are refused, or get the training's mean.",
    )
    flags.DEFINE_string(
        "area", None, "Of scenes: the part to map, W,S,E,N in degrees (W > E across 180) or a .geojson file."
    )
    flags.DEFINE_enum(
        "clouds",
        "mask",
        ["mask", "keep"],
        "Of products that tell where clouds and snow are: leave them out, or map them.",
    )
    flags.DEFINE_float("min_probability", 0.0, "Of maps: cells whose best class is less probable stay empty.")
    flags.DEFINE_enum("resolution", "cells", ["cells", "scene"], "Of maps: a pixel a cell, or the scene's pixels.")
    flags.DEFINE_bool("probabilities", False, "Of maps: write the probabilities of all classes too.")
    flags.DEFINE_bool("overwrite", False, "Replace maps and pictures of the same name.")


def main() -> None:
    define_flags()
    program.run_program(predict, takes_arguments=True)
