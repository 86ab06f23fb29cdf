"""Trains ResNet-50-D (or -B, -C, the original) on EuroSAT, evaluates it and exports a SavedModel.

Examples:
    python train.py --variant=d
    python train.py --variant=d --image_size=64 --weights=none
    python train.py --variant=d --weights=imagenet --freeze=backbone
    python train.py --dataset=folder:my_patches --epochs=20 --output_dir=saved_models/mine
"""

from absl import flags

from resnetd_tf.cli import program

FLAGS = flags.FLAGS
flags.DEFINE_enum("variant", "d", ["base", "b", "c", "d"], "Refinement of the network.")
flags.DEFINE_enum("depth", "50", ["18", "34", "50", "101", "152"], "Layers of the network.")
flags.DEFINE_string(
    "dataset", "eurosat/rgb", "eurosat/rgb, eurosat/all (13 bands), synthetic, folder:PATH or a TFDS name."
)
flags.DEFINE_string("data_dir", None, "Where TFDS keeps datasets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.")
flags.DEFINE_string("eurosat_zip", None, "A EuroSAT archive to prepare the dataset from instead of downloading it.")
flags.DEFINE_integer("image_size", 224, "Side in pixels to which the model resizes images; at least 32.")
flags.DEFINE_integer("epochs", 10, "Passes over the training split.", lower_bound=1)
flags.DEFINE_integer("batch_size", 32, "Images in a step, over all devices.", lower_bound=1)
flags.DEFINE_float(
    "learning_rate",
    None,
    "Highest learning rate at a batch of 256, scaled with the batch size; default 0.4 from random weights, else 0.08.",
)
flags.DEFINE_string(
    "weights",
    "auto",
    "What to start from: imagenet (published weights), none (random), auto (imagenet if they can be had, else none), "
    "or a file: .keras or .weights.h5 of ours, .safetensors of timm's or torchvision's.",
)
flags.DEFINE_enum(
    "freeze", "none", ["none", "stem", "backbone"], "What training leaves as it is; backbone: all but the head."
)
flags.DEFINE_bool(
    "synchronized", False, "Batch-norm statistics over all devices, for small batches on each; else each device's own."
)
flags.DEFINE_enum("precision", "auto", ["auto", "float32", "bfloat16", "float16"], "Precision of training.")
flags.DEFINE_integer("seed", 0, "Of weights, shuffling and augmentation.")
flags.DEFINE_string("output_dir", None, "Base path of the model; default saved_models/resnet50d and so on.")


def main(argv):
    from resnetd_tf.training import run as training
    from resnetd_tf.training.optimizer import Recipe

    variant = FLAGS.variant.removeprefix("base")
    chosen = {"epochs": FLAGS.epochs, "batch_size": FLAGS.batch_size, "learning_rate": FLAGS.learning_rate}
    training.train(
        depth=int(FLAGS.depth),
        variant=FLAGS.variant,
        dataset=FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        eurosat_zip=FLAGS.eurosat_zip,
        image_size=FLAGS.image_size,
        weights=FLAGS.weights,
        freeze=FLAGS.freeze,
        synchronized=FLAGS.synchronized,
        precision=FLAGS.precision,
        seed=FLAGS.seed,
        output_dir=FLAGS.output_dir or f"saved_models/resnet{FLAGS.depth}{variant}",
        recipe=Recipe(**{name: value for name, value in chosen.items() if value is not None}),
    )


if __name__ == "__main__":
    program.run(main)
