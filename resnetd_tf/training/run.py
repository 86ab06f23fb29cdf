"""A whole run: checks, data, model, training; `results` has its end."""

import contextlib
import dataclasses
import pathlib
import re
import shutil
import sys
import time

import keras
import tensorflow as tf

from resnetd_tf import rundir
from resnetd_tf.data import batches, sources
from resnetd_tf.data.splits import Dataset
from resnetd_tf.environment import environment
from resnetd_tf.errors import InputError
from resnetd_tf.networks import checkpoints, classifier, pretrained
from resnetd_tf.normalization import EUROSAT_ALL, EUROSAT_RGB, Statistics, measured
from resnetd_tf.training import devices, results
from resnetd_tf.training.callbacks import AverageReplicas, DurationEstimate, RunWriter
from resnetd_tf.training.optimizer import compile_classifier
from resnetd_tf.training.settings import FINE_TUNING, FROM_SCRATCH, Settings


def train(settings: Settings) -> pathlib.Path:
    """Trains, exports and evaluates a classifier; see `rundir` for what it leaves under `settings.base`.

    Returns:
        The path of the SavedModel.

    Raises:
        InputError: Something given cannot be used; nothing is left on disk then.
    """
    started = time.time()
    surroundings = environment()  # now: the source may change while the run goes on
    strategy = devices.strategy()
    if settings.batch_size % strategy.num_replicas_in_sync:
        raise InputError(
            f"batch size {settings.batch_size} is not a multiple of the {strategy.num_replicas_in_sync} devices"
        )
    checkpoint = starting_weights(settings)
    print(f"Device: {devices.describe(surroundings['hardware'])}", flush=True)
    settings = decide(settings, checkpoint)
    dataset = load(settings, checkpoint)
    statistics = normalization(dataset, checkpoint)
    model = build(settings, dataset, statistics, checkpoint, strategy)

    metadata = {
        **results.describe(settings, statistics, dataset, checkpoint),
        "replicas": strategy.num_replicas_in_sync,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        **surroundings,
    }
    number, folder = rundir.new_run(pathlib.Path(settings.base))
    writer = RunWriter(folder, settings.epochs)
    try:
        # Now, so that the model of a run that dies can be used.
        rundir.write_labels(folder / "labels.txt", dataset.classes)
        rundir.write_json(folder / "metadata.json", metadata)
        metadata["interrupted"] = fit(model, settings, dataset, writer)
        return results.finish(folder, folder.parent / str(number), dataset, writer, metadata, started)
    except BaseException:
        if writer.best is None:  # nothing worth keeping
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()  # unless other runs are in it
        raise


def starting_weights(settings: Settings) -> checkpoints.Checkpoint | None:
    """The checkpoint that `weights` means, `None` for random weights; says which on the terminal.

    Raises:
        InputError: It cannot be fetched or read.
    """
    weights, network = settings.weights, (settings.depth, settings.variant)
    checkpoint, note = None, ""
    try:
        if weights != "none":
            checkpoint = checkpoints.read("imagenet" if weights == "auto" else weights, *network)
    except pretrained.Unavailable as error:
        if weights != "auto":
            raise InputError(str(error)) from error
        note = f" ({error})"
    except ValueError as error:
        raise InputError(str(error)) from error
    if checkpoint and weights in ("auto", "imagenet"):
        chosen = pretrained.find(*network)
        note = f" (ImageNet top-1 {chosen.top1:.1f} %, {chosen.licence})"
    print(f"Weights: {checkpoint.source if checkpoint else 'random'}{note}", flush=True)
    return checkpoint


def decide(settings: Settings, checkpoint: checkpoints.Checkpoint | None) -> Settings:
    """The settings with all that was left open decided: learning rate, precision, base path, where a folder is.

    Raises:
        InputError: Random weights would be frozen, or the base path is a file.
    """
    if pathlib.Path(settings.base).is_file():
        raise InputError(f"--output_dir={settings.base} is a file; give a folder")
    if checkpoint is None and settings.freeze != "none":
        raise InputError(f"freeze {settings.freeze}: random weights would stay as they are; give --weights")
    learning_rate = FINE_TUNING if checkpoint else FROM_SCRATCH
    dataset, data_dir = sources.located(settings.dataset, settings.data_dir)
    return dataclasses.replace(
        settings,
        learning_rate=learning_rate if settings.learning_rate is None else settings.learning_rate,
        precision=devices.fastest_precision() if settings.precision == "auto" else settings.precision,
        output_dir=settings.base,
        dataset=dataset,
        data_dir=data_dir,
    )


def load(settings: Settings, checkpoint: checkpoints.Checkpoint | None) -> Dataset:
    """The three splits, in memory.

    Raises:
        InputError: They cannot be had, or are too small for a batch.
    """
    dataset = sources.load(
        settings.dataset,
        data_dir=settings.data_dir,
        eurosat_zip=settings.eurosat_zip,
        image_size=settings.image_size,
        interpolation=checkpoint.interpolation if checkpoint else "bilinear",
    )
    training, batch_size = len(dataset.splits["train"]), settings.batch_size
    if training < batch_size:
        raise InputError(f"batch size {batch_size} is larger than the training split, {training} images")
    counts = (f"{len(split)} {name} ({split.slice})" for name, split in dataset.splits.items())
    print(f"Data: {dataset.name}, images: {', '.join(counts)}")
    return dataset


def normalization(dataset: Dataset, checkpoint: checkpoints.Checkpoint | None) -> Statistics:
    """What the images are normalised with: the checkpoint's statistics, EuroSAT's own, or the training split's."""
    if checkpoint and checkpoint.statistics and len(checkpoint.statistics.mean) == dataset.bands:
        chosen = checkpoint.statistics
    elif re.match(r"eurosat\b", dataset.name):
        chosen = EUROSAT_RGB if dataset.bands == 3 else EUROSAT_ALL
    else:
        chosen = measured(f"the training split of {dataset.name}", dataset.splits["train"].images)
    mean, std = (" ".join(f"{value:.1f}" for value in values) for values in (chosen.mean, chosen.std))
    print(f"Normalisation: {chosen.name}, mean {mean}, standard deviation {std}")
    return chosen


def build(
    settings: Settings,
    dataset: Dataset,
    statistics: Statistics,
    checkpoint: checkpoints.Checkpoint | None,
    strategy: tf.distribute.Strategy,
) -> keras.Model:
    """The classifier, compiled for training.

    Raises:
        InputError: The weights do not fit.
    """
    replicas = strategy.num_replicas_in_sync
    keras.utils.set_random_seed(settings.seed)
    keras.mixed_precision.set_global_policy(devices.POLICIES[settings.precision])
    try:
        with strategy.scope():
            model = classifier.build(
                settings.depth,
                settings.variant,
                classes=len(dataset.classes),
                statistics=statistics,
                image_size=settings.image_size,
                checkpoint=checkpoint,
                synchronized=settings.synchronized and replicas > 1,
            )
            classifier.freeze(model, settings.freeze)
            compile_classifier(model, settings, len(dataset.splits["train"]) // settings.batch_size)
    except ValueError as error:
        raise InputError(str(error)) from error
    if settings.synchronized and replicas == 1:
        print("Synchronized batch normalisation: one device, whose statistics are all there are")
    size = f"{settings.image_size}x{settings.image_size}"
    print(f"Model: {model.layers[-1].name}, {size} pixels, {settings.precision}, {replicas} replica(s)")
    return model


def fit(model: keras.Model, settings: Settings, dataset: Dataset, writer: RunWriter) -> bool:
    """Trains; whether it was interrupted after its first epoch.

    Raises:
        KeyboardInterrupt: It was interrupted before the end of the first epoch.
    """
    training, validation = dataset.splits["train"], dataset.splits["validation"]
    classes, replicas = len(dataset.classes), model.distribute_strategy.num_replicas_in_sync
    check_batch = batches.without_idle_replicas(len(validation), settings.batch_size, replicas)
    try:
        model.fit(
            batches.from_split(training, classes, settings.batch_size, training=True, seed=settings.seed),
            validation_data=batches.from_split(validation, classes, check_batch),
            epochs=settings.epochs,
            shuffle=False,  # `batches.from_split` shuffles
            verbose=1 if sys.stdout.isatty() else 2,
            callbacks=[
                *([AverageReplicas()] if replicas > 1 else []),
                writer,
                DurationEstimate(len(validation) / len(training), settings.image_size),
                keras.callbacks.TensorBoard(str(writer.folder / "logs"), write_graph=False),
            ],
        )
    except KeyboardInterrupt:
        if writer.best is None:
            raise
        print(f"\nInterrupted: keeping the best of {len(writer.history)} epochs", flush=True)
        return True
    return False
