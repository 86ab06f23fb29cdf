"""Table 1: the four networks, trained on EuroSAT alike, beside what the report gives.

    python -m benchmarks.table --image_size=64                     # each network once
    python -m benchmarks.table --image_size=64 --variants=d --seeds=1,2
    python -m benchmarks.table --recipe=report --image_size=64 -- --precision=float32

Trains from random weights whatever is missing of these runs, goes on with one that was stopped, and writes the table of
all that are finished, as Markdown and JSON, with the curves. What stands after `--` are flags of train.py; runs with
others cannot be in the same table.
"""

import json
import pathlib
import re
import statistics

import numpy as np
from absl import flags

from benchmarks import contest, runs
from resnetd_tf.cli import program
from resnetd_tf.errors import InputError
from resnetd_tf.training.settings import Settings

FLAGS = flags.FLAGS
NAMES = {"base": "ResNet-{}", "b": "ResNet-{}-B", "c": "ResNet-{}-C", "d": "ResNet-{}-D"}
# The report, of depth 50: ImageNet top-1, which it quotes from arXiv 1812.01187, table 5; and its own on EuroSAT.
IMAGENET = {"base": 76.21, "b": 76.66, "c": 76.87, "d": 77.16}
REPORT = {"d": 95.58}
COLUMNS = (
    "network",
    "`--variant`",
    "ImageNet top-1, published",
    "EuroSAT, the report",
    "EuroSAT test, ours",
    "of seeds",
    "validation",
    "mean under corruptions",
    "parameters",
    "multiply-adds",
    "training images/s of the fastest epoch, with validation",  # the least disturbed, where other work ran beside
    "wall time",
)


def row(variant: str, seeds: dict[int, pathlib.Path]) -> dict:
    """What the runs of one network found.

    Args:
        variant: The network's.
        seeds: Base paths of its finished runs, by seed.
    """
    from resnetd_tf.evaluation.metrics import wilson_interval

    metadata = {seed: runs.found(base) for seed, base in seeds.items()}
    corruptions = {seed: runs.under_corruptions(base, "test") for seed, base in seeds.items()}
    accuracies = [found["test_accuracy"] for found in metadata.values()]
    first = next(iter(metadata.values()))
    images, count = first["split_sizes"]["train"], first["split_sizes"]["test"]
    mean = statistics.mean(accuracies)
    histories = {seed: runs.history(base) for seed, base in seeds.items()}
    return {
        "name": NAMES[variant].format(first["depth"]),
        "depth": first["depth"],
        "variant": variant,
        "accuracies": dict(zip(seeds, accuracies)),
        "accuracy": mean,
        "validation_accuracies": {seed: found["validation_accuracy"] for seed, found in metadata.items()},
        "spread": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "interval": wilson_interval(round(mean * count), count),
        "mean_under_corruptions": statistics.mean(found["mean_accuracy"] for found in corruptions.values()),
        "calibration_error": statistics.mean(found["calibration_error"] for found in corruptions.values()),
        "mean_calibration_error": statistics.mean(found["mean_calibration_error"] for found in corruptions.values()),
        "images_per_second": images / min(epoch["seconds"] for history in histories.values() for epoch in history),
        "wall_seconds": statistics.median(found["wall_seconds"] for found in metadata.values()),
        "commands": {seed: found["command"] for seed, found in metadata.items()},
        "revisions": sorted({found["git_revision"] for found in metadata.values()}),
        "hardware": sorted({json.dumps(found["hardware"]) for found in metadata.values()}),
        "precisions": sorted({found["precision"] for found in metadata.values()}),
        "history": histories,
    }


def cost(rows: list[dict], image_size: int) -> None:
    """Adds parameters and multiply-adds to rows."""
    from benchmarks.cost import multiply_adds, parameters
    from resnetd_tf.networks.resnet import resnet

    for found in rows:
        model = resnet(found["depth"], found["variant"], input_shape=(image_size, image_size, 3), classes=10)
        found["parameters"], found["multiply_adds"] = parameters(model), multiply_adds(model)


def markdown(rows: list[dict]) -> list[str]:
    """The lines of the table."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for found in rows:
        given = [values.get(found["variant"]) if found["depth"] == 50 else None for values in (IMAGENET, REPORT)]
        low, high = (100 * bound for bound in found["interval"])
        spread = f" ± {100 * found['spread']:.2f}" if found["spread"] is not None else ""
        cells = (
            found["name"],
            f"`{found['variant']}`",
            *(f"{value:.2f} %" if value else "not given" for value in given),
            f"{100 * found['accuracy']:.2f}{spread} % [{low:.2f}, {high:.2f}]",
            ", ".join(f"{seed}: {100 * value:.2f}" for seed, value in found["accuracies"].items()),
            ", ".join(f"{100 * value:.2f}" for value in found["validation_accuracies"].values()) + " %",
            f"{100 * found['mean_under_corruptions']:.2f} %",
            f"{found['parameters'] / 1e6:.1f} M",
            f"{found['multiply_adds'] / 1e9:.2f} G",
            f"{found['images_per_second']:.0f}",
            f"{found['wall_seconds'] / 60:.0f} min",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def plot(rows: list[dict], path: pathlib.Path) -> None:
    """Validation accuracy against epochs, a line for each run."""
    from matplotlib.figure import Figure

    from resnetd_tf import rundir

    figure = Figure(figsize=(7, 4))
    axis = figure.subplots()
    for index, found in enumerate(rows):
        for number, history in enumerate(found["history"].values()):
            label = found["name"] if number == 0 else None
            values = 100 * np.array([row["val_accuracy"] for row in history])
            axis.plot(range(1, len(values) + 1), values, color=f"C{index}", label=label, alpha=0.8)
    axis.set(xlabel="epoch", ylabel="validation accuracy, %")
    axis.grid(alpha=0.3)
    axis.legend()
    with rundir.write_atomically(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")


def table(arguments: list[str]) -> None:
    try:
        seeds = [int(seed) for seed in FLAGS.seeds]
    except ValueError as error:
        raise InputError(f"--seeds={','.join(FLAGS.seeds)}: expected whole numbers") from error
    if not seeds or not FLAGS.variants or min(seeds) < 0:
        raise InputError("--seeds and --variants: expected at least one of each, seeds from 0 upwards")
    if unknown := set(FLAGS.variants) - NAMES.keys():
        raise InputError(f"--variants: {', '.join(sorted(unknown))} not among {', '.join(NAMES)}")
    program.import_tensorflow()
    settings = Settings(recipe=FLAGS.recipe, image_size=FLAGS.image_size)
    place = pathlib.Path(FLAGS.runs_dir) / f"{settings.recipe}-{settings.image_size}"

    def run(variant: str, seed: int) -> pathlib.Path:
        base = place / f"{variant}-seed{seed}"
        network = [f"--image_size={settings.image_size}", f"--variant={variant}", f"--seed={seed}", "--weights=none"]
        runs.trained(base, [f"--recipe={settings.recipe}", *network], arguments)
        runs.under_corruptions(base, "test")
        return base

    names = (re.fullmatch(r"(base|[bcd])-seed(\d+)", path.parent.name) for path in sorted(place.glob("*-seed*/1")))
    made = [(name[1], int(name[2])) for name in names if name]
    wanted = [(variant, seed) for seed in seeds for variant in FLAGS.variants]
    found: dict[str, dict[int, pathlib.Path]] = {variant: {} for variant in NAMES}
    # Those made before come first: where they have other flags, nothing is trained in vain.
    for variant, seed in dict.fromkeys([*made, *wanted]):
        found[variant][seed] = run(variant, seed)
    rows = [row(variant, dict(sorted(bases.items()))) for variant, bases in found.items() if bases]
    cost(rows, settings.image_size)
    lines, name = markdown(rows), f"table-{place.name}"
    print("\n".join(lines))
    for key in ("revisions", "hardware", "precisions"):
        print(f"{key.capitalize()}: {'; '.join(sorted({value for found in rows for value in found[key]}))}")
    results = {"recipe": settings.recipe, "image_size": settings.image_size, "rows": rows}
    contest.keep(name, lines, results)
    plot(rows, pathlib.Path(FLAGS.output_dir) / f"{name}.png")


def main() -> None:
    program.define_settings_flags("recipe", "image_size")
    flags.DEFINE_list("variants", list(NAMES), "Networks to train.")
    flags.DEFINE_list("seeds", ["0"], "Seeds to train each with.")
    flags.DEFINE_string("runs_dir", "saved_models/table", "Where the runs are kept.")
    contest.define_output_dir()
    program.run_program(table, takes_arguments=True)


if __name__ == "__main__":
    main()
