"""A whole run, from its settings to the published SavedModel."""

import contextlib
import dataclasses
import pathlib
import shutil
import sys
import time

import keras
import tensorflow as tf

from resnetd_tf import metadata, rundir
from resnetd_tf.data import split_files
from resnetd_tf.data.splits import Dataset
from resnetd_tf.environment import check_backend, environment
from resnetd_tf.errors import InputError, damage_told
from resnetd_tf.normalization import of_classifier
from resnetd_tf.training import checkpoint, devices, results, unfinished
from resnetd_tf.training.callbacks import Diverged, RunWriter
from resnetd_tf.training.checkpoint import Progress
from resnetd_tf.training.fitting import fit
from resnetd_tf.training.preparation import build, decide, load, normalization, starting_weights
from resnetd_tf.training.settings import Settings
from resnetd_tf.training.termination import Termination


def train(settings: Settings, *, resume: bool = False, profile: bool = False) -> pathlib.Path:
    """Trains, exports and evaluates a classifier; see `rundir` for what it leaves under `settings.base`.

    A run that is killed, or ended by SIGTERM (exit code 143 then), has in its folder what it goes on from.

    Args:
        settings: What to train, on what, and how.
        resume: Goes on with the newest unfinished run under `settings.base`; without one a new run starts.
        profile: Records ten steps for TensorBoard's profiler, in logs/profile/ in the run's folder.

    Returns:
        The path of the SavedModel.

    Raises:
        InputError: Something given cannot be used, training diverged or the disk is full at its end; a run that has
            done nothing yet leaves nothing on disk.
    """
    check_backend("training")
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
        base = pathlib.Path(settings.base)
        claimed = unfinished.claim_newest(base) if resume else None
        folder, lock = claimed or (None, None)
        if lock:
            held.callback(lock.release)
        elif resume and rundir.runs(base):
            print(f"No run under {base} is unfinished: another starts", flush=True)
        saved = checkpoint.newest(folder / unfinished.FOLDER) if folder else None
        if folder and saved:
            print(f"Device: {devices.describe(surroundings['hardware'])}", flush=True)
            progress = checkpoint.read(saved)
            described = metadata.read(folder / "metadata.json", unfinished.NEEDED)
            settings, dataset, model = again(folder, settings, progress, described, strategy)
            if not rundir.savedmodel(folder).exists():  # else model.keras is what it was made of
                checkpoint.restore(saved, model, folder / "model.keras")
            print(f"{folder.name} goes on {progress}", flush=True)
        else:
            progress = Progress(threads=devices.threads())
            weights = starting_weights(settings)
            print(f"Device: {devices.describe(surroundings['hardware'])}", flush=True)
            settings = decide(settings, weights is None)
            dataset = load(settings, weights.interpolation if weights else "bilinear")
            statistics = normalization(dataset, weights)
            model = build(settings, dataset, statistics, strategy, weights)
            described = {
                **results.describe(settings, statistics, dataset, weights),
                "replicas": strategy.num_replicas_in_sync,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
                **surroundings,
            }
            if folder is None:
                folder, lock = unfinished.new(base)
                held.callback(lock.release)
        path, began = rundir.savedmodel(folder), started - progress.wall_seconds
        try:
            if not path.exists():
                described["interrupted"] = go_on(
                    folder, settings, dataset, model, described, progress, termination, started, profile
                )
            del model, dataset.splits["train"]  # their memory is needed for what follows
            results.finish(folder, path, dataset, progress, described, began)
            termination.deferred = True  # all is done
            checkpoint.remove(folder / unfinished.FOLDER)
            return path
        except BaseException as error:
            tell_or_remove(folder, progress, error)
            raise


def go_on(
    folder: pathlib.Path,
    settings: Settings,
    dataset: Dataset,
    model: keras.Model,
    described: dict,
    progress: Progress,
    termination: Termination,
    started: float,
    profile: bool,
) -> bool:
    """Trains from where a run has come to; whether it was interrupted after its first epoch."""
    writer = RunWriter(folder, settings, progress, len(dataset.splits["train"]) // settings.batch_size)
    # Now, so that the model of a run that dies can be used.
    rundir.write_labels(folder / "labels.txt", dataset.classes)
    rundir.write_json(folder / "metadata.json", described)
    rundir.write_text(folder / split_files.RECORD, split_files.record(dataset))
    checkpoint.save(folder / unfinished.FOLDER, model, progress, folder / "model.keras")
    interrupted = fit(model, settings, dataset, writer, termination, started, profile)
    writer.write()
    return interrupted


def tell_or_remove(folder: pathlib.Path, progress: Progress, error: BaseException) -> None:
    """Says how a run goes on that came to an end too early, or removes it if it has done nothing yet."""
    saved = checkpoint.newest(folder / unfinished.FOLDER)
    if saved and (progress.history or saved.name != "epoch-0-step-0"):
        on = "it would come to the same again" if isinstance(error, Diverged) else unfinished.how_to_go_on(sys.argv)
        print(f"\n{folder.name} is kept as it was {checkpoint.read(saved)}: {on}", flush=True)
    elif not (folder / "model.keras").exists():
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # unless other runs are in it
        if isinstance(error, SystemExit | KeyboardInterrupt):
            print("\nEnded before there was anything to keep", flush=True)


def again(
    folder: pathlib.Path, settings: Settings, progress: Progress, described: dict, strategy: tf.distribute.Strategy
) -> tuple[Settings, Dataset, keras.Model]:
    """Settings, data and compiled classifier of a run that goes on, the classifier with random weights still.

    Raises:
        InputError: Settings, images or the number of devices are others than before, or of threads where that counts.
    """
    settings = decide(settings, described["weights_source"] == "random")
    unfinished.must_agree(folder, settings, described)
    counts = [("devices", described["replicas"], strategy.num_replicas_in_sync)]
    if settings.deterministic:
        counts.append(("threads", progress.threads, devices.threads()))
    for what, before, now in counts:
        if before != now:
            raise InputError(f"{folder} was started with {before} {what}, here are {now}")
    dataset = load(settings, described["interpolation"])
    if dataset.fingerprint != described["data_sha256"]:
        raise InputError(f"{folder} was started with other images than {settings.dataset} has now; start another run")
    dtype = dataset.splits["train"].images[0].dtype.name
    with damage_told(f"{folder / 'metadata.json'}: cannot be used", "; restore it, or start another run"):
        statistics = dataclasses.replace(of_classifier(described), dtype=dtype)
    model = build(settings, dataset, statistics, strategy, interpolation=described["interpolation"])
    return settings, dataset, model
