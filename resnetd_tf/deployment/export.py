"""What `export.py` does: converts a classifier, verifies the result without this package, then keeps it."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

import keras
import numpy as np

from resnetd_tf import deployment, rundir, runtimes
from resnetd_tf.data import datasets, images
from resnetd_tf.data.rasters import AS_STORED, RasterOptions
from resnetd_tf.deployment import converters, savedmodel
from resnetd_tf.errors import InputError, damage_as_input_error
from resnetd_tf.process import silence_stderr
from resnetd_tf.saved import SavedClassifier, open_classifier, open_keras_model
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS

CALIBRATION_IMAGES = 200  # training images


def export_classifier(
    model: str | SavedClassifier,
    format: str = "tflite",
    precision: str = "float32",
    output: str | None = None,
    *,
    batch: int = 1,
    output_type: str = "float32",
    verify_all: bool = False,
    dataset: str | None = None,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
    split_files: str | None = None,
    raster_options: RasterOptions = AS_STORED,
    trust: bool = False,
) -> pathlib.Path:
    """Exports a classifier for deployment, if it agrees with the model it is made from.

    What was found is printed, and kept in NAME.check.json beside a file, in check.json inside a folder.

    Args:
        model: A path as `saved.locate` takes it, or a classifier that was opened.
        format: One of `formats.PRECISIONS`.
        precision: One of those it is made in.
        output: The file or folder; `None` for one in the run's folder, see `formats.NAMES`.
        batch, output_type: As for `tflite.write`.
        verify_all: Whether to compare on the whole validation split.
        dataset: What to compare on, and for int8 to calibrate on; `None` for the dataset the model was trained on.
        data_dir, eurosat_zip, split_files, raster_options: As for `sources.load`.
        trust: As for `saved.open_classifier`.

    Returns:
        The path of the file or folder.

    Raises:
        InputError: Something given cannot be used, or the export disagrees with the model.
    """
    deployment.check_options(format, precision, batch, output_type)
    given = model if isinstance(model, SavedClassifier) else open_classifier(model, trust=trust)
    path = pathlib.Path(output) if output else given.folder / deployment.DEFAULT_NAMES[format].format(precision)
    deployment.check_suffix(format, path)
    inside = {"savedmodel": path / "assets.extra" / "check.json", "openvino": path / "check.json"}
    kept = inside.get(format, path.with_name(f"{path.name}.check.json"))
    for place in (path, kept) if format not in inside else (path,):
        rundir.require_absent(place)
    made_from, network = given, None
    if format in ("savedmodel", "safetensors") or not _lacks_run(given):
        source, network = open_keras_model(given.path, trust)
        made_from = open_classifier(source, trust=trust)
    counts = {"validation": None if verify_all else COMPARISON_IMAGES}
    if precision == "int8":
        counts["train"] = CALIBRATION_IMAGES
    splits = load_comparison_images(given, counts, dataset, data_dir, eurosat_zip, split_files, raster_options)
    check, *calibration = (images for images, _ in splits)
    expected = made_from.predict(check)
    with rundir.write_atomically(path) as temporary:
        with silence_stderr(), _converter_errors_named(given, format):
            _write_format(
                given, network, temporary, format, precision, check, *calibration, batch=batch, output_type=output_type
            )
        shape = (batch or -1, *check.shape[1:]) if format == "tflite" else (-1, -1, -1, given.bands)
        found = verify_export(temporary, path, precision, check, expected, shape)
        rundir.require_absent(path)  # by another that was as fast
    rundir.write_json(kept, {"made_from": str(made_from.path), **found})
    print(f"{path}: {format} in {precision}, {found['megabytes']:.1f} MB{describe_input(found)}")
    took = f"; {found['milliseconds']:.1f} ms an image on all cores" if "milliseconds" in found else ""
    if hint := found.get("INFERENCE_PRECISION_HINT"):
        took += f", INFERENCE_PRECISION_HINT={hint}"
    print(f"Against {made_from.path} on {len(check)} validation images: {describe_agreement(found)}{took}")
    return path


def _lacks_run(given: SavedClassifier) -> bool:
    """Whether a SavedModel was copied without its run, and with it the Keras model."""
    return given.path.is_dir() and not (rundir.run_folder_of(given.path) / "model.keras").is_file()


@contextlib.contextmanager
def _converter_errors_named(given: SavedClassifier, format: str) -> Iterator[None]:
    """Turns what converters raise into an InputError, also that one is not installed."""
    try:
        with damage_as_input_error(f"{given.path}: cannot be converted", except_for=(ModuleNotFoundError, OSError)):
            yield
    except ModuleNotFoundError as error:
        if error.name not in ("tf2onnx", "openvino"):
            raise
        message = f"--format={format} needs {error.name}, which is not installed; pip install 'resnetd_tf[{format}]'"
        raise InputError(message) from error


def _write_format(
    given: SavedClassifier,
    network: keras.Model | None,
    path: pathlib.Path,
    format: str,
    precision: str,
    check: np.ndarray,
    calibration: np.ndarray | None = None,
    *,
    batch: int,
    output_type: str,
) -> None:
    described = given.metadata | {"exported_precision": precision}
    if format == "savedmodel":
        savedmodel.write_savedmodel(
            network, given.classes, given.metadata, path, precision, check[: savedmodel.WARMUP_IMAGES]
        )
    elif format == "safetensors":
        converters.write_safetensors(network, given, path, precision)
    else:
        with _temporary_savedmodel(given, network) as folder:
            if format == "tflite":
                shape = check.shape[1:]
                converters.write_tflite(
                    folder, shape, given.classes, described, path, precision, batch, output_type, calibration
                )
            elif format == "onnx":
                converters.write_onnx(folder, given.bands, given.classes, described, path)
            else:
                converters.write_openvino(folder, given.bands, given.classes, described, path, precision)


@contextlib.contextmanager
def _temporary_savedmodel(given: SavedClassifier, network: keras.Model | None) -> Iterator[pathlib.Path]:
    """The SavedModel of a classifier, made for the time being where there is none."""
    if given.path.is_dir():
        yield given.path
        return
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "savedmodel"
        savedmodel.write_savedmodel(network, given.classes, given.metadata, path)
        yield path


# How well a converted model agrees with the one it was made from, and the images to try it on.


COMPARISON_IMAGES = 256  # to compare on


def compare_probabilities(probabilities: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """How well probabilities (n, classes) agree with those expected: same_class, a share, and largest_difference."""
    return {
        "same_class": float((probabilities.argmax(1) == expected.argmax(1)).mean()),
        "largest_difference": float(np.abs(probabilities - expected).max()),
    }


def describe_agreement(found: dict[str, float]) -> str:
    """What `compared` says, for people."""
    return (
        f"same class for {100 * found['same_class']:.1f} %, "
        f"largest difference of a probability {found['largest_difference']:.1e}"
    )


def load_comparison_images(
    classifier: SavedClassifier,
    counts: dict[str, int | None],
    dataset: str | None,
    data_dir: str | None,
    eurosat_zip: str | None,
    split_files: str | None,
    raster_options: RasterOptions = AS_STORED,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first images of splits of the named dataset, or of the one that the classifier was trained on.

    Args:
        classifier: Whose images they are to be.
        counts: How many of each split; `None` for all.
        dataset: Its name; `None` for the one that the classifier was trained on.
        data_dir, eurosat_zip, split_files, raster_options: As for `sources.load`.

    Returns:
        For each split images (n, height, width, bands) of the size that the classifier was trained on, and labels (n,).

    Raises:
        InputError: No dataset is known, or its images have another number of bands.
    """
    name, data_dir, split_files = datasets.resolve_dataset(
        classifier.path, classifier.metadata, dataset, data_dir, split_files
    )
    loaded = datasets.load_dataset(
        name,
        tuple(counts),
        data_dir=data_dir,
        eurosat_zip=eurosat_zip,
        split_files=split_files,
        required_bands={3: RGB_BANDS, len(BANDS): BANDS}.get(classifier.bands),
        raster_options=datasets.resolve_raster_options(classifier.metadata, name, raster_options),
        image_size=classifier.metadata.get("image_size"),  # as in training
        interpolation=classifier.metadata.get("interpolation", "bilinear"),
    )
    classifier.check_bands(name, loaded.bands)
    chosen = [(loaded.splits[split], count) for split, count in counts.items()]
    height, width = classifier.metadata.get("patch_shape", chosen[0][0].images[0].shape)[:2]
    return [
        (images.resize_all(split.images[:count], height, width), np.asarray(split.labels[:count]))
        for split, count in chosen
    ]


# How well an exported model agrees with the one it was made from, run as whoever deploys it does.


TIMED_CALLS = 50  # to see how long one image takes
RECORDED_KEYS = (
    "inputs",
    "outputs",
    "warmup_requests",
    "INFERENCE_PRECISION_HINT",
)  # what a runtime says, that is kept
# By precision, how much probabilities may differ, and of which share of the images the class must be the same
MAX_DIFFERENCE = {"float32": 1e-4}
MIN_SAME_CLASS = {"float32": 1.0, "float16": 0.99, "bfloat16": 0.98, "dynamic": 0.95, "int8": 0.9}


def verify_export(
    model: pathlib.Path, path: pathlib.Path, precision: str, images: np.ndarray, expected: np.ndarray, shape: tuple
) -> dict:
    """Runs an exported model, in a process without this package, and compares it with the one it was made from.

    Args:
        model: Where it lies now; as `saved.open_classifier` or `runtimes.run` take it.
        path: What it will be called.
        precision: What it computes in.
        images: Raw pixels (n, height, width, bands).
        expected: Probabilities (n, classes) of the model that it was made from.
        shape: (n, height, width, bands) that it must take, -1 where any will do.

    Returns:
        images, same_class (a share), largest_difference (of a probability), megabytes; of what has a runtime of its own
        also milliseconds (an image, in calls of as few as it takes, on all cores; median), seconds_to_first_answer,
        inputs, outputs; of OpenVINO INFERENCE_PRECISION_HINT.

    Raises:
        InputError: It cannot be run, has other inputs or outputs, or disagrees.
    """
    found = {"images": len(images), "megabytes": size_megabytes(model)}
    if model.suffix == ".safetensors":
        probabilities = open_classifier(model).predict(images)
    else:
        try:
            ran = runtimes.run_exported(model, images, calls=TIMED_CALLS)
        except RuntimeError as error:
            raise InputError(f"{path} not written: {error}") from error
        probabilities = ran["probabilities"]
        pixels = {"pixels": {"shape": list(shape), "dtype": str(images.dtype)}}
        answer = ran["outputs"].get("probabilities", {"shape": None})
        if ran["inputs"] != pixels or answer["shape"] != [shape[0], expected.shape[1]]:
            raise InputError(f"{path} not written: it takes {ran['inputs']}, gives {ran['outputs']}")
        found |= {
            "milliseconds": 1000 * float(np.median(ran["seconds"])) / max(shape[0], 1),
            "seconds_to_first_answer": float(ran["opened"]),
            **{key: ran[key] for key in RECORDED_KEYS if key in ran},
        }
    found |= compare_probabilities(probabilities, expected)
    # Written so that what is no number disagrees
    agrees = found["largest_difference"] <= MAX_DIFFERENCE.get(precision, 1)
    if not (agrees and found["same_class"] >= MIN_SAME_CLASS[precision]):
        raise InputError(f"{path} not written: on {len(images)} validation images it has {describe_agreement(found)}")
    return found


def measure_latency(model: pathlib.Path, images: np.ndarray, calls: int = TIMED_CALLS) -> dict[str, list[float]]:
    """How long one image takes: milliseconds_1 and milliseconds_2, with one thread and two, median and 95th percentile.

    Of a model that takes a batch of one size, a share of that.

    Args:
        model: As `runtimes.run` takes it.
        images: Raw pixels (n, height, width, bands), one of which is classified in each call.
        calls: How many are timed.

    Raises:
        RuntimeError: As for `runtimes.run`.
    """
    found = {}
    for threads in (1, 2):
        ran = runtimes.run_exported(model, images, threads, calls=calls)
        (given,) = ran["inputs"].values()
        milliseconds = 1000 * np.percentile(ran["seconds"], (50, 95)) / max(1, given["shape"][0])
        found[f"milliseconds_{threads}"] = milliseconds.tolist()
    return found


def describe_input(found: dict) -> str:
    """Of what size its input is, for people; empty where images of any size will do."""
    (shape,) = [given["shape"] for given in found.get("inputs", {}).values()] or [[-1] * 4]
    return "" if shape[1] < 0 else f", input {'x'.join('n' if size < 0 else str(size) for size in shape)}"


def size_megabytes(model: pathlib.Path) -> float:
    """Size of a model: a file, or all of its folder, as of OpenVINO's .xml."""
    model = model.parent if model.suffix == ".xml" else model
    files = [model] if model.is_file() else [path for path in model.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files) / 1e6
