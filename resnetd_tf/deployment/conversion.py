"""What `export.py` does: converts a classifier, runs what comes out without this package, and only then keeps it."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

import keras
import numpy as np

from resnetd_tf import rundir
from resnetd_tf.data.rasters import AS_STORED, Reading
from resnetd_tf.deployment import comparison, formats, onnx, openvino, savedmodel, tflite, verification, warmup, weights
from resnetd_tf.errors import InputError, damage_told
from resnetd_tf.quiet import quiet
from resnetd_tf.saved import SavedClassifier, open_classifier, open_network

CALIBRATION = 200  # training images


def convert(
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
    reading: Reading = AS_STORED,
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
        data_dir, eurosat_zip, split_files, reading: As for `sources.load`.
        trust: As for `saved.open_classifier`.

    Returns:
        The path of the file or folder.

    Raises:
        InputError: Something given cannot be used, or the export disagrees with the model.
    """
    formats.check(format, precision, batch, output_type)
    given = model if isinstance(model, SavedClassifier) else open_classifier(model, trust=trust)
    path = pathlib.Path(output) if output else given.folder / formats.NAMES[format].format(precision)
    formats.check_name(format, path)
    inside = {"savedmodel": path / "assets.extra" / "check.json", "openvino": path / "check.json"}
    kept = inside.get(format, path.with_name(f"{path.name}.check.json"))
    for place in (path, kept) if format not in inside else (path,):
        rundir.must_not_exist(place)
    made_from, network = given, None
    if format in ("savedmodel", "safetensors") or not _is_alone(given):
        source, network = open_network(given.path, trust)
        made_from = open_classifier(source, trust=trust)
    counts = {"validation": None if verify_all else comparison.IMAGES}
    if precision == "int8":
        counts["train"] = CALIBRATION
    splits = comparison.patches(given, counts, dataset, data_dir, eurosat_zip, split_files, reading)
    check, *calibration = (images for images, _ in splits)
    expected = made_from.predict(check)
    with rundir.atomic(path) as temporary:
        with quiet(), _told(given, format):
            _write(
                given, network, temporary, format, precision, check, *calibration, batch=batch, output_type=output_type
            )
        shape = (batch or -1, *check.shape[1:]) if format == "tflite" else (-1, -1, -1, given.bands)
        found = verification.verify(temporary, path, precision, check, expected, shape)
        rundir.must_not_exist(path)  # by another that was as fast
    rundir.write_json(kept, {"made_from": str(made_from.path), **found})
    print(f"{path}: {format} in {precision}, {found['megabytes']:.1f} MB{verification.input_words(found)}")
    took = f"; {found['milliseconds']:.1f} ms an image on all cores" if "milliseconds" in found else ""
    if hint := found.get("INFERENCE_PRECISION_HINT"):
        took += f", INFERENCE_PRECISION_HINT={hint}"
    print(f"Against {made_from.path} on {len(check)} validation images: {comparison.words(found)}{took}")
    return path


def _is_alone(given: SavedClassifier) -> bool:
    """Whether a SavedModel was copied without its run, and with it the Keras model."""
    return given.path.is_dir() and not (rundir.run_folder(given.path) / "model.keras").is_file()


@contextlib.contextmanager
def _told(given: SavedClassifier, format: str) -> Iterator[None]:
    """Turns what converters raise into an InputError, also that one is not installed."""
    try:
        with damage_told(f"{given.path}: cannot be converted", but=(ModuleNotFoundError, OSError)):
            yield
    except ModuleNotFoundError as error:
        if error.name not in ("tf2onnx", "openvino"):
            raise
        message = f"--format={format} needs {error.name}, which is not installed; pip install 'resnetd_tf[{format}]'"
        raise InputError(message) from error


def _write(
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
        savedmodel.write(network, given.classes, given.metadata, path, precision, check[: warmup.LARGEST])
    elif format == "safetensors":
        weights.write(network, given, path, precision)
    else:
        with _savedmodel(given, network) as folder:
            if format == "tflite":
                shape = check.shape[1:]
                tflite.write(folder, shape, given.classes, described, path, precision, batch, output_type, calibration)
            elif format == "onnx":
                onnx.write(folder, given.bands, given.classes, described, path)
            else:
                openvino.write(folder, given.bands, given.classes, described, path, precision)


@contextlib.contextmanager
def _savedmodel(given: SavedClassifier, network: keras.Model | None) -> Iterator[pathlib.Path]:
    """The SavedModel of a classifier, made for the time being where there is none."""
    if given.path.is_dir():
        yield given.path
        return
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "savedmodel"
        savedmodel.write(network, given.classes, given.metadata, path)
        yield path
