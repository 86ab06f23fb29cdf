"""The effect and cost of each part of a recipe, on the validation split.

    python -m benchmarks.ablation --image_size=64 --depth=18

Trains with the recipe, and again with one setting changed at a time; a stopped benchmark can be resumed. Each run is
compared with the recipe image by image: the exact test of McNemar gives the probability that two equally good
classifiers differ so much or more. The test split, which every run evaluates at its end, is not used in the table.
Arguments after `--` are flags of train.py for all runs.
"""

import pathlib
import statistics

import numpy as np
import scipy.stats
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
    "light and water varied": {"relit": 0.5},
    "CutMix": {"cutmix": 0.5},
    "clouds and false colours": {"unlike": 0.1},
    "averaged weights": {"average": 0.25},
    "light and water varied, with the packaged classifier as teacher": {"relit": 0.5, "teacher": "eurosat"},
    "light, CutMix, clouds and averages": {"relit": 0.5, "cutmix": 0.5, "unlike": 0.1, "average": 0.25},
}


def compare_wrong_images(wrong: np.ndarray, recipe_wrong: np.ndarray) -> str:
    """Returns how many images only the one and only the other classifies wrongly, and McNemar's probability."""
    alone, recipe_alone = int((wrong & ~recipe_wrong).sum()), int((recipe_wrong & ~wrong).sum())
    if not alone + recipe_alone:
        return "0, 0"
    return f"{alone}, {recipe_alone}: p = {scipy.stats.binomtest(alone, alone + recipe_alone).pvalue:.2f}"


def compare_settings(arguments: list[str]) -> None:
    recipe = {name: FLAGS[name].value for name in ("recipe", "image_size", "depth", "variant", "epochs")}
    # Checked before anything is trained, because not every row sets all of these flags.
    runs.check_extra_flags(arguments, {*recipe, *(name for change in CHANGES.values() for name in change)})
    rows = {name: Settings(**{**recipe, **change}) for name, change in CHANGES.items()}
    rows["twice the epochs"] = Settings(**{**recipe, "epochs": 2 * rows["the recipe"].epochs})
    program.import_tensorflow()

    recipe_flags = {name: value for name, value in recipe.items() if value is not None}
    folder = pathlib.Path(FLAGS.runs_dir) / "-".join(map(str, recipe_flags.values()))
    lines = [
        "| changed | validation accuracy | wrong alone, the recipe alone | mean under corruptions | calibration error, "
        "clean and in the mean | seconds an epoch |",
        "|---|---|---|---|---|---|",
    ]
    results, wrong_images = {}, {}
    for name, settings in rows.items():
        if name != "the recipe" and settings == rows["the recipe"]:  # The recipe has this value already.
            continue
        change = CHANGES.get(name, {"epochs": settings.epochs})
        own_flags = [f"--{flag}={value}" for flag, value in {**recipe_flags, **change}.items()]
        base = folder / name.replace(" ", "-")
        metadata = runs.train_once(base, [*own_flags, "--weights=none"], arguments)
        corrupted = runs.evaluate_under_corruptions(base, FLAGS.judged)
        wrong_images[name] = runs.find_wrong_images(base)
        comparison = compare_wrong_images(wrong_images[name], wrong_images["the recipe"])
        results[name] = {"metadata": metadata, "corruptions": corrupted}
        seconds = statistics.median(row["seconds"] for row in runs.read_history(base))
        errors = (100 * corrupted[key] for key in ("calibration_error", "mean_calibration_error"))
        lines.append(
            f"| {name} | {100 * metadata['validation_accuracy']:.2f} % | {comparison} "
            f"| {100 * corrupted['mean_accuracy']:.2f} % "
            f"| {' and '.join(f'{error:.1f} %' for error in errors)} | {seconds:.0f} |"
        )
        print("\n".join(lines[:2] * (len(lines) == 3) + lines[-1:]), flush=True)
    contest.keep(f"ablation-{folder.name}", lines, results)


def main() -> None:
    program.define_settings_flags("recipe", "image_size", "depth", "variant", "epochs")
    flags.DEFINE_string(  # A part, because each corruption takes as long as an evaluation.
        "judged", "train[70%:75%]", "Part of the validation split on which corruptions are measured."
    )
    flags.DEFINE_string("runs_dir", "saved_models/ablation", "Folder of the runs.")
    contest.define_output_dir()
    program.run_program(compare_settings, takes_arguments=True)


if __name__ == "__main__":
    main()
