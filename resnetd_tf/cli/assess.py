"""Assesses the accuracy of a map, and estimates the areas of its classes with their uncertainty.

First draw places at random within each class of the map, and label them: by eye in the pictures or in QGIS, or in the
field. Then estimate. Pixels that a map counts are no areas: its errors add to some classes and take from others.

Examples:
    python assess.py maps/june_landcover.tif --design --scene=S2B_MSIL1C_20240601.SAFE
    python assess.py maps/june_landcover.tif --design --samples=400 --area=14.1,44.5,14.6,44.8
    python assess.py maps/june_landcover.tif --reference=maps/june_sample.gpkg
"""

import pathlib
import re
import shlex

from absl import flags

from resnetd_tf.cli import program
from resnetd_tf.errors import InputError

FLAGS = flags.FLAGS


def assess(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise InputError("give one map of classes, such as MAP_landcover.tif")
    if FLAGS.design == bool(FLAGS.reference):
        raise InputError("give --design to draw places to label, or --reference=FILE with their labels")
    from resnetd_tf.imagery import assessment

    class_map = assessment.read_class_map(arguments[0], FLAGS.area)
    base = name_outputs(arguments[0], FLAGS.output)
    if FLAGS.design:
        program.refuse_flags("beside --design", "label", "layer")
        design_sample(class_map, base)
    else:
        design_flags = ("scene", "samples", "standard_error", "seed", "bands", "offset", "scale", "rendering")
        program.refuse_flags("beside --reference", *design_flags)
        estimate(class_map, base)


def name_outputs(map_path: str, output: str | None) -> pathlib.Path:
    """Returns what the names of the files begin with: the name of the map, or what the user says."""
    name = re.sub("(_landcover)?[.]tiff?$", "", pathlib.Path(map_path).name, flags=re.IGNORECASE)
    if output is None:
        return pathlib.Path(map_path).with_name(name)
    base = pathlib.Path(output) / name if output.endswith("/") else pathlib.Path(output)
    if not base.name or base.is_dir():
        raise InputError(f"--output={output}: give what the names of files begin with, as maps/june")
    return base


def design_sample(class_map, base: pathlib.Path) -> None:
    """Draws places, writes them, and prints what to do with them."""
    from resnetd_tf.imagery import assessment

    if not FLAGS.standard_error > 0:
        raise InputError(f"--standard_error={FLAGS.standard_error}: give a number such as 0.02")
    if FLAGS.samples is not None:
        program.refuse_flags("beside --samples", "standard_error")
    scene = None
    if FLAGS.scene:
        program.import_tensorflow()
        from resnetd_tf.imagery import products

        source = products.find_single_source(FLAGS.scene)
        raster_options = program.raster_options_from_flags()
        scene = products.open_source(source, raster_options=raster_options, keep_clouds=True)
        scene.require_crs()
    else:
        program.refuse_flags("without --scene", "bands", "offset", "scale", "rendering")
    sizes = assessment.choose_sample_sizes(class_map, FLAGS.standard_error, FLAGS.samples)
    places = assessment.draw_places(class_map, sizes, FLAGS.seed)
    is_census = len(places) == class_map.pixel_counts.sum()
    selection = "every pixel of the map" if is_census else "drawn at random within each class"
    width = max(map(len, class_map.names))
    print(f"{len(places)} places, {selection}:")
    for name, size, area in zip(class_map.names, sizes.tolist(), class_map.areas.tolist()):
        print(f"  {name:{width}}  {size:>5}  of {area:,.1f} ha")
    written = assessment.write_sample(class_map, places, base, scene, FLAGS.overwrite)
    print(f"Written: {', '.join(map(str, written))}")
    print("Label them without looking at the map: write the class of most of the outlined square into the column")
    print("reference, with one of these names. Leave it empty where you cannot tell.")
    command = ["python", "assess.py", str(class_map.path), f"--reference={written[0]}"]
    command += [f"--area={FLAGS.area}"] if FLAGS.area else []
    print(f"Then:    {shlex.join(command)}")


def estimate(class_map, base: pathlib.Path) -> None:
    """Estimates accuracy and areas from labelled places, prints and writes them."""
    from resnetd_tf.imagery import assessment

    counts, is_drawn, note = assessment.read_reference(FLAGS.reference, class_map, FLAGS.label, FLAGS.layer)
    pixel_counts = class_map.pixel_counts if is_drawn else None  # several places from elsewhere may share a pixel
    accuracy = assessment.estimate_accuracy(class_map.names, counts, class_map.areas, pixel_counts)
    print(f"{class_map.path}: {note}")
    print(assessment.format_accuracy(accuracy))
    source = {"reference": FLAGS.reference, "area": FLAGS.area, "places": note}
    print(f"Written: {', '.join(assessment.write_accuracy(accuracy, class_map, base, source, FLAGS.overwrite))}")


def define_flags() -> None:
    flags.DEFINE_bool("design", False, "Draw places to label.")
    flags.DEFINE_string(
        "reference",
        None,
        "Labelled places: a GeoPackage, GeoJSON or Shapefile, or a CSV with longitude and latitude in degrees.",
    )
    flags.DEFINE_string("layer", None, "Layer of the labelled places, if their file has several.")
    flags.DEFINE_string("label", "reference", "Attribute or column with the reference classes.")
    flags.DEFINE_float(
        "standard_error",
        0.02,
        "Wanted standard error of the overall accuracy, from which follows how many places are drawn.",
        lower_bound=0.001,
        upper_bound=0.2,
    )
    flags.DEFINE_integer(
        "samples",
        None,
        "Number of places to draw, in place of --standard_error; at least two of each class.",
        lower_bound=2,
    )
    flags.DEFINE_integer("seed", 0, "Seed of the random numbers.", lower_bound=0)
    flags.DEFINE_string("area", None, "Part of the map to assess: W,S,E,N in degrees, or a .geojson file.")
    flags.DEFINE_list("scene", None, "The scene of the map, to draw a picture of each place from.")
    flags.DEFINE_string("output", None, "Start of the names of the files; default the map's.")
    flags.DEFINE_bool("overwrite", False, "Replace files of the same name, also labels in an earlier sample.")
    program.define_settings_flags("bands", "offset", "scale", "rendering")


def main() -> None:
    define_flags()
    program.run_program(assess, takes_arguments=True)
