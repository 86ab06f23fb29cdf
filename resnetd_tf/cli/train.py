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

import dataclasses
import typing

from absl import flags

from resnetd_tf.cli import labels, program
from resnetd_tf.training.settings import RECIPES

LABELS_PREFIX = "labels:"


def train(arguments: list[str]) -> None:
    settings = program.settings_from_flags()
    program.import_tensorflow()
    if settings.dataset.startswith(LABELS_PREFIX):
        folder = labels.training_folder(settings.dataset.removeprefix(LABELS_PREFIX), settings.base, settings.seed)
        # The patches are rendered; their files need no flags.
        replacements: dict[str, typing.Any] = {"dataset": f"folder:{folder}", **dict.fromkeys(labels.RASTER_FLAGS)}
        count = labels.count_training_patches(folder)
        if not flags.FLAGS["recipe"].present and count < labels.FEW_PATCHES:
            print(f"Recipe: few, because there are {count} training patches; --recipe=default is for thousands")
            replacements["recipe"] = "few"
            if not flags.FLAGS["image_size"].present:
                replacements["image_size"] = max(RECIPES["few"]["image_size"], flags.FLAGS.patch_size)
        settings = program.settings_from_flags(**replacements)
        if not flags.FLAGS["batch_size"].present and count < settings.batch_size:
            settings = dataclasses.replace(settings, batch_size=count)
    else:
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
