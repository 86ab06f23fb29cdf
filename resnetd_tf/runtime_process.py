"""Opens an exported model in its own runtime and classifies images: the program that `runtimes.run` starts.

It has NumPy and the model's runtime alone, nothing of this package: what works here works for whoever deploys it.
"""

import argparse
import contextlib
import io
import json
import os
import pathlib
import sys
import time
import zipfile
from collections.abc import Callable

import numpy as np

OPENVINO_PRECISIONS = {"float32": "f32", "float16": "f32", "bfloat16": "bf16"}  # what it computes in on processors
LARGEST_TEXT = 2**24  # bytes, of what is zipped onto a TFLite file


def _litert(path: pathlib.Path, threads: int, images: np.ndarray) -> tuple[Callable, dict]:
    from ai_edge_litert.interpreter import Interpreter

    content = path.read_bytes()
    interpreter = Interpreter(model_content=content, num_threads=threads)
    (signature,) = interpreter.get_signature_list().values()
    (given,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    size = int(given["shape_signature"][0])

    def classify(pixels):
        step = len(pixels) if size < 0 else size
        answers = []
        for start in range(0, len(pixels), step):
            part = pixels[start : start + step]
            if size > 0 and len(part) < size:  # of one image fixed batches are filled up with
                part = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            if tuple(interpreter.get_input_details()[0]["shape"]) != part.shape and size < 0:
                interpreter.resize_tensor_input(given["index"], part.shape, strict=True)
                interpreter.allocate_tensors()
            interpreter.set_tensor(given["index"], part)
            interpreter.invoke()
            answers.append(interpreter.get_tensor(output["index"]))
        probabilities = np.concatenate(answers)[: len(pixels)]
        if output["dtype"] == np.float32:
            return probabilities
        scale, zero = output["quantization"]
        return (probabilities.astype("float32") - zero) * scale

    interpreter.allocate_tensors()
    files: dict[str, str] = {}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in {"labels.txt", "metadata.json"} & set(archive.namelist()):
                files[name] = archive.open(name).read(LARGEST_TEXT).decode()
    labels, metadata = files.get("labels.txt"), files.get("metadata.json")
    return classify, {
        "inputs": {signature["inputs"][0]: _described(given["shape_signature"], given["dtype"].__name__)},
        "outputs": {signature["outputs"][0]: _described(output["shape_signature"], output["dtype"].__name__)},
        "classes": labels and labels.splitlines(),
        "metadata": metadata and json.loads(metadata),
    }


def _onnx(path: pathlib.Path, threads: int, images: np.ndarray) -> tuple[Callable, dict]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    written = session.get_modelmeta().custom_metadata_map
    types = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(uint16)": "uint16"}
    return lambda pixels: session.run([output.name], {given.name: pixels})[0], {
        "inputs": {given.name: _described(given.shape, types.get(given.type, given.type))},
        "outputs": {output.name: _described(output.shape, types.get(output.type, output.type))},
        **{name: json.loads(written[name]) if name in written else None for name in ("classes", "metadata")},
    }


def _openvino(path: pathlib.Path, threads: int, images: np.ndarray) -> tuple[Callable, dict]:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    written = {}
    for name in ("classes", "metadata"):
        with contextlib.suppress(RuntimeError):
            written[name] = json.loads(model.get_rt_info(["resnetd_tf", name]).astype(str))
    precision = (written.get("metadata") or {}).get("exported_precision", "float32")
    hints = {"INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[precision], "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(model, "CPU", hints)

    def described(tensor):
        shape = [axis.get_length() if axis.is_static else -1 for axis in tensor.partial_shape]
        return {tensor.any_name: _described(shape, np.dtype(tensor.element_type.to_dtype()).name)}

    return lambda pixels: compiled(pixels)[0], {
        "inputs": described(compiled.inputs[0]),
        "outputs": described(compiled.outputs[0]),
        "INFERENCE_PRECISION_HINT": hints["INFERENCE_PRECISION_HINT"],
        "classes": written.get("classes"),
        "metadata": written.get("metadata"),
    }


def _savedmodel(path: pathlib.Path, threads: int, images: np.ndarray) -> tuple[Callable, dict]:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    ((name, _),) = inputs.items()
    extra = path / "assets.extra"
    warmed = _warmed_up(loaded, extra / "tf_serving_warmup_requests")
    if len(images) and {"encoded", "classify"} <= set(loaded.signatures):
        _check_encoded(loaded, images[:32])

    def classify(pixels, loaded=loaded):  # `loaded` owns what the signature needs
        return signature(**{name: tf.constant(pixels)})["probabilities"].numpy()

    return classify, {
        "inputs": {key: _described(spec.shape, spec.dtype.name) for key, spec in inputs.items()},
        "outputs": {key: _described(spec.shape, spec.dtype.name) for key, spec in outputs.items()},
        "classes": (extra / "labels.txt").read_text(encoding="utf-8").splitlines(),
        "metadata": json.loads((extra / "metadata.json").read_text(encoding="utf-8")),
        "warmup_requests": warmed,
    }


def _check_encoded(loaded, images: np.ndarray) -> None:
    """Raises ValueError where pictures in files have other answers than their pixels."""
    import tensorflow as tf

    files = [tf.io.encode_png(image).numpy() for image in images]
    examples = [tf.train.Example() for _ in files]
    for example, file in zip(examples, files):
        example.features.feature["image/encoded"].bytes_list.value.append(file)
    signatures, serialized = loaded.signatures, [example.SerializeToString() for example in examples]
    expected = {
        name: value.numpy() for name, value in signatures["serving_default"](pixels=tf.constant(images)).items()
    }
    encoded = {name: value.numpy() for name, value in signatures["encoded"](image_bytes=tf.constant(files)).items()}
    classified = {name: value.numpy() for name, value in signatures["classify"](inputs=tf.constant(serialized)).items()}
    same = [
        np.abs(encoded["probabilities"] - expected["probabilities"]).max() < 1e-3,
        np.abs(classified["scores"] - expected["probabilities"]).max() < 1e-3,
        (encoded["labels"] == expected["labels"]).all() and (classified["classes"] == expected["labels"]).all(),
        (encoded["top_class"] == encoded["labels"][range(len(files)), encoded["probabilities"].argmax(1)]).all(),
        (encoded["error"] == b"").all(),
    ]
    if not all(same):
        raise ValueError(
            "pictures in files have other answers than their pixels, by its signatures encoded and classify"
        )


def _warmed_up(loaded, path: pathlib.Path) -> int:
    """Answers the requests that TensorFlow Serving sends a SavedModel when it loads it; how many there are."""
    if not path.is_file():
        return 0
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    count = 0
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        kind = log.WhichOneof("log_type")
        request = getattr(log, kind).request
        signature = loaded.signatures[request.model_spec.signature_name or "serving_default"]
        if kind == "classify_log":
            examples = [example.SerializeToString() for example in request.input.example_list.examples]
            signature(inputs=tf.constant(examples))
        else:
            signature(**{name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()})
        count += 1
    return count


def _described(shape, dtype: str) -> dict:
    """Shape and type of an input or output as JSON has it; -1 for any size, by whatever a runtime means that."""
    known = [int(size) if isinstance(size, int | np.integer) and size > 0 else -1 for size in shape]
    return {"shape": known, "dtype": dtype}


def main(model: pathlib.Path, images: str, answer: str, threads: int, batch: int, calls: int) -> None:
    sys.modules["resnetd_tf"] = None  # type: ignore[assignment]
    openers = {".tflite": _litert, ".onnx": _onnx, ".xml": _openvino}
    started = time.perf_counter()
    raw = np.load(images)
    classify, described = openers.get(model.suffix, _savedmodel)(model, threads or len(os.sched_getaffinity(0)), raw)
    (given,), output = described["inputs"].values(), described["outputs"].get("probabilities")
    pixels = raw.astype(given["dtype"], copy=False)
    classes = (output or next(iter(described["outputs"].values())))["shape"][-1]
    probabilities, arrays = np.zeros((len(pixels), classes), "float32"), {}
    if len(pixels):
        classify(pixels[:1])
        arrays["opened"] = np.array(time.perf_counter() - started)
    for start in range(0, len(pixels), batch):
        probabilities[start : start + batch] = classify(pixels[start : start + batch])
    if calls:
        arrays["seconds"] = _timed(classify, [pixels[index : index + 1] for index in range(len(pixels))], calls)
        whole = np.resize(pixels, (batch, *pixels.shape[1:]))
        arrays["seconds_of_batches"] = _timed(classify, [whole], max(1, calls // batch))
    np.savez(answer, probabilities=probabilities, described=np.array(json.dumps(described)), **arrays)  # type: ignore[arg-type]


def _timed(classify: Callable, batches: list[np.ndarray], calls: int) -> np.ndarray:
    """Seconds of each of so many calls, after one that is not counted."""
    classify(batches[0])
    seconds = []
    for index in range(calls):
        begun = time.perf_counter()
        classify(batches[index % len(batches)])
        seconds.append(time.perf_counter() - begun)
    return np.array(seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("images")
    parser.add_argument("answer")
    for name in ("--threads", "--batch", "--calls"):
        parser.add_argument(name, type=int, required=True)
    main(**vars(parser.parse_args()))
