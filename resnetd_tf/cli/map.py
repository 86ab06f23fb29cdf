"""Maps the land cover of scenes with a trained classifier.

A scene is a Sentinel-2 product (a .SAFE folder or its .zip), a GeoTIFF, one file for each band, a true-colour picture,
or a STAC item. The map is written as a GeoTIFF, a picture and a table of areas.

Examples:
    python map.py samples/scene.tif --output=maps/wachapreague
    python map.py S2B_MSIL1C_20240601.SAFE --output=maps/june
    python map.py --model=saved_models/mine S2B_MSIL1C_20240601.zip --area=14.1,44.5,14.6,44.8
    python map.py T33UUP_B02.jp2 T33UUP_B03.jp2 T33UUP_B04.jp2 --stride=16 --probabilities
    python map.py stac:sentinel-2-l2a --area=14.1,44.5,14.2,44.6 --date=2024-06-01/2024-06-30 --output=maps/june
    python map.py --before=june.SAFE --after=september.SAFE --output=maps/summer
    python map.py --server=grpc://localhost:8500 --model_name=resnet50d products --output=maps/
"""

import dataclasses
import sys

from absl import flags

from resnetd_tf.cli import program
from resnetd_tf.errors import InputError

FLAGS = flags.FLAGS


def map_scenes(paths: list[str]) -> None:
    if bool(FLAGS.before) != bool(FLAGS.after):
        raise InputError("--before and --after belong together; give both scenes")
    if FLAGS.before and (paths or not FLAGS.output):
        raise InputError("with --before and --after give --output, and no other scene")
    if not paths and not FLAGS.before:
        raise InputError("no scene given; name products, raster files, pictures or folders of them")
    classifier = program.open_model_or_server(sys.stdout)
    if FLAGS.before and program.has_search(FLAGS.before + FLAGS.after):
        raise InputError("--before and --after take no searches, which would have one --date; give addresses of items")
    from resnetd_tf.imagery import landcover
    from resnetd_tf.sentinel2 import BANDS, RGB_BANDS

    options = landcover.MapOptions.for_classifier(
        classifier,
        window=FLAGS.window,
        stride=FLAGS.stride,
        min_probability=FLAGS.min_probability,
        full_resolution=FLAGS.resolution == "scene",
        probabilities=FLAGS.probabilities,
        polygons=FLAGS.polygons,
        overwrite=FLAGS.overwrite,
        area=FLAGS.area,
        keep_clouds=FLAGS.clouds == "keep",
        use_water_index=FLAGS.water == "index",
        applicability=FLAGS.applicability,
        runtime=FLAGS.runtime,
        missing=FLAGS.missing,
        raster_options=dataclasses.replace(program.raster_options_from_flags(), level=FLAGS.level),
    )

    def fetch(scenes: list[str]) -> list[str]:
        output = FLAGS.output or ""
        prefix = output if output.endswith("/") or not output else f"{output}_"
        bands = BANDS if classifier.bands == len(BANDS) else RGB_BANDS
        return program.fetch_remote_scenes(
            scenes, prefix, bands, FLAGS.area, margin=options.window, overwrite=FLAGS.overwrite
        )

    program.check_search_flags(paths)
    if FLAGS.before:
        program.refuse_flags("beside --before", "explain")
        from resnetd_tf.imagery import change

        before, after = fetch(FLAGS.before), fetch(FLAGS.after)
        change.map_change(classifier, before, after, options, FLAGS.output, FLAGS.trust)
        return
    landcover.map_scenes(
        classifier,
        fetch(paths),
        options,
        output=FLAGS.output,
        explain=FLAGS.explain,
        trust=FLAGS.trust,
        include_patches=FLAGS.window is not None,
    )


def define_flags() -> None:
    program.define_imagery_flags()
    program.define_stac_flags()
    flags.DEFINE_integer(
        "window",
        None,
        "Side of the classified windows in pixels; default the side of the training's patches. With this flag, images "
        "of the size of a patch are mapped too.",
        lower_bound=1,
    )
    flags.DEFINE_integer("stride", None, "Side of the map's cells in pixels; default half a window.", lower_bound=1)
    flags.DEFINE_string(
        "output",
        None,
        "Start of the names of a map's files, or a folder if it ends with /; default the scene's name in the current "
        "folder.",
    )
    flags.DEFINE_list("before", None, "The earlier of two scenes whose land cover is compared, or its band files.")
    flags.DEFINE_list("after", None, "The later one. Change is written where both maps have a class.")
    flags.DEFINE_string(
        "area", None, "Part of the scene to map: W,S,E,N in degrees (W > E across 180 degrees), or a .geojson file."
    )
    flags.DEFINE_enum(
        "clouds",
        "mask",
        ["mask", "keep"],
        "Leave out clouds and snow where a product has a mask of them, or map them like land.",
    )
    flags.DEFINE_enum(
        "level",
        None,
        ["L1C", "L2A"],
        "Level of the bands. L1C is seen from above the atmosphere, as in EuroSAT; to L2A the light of the air is "
        "added. Default what the product, its name or its dark pixels say.",
    )
    flags.DEFINE_enum(
        "water",
        "index",
        ["index", "classifier"],
        "Tell water from land by an index of two bands, where a scene has a near infrared band or clear sea, or leave "
        "that to the classifier.",
    )
    flags.DEFINE_enum(
        "applicability",
        "mask",
        ["mask", "mark", "off"],
        "Leave cells empty that are unlike the training images, mark them in the picture, or do not look for them.",
    )
    flags.DEFINE_enum(
        "runtime",
        "auto",
        ["auto", "float32", "bfloat16", "model"],
        "Precision in which windows are classified, or the model as it is; default the fastest of this machine.",
    )
    flags.DEFINE_float(
        "min_probability", 0.0, "Lowest probability of a cell's class, from 0 to 1; less probable cells stay empty."
    )
    flags.DEFINE_enum(
        "resolution", "cells", ["cells", "scene"], "Write one pixel for each cell of the map, or the scene's pixels."
    )
    flags.DEFINE_bool("probabilities", False, "Write the probabilities of all classes too.")
    flags.DEFINE_bool("polygons", False, "Write the classes as polygons too, as a GeoPackage.")
    flags.DEFINE_string(
        "explain",
        None,
        "Picture to draw of the most certain window of each class beside its Grad-CAM, which shows what speaks for it.",
    )
    flags.DEFINE_bool("overwrite", False, "Replace maps and pictures of the same name.")


def main() -> None:
    define_flags()
    program.run_program(map_scenes, takes_arguments=True)
