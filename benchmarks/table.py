"""Table 1: the four networks, trained on EuroSAT in the same way, beside the numbers of the report.

    python -m benchmarks.table --image_size=64                     # each network once
    python -m benchmarks.table --image_size=64 --variants=d --seeds=1,2
    python -m benchmarks.table --recipe=report --image_size=64 -- --precision=float32

Trains the missing runs from random weights, resumes stopped ones, and writes a table of all finished runs as Markdown
and JSON, with their curves. Arguments after `--` are flags of train.py. Runs with different flags cannot share a table.
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
OWN = ("recipe", "image_size", "variant", "seed", "weights")  # flags of train.py that the benchmark sets
NAMES = {"base": "ResNet-{}", "b": "ResNet-{}-B", "c": "ResNet-{}-C", "d": "ResNet-{}-D"}
# Numbers of the report for depth 50: ImageNet top-1 from arXiv 1812.01187, table 5, and its own result on EuroSAT.
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
    "training images/s of the fastest epoch, with validation",  # Other programs disturbed it least.
    "wall time",
)


def summarize(variant: str, seeds: dict[int, pathlib.Path]) -> dict:
    """Summarizes the runs of one network as a row of the table.

    Args:
        variant: The variant of the network.
        seeds: Base paths of its finished runs, by seed.
    """
    from resnetd_tf.evaluation.metrics import wilson_interval

    metadata = {seed: runs.read_metadata(base) for seed, base in seeds.items()}
    corruptions = {seed: runs.evaluate_under_corruptions(base, "test") for seed, base in seeds.items()}
    histories = {seed: runs.read_history(base) for seed, base in seeds.items()}
    accuracies = [run["test_accuracy"] for run in metadata.values()]
    first = next(iter(metadata.values()))
    training_images, test_images = first["split_sizes"]["train"], first["split_sizes"]["test"]
    mean = statistics.mean(accuracies)
    return {
        "name": NAMES[variant].format(first["depth"]),
        "depth": first["depth"],
        "variant": variant,
        "accuracies": dict(zip(seeds, accuracies)),
        "accuracy": mean,
        "validation_accuracies": {seed: run["validation_accuracy"] for seed, run in metadata.items()},
        "spread": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "interval": wilson_interval(round(mean * test_images), test_images),
        "mean_under_corruptions": statistics.mean(result["mean_accuracy"] for result in corruptions.values()),
        "calibration_error": statistics.mean(result["calibration_error"] for result in corruptions.values()),
        "mean_calibration_error": statistics.mean(result["mean_calibration_error"] for result in corruptions.values()),
        "images_per_second": training_images
        / min(epoch["seconds"] for history in histories.values() for epoch in history),
        "wall_seconds": statistics.median(run["wall_seconds"] for run in metadata.values()),
        "commands": {seed: run["command"] for seed, run in metadata.items()},
        "revisions": sorted({run["git_revision"] for run in metadata.values()}),
        "hardware": sorted({json.dumps(run["hardware"]) for run in metadata.values()}),
        "precisions": sorted({run["precision"] for run in metadata.values()}),
        "history": histories,
    }


def add_cost(rows: list[dict], image_size: int) -> None:
    """Adds the numbers of parameters and multiply-adds to rows."""
    from benchmarks.cost import multiply_adds, parameters
    from resnetd_tf.networks.resnet import resnet

    for row in rows:
        model = resnet(row["depth"], row["variant"], input_shape=(image_size, image_size, 3), classes=10)
        row["parameters"], row["multiply_adds"] = parameters(model), multiply_adds(model)


def format_markdown(rows: list[dict]) -> list[str]:
    """Returns the lines of the table."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        report_values = [values.get(row["variant"]) if row["depth"] == 50 else None for values in (IMAGENET, REPORT)]
        low, high = (100 * bound for bound in row["interval"])
        spread = f" ± {100 * row['spread']:.2f}" if row["spread"] is not None else ""
        cells = (
            row["name"],
            f"`{row['variant']}`",
            *(f"{value:.2f} %" if value else "not given" for value in report_values),
            f"{100 * row['accuracy']:.2f}{spread} % [{low:.2f}, {high:.2f}]",
            ", ".join(f"{seed}: {100 * value:.2f}" for seed, value in row["accuracies"].items()),
            ", ".join(f"{100 * value:.2f}" for value in row["validation_accuracies"].values()) + " %",
            f"{100 * row['mean_under_corruptions']:.2f} %",
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['multiply_adds'] / 1e9:.2f} G",
            f"{row['images_per_second']:.0f}",
            f"{row['wall_seconds'] / 60:.0f} min",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def plot(rows: list[dict], path: pathlib.Path) -> None:
    """Draws validation accuracy against epochs, with a line for each run."""
    from matplotlib.figure import Figure

    from resnetd_tf import rundir

    figure = Figure(figsize=(7, 4))
    axis = figure.subplots()
    for index, row in enumerate(rows):
        for number, history in enumerate(row["history"].values()):
            label = row["name"] if number == 0 else None
            values = 100 * np.array([epoch["val_accuracy"] for epoch in history])
            axis.plot(range(1, len(values) + 1), values, color=f"C{index}", label=label, alpha=0.8)
    axis.set(xlabel="epoch", ylabel="validation accuracy, %")
    axis.grid(alpha=0.3)
    axis.legend()
    with rundir.write_atomically(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")


def make_table(arguments: list[str]) -> None:
    try:
        seeds = [int(seed) for seed in FLAGS.seeds]
    except ValueError as error:
        raise InputError(f"--seeds={','.join(FLAGS.seeds)}: expected whole numbers") from error
    if not seeds or not FLAGS.variants or min(seeds) < 0:
        raise InputError("--seeds and --variants: expected at least one of each, seeds from 0 upwards")
    if unknown := set(FLAGS.variants) - NAMES.keys():
        raise InputError(f"--variants: {', '.join(sorted(unknown))} not among {', '.join(NAMES)}")
    runs.check_extra_flags(arguments, OWN)
    program.import_tensorflow()
    settings = Settings(recipe=FLAGS.recipe, image_size=FLAGS.image_size)
    folder = pathlib.Path(FLAGS.runs_dir) / f"{settings.recipe}-{settings.image_size}"

    matches = (re.fullmatch(r"(base|[bcd])-seed(\d+)", path.parent.name) for path in sorted(folder.glob("*-seed*/1")))
    finished = [(match[1], int(match[2])) for match in matches if match]
    requested = [(variant, seed) for seed in seeds for variant in FLAGS.variants]
    bases: dict[str, dict[int, pathlib.Path]] = {variant: {} for variant in NAMES}
    # Finished runs come first: if they have other flags, nothing is trained in vain.
    for variant, seed in dict.fromkeys([*finished, *requested]):
        base = bases[variant][seed] = folder / f"{variant}-seed{seed}"
        network = [f"--image_size={settings.image_size}", f"--variant={variant}", f"--seed={seed}", "--weights=none"]
        runs.train_once(base, [f"--recipe={settings.recipe}", *network], arguments)
        runs.evaluate_under_corruptions(base, "test")
    rows = [summarize(variant, dict(sorted(seed_bases.items()))) for variant, seed_bases in bases.items() if seed_bases]
    add_cost(rows, settings.image_size)
    lines, name = format_markdown(rows), f"table-{folder.name}"
    print("\n".join(lines))
    for key in ("revisions", "hardware", "precisions"):
        print(f"{key.capitalize()}: {'; '.join(sorted({value for row in rows for value in row[key]}))}")
    results = {"recipe": settings.recipe, "image_size": settings.image_size, "rows": rows}
    contest.keep(name, lines, results)
    plot(rows, pathlib.Path(FLAGS.output_dir) / f"{name}.png")


def main() -> None:
    program.define_settings_flags("recipe", "image_size")
    flags.DEFINE_list("variants", list(NAMES), "Variants of the network to train.")
    flags.DEFINE_list("seeds", ["0"], "Seeds with which each network is trained.")
    flags.DEFINE_string("runs_dir", "saved_models/table", "Folder of the runs.")
    contest.define_output_dir()
    program.run_program(make_table, takes_arguments=True)


if __name__ == "__main__":
    main()
