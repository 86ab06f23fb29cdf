"""Compares runs with our layers and optimizer and with Keras's own, to see whether speed costs accuracy.

    python -m benchmarks.loss_curve        # half an hour; needs eurosat/rgb prepared in $TFDS_DATA_DIR
    python -m benchmarks.loss_curve --precision=float32 --learning_rate=0.1 --seeds=4

A run trains ResNet-50-D at 64x64 with the recipe of `train.py` in 200 steps. The table has the mean training loss of
every 25 steps and the validation accuracy at the end. Both runs of a seed have the same random weights and batches.
Differences in rounding grow from step to step, so that only the mean over seeds can tell our runs from Keras's.
"""

import statistics

from absl import flags

from resnetd_tf.cli import program

FLAGS = flags.FLAGS
flags.DEFINE_enum("precision", "bfloat16", ["bfloat16", "float32"], "Precision of training.")
flags.DEFINE_float(
    "learning_rate", None, "Highest learning rate at a batch of 256; default train.py's.", lower_bound=0.0
)
flags.DEFINE_integer("seeds", 8, "Number of runs of each.", lower_bound=2)

STEPS, PART = 200, 25


def compile_with_keras_sgd(model, settings) -> None:
    """Compiles a model as `optimizer.compile_classifier` does, but with Keras's optimizer."""
    import keras

    from resnetd_tf.training.optimizer import learning_rate_schedule, make_loss

    optimizer = keras.optimizers.SGD(
        learning_rate_schedule(settings, STEPS), settings.momentum, nesterov=True, weight_decay=settings.weight_decay
    )
    optimizer.exclude_from_weight_decay([weight for weight in model.trainable_weights if len(weight.shape) == 1])
    model.compile(optimizer, make_loss(settings), metrics=["accuracy"], jit_compile=False)


def curve(splits: dict, precision: str, settings, seed: int, fast: bool) -> list[float]:
    """Returns the mean loss of every part of a run, then the validation accuracy in percent."""
    import keras

    from benchmarks import train_step
    from resnetd_tf.data.batches import evaluation_batches, training_batches
    from resnetd_tf.training.optimizer import compile_classifier

    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = train_step.our_classifier(64, precision, fast=fast)
    if fast:
        compile_classifier(model, settings, STEPS)
    else:
        compile_with_keras_sgd(model, settings)
    batches = training_batches(splits["train"], 10, settings.batch_size, seed=seed)
    parts = model.fit(batches, epochs=STEPS // PART, steps_per_epoch=PART, verbose=0, shuffle=False).history["loss"]
    return [*parts, 100 * model.evaluate(evaluation_batches(splits["validation"], 10, 64), verbose=0)[1]]


def print_row(name: str, values: list[float]) -> None:
    *losses, accuracy = values
    print(f"| {name} | " + " | ".join(f"{loss:.3f}" for loss in losses) + f" | {accuracy:.1f} % |", flush=True)


def main(arguments) -> None:
    program.import_tensorflow()
    from resnetd_tf.data import datasets
    from resnetd_tf.training.settings import LEARNING_RATE_FROM_SCRATCH, Settings

    rate = LEARNING_RATE_FROM_SCRATCH if FLAGS.learning_rate is None else FLAGS.learning_rate
    settings = Settings(epochs=1, learning_rate=rate)
    splits = datasets.load_dataset("eurosat/rgb", ("train", "validation")).splits
    print(f"{FLAGS.precision}, learning rate {rate}\n")
    print("| | " + " | ".join(str(step) for step in range(PART, STEPS + 1, PART)) + " | accuracy |")
    print("|---" * (STEPS // PART + 2) + "|")
    differences = []
    for seed in range(FLAGS.seeds):
        ours, theirs = (curve(splits, FLAGS.precision, settings, seed, fast) for fast in (True, False))
        print_row(f"ours, seed {seed}", ours)
        print_row(f"Keras's, seed {seed}", theirs)
        differences.append([a - b for a, b in zip(ours, theirs)])
    columns = list(zip(*differences))
    print_row("ours minus Keras's, mean", [statistics.mean(column) for column in columns])
    print_row("its standard error", [statistics.stdev(column) / len(column) ** 0.5 for column in columns])


if __name__ == "__main__":
    program.run_program(main)
