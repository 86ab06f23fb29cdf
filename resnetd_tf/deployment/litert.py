"""Runs a TFLite file in the LiteRT interpreter: python litert.py MODEL IMAGES PROBABILITIES, the last two .npy files.

A program of its own, because the interpreter ends its process where a file is damaged. It needs nothing else of ours,
and no TensorFlow: it is what a device does.
"""

import pathlib
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def run(model: str, images: str, probabilities: str) -> None:
    """Classifies images (n, height, width, bands) one at a time, to probabilities (n, classes)."""
    interpreter = Interpreter(model_content=pathlib.Path(model).read_bytes())
    interpreter.allocate_tensors()
    (input_,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    results = []
    for image in np.load(images):
        interpreter.set_tensor(input_["index"], image[np.newaxis].astype(input_["dtype"]))
        interpreter.invoke()
        results.append(interpreter.get_tensor(output["index"])[0])
    np.save(probabilities, np.stack(results))


if __name__ == "__main__":
    run(*sys.argv[1:])
