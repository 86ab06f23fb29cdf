"""Trains a ResNet-50-D, or another variant, on EuroSAT, evaluates it and exports it as a SavedModel.

Examples:
    python train.py --variant=d
    python train.py --variant=d --image_size=64 --weights=none
    python train.py --variant=d --weights=imagenet --freeze=backbone
    python train.py --dataset=folder:my_patches --epochs=20 --output_dir=saved_models/mine
    python train.py --variant=d --resume
"""

from absl import flags

from resnetd_tf.cli import program


def train(arguments: list[str]) -> None:
    settings = program.settings_from_flags()
    program.import_tensorflow()
    import tensorboard  # noqa: F401 - tf.summary would miss it only after the first epoch

    from resnetd_tf.training import run

    run.train(settings, resume=flags.FLAGS.resume, profile=flags.FLAGS.profile)


def main() -> None:
    program.define_settings_flags()
    flags.DEFINE_bool(
        "resume", False, "Resume the newest unfinished run with this base path; if there is none, start one."
    )
    flags.DEFINE_bool("profile", False, "Record ten training steps for TensorBoard's profiler.")
    program.run_program(train)
