"""What a run has before it trains: weights to start from, settings, data and classifier."""

import dataclasses
import pathlib
import re

import keras
import tensorflow as tf

from resnetd_tf.data import sources
from resnetd_tf.data.rasters import Reading
from resnetd_tf.data.splits import Dataset
from resnetd_tf.errors import InputError
from resnetd_tf.networks import checkpoints, classifier, pretrained
from resnetd_tf.normalization import EUROSAT_ALL, EUROSAT_RGB, Statistics, measured
from resnetd_tf.saved import metadata_of
from resnetd_tf.training import devices
from resnetd_tf.training.optimizer import compile_classifier
from resnetd_tf.training.settings import FINE_TUNING, FROM_SCRATCH, RECIPES, Settings


def starting_weights(settings: Settings) -> checkpoints.Checkpoint | None:
    """The checkpoint that `weights` means, `None` for random weights; says which on the terminal.

    Raises:
        InputError: It cannot be fetched or read.
    """
    weights, network = settings.weights, (settings.depth, settings.variant)
    found, note = None, ""
    try:
        if weights != "none":
            found = checkpoints.read("imagenet" if weights == "auto" else weights, *network)
    except pretrained.Unavailable as error:
        if weights != "auto":
            raise InputError(str(error)) from error
        note = f" ({error})"
    except ValueError as error:
        raise InputError(str(error)) from error
    if found and weights in ("auto", "imagenet"):
        chosen = pretrained.find(*network)
        note = f" (ImageNet top-1 {chosen.top1:.1f} %, {chosen.licence})"
    if found and found.image_size and found.image_size != settings.image_size:
        size = found.image_size
        note = f", of images of {size}x{size} pixels; --image_size={size} trains on that size too"
    print(f"Weights: {found.source if found else 'random'}{note}", flush=True)
    file = found.file if found else None
    # Others are of no run: what lies beside them, in a cache perhaps, does not tell of them.
    if file and file.suffix in (".keras", ".safetensors") and (described := metadata_of(file)):
        sources.tell_of_other_splits("weights were", described, settings.dataset, settings.split_files)
    return found


def decide(settings: Settings, from_scratch: bool) -> Settings:
    """The settings with all that was left open decided: learning rate, precision, base path, where a folder is.

    Raises:
        InputError: Random weights would be frozen, or the base path is a file.
    """
    if pathlib.Path(settings.base).is_file():
        raise InputError(f"--output_dir={settings.base} is a file; give a folder")
    if from_scratch and settings.freeze != "none":
        raise InputError(f"freeze {settings.freeze}: random weights would stay as they are; give --weights")
    learning_rate = FROM_SCRATCH if from_scratch else FINE_TUNING
    dataset, data_dir, split_files = sources.located(settings.dataset, settings.data_dir, settings.split_files)
    return dataclasses.replace(
        settings,
        learning_rate=learning_rate if settings.learning_rate is None else settings.learning_rate,
        precision=devices.fastest_precision() if settings.precision == "auto" else settings.precision,
        output_dir=settings.base,
        dataset=dataset,
        data_dir=data_dir,
        split_files=split_files,
    )


def load(settings: Settings, interpolation: str) -> Dataset:
    """The three splits, in memory.

    Raises:
        InputError: They cannot be had, or are too small for a batch.
    """
    dataset = sources.load(
        settings.dataset,
        data_dir=settings.data_dir,
        eurosat_zip=settings.eurosat_zip,
        split_files=settings.split_files,
        image_size=settings.image_size,
        interpolation=interpolation,
        reading=Reading(tuple(settings.bands.split(",")) if settings.bands else None, settings.scale, settings.offset),
    )
    if dataset.bands != 3 and settings.varied not in (0, RECIPES[settings.recipe]["varied"]):
        raise InputError(
            f"--varied={settings.varied} has no effect: pixels of images of {dataset.bands} bands are not varied; "
            "leave it out"
        )
    training, batch_size = len(dataset.splits["train"]), settings.batch_size
    if training < batch_size:
        raise InputError(
            f"batch size {batch_size} is larger than the training split, {training} images; give a smaller --batch_size"
        )
    numbers = set(dataset.splits["train"].labels.tolist())
    if without := [name for label, name in enumerate(dataset.classes) if label not in numbers]:
        print(f"No training image has class {', '.join(without)}")
    counts = (f"{len(split)} {name} ({split.slice})" for name, split in dataset.splits.items())
    print(f"Data: {dataset.name}, images: {', '.join(counts)}")
    return dataset


def normalization(dataset: Dataset, weights: checkpoints.Checkpoint | None) -> Statistics:
    """What the images are normalised with: the checkpoint's statistics, EuroSAT's own, or the training split's."""
    if weights and weights.statistics and len(weights.statistics.mean) == dataset.bands:
        chosen = weights.statistics
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
    strategy: tf.distribute.Strategy,
    weights: checkpoints.Checkpoint | None = None,
    interpolation: str = "bilinear",
) -> keras.Model:
    """The classifier, compiled for training.

    Raises:
        InputError: The weights do not fit.
    """
    replicas, size = strategy.num_replicas_in_sync, settings.image_size
    keras.utils.set_random_seed(settings.seed)
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(devices.POLICIES[settings.precision])
    try:
        with strategy.scope():
            model = classifier.build(
                settings.depth,
                settings.variant,
                classes=len(dataset.classes),
                statistics=statistics,
                image_size=size,
                interpolation=interpolation,
                checkpoint=weights,
                synchronized=settings.synchronized and replicas > 1,
            )
            classifier.freeze(model, settings.freeze)
            compile_classifier(model, settings, len(dataset.splits["train"]) // settings.batch_size)
    except ValueError as error:
        raise InputError(str(error)) from error
    finally:
        keras.config.set_dtype_policy(former)  # all that the caller builds is not of this run
    if settings.synchronized and replicas == 1:
        print("Synchronized batch normalisation: one device, whose statistics are all there are")
    print(f"Model: {model.layers[-1].name}, {size}x{size} pixels, {settings.precision}, {replicas} replica(s)")
    return model
