"""Trains a ResNet-50-D, or another variant, on EuroSAT, evaluates it and exports it as a SavedModel.

Examples:
    python train.py --variant=d
    python train.py --variant=d --image_size=64 --weights=none
    python train.py --variant=d --weights=imagenet --freeze=backbone
    python train.py --dataset=folder:my_patches --epochs=20 --output_dir=saved_models/mine
    python train.py --weights=eurosat --dataset=labels:fields.gpkg --scenes=SCENE.SAFE --label=crop
    python train.py --weights=eurosat --keep_classes --dataset=folder:my_patches --recipe=few
    python train.py --variant=d --resume
"""

from absl import flags

from resnetd_tf.cli import labels, program
from resnetd_tf.errors import InputError
from resnetd_tf.sentinel2 import PATCH_SIZE

LABELS_PREFIX = "labels:"


def train(arguments: list[str]) -> None:
    dataset = flags.FLAGS.dataset
    if dataset.startswith(LABELS_PREFIX):
        settled = {name for name in ("recipe", "image_size", "batch_size") if flags.FLAGS[name].present}
        # Cutting takes time, so that flags are checked first, as if there were few patches.
        settings = program.settings_from_flags(**{} if "recipe" in settled else {"recipe": "few"})
        if settings.keep_classes:
            settled.add("batch_size")  # images of EuroSAT join the patches, so that even a few fill a batch
            if flags.FLAGS.all_bands or settings.weights == "none":
                raise InputError("--keep_classes: give --weights=eurosat, which is for colours, without --all_bands")
            if flags.FLAGS.patch_size != PATCH_SIZE:
                raise InputError(
                    f"--patch_size={flags.FLAGS.patch_size}: with --keep_classes patches have {PATCH_SIZE} pixels a "
                    "side, as EuroSAT's images"
                )
        program.import_tensorflow()
        folder = labels.training_folder(dataset.removeprefix(LABELS_PREFIX), settings.base, settings.seed)
        suggested = labels.suggest_settings(folder, settings.recipe if "recipe" in settled else None)
        suggested = {name: value for name, value in suggested.items() if name not in settled}
        if suggested:
            chosen = " ".join(f"--{name}={value}" for name, value in suggested.items())
            print(f"Chosen by the number and size of the patches: {chosen}")
        # The patches are rendered; their files need no flags.
        replacements = {"dataset": f"folder:{folder}", **suggested, **dict.fromkeys(labels.RASTER_FLAGS)}
        settings = program.settings_from_flags(**replacements)
    else:
        settings = program.settings_from_flags()
        program.import_tensorflow()
        program.refuse_flags("without --dataset=labels:FILE", *labels.LABEL_FLAGS)
    import tensorboard  # noqa: F401 - tf.summary would miss it only after the first epoch

    from resnetd_tf.training import run

    run.train(settings, resume=flags.FLAGS.resume, profile=flags.FLAGS.profile)


def main() -> None:
    program.define_settings_flags()
    labels.define_label_flags()
    flags.DEFINE_bool(
        "resume", False, "Resume the newest unfinished run with this base path; if there is none, start one."
    )
    flags.DEFINE_bool("profile", False, "Record ten training steps for TensorBoard's profiler.")
    program.run_program(train)
