"""How far the gradients of a training step are from those of float32: with our layers and with Keras's own.

    python -m benchmarks.gradients          # needs eurosat/rgb prepared in $TFDS_DATA_DIR

ResNet-50-D at 64x64 after 0 and after 100 steps of `train.py`'s recipe, on 12 batches of 32 training images; Keras's
layers in float32 are what the others are compared with. "Error" is the norm of the difference over the norm of the
gradient, for each weight tensor whose gradient is not zero; "scale" is the projection on float32's gradient, which
would be off from one if rounding favoured a direction.
"""

import itertools

import numpy as np

from benchmarks import train_step
from resnetd_tf.cli import program

STEPS, BATCHES = 100, 12  # steps of the warm-up, of an epoch of twice as many


def gradients(model, batches) -> list[list[np.ndarray]]:
    """Gradients for every batch of every trainable weight, as flat arrays."""
    import tensorflow as tf

    @tf.function
    def of_batch(images, labels):
        with tf.GradientTape() as tape:
            loss = model.loss(labels, model(images, training=True))
        return tape.gradient(loss, model.trainable_variables)

    return [[np.asarray(gradient, "float64").ravel() for gradient in of_batch(*batch)] for batch in batches]


def main(arguments) -> None:
    program.import_tensorflow()
    import keras

    from resnetd_tf.data import datasets
    from resnetd_tf.data.batches import training_batches
    from resnetd_tf.training.optimizer import compile_classifier
    from resnetd_tf.training.settings import LEARNING_RATE_FROM_SCRATCH, Settings

    settings = Settings(epochs=1, learning_rate=LEARNING_RATE_FROM_SCRATCH)
    split = datasets.load_dataset("eurosat/rgb", ("train",)).splits["train"]
    keras.utils.set_random_seed(0)
    trained = train_step.our_classifier(64, "float32", fast=False)
    compile_classifier(trained, settings, 2 * STEPS)
    batches = list(training_batches(split, 10, settings.batch_size, seed=1).take(BATCHES))
    print("| steps | precision | layers | error, median | error, largest | scale, lowest to highest |")
    print("|---|---|---|---|---|---|")
    for steps in (0, STEPS):
        if steps:
            trained.fit(
                training_batches(split, 10, settings.batch_size, seed=0),
                steps_per_epoch=steps,
                verbose=0,
                shuffle=False,
            )
        expected = gradients(trained, batches)
        for precision, ours in itertools.product(("float32", "bfloat16"), (True, False)):
            model = train_step.our_classifier(64, precision, fast=ours)
            model.compile(loss=trained.loss)
            model.set_weights(trained.get_weights())
            errors, scales = [], []
            for of_batch in zip(gradients(model, batches), expected):
                for gradient, reference in zip(*of_batch):
                    if square := reference @ reference:
                        errors.append(np.linalg.norm(gradient - reference) / square**0.5)
                        scales.append(gradient @ reference / square)
            scales = np.mean(np.reshape(scales, (BATCHES, -1)), axis=0)
            row = (steps, precision, "ours" if ours else "Keras's", f"{np.median(errors):.1e}", f"{max(errors):.1e}")
            print("|", " | ".join(map(str, row)), f"| {min(scales):.4f} to {max(scales):.4f} |", flush=True)


if __name__ == "__main__":
    program.run_program(main)
