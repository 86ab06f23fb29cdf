"""Cuts patches of your own classes from scenes, where polygons or points say what is there.

The patches are read and rendered as maps are. Neighbouring patches stay in one split. train.py trains on the folder.

Examples:
    python patches.py fields.gpkg --scenes=S2B_MSIL1C_20240601.SAFE --label=crop --output=my_patches
    python train.py --weights=eurosat --variant=d --image_size=64 --dataset=folder:my_patches
"""

import dataclasses
import pathlib
import shlex

from absl import flags

from resnetd_tf.cli import program
from resnetd_tf.errors import InputError

FLAGS = flags.FLAGS


def cut(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise InputError("give one file of polygons or points, such as fields.gpkg")
    for name in ("scenes", "label", "output"):
        if not FLAGS[name].value:
            raise InputError(f"give --{name}; see --help")
    program.import_tensorflow()
    from resnetd_tf import rundir
    from resnetd_tf.imagery import labelled, products
    from resnetd_tf.sentinel2 import BANDS, RGB_BANDS

    folder = pathlib.Path(FLAGS.output)
    rundir.require_absent(folder)
    labels = labelled.read_labels(arguments[0], FLAGS.label, FLAGS.layer)
    raster_options = dataclasses.replace(program.raster_options_from_flags(), level=FLAGS.level)
    bands = BANDS if FLAGS.all_bands else RGB_BANDS
    scenes = []
    for source in products.find_sources(FLAGS.scenes):
        keep_levels = FLAGS.rendering is None
        scene = products.open_source(source, bands, raster_options, FLAGS.clouds == "keep", keep_levels=keep_levels)
        print(f"{scene.name}: {scene.description}", flush=True)
        scenes.append(scene)
    patches = labelled.cut_patches(labels, scenes, FLAGS.size, FLAGS.purity)
    splits = labelled.split_by_place(patches, FLAGS.block_km, FLAGS.seed)
    labelled.write_patches(patches, splits, folder)
    print(labelled.format_counts(patches, splits))
    print(f"Written: {folder}, {len(splits)} patches; their outlines: {folder / 'patches.gpkg'}")
    weights = "none" if FLAGS.all_bands else "eurosat"
    command = ["python", "train.py", "--variant=d", f"--weights={weights}", f"--image_size={FLAGS.size}"]
    print(f"Train:   {shlex.join([*command, f'--dataset=folder:{folder}'])}")


def define_flags() -> None:
    flags.DEFINE_list("scenes", None, "Scenes, as map.py takes them, separated by commas.")
    flags.DEFINE_string("label", None, "Attribute of the polygons or points with their classes.")
    flags.DEFINE_string("layer", None, "Layer of the polygons or points, if their file has several.")
    flags.DEFINE_string("output", None, "Folder to write; it must not exist.")
    flags.DEFINE_integer("size", 64, "Side of a patch in pixels of 10 m.", lower_bound=8, upper_bound=1024)
    flags.DEFINE_float(
        "purity", 0.8, "Least share of a patch that lies in polygons of its class.", lower_bound=0, upper_bound=1
    )
    flags.DEFINE_float(
        "block_km", 1.0, "Side in kilometres of the blocks whose patches stay in one split.", lower_bound=0
    )
    flags.DEFINE_integer("seed", 0, "Seed of the random numbers that divide the places.", lower_bound=0)
    flags.DEFINE_bool("all_bands", False, "Write all 13 bands as GeoTIFF files instead of pictures.")
    flags.DEFINE_enum("clouds", "mask", ["mask", "keep"], "Leave out clouds where a product has a mask of them.")
    flags.DEFINE_enum("level", None, ["L1C", "L2A"], "Level of the bands; default what the product or its name says.")
    program.define_settings_flags("bands", "offset", "scale", "rendering")


def main() -> None:
    define_flags()
    program.run_program(cut, takes_arguments=True)
