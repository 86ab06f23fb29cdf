"""What `export.py` does: writes a classifier in a format, verifies the result without this package, then publishes it.

`export_classifier` comes first, then its parts: writing a format, the images to compare on, and the verification.
"""

import contextlib
import importlib.util
import pathlib
import tempfile
from collections.abc import Iterator

import keras
import numpy as np

from resnetd_tf import deployment, rundir, runtimes
from resnetd_tf.applicability import Applicability
from resnetd_tf.data import datasets, images
from resnetd_tf.data.rasters import AS_STORED, RasterOptions
from resnetd_tf.deployment import converters, savedmodel
from resnetd_tf.errors import InputError, damage_as_input_error
from resnetd_tf.process import silence_stderr
from resnetd_tf.saved import SavedClassifier, open_classifier, open_keras_model
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS

COMPARISON_IMAGES = 256  # validation images to compare on
CALIBRATION_IMAGES = 200  # training images that find the ranges of activations in int8
# By format, the packages that convert and verify it; the extra that installs them has the format's name
NEEDED_PACKAGES = {"tflite": ("ai_edge_litert",), "onnx": ("tf2onnx", "onnxruntime"), "openvino": ("openvino",)}
# Formats that are folders, and the file in the folder that keeps the result of the verification
CHECK_FILES = {"savedmodel": "assets.extra/check.json", "openvino": "check.json"}


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
    """Exports a classifier for deployment, if the export agrees with the model that it is made from.

    The result of the comparison is printed, and kept in NAME.check.json beside a file or in check.json inside a folder.

    Args:
        model: A path as `saved.locate_model` takes it, or an open classifier.
        format: One of `deployment.PRECISIONS`.
        precision: One of the precisions that the format is written in.
        output: The new file or folder; `None` for one of `deployment.DEFAULT_NAMES` in the run's folder.
        batch: For TFLite, the number of images that the model takes at once, zero for any number.
        output_type: Type of the probabilities, "float32" or, for TFLite in int8, "uint8".
        verify_all: Whether to compare on the whole validation split, instead of its first 256 images.
        dataset: Name of the dataset to compare on and to calibrate int8 on; `None` for the one of the training.
        data_dir: Where TFDS keeps its datasets.
        eurosat_zip: A EuroSAT archive to prepare the dataset from, instead of downloading it.
        split_files: Lists of the images in each split; `None` for the splits of the training.
        raster_options: Bands, scale and offset of raster files in a folder that do not say it themselves.
        trust: Whether the model may hold operations that no classifier of this package has, and that may do anything.

    Returns:
        The path of the file or folder.

    Raises:
        InputError: An argument cannot be used, a package is missing, or the export disagrees with the model.
    """
    deployment.check_options(format, precision, batch, output_type)
    _require_packages(format)
    classifier = model if isinstance(model, SavedClassifier) else open_classifier(model, trust=trust)
    path, check_path = _choose_paths(classifier, format, precision, output)
    source, network = _open_source(classifier, format, trust)
    counts = {"validation": None if verify_all else COMPARISON_IMAGES}
    if precision == "int8":
        counts["train"] = CALIBRATION_IMAGES
    splits = load_comparison_images(
        classifier,
        counts,
        dataset=dataset,
        data_dir=data_dir,
        eurosat_zip=eurosat_zip,
        split_files=split_files,
        raster_options=raster_options,
    )
    samples = {split: split_images for split, (split_images, _) in zip(counts, splits)}
    pixels = samples["validation"]
    expected = source.classify(pixels)
    shape = (batch or -1, *pixels.shape[1:]) if format == "tflite" else (-1, -1, -1, classifier.bands)
    with rundir.write_atomically(path) as temporary:
        _write_format(
            temporary,
            classifier,
            network,
            source.applicability,
            samples,
            format,
            precision=precision,
            batch=batch,
            output_type=output_type,
        )
        result = verify_export(temporary, path, precision, pixels, expected, shape)
        rundir.require_absent(path)  # another process may have been faster
    rundir.write_json(check_path, {"made_from": str(source.path), **result})
    _print_result(path, format, precision, source, result)
    return path


def _require_packages(format: str) -> None:
    """Raises InputError, which names the extra to install, if a package that the format needs is missing."""
    for package in NEEDED_PACKAGES.get(format, ()):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"--format={format} needs {package}, which is not installed; pip install 'resnetd_tf[{format}]'"
            )


def _choose_paths(
    classifier: SavedClassifier, format: str, precision: str, output: str | None
) -> tuple[pathlib.Path, pathlib.Path]:
    """Chooses the file or folder to write, and the file that keeps the result of the verification.

    Raises:
        InputError: One of them exists already, or the name does not fit the format.
    """
    path = pathlib.Path(output) if output else classifier.folder / deployment.DEFAULT_NAMES[format].format(precision)
    deployment.check_suffix(format, path)
    rundir.require_absent(path)
    if format in CHECK_FILES:
        return path, path / CHECK_FILES[format]
    check_path = path.with_name(f"{path.name}.check.json")
    rundir.require_absent(check_path)
    return path, check_path


def _open_source(classifier: SavedClassifier, format: str, trust: bool) -> tuple[SavedClassifier, keras.Model | None]:
    """Opens the Keras model that a classifier was exported from.

    Returns:
        The model to compare the export with, and the same as a Keras model. For a SavedModel that was copied without
        its run, and with it the Keras model, these are the SavedModel itself and `None`, if the format can do without.
    """
    without_run = classifier.path.is_dir() and not (rundir.run_folder_of(classifier.path) / "model.keras").is_file()
    if without_run and format not in ("savedmodel", "safetensors"):
        return classifier, None
    path, network = open_keras_model(classifier.path, trust)
    return open_classifier(path, trust=trust, network=network), network


def _print_result(path: pathlib.Path, format: str, precision: str, source: SavedClassifier, result: dict) -> None:
    print(f"{path}: {format} in {precision}, {result['megabytes']:.1f} MB{describe_input(result)}")
    latency = f"; {result['milliseconds']:.1f} ms an image on all cores" if "milliseconds" in result else ""
    if hint := result.get("INFERENCE_PRECISION_HINT"):
        latency += f", INFERENCE_PRECISION_HINT={hint}"
    print(f"Against {source.path} on {result['images']} validation images: {describe_agreement(result)}{latency}")


# Writing a format.


def _write_format(
    path: pathlib.Path,
    classifier: SavedClassifier,
    network: keras.Model | None,
    applicability: Applicability | None,
    samples: dict[str, np.ndarray],
    format: str,
    *,
    precision: str,
    batch: int,
    output_type: str,
) -> None:
    """Writes a classifier in a format.

    Args:
        path: The file or folder to write.
        classifier: The open classifier.
        network: The same as a Keras model; `None` where a SavedModel is all that there is.
        applicability: Where the Keras model applies, if that is known.
        samples: Raw pixels (n, height, width, bands) of the split "validation", and for int8 of the split "train".
        format, precision, batch, output_type: The arguments of `export_classifier`.

    Raises:
        InputError: The model cannot be converted.
    """
    classes, metadata = classifier.classes, classifier.metadata
    exported_metadata = metadata | {"exported_precision": precision}
    pixels = samples["validation"]
    # Converters raise whatever a damaged model makes them stumble on.
    damage = damage_as_input_error(f"{classifier.path}: cannot be converted", except_for=(ModuleNotFoundError, OSError))
    with silence_stderr(), damage:
        if format == "savedmodel":
            examples = pixels[: savedmodel.WARMUP_IMAGES]
            savedmodel.write_savedmodel(
                network, classes, metadata, path, precision, examples, applicability=applicability
            )
            return
        if format == "safetensors":
            converters.write_safetensors(network, classifier, path, precision, applicability)
            return
        with _open_as_savedmodel(classifier, network, applicability, for_int8=precision == "int8") as folder:
            if format == "tflite":
                converters.write_tflite(
                    folder,
                    pixels.shape[1:],
                    classes,
                    exported_metadata,
                    path,
                    precision=precision,
                    batch=batch,
                    output_type=output_type,
                    calibration=samples.get("train"),
                )
            elif format == "onnx":
                converters.write_onnx(folder, classifier.bands, classes, exported_metadata, path)
            else:
                converters.write_openvino(folder, classifier.bands, classes, exported_metadata, path, precision)


@contextlib.contextmanager
def _open_as_savedmodel(
    classifier: SavedClassifier, network: keras.Model | None, applicability: Applicability | None, for_int8: bool
) -> Iterator[pathlib.Path]:
    """Yields the SavedModel that a classifier is, or a temporary one of its Keras model.

    For int8 it is a temporary one with its pools as convolutions, unless the SavedModel is all that there is.
    """
    is_complete = applicability is None or classifier.knows_dissimilarity  # versions before 0.2.0 wrote no score
    if network is None or (classifier.path.is_dir() and is_complete and not for_int8):
        yield classifier.path
        return
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "savedmodel"
        savedmodel.write_savedmodel(
            network,
            classifier.classes,
            classifier.metadata,
            path,
            applicability=applicability,
            pools_as_convolutions=for_int8,
        )
        yield path


# The images to compare on.


def load_comparison_images(
    classifier: SavedClassifier,
    counts: dict[str, int | None],
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
    split_files: str | None = None,
    raster_options: RasterOptions = AS_STORED,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Loads the first images of splits of a dataset, at the size that a classifier was trained on.

    Args:
        classifier: The open classifier.
        counts: Names of the splits, and the number of images of each; `None` for all of them.
        dataset: Name of the dataset; `None` for the one of the training.
        data_dir: Where TFDS keeps its datasets.
        eurosat_zip: A EuroSAT archive to prepare the dataset from, instead of downloading it.
        split_files: Lists of the images in each split; `None` for the splits of the training.
        raster_options: Bands, scale and offset of raster files in a folder that do not say it themselves.

    Returns:
        For each split raw pixels (n, height, width, bands) and labels (n,).

    Raises:
        InputError: No dataset is known, or its images have another number of bands.
    """
    metadata = classifier.metadata
    name, data_dir, split_files = datasets.resolve_dataset(classifier.path, metadata, dataset, data_dir, split_files)
    loaded = datasets.load_dataset(
        name,
        tuple(counts),
        data_dir=data_dir,
        eurosat_zip=eurosat_zip,
        split_files=split_files,
        required_bands={3: RGB_BANDS, len(BANDS): BANDS}.get(classifier.bands),
        raster_options=datasets.resolve_raster_options(metadata, name, raster_options),
        image_size=metadata.get("image_size"),  # as in training
        interpolation=metadata.get("interpolation", "bilinear"),
    )
    classifier.check_bands(name, loaded.bands)
    first_split = loaded.splits[next(iter(counts))]
    height, width = metadata.get("patch_shape", first_split.images[0].shape)[:2]
    return [
        (
            images.resize_all(loaded.splits[split].images[:count], height, width),
            np.asarray(loaded.splits[split].labels[:count]),
        )
        for split, count in counts.items()
    ]


# The verification: an export must agree with the model it is made from, run as whoever deploys it does.

TIMED_CALLS = 50
# Entries of `runtimes.run_exported` that are kept with the result
RECORDED_KEYS = ("inputs", "outputs", "warmup_requests", "INFERENCE_PRECISION_HINT")
# By precision, the largest difference of a probability, and the smallest share of images with the same class
MAX_DIFFERENCE = {"float32": 1e-4}
CLOSE_DISSIMILARITY = 1e-3  # such a difference at the limit is none
MIN_SAME_CLASS = {"float32": 1.0, "float16": 0.99, "bfloat16": 0.98, "dynamic": 0.95, "int8": 0.9}


def verify_export(
    model: pathlib.Path,
    path: pathlib.Path,
    precision: str,
    images: np.ndarray,
    expected: tuple[np.ndarray, np.ndarray | None],
    shape: tuple[int, ...],
) -> dict:
    """Runs an exported model without this package, and compares it with the model it is made from.

    A .safetensors file, which has no runtime of its own, is opened by this package.

    Args:
        model: Where the export is now.
        path: Where the export will be; messages name it.
        precision: The precision that it is written in.
        images: Raw pixels (n, height, width, bands).
        expected: Probabilities (n, classes) and dissimilarities (n,) of the model that it is made from, as
            `SavedClassifier.classify` returns them.
        shape: The shape (n, height, width, bands) that its input must have, -1 for any size.

    Returns:
        `images`, their number, `megabytes`, and what `compare_probabilities` returns. `same_side_of_limit` is the share
        of images that both models find unlike the training images, or both do not. For a model with a runtime also
        `milliseconds`, the median time of one image in the smallest batch on all cores, `seconds_to_first_answer`, and
        `RECORDED_KEYS`.

    Raises:
        InputError: It cannot be run, has other inputs or outputs, or disagrees.
    """
    result = {"images": len(images), "megabytes": size_megabytes(model)}
    expected_probabilities, expected_dissimilarity = expected
    if model.suffix == ".safetensors":
        probabilities, dissimilarity = open_classifier(model).classify(images)
    else:
        try:
            answer = runtimes.run_exported(model, images, calls=TIMED_CALLS)
        except RuntimeError as error:
            raise InputError(f"{path} not written: {error}") from error
        probabilities, dissimilarity = answer["probabilities"], answer.get("dissimilarity")
        expected_inputs = {"pixels": {"shape": list(shape), "dtype": str(images.dtype)}}
        output = answer["outputs"].get("probabilities", {"shape": None})
        if answer["inputs"] != expected_inputs or output["shape"] != [shape[0], expected_probabilities.shape[1]]:
            raise InputError(f"{path} not written: it takes {answer['inputs']}, gives {answer['outputs']}")
        result |= {
            "milliseconds": 1000 * float(np.median(answer["seconds"])) / max(shape[0], 1),
            "seconds_to_first_answer": float(answer["seconds_to_first_answer"]),
            **{key: answer[key] for key in RECORDED_KEYS if key in answer},
        }
    result |= compare_probabilities(probabilities, expected_probabilities)
    if dissimilarity is not None and expected_dissimilarity is not None:
        is_close = np.isclose(dissimilarity, expected_dissimilarity, atol=CLOSE_DISSIMILARITY)
        is_same_side = np.isfinite(dissimilarity) & ((dissimilarity > 1) == (expected_dissimilarity > 1))
        result["same_side_of_limit"] = float((is_close | is_same_side).mean())
    # Not the other way round: a difference that is not a number must count as disagreement.
    agrees = result["largest_difference"] <= MAX_DIFFERENCE.get(precision, 1)
    lowest_share = min(result["same_class"], result.get("same_side_of_limit", 1.0))
    if not (agrees and lowest_share >= MIN_SAME_CLASS[precision]):
        raise InputError(f"{path} not written: on {len(images)} validation images it has {describe_agreement(result)}")
    if expected_dissimilarity is not None and dissimilarity is None and precision != "int8":
        raise InputError(f"{path} not written: it lacks the output dissimilarity, which the model has")
    return result


def compare_probabilities(probabilities: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Compares probabilities (n, classes) with expected ones.

    Returns:
        `same_class`, the share of images, 0 to 1, whose most probable class is the same, and `largest_difference` of
        any probability.
    """
    return {
        "same_class": float((probabilities.argmax(1) == expected.argmax(1)).mean()),
        "largest_difference": float(np.abs(probabilities - expected).max()),
    }


def describe_agreement(comparison: dict[str, float]) -> str:
    """Returns the result of `compare_probabilities`, and of `verify_export`, as text."""
    text = (
        f"same class for {100 * comparison['same_class']:.1f} %, "
        f"largest difference of a probability {comparison['largest_difference']:.1e}"
    )
    if comparison.get("same_side_of_limit", 1.0) < 1:
        share = 100 * (1 - comparison["same_side_of_limit"])
        text += f", {share:.1f} % are unlike the training images for one of the two models alone"
    return text


def describe_input(result: dict) -> str:
    """Returns the size of a verified model's input as text, which is empty where images of any size will do."""
    (shape,) = [tensor["shape"] for tensor in result.get("inputs", {}).values()] or [[-1] * 4]
    return "" if shape[1] < 0 else f", input {'x'.join('n' if size < 0 else str(size) for size in shape)}"


def measure_latency(model: pathlib.Path, images: np.ndarray, calls: int = TIMED_CALLS) -> dict[str, list[float]]:
    """Measures the time that one image takes. A model of batches of one size is measured by the batch and divided.

    Args:
        model: The export, as `runtimes.run_exported` takes it.
        images: Raw pixels (n, height, width, bands), of which each call classifies one.
        calls: Number of timed calls.

    Returns:
        `milliseconds_1` with one thread and `milliseconds_2` with two, each the median and the 95th percentile.

    Raises:
        RuntimeError: The runtime is missing, or it ended without an answer.
    """
    latencies = {}
    for threads in (1, 2):
        answer = runtimes.run_exported(model, images, threads, calls=calls)
        (pixels_input,) = answer["inputs"].values()
        milliseconds = 1000 * np.percentile(answer["seconds"], (50, 95)) / max(1, pixels_input["shape"][0])
        latencies[f"milliseconds_{threads}"] = milliseconds.tolist()
    return latencies


def size_megabytes(model: pathlib.Path) -> float:
    """Returns the size of a model in megabytes: of a file, or of all files in its folder, as for OpenVINO's .xml."""
    model = model.parent if model.suffix == ".xml" else model
    files = [model] if model.is_file() else [path for path in model.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files) / 1e6
