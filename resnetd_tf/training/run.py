"""A whole run, from its settings to the published SavedModel."""

import contextlib
import dataclasses
import json
import pathlib
import re
import shlex
import shutil
import sys
import time

import keras
import tensorflow as tf

from resnetd_tf import environment, metadata, rundir
from resnetd_tf.data import datasets, images, splits
from resnetd_tf.data.rasters import RasterOptions
from resnetd_tf.data.splits import Dataset, Split, split_files_digest
from resnetd_tf.deployment import export, savedmodel
from resnetd_tf.deployment.savedmodel import WARMUP_IMAGES
from resnetd_tf.environment import (
    environment_info,
    peak_memory_gib,
    program_command,
    release_memory,
    require_tensorflow_backend,
)
from resnetd_tf.errors import InputError, damage_as_input_error, first_line
from resnetd_tf.evaluation import metrics, report
from resnetd_tf.networks import checkpoints, classifier, pretrained
from resnetd_tf.normalization import EUROSAT_ALL, EUROSAT_RGB, Statistics, measure_statistics, statistics_from_metadata
from resnetd_tf.process import Termination
from resnetd_tf.saved import open_classifier, read_model_metadata
from resnetd_tf.training import checkpoint
from resnetd_tf.training.checkpoint import Progress
from resnetd_tf.training.optimizer import compile_classifier
from resnetd_tf.training.settings import LEARNING_RATE_FINE_TUNING, LEARNING_RATE_FROM_SCRATCH, RECIPES, Settings
from resnetd_tf.training.train_loop import Diverged, RunWriter, run_epochs


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
    require_tensorflow_backend("training")
    started = time.time()
    surroundings = environment_info()  # now: the source may change while the run goes on
    if settings.deterministic:
        environment.enable_determinism()
    strategy = environment.make_strategy()
    if settings.batch_size % strategy.num_replicas_in_sync:
        raise InputError(
            f"batch size {settings.batch_size} is not a multiple of the {strategy.num_replicas_in_sync} devices"
        )
    with Termination() as termination, contextlib.ExitStack() as held:
        base = pathlib.Path(settings.base)
        claimed = checkpoint.claim_newest_run(base) if resume else None
        folder, lock = claimed or (None, None)
        if lock:
            held.callback(lock.release)
        elif resume and rundir.run_folders(base):
            print(f"No run under {base} is unfinished: another starts", flush=True)
        saved = checkpoint.newest_checkpoint(folder / checkpoint.UNFINISHED_FOLDER) if folder else None
        if folder and saved:
            print(f"Device: {environment.describe_devices(surroundings['hardware'])}", flush=True)
            progress = checkpoint.read_progress(saved)
            described = metadata.read_metadata(folder / "metadata.json", checkpoint.NEEDED_METADATA)
            settings, dataset, model = restore_run(folder, settings, progress, described, strategy)
            if not rundir.savedmodel_path(folder).exists():  # else model.keras is what it was made of
                checkpoint.restore_checkpoint(saved, model, folder / "model.keras")
            print(f"{folder.name} goes on {progress}", flush=True)
        else:
            progress = Progress(threads=environment.thread_count())
            weights = read_starting_weights(settings)
            print(f"Device: {environment.describe_devices(surroundings['hardware'])}", flush=True)
            settings = complete_settings(settings, weights is None)
            dataset = load_splits(settings, weights.interpolation if weights else "bilinear")
            statistics = choose_statistics(dataset, weights)
            model = build_model(settings, dataset, statistics, strategy, weights)
            described = {
                **describe_run(settings, statistics, dataset, weights),
                "replicas": strategy.num_replicas_in_sync,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
                **surroundings,
            }
            if folder is None:
                folder, lock = checkpoint.create_run(base)
                held.callback(lock.release)
        path, began = rundir.savedmodel_path(folder), started - progress.wall_seconds
        try:
            if not path.exists():
                described["interrupted"] = train_model(
                    folder, settings, dataset, model, described, progress, termination, started, profile
                )
            del model, dataset.splits["train"]  # their memory is needed for what follows
            export_and_evaluate(folder, path, dataset, progress, described, began)
            termination.deferred = True  # all is done
            checkpoint.remove_unfinished(folder / checkpoint.UNFINISHED_FOLDER)
            return path
        except BaseException as error:
            report_or_discard(folder, progress, error)
            raise


def train_model(
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
    rundir.write_text(folder / splits.RECORD_NAME, splits.split_record(dataset))
    checkpoint.save_checkpoint(folder / checkpoint.UNFINISHED_FOLDER, model, progress, folder / "model.keras")
    interrupted = run_epochs(model, settings, dataset, writer, termination, started, profile)
    writer.write()
    return interrupted


def report_or_discard(folder: pathlib.Path, progress: Progress, error: BaseException) -> None:
    """Says how a run goes on that came to an end too early, or removes it if it has done nothing yet."""
    saved = checkpoint.newest_checkpoint(folder / checkpoint.UNFINISHED_FOLDER)
    if saved and (progress.history or saved.name != "epoch-0-step-0"):
        on = "it would come to the same again" if isinstance(error, Diverged) else checkpoint.resume_advice(sys.argv)
        print(f"\n{folder.name} is kept as it was {checkpoint.read_progress(saved)}: {on}", flush=True)
    elif not (folder / "model.keras").exists():
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # unless other runs are in it
        if isinstance(error, SystemExit | KeyboardInterrupt):
            print("\nEnded before there was anything to keep", flush=True)


def restore_run(
    folder: pathlib.Path, settings: Settings, progress: Progress, described: dict, strategy: tf.distribute.Strategy
) -> tuple[Settings, Dataset, keras.Model]:
    """Settings, data and compiled classifier of a run that goes on, the classifier with random weights still.

    Raises:
        InputError: Settings, images or the number of devices are others than before, or of threads where that counts.
    """
    settings = complete_settings(settings, described["weights_source"] == "random")
    checkpoint.check_same_settings(folder, settings, described)
    counts = [("devices", described["replicas"], strategy.num_replicas_in_sync)]
    if settings.deterministic:
        counts.append(("threads", progress.threads, environment.thread_count()))
    for what, before, now in counts:
        if before != now:
            raise InputError(f"{folder} was started with {before} {what}, here are {now}")
    dataset = load_splits(settings, described["interpolation"])
    if dataset.fingerprint != described["data_sha256"]:
        raise InputError(f"{folder} was started with other images than {settings.dataset} has now; start another run")
    dtype = dataset.splits["train"].images[0].dtype.name
    with damage_as_input_error(f"{folder / 'metadata.json'}: cannot be used", "; restore it, or start another run"):
        statistics = dataclasses.replace(statistics_from_metadata(described), dtype=dtype)
    model = build_model(settings, dataset, statistics, strategy, interpolation=described["interpolation"])
    return settings, dataset, model


# What a run has before it trains: weights to start from, settings, data and classifier.


def read_starting_weights(settings: Settings) -> checkpoints.Checkpoint | None:
    """The checkpoint that `weights` means, `None` for random weights; says which on the terminal.

    Raises:
        InputError: It cannot be fetched or read.
    """
    weights, network = settings.weights, (settings.depth, settings.variant)
    found, note = None, ""
    try:
        if weights != "none":
            found = checkpoints.read_checkpoint("imagenet" if weights == "auto" else weights, *network)
    except pretrained.WeightsUnavailable as error:
        if weights != "auto":
            raise InputError(str(error)) from error
        note = f" ({error})"
    except ValueError as error:
        raise InputError(str(error)) from error
    if found and weights in ("auto", "imagenet"):
        chosen = pretrained.find_published(*network)
        note = f" (ImageNet top-1 {chosen.top1:.1f} %, {chosen.licence})"
    if found and found.image_size and found.image_size != settings.image_size:
        size = found.image_size
        note = f", of images of {size}x{size} pixels; --image_size={size} trains on that size too"
    print(f"Weights: {found.source if found else 'random'}{note}", flush=True)
    file = found.file if found else None
    # Others are of no run: what lies beside them, in a cache perhaps, does not tell of them.
    if file and file.suffix in (".keras", ".safetensors") and (described := read_model_metadata(file)):
        datasets.warn_of_other_splits("weights were", described, settings.dataset, settings.split_files)
    return found


def complete_settings(settings: Settings, from_scratch: bool) -> Settings:
    """The settings with all that was left open decided: learning rate, precision, base path, where a folder is.

    Raises:
        InputError: Random weights would be frozen, or the base path is a file.
    """
    if pathlib.Path(settings.base).is_file():
        raise InputError(f"--output_dir={settings.base} is a file; give a folder")
    if from_scratch and settings.freeze != "none":
        raise InputError(f"freeze {settings.freeze}: random weights would stay as they are; give --weights")
    learning_rate = LEARNING_RATE_FROM_SCRATCH if from_scratch else LEARNING_RATE_FINE_TUNING
    dataset, data_dir, split_files = datasets.absolute_locations(
        settings.dataset, settings.data_dir, settings.split_files
    )
    return dataclasses.replace(
        settings,
        learning_rate=learning_rate if settings.learning_rate is None else settings.learning_rate,
        precision=environment.fastest_precision() if settings.precision == "auto" else settings.precision,
        output_dir=settings.base,
        dataset=dataset,
        data_dir=data_dir,
        split_files=split_files,
    )


def load_splits(settings: Settings, interpolation: str) -> Dataset:
    """The three splits, in memory.

    Raises:
        InputError: They cannot be had, or are too small for a batch.
    """
    dataset = datasets.load_dataset(
        settings.dataset,
        data_dir=settings.data_dir,
        eurosat_zip=settings.eurosat_zip,
        split_files=settings.split_files,
        image_size=settings.image_size,
        interpolation=interpolation,
        raster_options=RasterOptions(
            tuple(settings.bands.split(",")) if settings.bands else None, settings.scale, settings.offset
        ),
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


def choose_statistics(dataset: Dataset, weights: checkpoints.Checkpoint | None) -> Statistics:
    """What the images are normalised with: the checkpoint's statistics, EuroSAT's own, or the training split's."""
    if weights and weights.statistics and len(weights.statistics.mean) == dataset.bands:
        chosen = weights.statistics
    elif re.match(r"eurosat\b", dataset.name):
        chosen = EUROSAT_RGB if dataset.bands == 3 else EUROSAT_ALL
    else:
        chosen = measure_statistics(f"the training split of {dataset.name}", dataset.splits["train"].images)
    mean, std = (" ".join(f"{value:.1f}" for value in values) for values in (chosen.mean, chosen.std))
    print(f"Normalisation: {chosen.name}, mean {mean}, standard deviation {std}")
    return chosen


def build_model(
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
    keras.config.set_dtype_policy(environment.DTYPE_POLICIES[settings.precision])
    try:
        with strategy.scope():
            model = classifier.build_classifier(
                settings.depth,
                settings.variant,
                classes=len(dataset.classes),
                statistics=statistics,
                image_size=size,
                interpolation=interpolation,
                checkpoint=weights,
                synchronized=settings.synchronized and replicas > 1,
            )
            classifier.freeze_layers(model, settings.freeze)
            compile_classifier(model, settings, len(dataset.splits["train"]) // settings.batch_size)
    except ValueError as error:
        raise InputError(str(error)) from error
    finally:
        keras.config.set_dtype_policy(former)  # all that the caller builds is not of this run
    if settings.synchronized and replicas == 1:
        print("Synchronized batch normalisation: one device, whose statistics are all there are")
    print(f"Model: {model.layers[-1].name}, {size}x{size} pixels, {settings.precision}, {replicas} replica(s)")
    return model


# What a run leaves: the best epoch exported, evaluated and published, and metadata that says how it came about.


def describe_run(
    settings: Settings,
    statistics: Statistics,
    dataset: Dataset,
    checkpoint: checkpoints.Checkpoint | None,
) -> dict:
    """What metadata.json says of settings, preprocessing and data."""
    return {
        **dataclasses.asdict(settings),
        **(checkpoint.identity if checkpoint else {"weights_source": "random"}),
        "normalization": {"of": statistics.name, "mean": statistics.mean, "std": statistics.std},
        "interpolation": checkpoint.interpolation if checkpoint else "bilinear",
        "patch_shape": dataset.splits["train"].shape,
        "classes": dataset.classes,
        "data_sha256": dataset.fingerprint,
        "split_files_sha256": split_files_digest(settings.split_files) if settings.split_files else None,
        "splits": {name: split.slice for name, split in dataset.splits.items()},
        "split_sizes": {name: len(split) for name, split in dataset.splits.items()},
        "command": shlex.join(sys.argv),
    }


def export_and_evaluate(
    folder: pathlib.Path, path: pathlib.Path, dataset: Dataset, progress: Progress, metadata: dict, started: float
) -> None:
    """Exports the best epoch, evaluates the export on the test split, and publishes it last.

    What a process did that died in the middle of this is not done again.

    Args:
        folder: The run's folder.
        path: Where the SavedModel goes, if it is not there yet.
        dataset: All three splits.
        progress: Where training has come to.
        metadata: What metadata.json says beside the results.
        started: Time at which the run began, as `time.time` gives it.
    """
    assert progress.best is not None
    published = path.exists()
    exported = path if published else folder / "savedmodel"
    release_memory()
    validation, test = dataset.splits["validation"], dataset.splits["test"]
    check = validation.images[: export.COMPARISON_IMAGES]
    epoch = f"epoch {progress.best['epoch']}"
    if not published:
        print(f"Calibrating {epoch} on {len(validation)} validation images ...", flush=True)
        shutil.rmtree(exported, ignore_errors=True)
        examples = images.resize_all(check[:WARMUP_IMAGES], *metadata["patch_shape"][:2])
        network = calibrate_best_model(folder, validation, metadata)
        print(f"Exporting {epoch} as a SavedModel ...", flush=True)
        savedmodel.write_savedmodel(network, dataset.classes, metadata, exported, examples=examples)
        del network
    expected = open_classifier(folder / "model.keras").predict(check)
    release_memory()
    served = open_classifier(exported)
    release_memory()
    print(f"Evaluating the SavedModel on {len(check)} validation and {len(test)} test images ...", flush=True)
    agreement = export.describe_agreement(export.compare_probabilities(served.predict(check), expected))
    evaluation = dataclasses.replace(metrics.evaluate_split(served, dataset, "test"), model=path.name)
    if not published:
        accuracies = {
            "best_epoch": progress.best["epoch"],
            "validation_accuracy": progress.best["val_accuracy"],
            "test_accuracy": evaluation.result["accuracy"],
            "test_accuracy_interval": evaluation.result["accuracy_interval"],
        }
        of_savedmodel = exported / "assets.extra" / "metadata.json"  # goes where the SavedModel goes
        rundir.write_json(of_savedmodel, json.loads(of_savedmodel.read_text(encoding="utf-8")) | accuracies)
        metadata |= {
            **accuracies,
            "training_seconds": progress.seconds,
            "wall_seconds": time.time() - started,
            "peak_memory_gib": peak_memory_gib(),
        }
        rundir.write_json(folder / "metadata.json", metadata)
        exported.rename(path)
    write_plots(folder, progress.history, evaluation)
    print(report.format_table(evaluation.result))
    print(f"\nSavedModel: {path}\nThe rest of the run: {folder}")
    print(f"SavedModel against model.keras on {len(check)} validation images: {agreement}")
    base, name, place = (shlex.quote(str(text)) for text in (path.parent, path.parent.name, path.parent.resolve()))
    print(f"Evaluate it:  {program_command('evaluate')} --model={base}")
    print(f"Serve it:     tensorflow_model_server --rest_api_port=8501 --model_name={name} --model_base_path={place}")


def calibrate_best_model(folder: pathlib.Path, validation: Split, metadata: dict) -> keras.Model:
    """The best epoch's classifier, its probabilities calibrated on validation images, and kept so in model.keras."""
    path = folder / "model.keras"
    probabilities = open_classifier(path).predict(validation.images)
    release_memory()
    network = checkpoints.load_keras(path)
    metadata["temperature"] = metrics.fit_temperature(validation.labels, probabilities)
    classifier.divide_logits(network, metadata["temperature"])
    with rundir.write_atomically(path) as temporary:
        checkpoints.save_keras(network, temporary)
    return network


def write_plots(folder: pathlib.Path, history: list[dict], evaluation: metrics.Evaluation) -> None:
    """Writes the evaluation and the plots of a run that is published already: none of them can end it."""
    try:
        found = list(folder.glob("evaluation-test-*"))
        for place in found:
            if not (place / "metrics.json").is_file():  # a killed process's
                shutil.rmtree(place)
        if not any(is_evaluation_written(place, evaluation) for place in found):
            with rundir.create_evaluation_folder(folder, "test") as evaluated:
                report.write_report(evaluation, evaluated)
        report.plot_history(history, folder / "history.png")
    except Exception as error:  # whatever matplotlib, or a full disk, makes of it
        print(f"Not all plots were drawn: {first_line(error)}", file=sys.stderr)


def is_evaluation_written(place: pathlib.Path, evaluation: metrics.Evaluation) -> bool:
    """Whether an evaluation is in this folder already."""
    found = place / "metrics.json"
    expected = json.loads(json.dumps(evaluation.result))
    return found.is_file() and json.loads(found.read_text(encoding="utf-8")) == expected
