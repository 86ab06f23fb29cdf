"""Compares starting weights for someone with few images of two classes of their own.

    python -m benchmarks.few_images

A ResNet-50-D is trained on eight classes of EuroSAT, with the default recipe at 64x64 pixels. Classifiers of the other
two classes then start from its weights or from random weights. Each trains by the recipe `few` on 5, 20 or 100 images
of each class from the validation split. The test split measures accuracy, and another hundred validation images choose
the epoch. The benchmark continues where it was stopped. EuroSAT is in TFDS_DATA_DIR. Arguments after `--` are flags of
train.py for all trainings.
"""

import pathlib
import statistics
from typing import TYPE_CHECKING

from absl import flags

from benchmarks import contest, runs
from resnetd_tf.cli import program
from resnetd_tf.errors import InputError
from resnetd_tf.training.settings import Settings

if TYPE_CHECKING:
    from resnetd_tf.data.splits import Dataset

FLAGS = flags.FLAGS
COUNTS = (5, 20, 100)
# Flags of train.py that the benchmark sets.
OWN = ("recipe", "image_size", "dataset", "split_files", "weights", "batch_size", "seed")
IMAGE_SIZE = 64  # of the recipe few
CHECKED_IMAGES = 50  # images of each class that choose the epoch


def write_lists(folder: pathlib.Path, names: dict[str, list[str]]) -> str:
    """Writes the lists of file names of three splits, and returns their paths as --split_files takes them."""
    from resnetd_tf import rundir

    folder.mkdir(parents=True, exist_ok=True)
    for split, listed in names.items():
        rundir.write_text(folder / f"{split}.txt", "\n".join(listed) + "\n")
    return ",".join(str(folder / f"{split}.txt") for split in names)


def write_pictures(folder: pathlib.Path, dataset: "Dataset", classes: list[str]) -> None:
    """Writes the validation and test images of some classes into class folders, as PNG, which keeps every pixel."""
    from PIL import Image

    from resnetd_tf import rundir

    for split in (dataset.splits["validation"], dataset.splits["test"]):
        for name, pixels, label in zip(split.names, split.images, split.labels):
            path = folder / dataset.classes[label] / pathlib.Path(name).with_suffix(".png")
            if dataset.classes[label] in classes and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with rundir.write_atomically(path) as temporary:
                    Image.fromarray(pixels).save(temporary, "PNG")


def compare(arguments: list[str]) -> None:
    """Trains all classifiers, prints the table of their accuracies and writes it."""
    if len(set(FLAGS.unseen)) != 2:
        raise InputError(f"--unseen={','.join(FLAGS.unseen)}: expected two classes")
    runs.check_extra_flags(arguments, OWN)
    program.import_tensorflow()
    from resnetd_tf.data import datasets

    folder = pathlib.Path(FLAGS.runs_dir) / "-".join(sorted(FLAGS.unseen))
    dataset = datasets.load_dataset("eurosat/rgb")
    if unknown := set(FLAGS.unseen) - set(dataset.classes):
        raise InputError(f"--unseen: {', '.join(unknown)} not among {', '.join(dataset.classes)}")
    files_by_class = {
        split: {name: [file for file in images.names if file.startswith(f"{name}_")] for name in dataset.classes}
        for split, images in dataset.splits.items()
    }
    eight_classes = train_on_eight_classes(folder, files_by_class, arguments)
    pictures = folder / "pictures"
    write_pictures(pictures, dataset, FLAGS.unseen)
    starts = {"eight": f"--weights={eight_classes / 'run-1/model.keras'}", "random": "--weights=none"}
    lines = ["| images a class | from the weights of the eight | from random weights |", "|---|---|---|"]
    results = {}
    for count in COUNTS:
        accuracies: dict[str, list[float]] = {start: [] for start in starts}
        for seed in range(FLAGS.seeds):
            flags_of_seed = [f"--dataset=folder:{pictures}", *make_flags(folder, files_by_class, count, seed)]
            for start, weights in starts.items():
                base = folder / f"{count}-{start}-{seed}"
                metrics = runs.train_once(base, [*flags_of_seed, weights], arguments)
                accuracies[start].append(metrics["test_accuracy"])
        results[count] = accuracies
        cells = [
            f"{100 * statistics.mean(values):.1f} % ({100 * min(values):.1f} to {100 * max(values):.1f})"
            for values in accuracies.values()
        ]
        lines.append(f"| {count} | {' | '.join(cells)} |")
        print("\n".join(lines[:2] * (len(lines) == 3) + lines[-1:]), flush=True)
    contest.keep(f"few_images-{folder.name}", lines, results)


FilesByClass = dict[str, dict[str, list[str]]]  # file names by split and class


def train_on_eight_classes(folder: pathlib.Path, files_by_class: FilesByClass, arguments: list[str]) -> pathlib.Path:
    """Trains a classifier without the unseen classes, and returns the base path of its run."""
    names = {
        split: [file for name, files in by_class.items() if name not in FLAGS.unseen for file in files]
        for split, by_class in files_by_class.items()
    }
    base = folder / "eight-classes"
    split_files = write_lists(folder / "lists-eight", names)
    flags_of_run = [f"--image_size={IMAGE_SIZE}", "--weights=none", f"--split_files={split_files}"]
    runs.train_once(base, flags_of_run, arguments)
    return base


def make_flags(folder: pathlib.Path, files_by_class: FilesByClass, count: int, seed: int) -> list[str]:
    """Returns the flags of a training on `count` images of each unseen class; each seed has images of its own."""

    def select(split: str, part: slice) -> list[str]:
        return [file for name in FLAGS.unseen for file in files_by_class[split][name][part]]

    names = {
        "train": select("validation", slice(seed * count, (seed + 1) * count)),
        "validation": select("validation", slice(-CHECKED_IMAGES, None)),
        "test": select("test", slice(None)),
    }
    split_files = write_lists(folder / f"lists-{count}-{seed}", names)
    batch_size = min(Settings(recipe="few").batch_size, len(names["train"]))
    return ["--recipe=few", f"--batch_size={batch_size}", f"--seed={seed}", f"--split_files={split_files}"]


def main() -> None:
    flags.DEFINE_list("unseen", ["Highway", "River"], "The two classes that the weights have not seen.")
    flags.DEFINE_integer(
        "seeds", 3, "Number of trainings of each kind, each on images of its own.", lower_bound=1, upper_bound=3
    )
    flags.DEFINE_string("runs_dir", "saved_models/few_images", "Folder for the runs.")
    contest.define_output_dir()
    program.run_program(compare, takes_arguments=True)


if __name__ == "__main__":
    main()
