"""What each part of the default recipe brings and costs, on the validation split.

    python -m benchmarks.ablation --image_size=64 --depth=18

Trains with the recipe, and again with one setting changed at a time; goes on where it was stopped. The test split is
not looked at. What stands after `--` are flags of train.py for all of them.
"""

import pathlib
import statistics

from absl import flags

from benchmarks import runs
from resnetd_tf.cli import common_flags, program

FLAGS = flags.FLAGS
# A part of the validation split: a corruption takes as long as an evaluation.
JUDGED = "train[70%:75%]"
CHANGES = {
    "the recipe": [],
    "flips and turns alone": ["--augmentation=turns"],
    "label smoothing 0.1": ["--label_smoothing=0.1"],
    "weight decay 1e-3": ["--weight_decay=1e-3"],
    "no warm-up": ["--warmup_epochs=0"],
    "twice the epochs": ["--epochs=20"],
}


def ablation(arguments: list[str]) -> None:
    program.import_tensorflow()
    from resnetd_tf import rundir

    settings = [f"--{name}={FLAGS[name].value}" for name in ("recipe", "image_size", "depth", "variant")]
    place = pathlib.Path(FLAGS.runs_dir) / "-".join(
        str(FLAGS[name].value) for name in ("recipe", "image_size", "depth")
    )
    lines = [
        "| changed | flags | validation accuracy | mean under corruptions | calibration error, clean and in the mean | "
        "seconds an epoch |",
        "|---|---|---|---|---|---|",
    ]
    for name, change in CHANGES.items():
        base = place / name.replace(" ", "-")
        metadata = runs.trained(base, [*settings, "--weights=none", *change, *arguments])
        corrupted = runs.under_corruptions(base, JUDGED)
        seconds = statistics.median(row["seconds"] for row in runs.history(base))
        errors = (100 * corrupted[key] for key in ("calibration_error", "mean_calibration_error"))
        lines.append(
            f"| {name} | {' '.join(f'`{flag}`' for flag in change)} | {100 * metadata['validation_accuracy']:.2f} % "
            f"| {100 * corrupted['mean_accuracy']:.2f} % | {' and '.join(f'{error:.1f} %' for error in errors)} "
            f"| {seconds:.0f} |"
        )
        print("\n".join(lines[:2] * (len(lines) == 3) + lines[-1:]), flush=True)
    path = pathlib.Path(FLAGS.output_dir) / f"ablation-{place.name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    rundir.write_text(path, "\n".join(lines) + "\n")
    print(f"Written: {path}")


def main() -> None:
    common_flags.define_settings("recipe", "image_size", "depth", "variant")
    flags.DEFINE_string("runs_dir", "saved_models/ablation", "Where the runs are kept.")
    flags.DEFINE_string("output_dir", "benchmarks/results", "Where the table goes.")
    program.run(ablation, takes_arguments=True)


if __name__ == "__main__":
    main()
