"""A whole run: set up or restore, train, export, evaluate, publish."""

import contextlib
import dataclasses
import json
import pathlib
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable

import filelock
import keras
import numpy as np
import scipy.optimize
import scipy.special
import tensorflow as tf

from resnetd_tf import applicability, environment, rundir, sentinel2
from resnetd_tf.data import datasets, images, rehearsal, splits
from resnetd_tf.data.batches import training_batches
from resnetd_tf.data.rasters import RasterOptions
from resnetd_tf.data.splits import Dataset, Split
from resnetd_tf.deployment import export, savedmodel
from resnetd_tf.deployment.savedmodel import WARMUP_IMAGES
from resnetd_tf.environment import program_command, release_memory
from resnetd_tf.errors import InputError, damage_as_input_error, first_line
from resnetd_tf.evaluation import metrics, report
from resnetd_tf.evaluation.metrics import Evaluation
from resnetd_tf.metadata import read_metadata
from resnetd_tf.networks import checkpoints, classifier, layers, pretrained
from resnetd_tf.networks.checkpoints import Checkpoint
from resnetd_tf.normalization import EUROSAT_ALL, EUROSAT_RGB, Statistics, measure_statistics, statistics_from_metadata
from resnetd_tf.process import Termination
from resnetd_tf.saved import open_classifier, open_keras_model, read_model_metadata
from resnetd_tf.training import checkpoint
from resnetd_tf.training.checkpoint import Progress
from resnetd_tf.training.optimizer import compile_classifier
from resnetd_tf.training.settings import LEARNING_RATE_FINE_TUNING, LEARNING_RATE_FROM_SCRATCH, RECIPES, Settings
from resnetd_tf.training.train_loop import Diverged, Run, augmentation_arguments, run_epochs

APPLICABILITY_IMAGES = 2048  # images of a split by which the applicability of a classifier is fitted
HEAD_IMAGES = 1024  # training images by which the recipe few fits the head
HEAD_PENALTY = 1e-4  # of the squared changes of its weights; chosen on validation images of Highway and River


def train(settings: Settings, *, resume: bool = False, profile: bool = False) -> pathlib.Path:
    """Trains, exports and evaluates a classifier; `resnetd_tf.rundir` lists the files of a run.

    A run that is killed, or ended by SIGTERM (exit code 143), leaves a checkpoint from which it can be resumed. Ctrl-C
    ends training early, and the best epoch so far is exported.

    Args:
        settings: The dataset, the network and the training settings.
        resume: Whether to resume the newest unfinished run under `settings.base`. If there is none, a new run starts.
        profile: Whether to record ten steps for TensorBoard's profiler, in logs/profile/ in the run's folder.

    Returns:
        The path of the SavedModel.

    Raises:
        InputError: An argument cannot be used, training diverged, or the disk was full at the end. A run without a
            trained step leaves nothing on disk.
    """
    environment.require_tensorflow_backend("training")
    start_time = time.time()
    environment_info = environment.environment_info()  # Now, because the source may change during the run.
    if settings.deterministic:
        environment.enable_determinism()
    strategy = environment.make_strategy()
    if settings.batch_size % strategy.num_replicas_in_sync:
        raise InputError(
            f"batch size {settings.batch_size} is not a multiple of the {strategy.num_replicas_in_sync} devices"
        )
    base = pathlib.Path(settings.base)
    with Termination() as termination, contextlib.ExitStack() as exit_stack:
        claimed = checkpoint.claim_newest_run(base) if resume else None
        if claimed:
            exit_stack.callback(claimed[1].release)
        elif resume and rundir.run_folders(base):
            print(f"No run under {base} is unfinished: a new run starts", flush=True)
        if claimed and checkpoint.newest_checkpoint(claimed[0]):
            print(f"Device: {environment.describe_devices(environment_info['hardware'])}", flush=True)
            run = restore_run(*claimed, settings, strategy, termination, start_time=start_time)
        else:
            run = set_up_run(
                claimed, settings, strategy, termination, start_time=start_time, environment_info=environment_info
            )
        if not claimed:
            exit_stack.callback(run.lock.release)
        try:
            is_published = run.savedmodel_path.exists()
            if not is_published:
                train_model(run, profile)
            termination.raise_if_requested()
            training_sample = None if is_published else draw_as_trained(run, "train")
            del run.model, run.dataset.splits["train"]  # The following steps need their memory.
            exported = run.savedmodel_path if training_sample is None else export_best_epoch(run, training_sample)
            termination.raise_if_requested()
            evaluation, agreement = evaluate_savedmodel(run, exported)
            if not is_published:
                publish(run, exported, evaluation)
            write_plots(run, evaluation)
            print_results(run, evaluation, agreement)
            termination.deferred = True  # Everything is done; removing the checkpoint takes a moment.
            checkpoint.remove_unfinished(run.folder)
            return run.savedmodel_path
        except BaseException as error:
            report_or_discard(run, error)
            raise


def set_up_run(
    claimed: tuple[pathlib.Path, filelock.FileLock] | None,
    settings: Settings,
    strategy: tf.distribute.Strategy,
    termination: Termination,
    *,
    start_time: float,
    environment_info: dict,
) -> Run:
    """Prepares a new run: initial weights, complete settings, data, classifier and folder.

    Args:
        claimed: Folder and lock of a run that was killed before its first checkpoint; `None` creates another folder.
        settings: The settings as they were given.
        strategy: How training is distributed over devices.
        termination: The signals that ask this process to end.
        start_time: Time at which the run was started, s since the epoch.
        environment_info: Versions, source revision and hardware, for the metadata.

    Raises:
        InputError: The settings do not fit together, or the weights or the dataset cannot be read.
    """
    # Published Sentinel-2 weights depend on the images' bands, and so are read after the images.
    is_by_name = settings.weights in pretrained.SENTINEL2_NAMES
    depends_on_bands = is_by_name or settings.weights.endswith(".pth")
    if is_by_name:
        check_published_network(settings)
    weights = None if depends_on_bands else read_initial_weights(settings)
    print(f"Device: {environment.describe_devices(environment_info['hardware'])}", flush=True)
    settings = complete_settings(settings, from_scratch=weights is None and not depends_on_bands)
    if settings.keep_classes:
        check_kept_classes(settings, weights)
    dataset = load_splits(settings, weights.interpolation if weights else "bilinear")
    if depends_on_bands:
        weights = read_initial_weights(settings, dataset.bands)
    statistics = choose_statistics(dataset, weights)
    teacher = open_teachers(settings, dataset)
    model = build_model(settings, dataset, statistics, strategy, weights=weights)
    run_metadata = {
        **describe_run(settings, statistics, dataset, weights),
        "replicas": strategy.num_replicas_in_sync,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start_time)),
        **environment_info,
    }
    # The folder is created last, so that a run that cannot start leaves nothing on disk.
    folder, lock = claimed or checkpoint.create_run(pathlib.Path(settings.base))
    return Run(
        folder=folder,
        lock=lock,
        settings=settings,
        dataset=dataset,
        model=model,
        metadata=run_metadata,
        progress=Progress(threads=environment.thread_count()),
        termination=termination,
        start_time=start_time,
        teacher=teacher,
    )


def restore_run(
    folder: pathlib.Path,
    lock: filelock.FileLock,
    settings: Settings,
    strategy: tf.distribute.Strategy,
    termination: Termination,
    *,
    start_time: float,
) -> Run:
    """Restores an unfinished run from its newest checkpoint.

    Args:
        folder: The folder of the run.
        lock: The lock of the run, which this process holds.
        settings: The settings as they were given, the same as when the run was started.
        strategy: How training is distributed over devices.
        termination: The signals that ask this process to end.
        start_time: Time at which this process started, s since the epoch.

    Raises:
        InputError: The checkpoint is damaged, or settings, images, the number of devices or, where it matters, the
            number of threads differ from those of the run.
    """
    newest = checkpoint.newest_checkpoint(folder)
    assert newest is not None
    progress = checkpoint.read_progress(newest)
    run_metadata = read_metadata(folder / "metadata.json", checkpoint.NEEDED_METADATA)
    settings = complete_settings(settings, run_metadata["weights_source"] == "random")
    checkpoint.check_same_settings(folder, settings, run_metadata)
    counts = [("devices", run_metadata["replicas"], strategy.num_replicas_in_sync)]
    if settings.deterministic:
        counts.append(("threads", progress.threads, environment.thread_count()))
    for resource, previous_count, count in counts:
        if previous_count != count:
            raise InputError(f"{folder} was started with {previous_count} {resource}, and this process has {count}")
    dataset = load_splits(settings, run_metadata["interpolation"])
    if dataset.fingerprint != run_metadata["data_sha256"]:
        raise InputError(f"{folder} was started with other images than {settings.dataset} has now; start another run")
    dtype = dataset.splits["train"].images[0].dtype.name
    with damage_as_input_error(f"{folder / 'metadata.json'}: cannot be used", "; restore it, or start another run"):
        statistics = dataclasses.replace(statistics_from_metadata(run_metadata), dtype=dtype)
    model = build_model(settings, dataset, statistics, strategy, interpolation=run_metadata["interpolation"])
    if not rundir.savedmodel_path(folder).exists():  # Otherwise model.keras is already the exported model.
        checkpoint.restore_checkpoint(newest, model, folder)
    print(f"{folder.name} goes on {progress}", flush=True)
    return Run(
        folder=folder,
        lock=lock,
        settings=settings,
        dataset=dataset,
        model=model,
        metadata=run_metadata,
        progress=progress,
        termination=termination,
        start_time=start_time - progress.wall_seconds,
        teacher=open_teachers(settings, dataset),
    )


def check_published_network(settings: Settings) -> None:
    """Raises InputError if no published Sentinel-2 weights of the given name are for the network."""
    try:
        pretrained.find_sentinel2(settings.weights, settings.depth, settings.variant, bands=())
    except pretrained.WeightsUnavailable as error:
        raise InputError(str(error)) from error


def read_initial_weights(settings: Settings, bands: int = 3) -> Checkpoint | None:
    """Reads the checkpoint that `settings.weights` names, and prints its source.

    Args:
        settings: The settings.
        bands: Number of bands of the images, for published Sentinel-2 weights.

    Returns:
        The checkpoint, or `None` for random weights.

    Raises:
        InputError: The checkpoint cannot be downloaded or read.
    """
    network, weights, note = (settings.depth, settings.variant), None, ""
    try:
        if settings.weights != "none":
            name = "imagenet" if settings.weights == "auto" else settings.weights
            weights = checkpoints.read_checkpoint(name, *network, bands)
    except pretrained.WeightsUnavailable as error:
        if settings.weights != "auto":
            raise InputError(str(error)) from error
        note = f" ({error})"
    except ValueError as error:
        raise InputError(str(error)) from error
    if weights and settings.weights in ("auto", "imagenet"):
        published = pretrained.find_published(*network)
        note = f" (ImageNet top-1 {published.top1:.1f} %, {published.licence})"
    elif weights and weights.licence:
        note = f" ({weights.licence})"
    if weights and weights.image_size and weights.image_size != settings.image_size:
        size = weights.image_size
        note = f", of images of {size}x{size} pixels; --image_size={size} trains on that size too"
    print(f"Weights: {weights.source if weights else 'random'}{note}", flush=True)
    # Only our own formats have metadata beside them. Files beside other formats, in a cache perhaps, are unrelated.
    path = weights.file if weights else None
    if path and path.suffix in (".keras", ".safetensors") and (weights_metadata := read_model_metadata(path)):
        datasets.warn_of_other_splits("weights were", weights_metadata, settings.dataset, settings.split_files)
    return weights


def check_kept_classes(settings: Settings, weights: Checkpoint | None) -> None:
    """Raises InputError unless the initial weights are of EuroSAT's ten classes."""
    path = weights.file if weights else None
    metadata = read_model_metadata(path) if path and path.suffix in (".keras", ".safetensors") else {}
    classes = tuple(metadata.get("classes", ()))
    if classes != sentinel2.CLASSES:
        raise InputError(
            f"--keep_classes: weights {settings.weights} are of other classes than EuroSAT's ten, whose images "
            "this package has; give --weights=eurosat"
        )


def complete_settings(settings: Settings, from_scratch: bool) -> Settings:
    """Returns the settings with learning rate, precision, base path and absolute locations of the data filled in.

    Args:
        settings: The settings as they were given.
        from_scratch: Whether training starts from random weights.

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
    """Loads the three splits into memory.

    Args:
        settings: The complete settings.
        interpolation: "bilinear" or "bicubic", for images of differing sizes.

    Raises:
        InputError: The splits cannot be loaded, or the training split is smaller than a batch.
    """
    dataset = datasets.load_dataset(
        settings.dataset,
        data_dir=settings.data_dir,
        eurosat_zip=settings.eurosat_zip,
        split_files=settings.split_files,
        image_size=settings.image_size,
        interpolation=interpolation,
        raster_options=RasterOptions(
            tuple(settings.bands.split(",")) if settings.bands else None,
            settings.scale,
            settings.offset,
            rendering=settings.rendering,
        ),
    )
    if settings.keep_classes:
        dataset = rehearsal.add_eurosat_classes(dataset)
    default_shares = {"varied": RECIPES[settings.recipe]["varied"], "relit": 0, "unlike": 0}
    for name, default in default_shares.items():
        share = getattr(settings, name)
        if dataset.bands != 3 and share not in (0, default):
            raise InputError(
                f"--{name}={share} has no effect on images of {dataset.bands} bands, only on RGB; leave it out"
            )
    count, batch_size = len(dataset.splits["train"]), settings.batch_size
    if count < batch_size:
        raise InputError(
            f"batch size {batch_size} is larger than the training split, {count} images; give a smaller --batch_size"
        )
    labels = set(dataset.splits["train"].labels.tolist())
    if missing := [name for label, name in enumerate(dataset.classes) if label not in labels]:
        print(f"No training image has class {', '.join(missing)}")
    sizes = (f"{len(split)} {name} ({split.slice})" for name, split in dataset.splits.items())
    print(f"Data: {dataset.name}, images: {', '.join(sizes)}")
    return dataset


def open_teachers(settings: Settings, dataset: Dataset) -> Callable[[tf.Tensor], tf.Tensor] | None:
    """Opens the classifiers of `settings.teacher`.

    Returns:
        Function from images (batch, height, width, bands) to the mean of their probabilities (batch, classes) float32;
        `None` without teachers.

    Raises:
        InputError: A teacher cannot be opened as a Keras model, or has other classes or bands than the dataset.
    """
    if settings.teacher is None:
        return None
    precision = "bfloat16" if settings.precision == "bfloat16" else "float32"
    networks = []
    for name in settings.teacher.split(","):
        path, network = open_keras_model(name)
        teacher = open_classifier(path)
        teacher.check_bands(dataset.name, dataset.bands)
        if teacher.classes != dataset.classes:
            raise InputError(
                f"--teacher={name}: its classes are {', '.join(teacher.classes)}, those of {dataset.name} are "
                f"{', '.join(dataset.classes)}"
            )
        networks.append(layers.fold_batch_norm(network, precision))

    def mean_probabilities(images: tf.Tensor) -> tf.Tensor:
        return tf.add_n([tf.cast(network(images, training=False), "float32") for network in networks]) / len(networks)

    return mean_probabilities


def choose_statistics(dataset: Dataset, weights: Checkpoint | None) -> Statistics:
    """Returns the statistics for normalisation: those of the initial weights, EuroSAT's, or the training split's."""
    if weights and weights.statistics and len(weights.statistics.mean) == dataset.bands:
        statistics = weights.statistics
    elif re.match(r"eurosat\b", dataset.name):
        statistics = EUROSAT_RGB if dataset.bands == 3 else EUROSAT_ALL
    else:
        statistics = measure_statistics(f"the training split of {dataset.name}", dataset.splits["train"].images)
    mean, std = (" ".join(f"{value:.1f}" for value in values) for values in (statistics.mean, statistics.std))
    print(f"Normalisation: {statistics.name}, mean {mean}, standard deviation {std}")
    return statistics


def build_model(
    settings: Settings,
    dataset: Dataset,
    statistics: Statistics,
    strategy: tf.distribute.Strategy,
    *,
    weights: Checkpoint | None = None,
    interpolation: str = "bilinear",
) -> keras.Model:
    """Builds the classifier and compiles it for training.

    Args:
        settings: The complete settings.
        dataset: The three splits.
        statistics: Mean and standard deviation for normalisation.
        strategy: How training is distributed over devices.
        weights: The initial weights, `None` for random ones.
        interpolation: "bilinear" or "bicubic", with which the model resizes images.

    Raises:
        InputError: The weights do not fit.
    """
    replicas, size = strategy.num_replicas_in_sync, settings.image_size
    keras.utils.set_random_seed(settings.seed)
    caller_policy = keras.config.dtype_policy()
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
                keep_classes=settings.keep_classes,
                synchronized=settings.synchronized and replicas > 1,
            )
            if settings.recipe == "few" and weights:
                fit_head(model, dataset.splits["train"], settings)
            classifier.freeze_layers(model, settings.freeze)
            compile_classifier(model, settings, len(dataset.splits["train"]) // settings.batch_size)
    except ValueError as error:
        raise InputError(str(error)) from error
    finally:
        keras.config.set_dtype_policy(caller_policy)
    if settings.synchronized and replicas == 1:
        print("Synchronized batch normalisation has no effect: there is one device")
    print(f"Model: {model.layers[-1].name}, {size}x{size} pixels, {settings.precision}, {replicas} replica(s)")
    return model


def fit_head(model: keras.Model, split: Split, settings: Settings) -> None:
    """Fits the head alone to the features of training images, by logistic regression from where it stands.

    A random head would first distort the layers below, which a few images do not mend (Kumar et al. 2022, arXiv
    2202.10054).

    Args:
        model: The classifier, not compiled.
        split: Training images of one size; at most `HEAD_IMAGES` of them are used, in all orientations of their shape.
        settings: The complete settings, of which seed and label smoothing are used.
    """
    assert isinstance(split.images, np.ndarray)
    chosen = np.random.default_rng(settings.seed).permutation(len(split))[:HEAD_IMAGES]
    print(f"Fitting the head to the features of {len(chosen)} training images ...", flush=True)
    infer = classifier.make_inference_function(model)
    height, width = split.images.shape[1:3]
    quarter_turns = range(4) if height == width else (0, 2)
    features, labels = [], []
    for start in range(0, len(chosen), settings.batch_size):
        batch = chosen[start : start + settings.batch_size]
        for flipped in (split.images[batch], split.images[batch][:, :, ::-1]):
            for turns in quarter_turns:
                features.append(infer(np.rot90(flipped, turns, axes=(1, 2)))[1])
                labels.append(split.labels[batch])
    head = model.layers[-1].get_layer("predictions")
    kernel, bias = head.get_weights()
    fitted = fit_logistic_regression(
        np.concatenate(features), np.concatenate(labels), kernel, bias, settings.label_smoothing
    )
    head.set_weights(fitted)


def fit_logistic_regression(
    features: np.ndarray, labels: np.ndarray, kernel: np.ndarray, bias: np.ndarray, smoothing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fits the weights of a head, with a penalty on how far they go from where they start.

    Args:
        features: (n, features) float32.
        labels: (n,) integers.
        kernel: (features, classes) float32, where the weights start.
        bias: (classes,) float32, likewise.
        smoothing: Label smoothing, from 0 to below 1.

    Returns:
        Kernel and bias.
    """
    mean = features.mean(0, dtype="float64")
    centred = features - mean
    scale = np.sqrt((centred**2).sum(1).mean()) or 1.0  # so that the penalty does not depend on the size of features
    centred /= scale
    targets = np.eye(len(bias))[labels] * (1 - smoothing) + smoothing / len(bias)
    start_logits = features @ kernel + bias

    def loss_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        change, shift = values[: kernel.size].reshape(kernel.shape), values[kernel.size :]
        log_probabilities = scipy.special.log_softmax(start_logits + centred @ change + shift, axis=1)
        errors = (np.exp(log_probabilities) - targets) / len(labels)
        loss = -(targets * log_probabilities).sum() / len(labels) + HEAD_PENALTY / 2 * (change**2).sum()
        return loss, np.concatenate([(centred.T @ errors + HEAD_PENALTY * change).ravel(), errors.sum(0)])

    start = np.zeros(kernel.size + bias.size)
    values = scipy.optimize.minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B").x
    change = values[: kernel.size].reshape(kernel.shape) / scale
    return kernel + change, bias + values[kernel.size :] - mean @ change


def find_largest_patch(dataset: Dataset) -> dict[str, int]:
    """Returns the entry of metadata.json for the size of patches that were cut from scenes, which all have one.

    A folder of pictures may get pictures of other sizes later, so that it has no such entry.
    """
    folder = pathlib.Path(dataset.name.removeprefix("folder:"))
    if not (folder / splits.OUTLINES_NAME).is_file():
        return {}
    return {"largest_patch": 2 * max(side or 0 for side in dataset.splits["train"].shape[:2])}


def describe_run(settings: Settings, statistics: Statistics, dataset: Dataset, weights: Checkpoint | None) -> dict:
    """Returns the entries of metadata.json for settings, preprocessing and data."""
    return {
        **dataclasses.asdict(settings),
        **(weights.identity if weights else {"weights_source": "random"}),
        "normalization": {"of": statistics.name, "mean": statistics.mean, "std": statistics.std},
        "interpolation": weights.interpolation if weights else "bilinear",
        "patch_shape": dataset.splits["train"].shape,
        **find_largest_patch(dataset),
        "classes": dataset.classes,
        "data_sha256": dataset.fingerprint,
        "split_files_sha256": splits.split_files_digest(settings.split_files) if settings.split_files else None,
        "splits": {name: split.slice for name, split in dataset.splits.items()},
        "split_sizes": {name: len(split) for name, split in dataset.splits.items()},
        "command": shlex.join(sys.argv),
    }


def train_model(run: Run, profile: bool) -> None:
    """Trains from where the run stands to its end, and notes in its metadata whether Ctrl-C ended it early."""
    # Written before training, so that the model of a killed run can be used.
    rundir.write_labels(run.folder / "labels.txt", run.dataset.classes)
    rundir.write_json(run.folder / "metadata.json", run.metadata)
    rundir.write_text(run.folder / splits.RECORD_NAME, splits.split_record(run.dataset))
    checkpoint.save_checkpoint(run.folder, run.model, run.progress)
    run.metadata["interrupted"] = run_epochs(run, profile)


def draw_as_trained(run: Run, split: str) -> np.ndarray:
    """Draws images of a split, augmented as in the last epoch, by which the applicability of the classifier is fitted.

    A quantile of few validation images says nothing. A run that started from the packaged classifier, which knows
    EuroSAT too, adds the images of EuroSAT in this package then.

    Returns:
        (n, height, width, bands) of the split's dtype, at most `APPLICABILITY_IMAGES`.
    """
    source, settings = run.dataset.splits[split], run.settings
    assert isinstance(source.images, np.ndarray)
    is_small = len(run.dataset.splits["validation"]) < applicability.FEWEST_IMAGES
    if is_small and settings.weights == pretrained.EUROSAT_NAME and run.dataset.bands == 3:
        height, width = source.images.shape[1:3]
        sample = rehearsal.read_sample()
        # Where windows are smaller than EuroSAT's images, a part of those has the same size of pixels.
        cut = [image[:height, :width] for image in sample.splits[split].images]
        eurosat = images.resize_all(cut, height, width)
        # A class matters for water alone, whose light is varied in ways of its own; -1 stands for no class.
        own_label = {name: label for label, name in enumerate(run.dataset.classes)}
        eurosat_labels = [own_label.get(sample.classes[label], -1) for label in sample.splits[split].labels]
        labels = np.concatenate([source.labels, eurosat_labels])
        source = dataclasses.replace(source, images=np.concatenate([source.images, eurosat]), labels=labels)
    count = min(APPLICABILITY_IMAGES, len(source))
    batch_size = min(settings.batch_size, count)
    batches = training_batches(source, len(run.dataset.classes), batch_size, **augmentation_arguments(run))
    dtype = source.images[0].dtype
    drawn = [pixels.numpy() for pixels, _ in batches.take(-(-count // batch_size))]
    return np.clip(np.rint(np.concatenate(drawn)[:count]), 0, np.iinfo(dtype).max).astype(dtype)


def fit_run_applicability(
    run: Run, network: keras.Model, training_sample: np.ndarray
) -> applicability.Applicability | None:
    """Fits where the classifier applies, writes that beside model.keras, and returns it.

    Returns `None`, and writes nothing, if there are too few validation images.
    """
    validation_sample = draw_as_trained(run, "validation")
    if len(validation_sample) < applicability.FEWEST_IMAGES:
        print(
            f"No score of applicability, which takes {applicability.FEWEST_IMAGES} validation images: maps will not "
            "leave out what is unlike the training images"
        )
        return None
    infer = classifier.make_inference_function(network)

    def pooled_features(pixels: np.ndarray) -> np.ndarray:
        size = run.settings.batch_size
        return np.concatenate([infer(pixels[start : start + size])[1] for start in range(0, len(pixels), size)])

    area = applicability.fit_applicability(pooled_features(training_sample), pooled_features(validation_sample))
    applicability.write_applicability(area, run.folder / applicability.FILE_NAME)
    return area


def export_best_epoch(run: Run, training_sample: np.ndarray) -> pathlib.Path:
    """Calibrates the best epoch's model, fits where it applies, and exports it as a SavedModel.

    Args:
        run: The run.
        training_sample: Training images, as `draw_as_trained` returns them.

    Returns:
        The path of the SavedModel, which is not yet the one where it is published.
    """
    assert run.progress.best is not None
    epoch, validation = f"epoch {run.progress.best['epoch']}", run.dataset.splits["validation"]
    exported = run.folder / "savedmodel"
    shutil.rmtree(exported, ignore_errors=True)  # A killed process may have left it.
    release_memory()
    print(f"Calibrating {epoch} on {len(validation)} validation images ...", flush=True)
    examples = images.resize_all(validation.images[:WARMUP_IMAGES], *run.metadata["patch_shape"][:2])
    network = calibrate_best_model(run)
    area = fit_run_applicability(run, network, training_sample)
    print(f"Exporting {epoch} as a SavedModel ...", flush=True)
    savedmodel.write_savedmodel(
        network, run.dataset.classes, run.metadata, exported, examples=examples, applicability=area
    )
    return exported


def calibrate_best_model(run: Run) -> keras.Model:
    """Calibrates the probabilities of model.keras on the validation split, replaces the file, and returns the model."""
    path, validation = run.folder / "model.keras", run.dataset.splits["validation"]
    probabilities = open_classifier(path).predict(validation.images)
    release_memory()
    network = checkpoints.load_keras(path)
    run.metadata["temperature"] = metrics.fit_temperature(validation.labels, probabilities)
    classifier.divide_logits(network, run.metadata["temperature"])
    with rundir.write_atomically(path) as temporary:
        checkpoints.save_keras(network, temporary)
    return network


def evaluate_savedmodel(run: Run, path: pathlib.Path) -> tuple[Evaluation, str]:
    """Evaluates the SavedModel on the test split, and compares it with model.keras on validation images.

    Returns:
        The evaluation, and a sentence on how well the two models agree.
    """
    test, validation_images = run.dataset.splits["test"], run.dataset.splits["validation"].images
    compared_images = validation_images[: export.COMPARISON_IMAGES]
    release_memory()
    expected = open_classifier(run.folder / "model.keras").predict(compared_images)
    release_memory()
    served = open_classifier(path)
    release_memory()
    print(f"Evaluating the SavedModel on {len(compared_images)} validation and {len(test)} test images ...", flush=True)
    agreement = export.describe_agreement(export.compare_probabilities(served.predict(compared_images), expected))
    evaluation = metrics.evaluate_split(served, run.dataset, "test")
    sentence = f"SavedModel against model.keras on {len(compared_images)} validation images: {agreement}"
    return dataclasses.replace(evaluation, model=run.savedmodel_path.name), sentence


def publish(run: Run, exported: pathlib.Path, evaluation: Evaluation) -> None:
    """Adds the results to the metadata and moves the SavedModel to where TensorFlow Serving looks for it."""
    assert run.progress.best is not None
    accuracies = {
        "best_epoch": run.progress.best["epoch"],
        "validation_accuracy": run.progress.best["val_accuracy"],
        "test_accuracy": evaluation.result["accuracy"],
        "test_accuracy_interval": evaluation.result["accuracy_interval"],
    }
    # The SavedModel may be copied alone, so it has metadata of its own.
    exported_metadata = exported / "assets.extra" / "metadata.json"
    rundir.write_json(exported_metadata, json.loads(exported_metadata.read_text(encoding="utf-8")) | accuracies)
    run.metadata |= {
        **accuracies,
        "training_seconds": run.progress.seconds,
        "wall_seconds": time.time() - run.start_time,
        "peak_memory_gib": environment.peak_memory_gib(),
    }
    rundir.write_json(run.folder / "metadata.json", run.metadata)
    exported.rename(run.savedmodel_path)


def write_plots(run: Run, evaluation: Evaluation) -> None:
    """Writes the evaluation and the plots. An error is only printed, because the run is already published."""
    try:
        folders = list(run.folder.glob("evaluation-test-*"))
        for folder in folders:
            if not (folder / "metrics.json").is_file():  # A killed process left it.
                shutil.rmtree(folder)
        if not any(is_evaluation_written(folder, evaluation) for folder in folders):
            with rundir.create_evaluation_folder(run.folder, "test") as folder:
                report.write_report(evaluation, folder)
        report.plot_history(run.progress.history, run.folder / "history.png")
    except Exception as error:  # Matplotlib raises many kinds of errors, and the disk may be full.
        print(f"Not all plots were drawn: {first_line(error)}", file=sys.stderr)


def is_evaluation_written(folder: pathlib.Path, evaluation: Evaluation) -> bool:
    """Returns whether `folder` holds the same evaluation."""
    path = folder / "metrics.json"
    expected = json.loads(json.dumps(evaluation.result))
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")) == expected


def print_results(run: Run, evaluation: Evaluation, agreement: str) -> None:
    """Prints the accuracy of every class, where the files are, and the commands to go on with."""
    base = run.savedmodel_path.parent
    quoted_base, name, absolute_base = (shlex.quote(str(text)) for text in (base, base.name, base.resolve()))
    print(report.format_table(evaluation.result))
    print(f"\nSavedModel: {run.savedmodel_path}\nThe rest of the run: {run.folder}")
    print(agreement)
    print(f"Evaluate it:  {program_command('evaluate')} --model={quoted_base}")
    print(
        "Serve it:     tensorflow_model_server --rest_api_port=8501 "
        f"--model_name={name} --model_base_path={absolute_base}"
    )


def report_or_discard(run: Run, error: BaseException) -> None:
    """Prints how to resume a run that ended too early, or removes the run if it has done nothing yet."""
    newest = checkpoint.newest_checkpoint(run.folder)
    if newest and (run.progress.history or newest.name != "epoch-0-step-0"):
        advice = "it would diverge again" if isinstance(error, Diverged) else checkpoint.resume_advice(sys.argv)
        print(f"\n{run.folder.name} is kept as it was {checkpoint.read_progress(newest)}: {advice}", flush=True)
    elif not (run.folder / "model.keras").exists():
        shutil.rmtree(run.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # Other runs are in the folder.
            run.folder.parent.rmdir()
        if isinstance(error, SystemExit | KeyboardInterrupt):
            print("\nEnded before there was anything to keep", flush=True)
