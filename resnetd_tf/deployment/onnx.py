"""From a SavedModel to ONNX, for servers and programs that have no TensorFlow."""

import json
import logging
import pathlib
import warnings

from resnetd_tf.deployment import frozen

OPSET = 18  # which runtimes of 2023 and later have


def write(savedmodel: pathlib.Path, bands: int, classes: tuple[str, ...], metadata: dict, path: pathlib.Path) -> None:
    """Writes an ONNX file from `pixels`, any number of images of any size, to `probabilities`.

    Class names and metadata are in its properties, as JSON.

    Raises:
        ModuleNotFoundError: tf2onnx is not installed.
        InputError: As for `frozen.graph`.
    """
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    graph = frozen.graph(savedmodel, bands).as_graph_def()
    with warnings.catch_warnings(action="ignore"):
        model, _ = tf2onnx.convert.from_graph_def(
            graph, input_names=["pixels:0"], output_names=["probabilities:0"], opset=OPSET
        )
    model.graph.name = "resnetd_tf"
    for name in ("pixels", "probabilities"):
        _rename(model.graph, f"{name}:0", name)
    for key, value in (("classes", classes), ("metadata", metadata)):
        model.metadata_props.add(key=key, value=json.dumps(value))
    path.write_bytes(model.SerializeToString())


def _rename(graph, old: str, new: str) -> None:
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
