"""Training itself, from wherever a run has come to."""

import sys
from functools import partial

import keras
import tensorflow as tf

from resnetd_tf.data import batches
from resnetd_tf.data.splits import Dataset
from resnetd_tf.errors import InputError
from resnetd_tf.training import checkpoint
from resnetd_tf.training.callbacks import (
    AverageReplicas,
    Checkpoints,
    RunWriter,
    StopAfter,
    StopNotFinite,
)
from resnetd_tf.training.duration import DurationEstimate
from resnetd_tf.training.settings import Settings
from resnetd_tf.training.tensorboard import Logs, Profile
from resnetd_tf.training.termination import Termination


def fit(
    model: keras.Model,
    settings: Settings,
    dataset: Dataset,
    writer: RunWriter,
    termination: Termination,
    started: float,
    profile: bool = False,
) -> bool:
    """Trains from where `writer.progress` is to the end; whether it was interrupted.

    It returns only if there is an epoch that is complete.

    Raises:
        InputError: Training diverged, or memory is not enough.
        KeyboardInterrupt: It was interrupted before the end of the first epoch.
    """
    training, validation = dataset.splits["train"], dataset.splits["validation"]
    classes, replicas = len(dataset.classes), model.distribute_strategy.num_replicas_in_sync
    check_batch = batches.without_idle_replicas(len(validation), settings.batch_size, replicas)
    checks = batches.from_split(validation, classes, check_batch)
    progress, steps = writer.progress, len(training) // settings.batch_size
    draw = partial(
        batches.for_training,
        training,
        classes,
        settings.batch_size,
        seed=settings.seed,
        cutmix=settings.cutmix,
        varied=settings.varied if dataset.bands == 3 else 0.0,
        # Rising: at the start a network has enough to learn from images as they are.
        strength=lambda step: tf.cast(step / (settings.epochs * steps), "float32"),
    )
    left = steps * (settings.epochs - progress.epoch) - progress.step
    callbacks = [
        keras.callbacks.ProgbarLogger(),  # first, so that it ends its line before others print theirs
        *([AverageReplicas()] if replicas > 1 else []),
        writer,
        StopNotFinite(progress),
        Logs(writer.folder, dataset.classes, progress),
        *([Profile(writer.folder)] if profile else []),
        Checkpoints(writer, termination, settings.checkpoint_minutes, started),
        DurationEstimate(len(validation) / len(training), settings.image_size, left),
    ]
    try:
        if progress.step == steps:
            validate(model, checks, writer, callbacks[1:])
        while progress.epoch < settings.epochs:
            first, whole = progress.epoch * steps + progress.step, progress.step == 0
            model.fit(
                draw(first_step=first),
                steps_per_epoch=steps - progress.step,
                validation_data=checks,
                initial_epoch=progress.epoch,
                epochs=settings.epochs,
                shuffle=False,  # `batches.for_training` shuffles
                verbose=1 if sys.stdout.isatty() else 2,
                # What is left of an epoch is trained alone: Keras wants as many steps in all.
                callbacks=[*callbacks, StopAfter(settings.epochs if whole else progress.epoch + 1)],
            )
        termination.deferred = False
        if termination.requested:  # since the last batch
            termination.end()
    except KeyboardInterrupt:
        termination.deferred = False
        termination.interrupt_answered()
        if progress.best is None:
            raise
        print(f"\nInterrupted: keeping the best of {len(progress.history)} epochs", flush=True)
        return True
    except tf.errors.ResourceExhaustedError as error:
        raise InputError("memory is not enough: try a smaller --batch_size or --image_size") from error
    finally:
        termination.deferred = False
    return False


def validate(model: keras.Model, checks: tf.data.Dataset, writer: RunWriter, callbacks: list) -> None:
    """Ends an epoch that lacks its validation alone."""
    epoch = writer.progress.epoch
    checkpoint.set_metric_sums(model, writer.progress.sums)
    logs = model.get_metrics_result()
    told = keras.callbacks.CallbackList(callbacks, model=model, steps=0)
    told.on_train_begin()
    writer.on_epoch_begin(epoch)
    validated = model.evaluate(checks, callbacks=told, return_dict=True, verbose=0)
    told.on_epoch_end(epoch, logs | {f"val_{name}": value for name, value in validated.items()})
    told.on_train_end()
