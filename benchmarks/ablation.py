"""What each part of the default recipe brings and costs, on the validation split.

    python -m benchmarks.ablation --image_size=64 --depth=18

Trains with the recipe, and again with one setting changed at a time; goes on where it was stopped. The test split,
which every run evaluates at its end, has no part in the table. What stands after `--` are flags of train.py for all.
"""

import pathlib
import statistics

from absl import flags

from benchmarks import contest, runs
from resnetd_tf.cli import program
from resnetd_tf.training.settings import Settings

FLAGS = flags.FLAGS
CHANGES: dict[str, dict] = {
    "the recipe": {},
    "flips and turns alone": {"varied": 0.0},
    "a quarter of the images varied": {"varied": 0.25},
    "no label smoothing": {"label_smoothing": 0.0},
    "a tenth of the weight decay": {"weight_decay": 5e-4},
    "no warm-up": {"warmup_epochs": 0.0},
}


def ablation(arguments: list[str]) -> None:
    recipe = {name: FLAGS[name].value for name in ("recipe", "image_size", "depth", "variant", "epochs")}
    # Before anything is trained: not every row sets them.
    runs.check(arguments, {*recipe, *(name for change in CHANGES.values() for name in change)})
    rows = {name: Settings(**{**recipe, **change}) for name, change in CHANGES.items()}
    rows["twice the epochs"] = Settings(**{**recipe, "epochs": 2 * rows["the recipe"].epochs})
    program.import_tensorflow()

    given = {name: value for name, value in recipe.items() if value is not None}
    place = pathlib.Path(FLAGS.runs_dir) / "-".join(map(str, given.values()))
    lines = [
        "| changed | validation accuracy | mean under corruptions | calibration error, clean and in the mean | "
        "seconds an epoch |",
        "|---|---|---|---|---|",
    ]
    results = {}
    for name, settings in rows.items():
        if name != "the recipe" and settings == rows["the recipe"]:  # which has it already
            continue
        change = CHANGES.get(name, {"epochs": settings.epochs})
        flags_ = [f"--{flag}={value}" for flag, value in {**given, **change}.items()]
        base = place / name.replace(" ", "-")
        metadata = runs.trained(base, [*flags_, "--weights=none"], arguments)
        corrupted = runs.under_corruptions(base, FLAGS.judged)
        results[name] = {"metadata": metadata, "corruptions": corrupted}
        seconds = statistics.median(row["seconds"] for row in runs.history(base))
        errors = (100 * corrupted[key] for key in ("calibration_error", "mean_calibration_error"))
        lines.append(
            f"| {name} | {100 * metadata['validation_accuracy']:.2f} % | {100 * corrupted['mean_accuracy']:.2f} % "
            f"| {' and '.join(f'{error:.1f} %' for error in errors)} | {seconds:.0f} |"
        )
        print("\n".join(lines[:2] * (len(lines) == 3) + lines[-1:]), flush=True)
    contest.keep(f"ablation-{place.name}", lines, results)


def main() -> None:
    program.define_settings_flags("recipe", "image_size", "depth", "variant", "epochs")
    flags.DEFINE_string(  # a corruption takes as long as an evaluation
        "judged", "train[70%:75%]", "What corruptions are measured on, a part of the validation split."
    )
    flags.DEFINE_string("runs_dir", "saved_models/ablation", "Where the runs are kept.")
    contest.define_output_dir()
    program.run_program(ablation, takes_arguments=True)


if __name__ == "__main__":
    main()
