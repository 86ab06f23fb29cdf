"""A whole run: checks, data, model, training; `results` has its end."""

import contextlib
import dataclasses
import json
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
from resnetd_tf.training import checkpoint, devices, results, unfinished
from resnetd_tf.training.callbacks import (
    AverageReplicas,
    Checkpoints,
    DurationEstimate,
    RunWriter,
    StopAfterEpoch,
    StopNotFinite,
)
from resnetd_tf.training.checkpoint import Progress
from resnetd_tf.training.optimizer import compile_classifier
from resnetd_tf.training.settings import FINE_TUNING, FROM_SCRATCH, Settings
from resnetd_tf.training.termination import Termination


def train(settings: Settings, *, resume: bool = False) -> pathlib.Path:
    """Trains, exports and evaluates a classifier; see `rundir` for what it leaves under `settings.base`.

    A run that is killed, or ended by SIGTERM (exit code 143 then), has in its folder what it goes on from.

    Args:
        settings: What to train, on what, and how.
        resume: Goes on with the newest unfinished run under `settings.base`; without one a new run starts.

    Returns:
        The path of the SavedModel.

    Raises:
        InputError: Something given cannot be used, training diverged or the disk is full at its end; a run that has
            done nothing yet leaves nothing on disk.
    """
    started = time.time()
    surroundings = environment()  # now: the source may change while the run goes on
    if settings.deterministic:
        devices.make_deterministic()
    strategy = devices.strategy()
    if settings.batch_size % strategy.num_replicas_in_sync:
        raise InputError(
            f"batch size {settings.batch_size} is not a multiple of the {strategy.num_replicas_in_sync} devices"
        )
    with Termination() as termination, contextlib.ExitStack() as held:
        folder = unfinished.newest(pathlib.Path(settings.base)) if resume else None
        if folder:
            held.enter_context(unfinished.claim(folder))
        saved = checkpoint.newest(folder / unfinished.FOLDER) if folder else None
        print(f"Device: {devices.describe(surroundings['hardware'])}", flush=True)
        if folder and saved:
            progress = checkpoint.read(saved)
            metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
            settings, dataset, model = again(folder, settings, progress, metadata, strategy)
            checkpoint.restore(saved, model, folder / "model.keras")
            print(f"{folder.name} goes on after {progress}", flush=True)
        else:
            progress = Progress(threads=devices.threads())
            weights = starting_weights(settings)
            settings = decide(settings, weights is None)
            dataset = load(settings, weights.interpolation if weights else "bilinear")
            statistics = normalization(dataset, weights)
            model = build(settings, dataset, statistics, strategy, weights)
            metadata = {
                **results.describe(settings, statistics, dataset, weights),
                "replicas": strategy.num_replicas_in_sync,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
                **surroundings,
            }
            if folder is None:
                folder, lock = unfinished.new(pathlib.Path(settings.base))
                held.enter_context(lock)
        try:
            return go_on(folder, settings, dataset, model, metadata, progress, termination, started)
        except BaseException:
            tell_or_remove(folder)
            raise


def go_on(
    folder: pathlib.Path,
    settings: Settings,
    dataset: Dataset,
    model: keras.Model,
    metadata: dict,
    progress: Progress,
    termination: Termination,
    started: float,
) -> pathlib.Path:
    """Trains from where a run has come to, exports, evaluates, and ends the run; returns the SavedModel's path."""
    place, path = folder / unfinished.FOLDER, rundir.savedmodel(folder)
    writer, earlier = RunWriter(folder, settings.epochs, progress), progress.wall_seconds
    if not path.exists():
        # Now, so that the model of a run that dies can be used.
        rundir.write_labels(folder / "labels.txt", dataset.classes)
        rundir.write_json(folder / "metadata.json", metadata)
        checkpoint.save(place, model, progress, folder / "model.keras")
        metadata["interrupted"] = fit(model, settings, dataset, writer, termination, started)
        writer.write()
    results.finish(folder, path, dataset, progress, metadata, started - earlier)
    checkpoint.remove(place)
    return path


def tell_or_remove(folder: pathlib.Path) -> None:
    """Says how a run goes on that came to an end too early, or removes it if it has done nothing yet."""
    saved = checkpoint.newest(folder / unfinished.FOLDER)
    if saved and saved.name != "epoch-0-step-0":
        command = unfinished.how_to_go_on(sys.argv[1:])
        print(f"\n{folder.name} is kept after {checkpoint.read(saved)}: {command} goes on with it", flush=True)
    elif not (folder / "model.keras").exists():
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # unless other runs are in it


def again(
    folder: pathlib.Path, settings: Settings, progress: Progress, metadata: dict, strategy: tf.distribute.Strategy
) -> tuple[Settings, Dataset, keras.Model]:
    """Settings, data and compiled classifier of a run that goes on, the classifier with random weights still.

    Raises:
        InputError: Settings, images or the number of devices are others than before, or of threads where that counts.
    """
    settings = decide(settings, metadata["weights_source"] == "random")
    unfinished.must_agree(folder, settings, metadata)
    counts = [("devices", metadata["replicas"], strategy.num_replicas_in_sync)]
    if settings.deterministic:
        counts.append(("threads", progress.threads, devices.threads()))
    for what, before, now in counts:
        if before != now:
            raise InputError(f"{folder} was started with {before} {what}, here are {now}")
    dataset = load(settings, metadata["interpolation"])
    if dataset.fingerprint != metadata["data_sha256"]:
        raise InputError(f"{folder} was started with other images than {settings.dataset} has now; start another run")
    described = metadata["normalization"]
    mean, std = (tuple(described[name]) for name in ("mean", "std"))
    statistics = Statistics(described["of"], mean, std, dataset.splits["train"].images[0].dtype.name)
    model = build(settings, dataset, statistics, strategy, interpolation=metadata["interpolation"])
    return settings, dataset, model


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
    print(f"Weights: {found.source if found else 'random'}{note}", flush=True)
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
    dataset, data_dir = sources.located(settings.dataset, settings.data_dir)
    return dataclasses.replace(
        settings,
        learning_rate=learning_rate if settings.learning_rate is None else settings.learning_rate,
        precision=devices.fastest_precision() if settings.precision == "auto" else settings.precision,
        output_dir=settings.base,
        dataset=dataset,
        data_dir=data_dir,
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
        image_size=settings.image_size,
        interpolation=interpolation,
    )
    training, batch_size = len(dataset.splits["train"]), settings.batch_size
    if training < batch_size:
        raise InputError(f"batch size {batch_size} is larger than the training split, {training} images")
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
                interpolation=interpolation,
                checkpoint=weights,
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


def fit(
    model: keras.Model,
    settings: Settings,
    dataset: Dataset,
    writer: RunWriter,
    termination: Termination,
    started: float,
) -> bool:
    """Trains from where `writer.progress` is; whether it was interrupted after its first epoch.

    Raises:
        KeyboardInterrupt: It was interrupted before the end of the first epoch.
    """
    training, validation = dataset.splits["train"], dataset.splits["validation"]
    classes, replicas = len(dataset.classes), model.distribute_strategy.num_replicas_in_sync
    check_batch = batches.without_idle_replicas(len(validation), settings.batch_size, replicas)
    checks = batches.from_split(validation, classes, check_batch)
    progress, steps = writer.progress, len(training) // settings.batch_size
    left = settings.epochs * steps - progress.epoch * steps - progress.step
    callbacks = [
        *([AverageReplicas()] if replicas > 1 else []),
        writer,
        StopNotFinite(progress),
        Checkpoints(writer, termination, settings.checkpoint_minutes, started),
        DurationEstimate(len(validation) / len(training), settings.image_size, left),
        keras.callbacks.TensorBoard(str(writer.folder / "logs"), write_graph=False),
    ]
    try:
        if progress.step == steps:
            validate(model, checks, progress, callbacks)
        while progress.epoch < settings.epochs:
            first, whole = progress.epoch * steps + progress.step, progress.step == 0
            model.fit(
                batches.for_training(training, classes, settings.batch_size, seed=settings.seed, first_step=first),
                steps_per_epoch=steps - progress.step,
                validation_data=checks,
                initial_epoch=progress.epoch,
                epochs=settings.epochs,
                shuffle=False,  # `batches.for_training` shuffles
                verbose=1 if sys.stdout.isatty() else 2,
                # What is left of an epoch is trained alone: Keras wants as many steps in all.
                callbacks=callbacks if whole else [*callbacks, StopAfterEpoch()],
            )
    except KeyboardInterrupt:
        if progress.best is None:
            raise
        print(f"\nInterrupted: keeping the best of {len(progress.history)} epochs", flush=True)
        return True
    return False


def validate(model: keras.Model, checks: tf.data.Dataset, progress: Progress, callbacks: list) -> None:
    """Ends an epoch that lacks its validation alone."""
    checkpoint.set_metric_sums(model, progress.sums)
    logs = model.get_metrics_result()
    told = keras.callbacks.CallbackList(callbacks, model=model, steps=0)
    told.on_train_begin()
    for callback in callbacks:
        if isinstance(callback, RunWriter):
            callback.on_epoch_begin(progress.epoch)
    validated = model.evaluate(checks, callbacks=told, return_dict=True, verbose=0)
    told.on_epoch_end(progress.epoch, logs | {f"val_{name}": value for name, value in validated.items()})
    told.on_train_end()
