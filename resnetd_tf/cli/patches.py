"""Cuts patches of your own classes from scenes, where polygons or points say what is there.

The patches are read and rendered as maps are. Neighbouring patches stay in one split. train.py trains on the folder.

Examples:
    python patches.py fields.gpkg --scenes=S2B_MSIL1C_20240601.SAFE --label=crop --output=my_patches
    python train.py --weights=eurosat --recipe=few --dataset=folder:my_patches
"""

import pathlib
import shlex

from absl import flags

from resnetd_tf.cli import labels, program
from resnetd_tf.errors import InputError

FLAGS = flags.FLAGS


def cut(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise InputError("give one file of polygons or points, such as fields.gpkg")
    if not FLAGS.output:
        raise InputError("give --output; see --help")
    program.import_tensorflow()
    folder = pathlib.Path(FLAGS.output)
    labels.cut_folder(arguments[0], folder, FLAGS.seed)
    weights = "none" if FLAGS.all_bands else "eurosat"
    suggested = [f"--{name}={value}" for name, value in labels.suggest_settings(folder).items()]
    command = ["python", "train.py", f"--weights={weights}", *suggested, f"--dataset=folder:{folder}"]
    print(f"Train:   {shlex.join(command)}")


def define_flags() -> None:
    labels.define_label_flags()
    flags.DEFINE_string("output", None, "Folder to write; it must not exist.")
    flags.DEFINE_integer("seed", 0, "Seed of the random numbers that divide the places.", lower_bound=0)
    program.define_settings_flags(*labels.RASTER_FLAGS)


def main() -> None:
    define_flags()
    program.run_program(cut, takes_arguments=True)
