"""Whether speed costs accuracy: the same run with our layers and optimizer and with Keras's own, beside other seeds.

    python -m benchmarks.loss_curve                  # needs eurosat/rgb prepared in $TFDS_DATA_DIR
    python -m benchmarks.loss_curve float32          # default bfloat16

ResNet-50-D, 64x64, the recipe of `train.py` in 200 steps: the mean training loss of every 25 and the validation
accuracy at the end.
"""

import sys

import door

STEPS, PART = 200, 25


def curve(precision: str, seed: int, ours: bool) -> list[float]:
    """Mean loss of every part of a run, then validation accuracy."""
    import keras

    from benchmarks import train_step
    from resnetd_tf import classifier, copies, data, sentinel2, training
    from resnetd_tf.recipe import Recipe, learning_rate_schedule

    recipe = Recipe(epochs=1, learning_rate=0.4)
    loaded = data.load("eurosat/rgb", ("train", "validation"))
    keras.utils.set_random_seed(seed)
    train_step.set_precision(precision)
    model = classifier.build(50, "d", classes=10, statistics=sentinel2.statistics(3), image_size=64)
    if not ours:
        model = copies.of_kerass_layers(model)
    training.prepare(model, recipe, STEPS)
    if not ours:
        optimizer = keras.optimizers.SGD(
            learning_rate_schedule(recipe, STEPS), recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay
        )
        optimizer.exclude_from_weight_decay([weight for weight in model.trainable_weights if len(weight.shape) == 1])
        model.compile(optimizer, model.loss, metrics=["accuracy"], jit_compile=False)
    batches = data.batches(loaded.splits["train"], 10, recipe.batch_size, training=True, seed=seed)
    parts = model.fit(batches, epochs=STEPS // PART, steps_per_epoch=PART, verbose=0, shuffle=False).history["loss"]
    return [*parts, model.evaluate(data.batches(loaded.splits["validation"], 10, 64), verbose=0)[1]]


def main() -> None:
    precision = (sys.argv[1:] or ["bfloat16"])[0]
    if precision not in ("float32", "bfloat16"):
        sys.exit(f"{precision}: not one of float32, bfloat16")
    door.import_quietly()
    print(f"{precision}\n\n| | " + " | ".join(str(step) for step in range(PART, STEPS + 1, PART)) + " | accuracy |")
    print("|---" * (STEPS // PART + 2) + "|")
    for ours, seed in ((True, 0), (False, 0), (True, 1), (False, 1)):
        *losses, accuracy = curve(precision, seed, ours)
        name = f"{'ours' if ours else 'Keras'}, seed {seed}"
        print(
            f"| {name} | " + " | ".join(f"{loss:.3f}" for loss in losses) + f" | {100 * accuracy:.1f} % |", flush=True
        )


if __name__ == "__main__":
    main()
