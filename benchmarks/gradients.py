"""Compares the gradients of a training step with those of Keras's layers in float32.

    python -m benchmarks.gradients          # needs eurosat/rgb prepared in $TFDS_DATA_DIR

The network is ResNet-50-D at 64x64, after 0 and after 100 steps of `train.py`'s recipe, on 12 batches of 32 training
images. Our layers and Keras's are compared in float32 and bfloat16. "Error" is the norm of the difference over the norm
of the gradient, for each weight tensor whose gradient is not zero. "Scale" is the projection on the gradient in
float32, which differs from one if rounding favours a direction.
"""

import itertools

import numpy as np

from benchmarks import train_step
from resnetd_tf.cli import program

STEPS, BATCHES = 100, 12  # the steps are the warm-up of an epoch of twice as many


def gradients(model, batches) -> list[list[np.ndarray]]:
    """Computes the gradients of every trainable weight as flat arrays, for every batch."""
    import tensorflow as tf

    @tf.function
    def batch_gradients(images, labels):
        with tf.GradientTape() as tape:
            loss = model.loss(labels, model(images, training=True))
        return tape.gradient(loss, model.trainable_variables)

    return [[np.asarray(gradient, "float64").ravel() for gradient in batch_gradients(*batch)] for batch in batches]


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
            for batch_pair in zip(gradients(model, batches), expected):
                for gradient, reference in zip(*batch_pair):
                    if square := reference @ reference:
                        errors.append(np.linalg.norm(gradient - reference) / square**0.5)
                        scales.append(gradient @ reference / square)
            scales = np.mean(np.reshape(scales, (BATCHES, -1)), axis=0)
            row = (steps, precision, "ours" if ours else "Keras's", f"{np.median(errors):.1e}", f"{max(errors):.1e}")
            print("|", " | ".join(map(str, row)), f"| {min(scales):.4f} to {max(scales):.4f} |", flush=True)


if __name__ == "__main__":
    program.run_program(main)
