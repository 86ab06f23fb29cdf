"""How well an exported model agrees with the one it was made from, run as whoever deploys it does."""

import pathlib

import numpy as np

from resnetd_tf import runtimes
from resnetd_tf.deployment import comparison
from resnetd_tf.errors import InputError
from resnetd_tf.saved import open_classifier

CALLS = 50  # to see how long one image takes
TOLD = ("inputs", "outputs", "warmup_requests", "INFERENCE_PRECISION_HINT")  # what a runtime says, that is kept
# By precision, how much probabilities may differ, and of which share of the images the class must be the same
LARGEST_DIFFERENCE = {"float32": 1e-4}
SAME_CLASS = {"float32": 1.0, "float16": 0.99, "bfloat16": 0.98, "dynamic": 0.95, "int8": 0.9}


def verify(
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
    found = {"images": len(images), "megabytes": megabytes(model)}
    if model.suffix == ".safetensors":
        probabilities = open_classifier(model).predict(images)
    else:
        try:
            ran = runtimes.run(model, images, calls=CALLS)
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
            **{key: ran[key] for key in TOLD if key in ran},
        }
    found |= comparison.compared(probabilities, expected)
    # Written so that what is no number disagrees
    agrees = found["largest_difference"] <= LARGEST_DIFFERENCE.get(precision, 1)
    if not (agrees and found["same_class"] >= SAME_CLASS[precision]):
        raise InputError(f"{path} not written: on {len(images)} validation images it has {comparison.words(found)}")
    return found


def latency(model: pathlib.Path, images: np.ndarray, calls: int = CALLS) -> dict[str, list[float]]:
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
        ran = runtimes.run(model, images, threads, calls=calls)
        (given,) = ran["inputs"].values()
        milliseconds = 1000 * np.percentile(ran["seconds"], (50, 95)) / max(1, given["shape"][0])
        found[f"milliseconds_{threads}"] = milliseconds.tolist()
    return found


def input_words(found: dict) -> str:
    """Of what size its input is, for people; empty where images of any size will do."""
    (shape,) = [given["shape"] for given in found.get("inputs", {}).values()] or [[-1] * 4]
    return "" if shape[1] < 0 else f", input {'x'.join('n' if size < 0 else str(size) for size in shape)}"


def megabytes(model: pathlib.Path) -> float:
    """Size of a model: a file, or all of its folder, as of OpenVINO's .xml."""
    model = model.parent if model.suffix == ".xml" else model
    files = [model] if model.is_file() else [path for path in model.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files) / 1e6
