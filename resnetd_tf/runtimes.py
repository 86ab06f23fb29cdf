"""Runs exported models in their own runtimes, each in a process of its own, as whoever deploys them does.

A damaged file can make a runtime end its process, so no runtime runs in the process of the user. The first half of this
file is the library. `run_exported` starts this very file as a program, which is its second half. That program has NumPy
and the model's runtime alone, and blocks `resnetd_tf`: a model that works there works for whoever deploys it.
"""

import argparse
import contextlib
import functools
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

SUFFIXES = (".tflite", ".onnx", ".xml")  # SavedModels, which are folders, run here too
MAX_ERROR_LENGTH = 500  # characters of a runtime's message that are repeated


def run_exported(model: pathlib.Path, images: np.ndarray, threads: int = 0, batch: int = 32, calls: int = 0) -> dict:
    """Opens an exported model in another process, and classifies images there.

    Args:
        model: A .tflite or .onnx file, an OpenVINO .xml beside its .bin or their folder, or a SavedModel.
        images: Raw pixels (n, height, width, bands) of the type that the model takes. Without any image the process
            only describes the model.
        threads: Threads that the runtime may use; zero for one on each core.
        batch: Images that are classified at once, where the model takes more than one.
        calls: Calls of one image each that are timed, after which as many images are timed in whole batches; zero for
            no timing.

    Returns:
        A dictionary with these entries:

        - probabilities: (n, classes) float32.
        - dissimilarity: (n,) float32, how unlike the training images they are, if the model says so.
        - inputs, outputs: By name, the shape (-1 for any size) and the dtype.
        - classes, metadata: Class names and metadata that the file holds, `None` where it holds none.
        - seconds, seconds_of_batches: The time that each timed call took, with one image and with a batch.
        - seconds_to_first_answer: The time from the start of opening to the first answer.
        - warmup_requests: For a SavedModel, the number of its warm-up requests, all of which were answered. It is
          `None` without tensorflow-serving-api, which reads them.
        - INFERENCE_PRECISION_HINT: For OpenVINO, the precision that it was told to compute in.

    Raises:
        RuntimeError: The runtime is missing, or it ended without an answer. The message is one line.
    """
    if (model / "model.xml").is_file():
        model /= "model.xml"
    with tempfile.TemporaryDirectory() as folder:
        images_path, result_path = (pathlib.Path(folder, name).absolute() for name in ("images.npy", "result.npz"))
        np.save(images_path, images)
        # -P: modules that lie beside this file must not be taken for libraries.
        command: list[Any] = [sys.executable, "-P", __file__, model.absolute(), images_path, result_path]
        command += [f"--threads={threads}", f"--batch={batch}", f"--calls={calls}"]
        # Processors are what all runtimes have in common, and this process may hold the GPU.
        variables = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        process = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=variables)
        if process.returncode:
            last_line = (process.stderr.strip() or "no message").splitlines()[-1]
            raise RuntimeError(f"its runtime ended with {process.returncode} ({last_line[:MAX_ERROR_LENGTH]})")
        with np.load(result_path) as result:
            arrays = {name: result[name] for name in result.files}
    return json.loads(str(arrays.pop("description"))) | arrays


def describe_exported(model: pathlib.Path) -> dict:
    """Returns inputs, outputs, classes and metadata of a model, as `run_exported` does, without classifying an image.

    Raises:
        RuntimeError: The runtime is missing, or it ended without an answer.
    """
    return _describe_file(model, model.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _describe_file(model: pathlib.Path, modification_time: int) -> dict:
    """Describes a model once for each time that its file was modified."""
    return run_exported(model, np.zeros((0, 1, 1, 1), "uint8"))


# The program that `run_exported` starts. It must use nothing of `resnetd_tf`.

# By precision of the export, the precision that OpenVINO computes in on processors
OPENVINO_PRECISIONS = {"float32": "f32", "float16": "f32", "bfloat16": "bf16"}
ONNX_DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(uint16)": "uint16"}
RUNTIME_EXTRAS = {"ai_edge_litert": "tflite", "onnxruntime": "onnx", "openvino": "openvino"}
MAX_ENTRY_BYTES = 2**24  # of labels.txt and metadata.json in a TFLite file
MAX_CHECKED_PICTURES = 32
MAX_ENCODED_DIFFERENCE = 1e-3  # of a probability, between a picture's pixels and its file

FLOAT_OUTPUTS = ("probabilities", "dissimilarity")  # in the order that exports have
Classify = Callable[[np.ndarray], dict[str, np.ndarray]]  # raw pixels (n, height, width, bands) -> outputs by name


def main(model: pathlib.Path, images: pathlib.Path, result: pathlib.Path, threads: int, batch: int, calls: int) -> None:
    """Runs a model, see `run_exported`. `images` is an .npy file to read, `result` an .npz file to write."""
    sys.modules["resnetd_tf"] = None  # type: ignore[assignment]
    start = time.perf_counter()
    stored = np.load(images)
    threads = threads or len(os.sched_getaffinity(0))
    try:
        if model.is_dir():
            classify, description = _open_savedmodel(model, threads, stored)
        else:
            opener = {".tflite": _open_litert, ".onnx": _open_onnx, ".xml": _open_openvino}[model.suffix]
            classify, description = opener(model, threads)
    except ModuleNotFoundError as error:
        if error.name not in RUNTIME_EXTRAS:
            raise
        sys.exit(f"{error.name} is not installed; pip install 'resnetd_tf[{RUNTIME_EXTRAS[error.name]}]'")
    (pixels_input,), outputs = description["inputs"].values(), description["outputs"]
    output_names = {name: name for name in FLOAT_OUTPUTS if name in outputs}
    output_names.setdefault("probabilities", next(iter(outputs)))  # a model of somebody else may call them otherwise
    pixels = stored.astype(pixels_input["dtype"], copy=False)
    arrays = {
        name: np.zeros((len(pixels), *outputs[output]["shape"][1:]), "float32") for name, output in output_names.items()
    }
    if len(pixels):
        classify(pixels[:1])
        arrays["seconds_to_first_answer"] = np.array(time.perf_counter() - start)
    for first in range(0, len(pixels), batch):
        answers = classify(pixels[first : first + batch])
        for name, output in output_names.items():
            arrays[name][first : first + batch] = answers[output]
    if calls:
        arrays["seconds"] = _time_calls(classify, [pixels[index : index + 1] for index in range(len(pixels))], calls)
        full_batch = np.resize(pixels, (batch, *pixels.shape[1:]))
        arrays["seconds_of_batches"] = _time_calls(classify, [full_batch], max(1, calls // batch))
    np.savez(result, description=np.array(json.dumps(description)), **arrays)  # type: ignore[arg-type]


def _time_calls(classify: Classify, batches: list[np.ndarray], calls: int) -> np.ndarray:
    """Returns the seconds of each call, with the batches in turn, after one call that is not counted."""
    classify(batches[0])
    seconds = []
    for index in range(calls):
        start = time.perf_counter()
        classify(batches[index % len(batches)])
        seconds.append(time.perf_counter() - start)
    return np.array(seconds)


def _describe_tensor(shape, dtype: str) -> dict:
    """Returns shape and dtype for JSON. Runtimes mark a size that is open by `None`, a name or -1: here it is -1."""
    sizes = [int(size) if isinstance(size, int | np.integer) and size > 0 else -1 for size in shape]
    return {"shape": sizes, "dtype": dtype}


def _open_litert(path: pathlib.Path, threads: int) -> tuple[Classify, dict]:
    """Opens a TFLite file."""
    from ai_edge_litert.interpreter import Interpreter

    content = path.read_bytes()
    interpreter = Interpreter(model_content=content, num_threads=threads)
    (signature,) = interpreter.get_signature_list().values()
    (pixels_input,) = interpreter.get_input_details()
    outputs = interpreter.get_signature_runner().get_output_details()
    fixed_batch = int(pixels_input["shape_signature"][0])  # -1 for any

    def classify_batch(pixels):
        count = len(pixels)
        if fixed_batch > count:  # filled up with copies of the last image
            pixels = np.concatenate([pixels, np.repeat(pixels[-1:], fixed_batch - count, axis=0)])
        if fixed_batch < 0 and tuple(interpreter.get_input_details()[0]["shape"]) != pixels.shape:
            interpreter.resize_tensor_input(pixels_input["index"], pixels.shape, strict=True)
            interpreter.allocate_tensors()
        interpreter.set_tensor(pixels_input["index"], pixels)
        interpreter.invoke()
        return {name: dequantize(output)[:count] for name, output in outputs.items()}

    def dequantize(output):
        values = interpreter.get_tensor(output["index"])
        if output["dtype"] == np.float32:
            return values
        scale, zero_point = output["quantization"]
        return (values.astype("float32") - zero_point) * scale

    def classify(pixels):
        step = fixed_batch if fixed_batch > 0 else len(pixels)
        batches = [classify_batch(pixels[start : start + step]) for start in range(0, len(pixels), step)]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in outputs}

    interpreter.allocate_tensors()
    labels, metadata = _read_zipped_texts(content)
    return classify, {
        "inputs": {
            signature["inputs"][0]: _describe_tensor(pixels_input["shape_signature"], pixels_input["dtype"].__name__)
        },
        "outputs": {
            name: _describe_tensor(output["shape_signature"], output["dtype"].__name__)
            for name, output in outputs.items()
        },
        "classes": labels and labels.splitlines(),
        "metadata": metadata and json.loads(metadata),
    }


def _read_zipped_texts(content: bytes) -> list[str | None]:
    """Returns labels.txt and metadata.json, which `export.py` zips onto a TFLite file; `None` where one is missing."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return [None, None]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [
            archive.open(name).read(MAX_ENTRY_BYTES).decode() if name in archive.namelist() else None
            for name in ("labels.txt", "metadata.json")
        ]


def _open_onnx(path: pathlib.Path, threads: int) -> tuple[Classify, dict]:
    """Opens an ONNX file in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    (pixels_input,), outputs = session.get_inputs(), session.get_outputs()
    properties = session.get_modelmeta().custom_metadata_map
    texts = {name: json.loads(properties[name]) if name in properties else None for name in ("classes", "metadata")}

    def describe(tensors):
        return {
            tensor.name: _describe_tensor(tensor.shape, ONNX_DTYPES.get(tensor.type, tensor.type)) for tensor in tensors
        }

    names = [output.name for output in outputs]
    return lambda pixels: dict(zip(names, session.run(names, {pixels_input.name: pixels}))), {
        "inputs": describe([pixels_input]),
        "outputs": describe(outputs),
        **texts,
    }


def _open_openvino(path: pathlib.Path, threads: int) -> tuple[Classify, dict]:
    """Opens an .xml file, with the .bin file beside it, in OpenVINO."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    texts: dict[str, Any] = {"classes": None, "metadata": None}
    for name in texts:
        with contextlib.suppress(RuntimeError):  # the file does not hold it
            texts[name] = json.loads(model.get_rt_info(["resnetd_tf", name]).astype(str))
    precision = OPENVINO_PRECISIONS[(texts["metadata"] or {}).get("exported_precision", "float32")]
    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(model, "CPU", hints)

    def describe(tensor):
        shape = [axis.get_length() if axis.is_static else -1 for axis in tensor.partial_shape]
        return _describe_tensor(shape, np.dtype(tensor.element_type.to_dtype()).name)

    def classify(pixels):
        results = compiled(pixels)
        return {output.any_name: results[output] for output in compiled.outputs}

    return classify, {
        "inputs": {compiled.inputs[0].any_name: describe(compiled.inputs[0])},
        "outputs": {output.any_name: describe(output) for output in compiled.outputs},
        "INFERENCE_PRECISION_HINT": precision,
        **texts,
    }


def _open_savedmodel(path: pathlib.Path, threads: int, images: np.ndarray) -> tuple[Classify, dict]:
    """Opens a SavedModel in TensorFlow, answers its warm-up requests, and checks the signatures that take pictures."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    ((name, _),) = inputs.items()
    extra_assets = path / "assets.extra"
    warmup_requests = _answer_warmup_requests(loaded, extra_assets / "tf_serving_warmup_requests")
    if len(images) and {"encoded", "classify"} <= set(loaded.signatures):
        _check_picture_signatures(loaded, images[:MAX_CHECKED_PICTURES])

    def classify(pixels, loaded=loaded):  # `loaded` owns what the signature needs
        answers = signature(**{name: tf.constant(pixels)})
        return {output: answers[output].numpy() for output in FLOAT_OUTPUTS if output in answers}

    return classify, {
        "inputs": {key: _describe_tensor(spec.shape, spec.dtype.name) for key, spec in inputs.items()},
        "outputs": {key: _describe_tensor(spec.shape, spec.dtype.name) for key, spec in outputs.items()},
        "classes": (extra_assets / "labels.txt").read_text(encoding="utf-8").splitlines(),
        "metadata": json.loads((extra_assets / "metadata.json").read_text(encoding="utf-8")),
        "warmup_requests": warmup_requests,
    }


def _check_picture_signatures(loaded, images: np.ndarray) -> None:
    """Raises ValueError where pictures in files have other answers than their pixels."""
    import tensorflow as tf

    files = [tf.io.encode_png(image).numpy() for image in images]
    examples = [tf.train.Example() for _ in files]
    for example, file in zip(examples, files):
        example.features.feature["image/encoded"].bytes_list.value.append(file)

    def call(name, **inputs):
        outputs = loaded.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
        return {key: value.numpy() for key, value in outputs.items()}

    expected = call("serving_default", pixels=images)
    encoded = call("encoded", image_bytes=files)
    classified = call("classify", inputs=[example.SerializeToString() for example in examples])
    most_probable = encoded["labels"][range(len(files)), encoded["probabilities"].argmax(1)]
    agreements = [
        np.abs(encoded["probabilities"] - expected["probabilities"]).max() < MAX_ENCODED_DIFFERENCE,
        np.abs(classified["scores"] - expected["probabilities"]).max() < MAX_ENCODED_DIFFERENCE,
        (encoded["labels"] == expected["labels"]).all() and (classified["classes"] == expected["labels"]).all(),
        (encoded["top_class"] == most_probable).all(),
        (encoded["error"] == b"").all(),
    ]
    if not all(agreements):
        raise ValueError(
            "pictures in files have other answers than their pixels, by its signatures encoded and classify"
        )


def _answer_warmup_requests(loaded, path: pathlib.Path) -> int | None:
    """Answers the requests that TensorFlow Serving sends a SavedModel when it loads it, and counts them.

    Returns:
        Their number; `None` where tensorflow-serving-api, which reads them, is not installed.
    """
    if not path.is_file():
        return 0
    import tensorflow as tf

    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ModuleNotFoundError:
        return None
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("model", "images", "result"):
        parser.add_argument(name, type=pathlib.Path)
    for name in ("--threads", "--batch", "--calls"):
        parser.add_argument(name, type=int, required=True)
    main(**vars(parser.parse_args()))
