"""Flags and functions of the programs that cut patches where polygons or points say what is there."""

import dataclasses
import hashlib
import pathlib
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
from absl import flags

from resnetd_tf.cli import program
from resnetd_tf.errors import InputError
from resnetd_tf.training.settings import RECIPES, SMALLEST_IMAGE_SIZE

if TYPE_CHECKING:
    from resnetd_tf.imagery.labelled import LabelledPatches, Labels

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # a flag that is defined here belongs to the program that asks for it

LABEL_FLAGS = (
    *("scenes", "label", "layer", "patch_size", "purity", "block_km", "all_bands", "clouds", "level"),
    *program.STAC_FLAGS,
)
FEW_PATCHES = 1000  # training patches, below which the recipe few is the default
RASTER_FLAGS = ("bands", "offset", "scale", "rendering")


def cut_folder(path: str, folder: pathlib.Path, seed: int) -> None:
    """Cuts patches as the flags say, writes them as a folder, and prints how many each class has.

    Args:
        path: File of the polygons or points.
        folder: The folder to write.
        seed: Seed of the random numbers that divide the places.

    Raises:
        InputError: The folder exists, a flag is missing, or the labels or the scenes cannot be used.
    """
    from resnetd_tf import rundir

    rundir.require_absent(folder)
    _cut_labels(_read_labels(path), folder, seed)


def _read_labels(path: str) -> "Labels":
    """Reads the polygons or points.

    Raises:
        InputError: A flag is missing, or the file cannot be used.
    """
    from resnetd_tf.imagery import labelled

    for name in ("scenes", "label"):
        if not FLAGS[name].value:
            raise InputError(f"give --{name}; see --help")
    labels = labelled.read_labels(path, FLAGS.label, FLAGS.layer)
    if labels.left_out:
        print(f"{path}: {labels.left_out} shapes without a class or a place are left out")
    return labels


def _cut_labels(labels: "Labels", folder: pathlib.Path, seed: int) -> None:
    """Cuts patches of labels, as `cut_folder` does."""
    from resnetd_tf.imagery import labelled, products
    from resnetd_tf.sentinel2 import BANDS, RGB_BANDS

    raster_options = dataclasses.replace(program.raster_options_from_flags(), level=FLAGS.level)
    bands = BANDS if FLAGS.all_bands else RGB_BANDS
    area = ",".join(f"{degrees:.6f}" for degrees in labels.bounds)
    with tempfile.TemporaryDirectory() as fetched_folder:
        program.check_search_flags(FLAGS.scenes)
        paths = program.fetch_remote_scenes(FLAGS.scenes, f"{fetched_folder}/", bands, area, margin=FLAGS.patch_size)
        scenes = []
        for source in products.find_sources(paths):
            keep_levels = FLAGS.rendering is None
            scene = products.open_source(source, bands, raster_options, FLAGS.clouds == "keep", keep_levels=keep_levels)
            print(f"{scene.name}: {scene.description}", flush=True)
            scenes.append(scene)
        patches = labelled.cut_patches(labels, scenes, FLAGS.patch_size, FLAGS.purity)
    splits = labelled.split_by_place(patches, FLAGS.block_km, seed)
    labelled.write_patches(patches, splits, folder)
    print(labelled.format_counts(patches, splits))
    if not FLAGS.all_bands:
        _print_comparison(patches)
    print(f"Written: {folder}, {len(splits)} patches; their outlines: {folder / labelled.OUTLINES_NAME}")


def _print_comparison(patches: "LabelledPatches") -> None:
    """Prints what random splits would promise."""
    from resnetd_tf import saved
    from resnetd_tf.imagery import labelled
    from resnetd_tf.networks.classifier import make_inference_function

    network = saved.eurosat().network
    assert network is not None
    infer, images = make_inference_function(network), np.stack(patches.images)
    size = max(1, 128 * 64**2 // FLAGS.patch_size**2)
    features = np.concatenate([infer(images[start : start + size])[1] for start in range(0, len(images), size)])
    if accuracies := labelled.compare_with_random_splits(patches, features, FLAGS.block_km):
        by_place, at_random = (f"{100 * accuracy:.1f} %" for accuracy in accuracies)
        print(
            f"Splits by place: a linear classifier of the packaged network's features is right for {by_place} of "
            f"patches in other places, and with random splits for {at_random}"
        )


def training_folder(path: str, base: str, seed: int) -> pathlib.Path:
    """Returns the folder of patches for a training, and cuts them unless an earlier run has cut the same ones.

    Args:
        path: File of the polygons or points.
        base: Base path of the model. The folder lies beside it.
        seed: Seed of the random numbers that divide the places.

    Raises:
        InputError: As `cut_folder`.
    """
    labels = _read_labels(path)
    values = {name: FLAGS[name].value for name in (*LABEL_FLAGS, *RASTER_FLAGS)}
    shapes = labels.frame.to_wkb().to_csv()
    digest = hashlib.sha256(repr((values, seed, shapes, _list_files(FLAGS.scenes))).encode()).hexdigest()
    folder = pathlib.Path(f"{base}-patches-{digest[:8]}")
    with filelock.FileLock(pathlib.Path(tempfile.gettempdir()) / f"{folder.name}.lock"):  # another run may cut them too
        if folder.is_dir():
            print(f"Patches: {folder}, cut by an earlier run from the same shapes and scenes")
        else:
            _cut_labels(labels, folder, seed)
    return folder


def suggest_settings(folder: pathlib.Path, recipe: str | None = None) -> dict[str, Any]:
    """Returns settings of train.py that suit the number and the size of patches.

    Args:
        folder: A folder that `cut_folder` wrote.
        recipe: The recipe, if it has been chosen.
    """
    count = sum(1 for _ in folder.glob("train/*/*"))
    suggested: dict[str, Any] = {}
    if recipe is None:
        recipe = "few" if count < FEW_PATCHES else "default"
        suggested["recipe"] = recipe
        if recipe == "default":
            suggested["image_size"] = max(FLAGS.patch_size, SMALLEST_IMAGE_SIZE)
    if recipe == "few" and FLAGS.patch_size > RECIPES[recipe]["image_size"]:
        suggested["image_size"] = FLAGS.patch_size
    if count < RECIPES[recipe]["batch_size"]:
        suggested["batch_size"] = count
    return suggested


def _list_files(scenes: Sequence[str]) -> list[tuple[str, int, int]]:
    """Lists the files of scenes on this machine, each with its size and the time of its last change."""
    files = [file for scene in map(pathlib.Path, scenes) for file in (scene, *sorted(scene.rglob("*")))]
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]


def define_label_flags() -> None:
    """Defines the flags that say which patches are cut from which scenes."""
    flags.DEFINE_list("scenes", None, "Scenes, as map.py takes them, separated by commas.")
    flags.DEFINE_string("label", None, "Attribute of the polygons or points with their classes.")
    flags.DEFINE_string("layer", None, "Layer of the polygons or points, if their file has several.")
    flags.DEFINE_integer("patch_size", 64, "Side of a patch in pixels of 10 m.", lower_bound=8, upper_bound=1024)
    flags.DEFINE_float(
        "purity", 0.8, "Least share of a patch that lies in polygons of its class.", lower_bound=0, upper_bound=1
    )
    flags.DEFINE_float(
        "block_km", 1.0, "Side in kilometres of the blocks whose patches stay in one split.", lower_bound=0
    )
    flags.DEFINE_bool("all_bands", False, "Use all 13 bands instead of the colours.")
    flags.DEFINE_enum("clouds", "mask", ["mask", "keep"], "Leave out clouds where a product has a mask of them.")
    flags.DEFINE_enum("level", None, ["L1C", "L2A"], "Level of the bands; default what the product or its name says.")
    program.define_stac_flags()
