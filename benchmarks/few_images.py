"""What weights trained on land cover are worth to someone with few images of classes of their own.

    python -m benchmarks.few_images --image_size=64

A ResNet-50-D is trained on eight classes of EuroSAT alone. From its weights, the head alone or all of them, and from
random ones, a classifier of the two others, in a folder of pictures, is trained on 5, 20 and 100 images of each from
the validation split, and tested on their images of the test split. A hundred others of the validation split choose the
epoch. Goes on where it was stopped. EuroSAT is where TFDS_DATA_DIR says. What stands after `--` are flags of train.py
for all.
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
# Flags of train.py that it sets itself.
OWN = ("image_size", "dataset", "split_files", "weights", "freeze", "batch_size", "epochs", "seed")
STEPS = 100  # of a training on few images


def write_lists(folder: pathlib.Path, names: dict[str, list[str]]) -> str:
    """Writes lists of file names, by split, and returns them as --split_files takes them."""
    from resnetd_tf import rundir

    folder.mkdir(parents=True, exist_ok=True)
    for split, listed in names.items():
        rundir.write_text(folder / f"{split}.txt", "\n".join(listed) + "\n")
    return ",".join(str(folder / f"{split}.txt") for split in names)


def write_pictures(folder: pathlib.Path, dataset: "Dataset", classes: list[str]) -> None:
    """Writes the validation and test images of some classes into folders, as PNG, which keeps every pixel."""
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
    if len(set(FLAGS.unseen)) != 2:
        raise InputError(f"--unseen={','.join(FLAGS.unseen)}: expected two classes")
    runs.check_extra_flags(arguments, OWN)
    program.import_tensorflow()
    from resnetd_tf.data import datasets

    settings = Settings(image_size=FLAGS.image_size)
    place = pathlib.Path(FLAGS.runs_dir) / "-".join([*sorted(FLAGS.unseen), str(settings.image_size)])
    dataset = datasets.load_dataset("eurosat/rgb")
    if unknown := set(FLAGS.unseen) - set(dataset.classes):
        raise InputError(f"--unseen: {', '.join(unknown)} not among {', '.join(dataset.classes)}")
    of = {
        split: {name: [file for file in found.names if file.startswith(f"{name}_")] for name in dataset.classes}
        for split, found in dataset.splits.items()
    }
    eight = [name for name in dataset.classes if name not in FLAGS.unseen]
    files = {split: [file for name in eight for file in found[name]] for split, found in of.items()}
    size = f"--image_size={settings.image_size}"
    seen = place / "eight-classes"
    lists = f"--split_files={write_lists(place / 'lists-eight', files)}"
    runs.train_once(seen, [size, "--weights=none", lists], arguments)
    pictures = place / "pictures"
    write_pictures(pictures, dataset, FLAGS.unseen)
    of_eight = f"--weights={seen / 'run-1/model.keras'}"
    starts = {"head": [of_eight, "--freeze=backbone"], "eight": [of_eight], "random": ["--weights=none"]}
    lines = [
        "| images a class | weights of the eight, the head alone trained | all trained | from random weights |",
        "|---|---|---|---|",
    ]
    results = {}
    for count in COUNTS:
        accuracies: dict[str, list[float]] = {start: [] for start in starts}
        for seed in range(FLAGS.seeds):
            first, last = seed * count, (seed + 1) * count
            given = [file for name in FLAGS.unseen for file in of["validation"][name][first:last]]
            checks = [file for name in FLAGS.unseen for file in of["validation"][name][-50:]]
            tests = [file for name in FLAGS.unseen for file in of["test"][name]]
            files = {"train": given, "validation": checks, "test": tests}
            listed = write_lists(place / f"lists-{count}-{seed}", files)
            batch = min(32, len(given))
            epochs = -(-STEPS // (len(given) // batch))
            few = [f"--batch_size={batch}", f"--epochs={epochs}", f"--seed={seed}", f"--split_files={listed}"]
            few += [f"--dataset=folder:{pictures}"]
            for start, weights in starts.items():
                base = place / f"{count}-{start}-{seed}"
                accuracies[start].append(runs.train_once(base, [size, *few, *weights], arguments)["test_accuracy"])
        results[count] = accuracies
        cells = [
            f"{100 * statistics.mean(found):.1f} % ({100 * min(found):.1f} to {100 * max(found):.1f})"
            for found in accuracies.values()
        ]
        lines.append(f"| {count} | {' | '.join(cells)} |")
        print("\n".join(lines[:2] * (len(lines) == 3) + lines[-1:]), flush=True)
    contest.keep(f"few_images-{place.name}", lines, results)


def main() -> None:
    program.define_settings_flags("image_size")
    flags.DEFINE_list("unseen", ["Highway", "River"], "The two classes that the weights have not seen.")
    flags.DEFINE_integer("seeds", 3, "Trainings of each kind, each on other images.", lower_bound=1, upper_bound=3)
    flags.DEFINE_string("runs_dir", "saved_models/few_images", "Where the runs are kept.")
    contest.define_output_dir()
    program.run_program(compare, takes_arguments=True)


if __name__ == "__main__":
    main()
