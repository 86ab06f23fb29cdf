"""From a SavedModel to OpenVINO, for Intel's and others' processors."""

import json
import pathlib

from resnetd_tf import rundir
from resnetd_tf.deployment import frozen


def write(
    savedmodel: pathlib.Path, bands: int, classes: tuple[str, ...], metadata: dict, path: pathlib.Path, precision: str
) -> None:
    """Writes a folder with OpenVINO's model.xml and model.bin, labels.txt and metadata.json.

    The precision is chosen where it runs: OpenVINO takes bfloat16 where a processor has it, unless its setting
    INFERENCE_PRECISION_HINT is f32. Which was asked for, the metadata's exported_precision says.

    Args:
        savedmodel, bands, classes, metadata: As for `onnx.write`.
        path: The folder; must not exist.
        precision: "float32", "float16" for weights in half the bytes, or "bfloat16".

    Raises:
        ModuleNotFoundError: openvino is not installed.
        InputError: As for `frozen.graph`.
    """
    import openvino

    model = openvino.convert_model(frozen.graph(savedmodel, bands))
    for port, name in ((model.inputs[0], "pixels"), (model.outputs[0], "probabilities")):
        port.get_tensor().set_names({name})
    for key, value in (("classes", classes), ("metadata", metadata)):
        model.set_rt_info(json.dumps(value), ["resnetd_tf", key])
    path.mkdir()
    openvino.save_model(model, path / "model.xml", compress_to_fp16=precision != "float32")
    rundir.write_labels(path / "labels.txt", classes)
    rundir.write_json(path / "metadata.json", metadata)
