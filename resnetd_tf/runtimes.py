"""Runs exported models in their own runtimes, each in a process of its own, as whoever deploys them does.

A process of its own, because a runtime may end its process where a file is damaged. `runtime_process` runs there.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

PROGRAM = pathlib.Path(__file__).with_name("runtime_process.py")
SUFFIXES = (".tflite", ".onnx", ".xml")  # and SavedModels, which are folders


def run_exported(model: pathlib.Path, images: np.ndarray, threads: int = 0, batch: int = 32, calls: int = 0) -> dict:
    """Opens an exported model in another process, and classifies images there.

    Args:
        model: A .tflite or .onnx file, an OpenVINO .xml beside its .bin or their folder, or a SavedModel.
        images: Raw pixels (n, height, width, bands); n may be zero, to have the model described.
        threads: How many the runtime may use; zero for all cores.
        batch: Images that are classified at once, where the model takes more than one.
        calls: How often to classify one image more, and then as many images in whole batches, to see how long it takes.

    Returns:
        `probabilities` (n, classes) float32, `seconds` of the calls of one image, `seconds_of_batches`, `opened`, the
        seconds until the first answer; `inputs` and `outputs`, names with shapes and types; `classes` and `metadata`
        as the file holds them, `None` where it does not.

    Raises:
        RuntimeError: The runtime is missing, or ended without an answer; in one line.
    """
    if (model / "model.xml").is_file():
        model /= "model.xml"
    with tempfile.TemporaryDirectory() as folder:
        given, answer = pathlib.Path(folder, "images.npy"), pathlib.Path(folder, "answer.npz")
        np.save(given, images)
        # -P: what lies beside this file must not be taken for a library.
        command = [sys.executable, "-P", PROGRAM, model, given, answer, f"--threads={threads}"]
        command += [f"--batch={batch}", f"--calls={calls}"]
        # On processors, which all runtimes have in common, and so that it does not want a GPU that this process holds.
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        result = subprocess.run(
            list(map(str, map(_absolute, command))), capture_output=True, text=True, env=environment
        )
        if result.returncode:
            said = (result.stderr.strip() or "no word").splitlines()[-1]
            raise RuntimeError(f"its runtime ended with {result.returncode} ({said[:500]})")
        with np.load(answer) as found:
            arrays = {name: found[name] for name in found.files}
    return json.loads(str(arrays.pop("described"))) | arrays


def describe_exported(model: pathlib.Path) -> dict:
    """What `run` says of a model, without any images; errors are the same."""
    return _describe_once(model, model.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _describe_once(model: pathlib.Path, modified: int) -> dict:
    return run_exported(model, np.zeros((0, 1, 1, 1), "uint8"))


def _absolute(argument):
    return argument.absolute() if isinstance(argument, pathlib.Path) else argument
