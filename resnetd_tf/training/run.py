"""A whole run: data, strategy, model, fit, export, evaluation, and what it leaves on disk."""

import csv
import dataclasses
import io
import pathlib
import shutil
import sys
import time

import keras
import tensorflow as tf

from resnetd_tf import rundir, sentinel2
from resnetd_tf.data import splits as data
from resnetd_tf.deployment import savedmodel as export
from resnetd_tf.environment import environment
from resnetd_tf.errors import InputError
from resnetd_tf.evaluation import metrics as evaluation
from resnetd_tf.evaluation import report
from resnetd_tf.networks import checkpoints, classifier
from resnetd_tf.networks import pretrained as published
from resnetd_tf.networks.copies import portable
from resnetd_tf.training.optimizer import FINE_TUNING, FROM_SCRATCH, Recipe, loss, optimizer

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def fastest_precision() -> str:
    """The precision that the hardware computes fastest: "bfloat16", "float16" or "float32"."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        generation = min(
            tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus
        )
        return "bfloat16" if generation >= (8, 0) else "float16" if generation >= (7, 0) else "float32"
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return "float32"
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def device_strategy() -> tf.distribute.Strategy:
    """MirroredStrategy over all visible GPUs, else over the logical CPU devices.

    For a single device TensorFlow's default strategy, which computes the same: MirroredStrategy feeds even
    one CPU through an iterator of its own that cost a tenth of the training speed.
    """
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def xla(model: keras.Model) -> bool:
    """Whether training compiles with XLA: on one GPU. On CPUs it was four times slower.

    XLA has no bicubic resizing, and Keras compiles no step that reduces over replicas.
    """
    gpus = tf.config.list_logical_devices("GPU")
    return len(gpus) == 1 and model.get_layer("resizing").interpolation == "bilinear"


def prepare(model: keras.Model, recipe: Recipe, steps_per_epoch: int) -> None:
    """Compiles a classifier for training, under the strategy's scope."""
    model.compile(
        optimizer(recipe, steps_per_epoch),
        loss(recipe),
        metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
        jit_compile=xla(model),
    )
    # Variables that a first step creates make TensorFlow trace it a second time.
    model.optimizer.build(model.trainable_variables)


class RunWriter(keras.callbacks.Callback):
    """Writes the history after every epoch, the model after every best one, and tells the time left.

    A run that is interrupted, or killed, has its best model so far in its folder.
    """

    def __init__(self, folder: pathlib.Path, epochs: int):
        super().__init__()
        self.folder, self.epochs = folder, epochs
        self.copy: keras.Model | None = None
        self.history: list[dict] = []
        self.best: dict | None = None

    def on_train_begin(self, logs=None):
        self.start = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_start = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        row = {"epoch": epoch + 1, **logs, "seconds": now - self.epoch_start}
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        self.history.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, row)
        writer.writeheader()
        writer.writerows(self.history)
        rundir.write_text(self.folder / "history.csv", text.getvalue())
        if self.best is None or row["val_accuracy"] > self.best["val_accuracy"]:
            if self.copy is None:
                self.copy = portable(self.model)
            self.copy.set_weights(self.model.get_weights())
            with rundir.atomic(self.folder / "model.keras") as temporary:
                self.copy.save(temporary)
            self.best = row
        left = (now - self.start) / (epoch + 1) * (self.epochs - epoch - 1)
        print(
            f"Epoch {epoch + 1} of {self.epochs}: validation accuracy {100 * row['val_accuracy']:.2f} %, "
            f"best {100 * self.best['val_accuracy']:.2f} % (epoch {self.best['epoch']}), "
            f"about {left / 60:.0f} min left",
            flush=True,
        )


def starting_weights(weights: str, depth: int, variant: str) -> checkpoints.Checkpoint | None:
    """The checkpoint that --weights means, `None` for random weights; says which on the terminal.

    Raises:
        InputError: It cannot be fetched or read.
    """
    checkpoint, note = None, ""
    try:
        if weights != "none":
            checkpoint = checkpoints.read("imagenet" if weights == "auto" else weights, depth, variant)
    except published.Unavailable as error:
        if weights != "auto":
            raise InputError(str(error)) from error
        note = f" ({error})"
    except ValueError as error:
        raise InputError(str(error)) from error
    if checkpoint and weights in ("auto", "imagenet"):
        chosen = published.find(depth, variant)
        note = f" (ImageNet top-1 {chosen.top1:.1f} %, {chosen.licence})"
    print(f"Weights: {checkpoint.source if checkpoint else 'random'}{note}", flush=True)
    return checkpoint


def train(
    *,
    depth: int,
    variant: str,
    dataset: str,
    data_dir: str | None,
    eurosat_zip: str | None,
    image_size: int,
    weights: str,
    freeze: str = "none",
    synchronized: bool = False,
    precision: str,
    seed: int,
    output_dir: str,
    recipe: Recipe,
) -> pathlib.Path:
    """Trains, exports and evaluates a classifier; see `rundir` for what it leaves under `output_dir`.

    Args:
        depth, variant: As for `resnetd_tf.resnet`.
        dataset, data_dir, eurosat_zip: As for `data.load`.
        image_size: Side in pixels to which the model resizes images, at least 32.
        weights: "none" for random weights; "imagenet" or a path, as for `weights.read`; "auto" for
            ImageNet weights if they are cached or can be fetched, else random ones.
        freeze: As for `classifier.freeze`.
        synchronized: As for `resnetd_tf.resnet`.
        precision: "float32", "bfloat16", "float16" or "auto". What is saved is always float32.
        seed: Of weights, shuffling and augmentation.
        output_dir: Base path; the run becomes its next version.
        recipe: Hyper-parameters.

    Returns:
        The path of the SavedModel.

    Raises:
        InputError: Something given cannot be used; nothing is left on disk then.
    """
    started = time.time()
    settings = {name: value for name, value in locals().items() if name not in ("started", "recipe")}
    if recipe.epochs < 1:
        raise InputError(f"epochs {recipe.epochs}: at least 1")
    if image_size < 32:
        raise InputError(f"image size {image_size} is below the smallest, 32")
    surroundings = environment()  # now: the source may change while the run goes on
    strategy = device_strategy()
    replicas = strategy.num_replicas_in_sync
    if recipe.batch_size < replicas:
        raise InputError(f"batch size {recipe.batch_size} is smaller than the number of replicas, {replicas}")
    checkpoint = starting_weights(weights, depth, variant)
    if checkpoint is None and freeze != "none":
        raise InputError(f"freeze {freeze}: random weights would stay as they are; give --weights")
    if recipe.learning_rate is None:
        recipe = dataclasses.replace(recipe, learning_rate=FINE_TUNING if checkpoint else FROM_SCRATCH)
    precision = fastest_precision() if precision == "auto" else precision

    loaded = data.load(dataset, data_dir=data_dir, eurosat_zip=eurosat_zip, image_size=image_size)
    training, validation, test = (loaded.splits[name] for name in data.SPLITS)
    steps = len(training) // recipe.batch_size
    if steps == 0:
        raise InputError(f"batch size {recipe.batch_size} is larger than the training split, {len(training)} images")
    print(f"Data: {dataset}, {len(training)} training, {len(validation)} validation, {len(test)} test images")

    keras.utils.set_random_seed(seed)
    keras.mixed_precision.set_global_policy(PRECISIONS[precision])
    try:
        with strategy.scope():
            model = classifier.build(
                depth,
                variant,
                classes=len(loaded.classes),
                statistics=sentinel2.statistics(loaded.patch_shape[-1]),
                image_size=image_size,
                checkpoint=checkpoint,
                synchronized=synchronized and replicas > 1,
            )
            statistics, interpolation = checkpoints.preprocessing(model)
            classifier.freeze(model, freeze)
            prepare(model, recipe, steps)
    except ValueError as error:
        raise InputError(str(error)) from error
    print(f"Model: {model.layers[-1].name}, {image_size}x{image_size} pixels, {precision}, {replicas} replica(s)")

    number, folder = rundir.new_run(pathlib.Path(output_dir))
    writer = RunWriter(folder, recipe.epochs)
    interrupted = False
    try:
        try:
            model.fit(
                data.batches(training, len(loaded.classes), recipe.batch_size, training=True, seed=seed),
                validation_data=data.batches(validation, len(loaded.classes), recipe.batch_size),
                epochs=recipe.epochs,
                shuffle=False,  # `batches` does
                verbose=1 if sys.stdout.isatty() else 2,
                callbacks=[writer, keras.callbacks.TensorBoard(str(folder / "logs"), write_graph=False)],
            )
        except KeyboardInterrupt:
            if writer.best is None:
                raise
            interrupted = True
            print(f"\nInterrupted: keeping the best of {len(writer.history)} epochs", flush=True)
        return _finish(
            folder=folder,
            path=folder.parent / str(number),
            loaded=loaded,
            writer=writer,
            metadata={
                **settings,
                "precision": precision,
                "weights_source": checkpoint.source if checkpoint else "random",
                "recipe": dataclasses.asdict(recipe),
                "normalization": {"mean": statistics.mean, "std": statistics.std},
                "interpolation": interpolation,
                "patch_shape": loaded.patch_shape,
                "classes": loaded.classes,
                "data_sha256": loaded.fingerprint,
                "split_sizes": {name: len(split) for name, split in loaded.splits.items()},
                "replicas": replicas,
                "interrupted": interrupted,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
                "command": " ".join(sys.argv),
                **surroundings,
            },
            started=started,
        )
    except BaseException:
        if writer.best is None:  # nothing worth keeping
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _finish(folder, path, loaded, writer, metadata, started) -> pathlib.Path:
    """Exports the best epoch, evaluates the export on the test split, and publishes it last."""
    training_seconds = time.monotonic() - writer.start
    rundir.write_text(folder / "labels.txt", "\n".join(loaded.classes) + "\n")
    report.plot_history(writer.history, folder / "history.png")
    best = keras.saving.load_model(folder / "model.keras", compile=False)
    exported = folder / "savedmodel"
    export.savedmodel(best, loaded.classes, exported)
    served = rundir.open_classifier(exported)
    images = loaded.splits["validation"].images[:200]
    agreement = export.agreement(served.predict(images), best.predict(images, verbose=0))
    evaluated = rundir.new_evaluation(folder, "test", None)
    result = evaluation.evaluate(served, loaded, "test", evaluated)
    rundir.write_json(
        folder / "metadata.json",
        {
            **metadata,
            "best_epoch": writer.best["epoch"],
            "validation_accuracy": writer.best["val_accuracy"],
            "test_accuracy": result["accuracy"],
            "test_accuracy_interval": result["accuracy_interval"],
            "training_seconds": training_seconds,
            "wall_seconds": time.time() - started,
            "peak_memory_gib": _peak_memory(),
        },
    )
    exported.rename(path)
    print(report.table(result))
    print(f"\nSavedModel: {path}\nThe rest of the run: {folder}")
    print(f"SavedModel against model.keras on {len(images)} validation images: {agreement}")
    print(f"Evaluate it:  python evaluate.py --model={path.parent}")
    print(f"Serve it:     tensorflow_model_server --rest_api_port=8501 --model_name={path.parent.name} ", end="")
    print(f"--model_base_path={path.parent.resolve()}")
    return path


def _peak_memory() -> float:
    """Largest resident size of this process so far, GiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
