"""Inference speed: our exported SavedModel against KerasHub's, keras.applications', timm, ONNX Runtime and OpenVINO.

    pip install -e '.[peers]'
    python -m benchmarks.inference                      # sizes 64 and 224, float32 and bfloat16, batches of 32 and 1

Each contestant classifies the same batch of uint8 images of the network's size, in memory, again and again. The time
includes the preprocessing. The Keras peers are exported with `model.export` and loaded again, as ours is. ONNX Runtime
and OpenVINO run timm's network, which computes the same as ours. `benchmarks.train_step` explains "matrix products".
"""

import pathlib
import tempfile
import time
from collections.abc import Callable

import numpy as np

from benchmarks import contest, kernels, train_step
from benchmarks.train_step import CLASSES, images


def rate(run: Callable[[], object], batch: int) -> Callable[[], float]:
    """Returns a function that measures the images/s of `run`, which classifies a batch and returns when it is done."""

    def seconds(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return time.perf_counter() - start

    return contest.rate(seconds, batch)


def saved_model_rate(write: Callable[[pathlib.Path], None], size: int, batch: int) -> Callable[[], float]:
    """Writes a SavedModel, and returns a function that measures the images/s of its signature."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        write(pathlib.Path(folder) / "model")
        loaded = tf.saved_model.load(f"{folder}/model")
    signature = loaded.signatures["serving_default"]
    ((name, _),) = signature.structured_input_signature[1].items()
    pixels = tf.constant(images(size, batch)[0])

    def run():
        return [output.numpy() for output in signature(**{name: pixels}).values()]

    measure = rate(run, batch)
    measure.profile = lambda: kernels.thread_time(lambda: [run() for _ in range(4)], 4)
    measure.loaded = loaded  # kept alive, because it owns the weights of the signature
    return measure


def ours(size: int, precision: str, batch: int):
    from benchmarks.parity import draw_state_dict
    from resnetd_tf import normalization
    from resnetd_tf.deployment import savedmodel
    from resnetd_tf.networks import classifier
    from resnetd_tf.networks.checkpoints import Checkpoint, assign_weights

    model = classifier.build_classifier(50, "d", classes=CLASSES, statistics=normalization.EUROSAT_RGB, image_size=size)
    network = model.layers[-1]
    assign_weights(network, Checkpoint("random weights", draw_state_dict(network)))
    classes = tuple(map(str, range(CLASSES)))
    return saved_model_rate(lambda path: savedmodel.write_savedmodel(model, classes, {}, path, precision), size, batch)


def keras_export_rate(build: Callable, size: int, precision: str, batch: int):
    """Exports the model that `build` returns with Keras, and returns a function that measures its images/s."""
    train_step.set_precision(precision)
    model = build(size)
    return saved_model_rate(lambda path: model.export(path, verbose=False), size, batch)


def kerashub(size: int, precision: str, batch: int):
    return keras_export_rate(train_step.kerashub_classifier, size, precision, batch)


def keras_applications(size: int, precision: str, batch: int):
    return keras_export_rate(train_step.keras_applications_classifier, size, precision, batch)


def timm(size: int, precision: str, batch: int):
    import timm
    import torch

    from resnetd_tf.environment import core_count

    torch.set_num_threads(core_count())
    model = timm.create_model("resnet50d", num_classes=CLASSES).eval().to(memory_format=torch.channels_last)
    pixels = torch.from_numpy(images(size, batch)[0]).permute(0, 3, 1, 2)

    def run():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return model(pixels.float() / 255).softmax(1)

    return rate(run, batch)


def write_onnx(size: int, batch: int, folder: str) -> str:
    """Writes timm's network as ONNX and returns its path."""
    import timm
    import torch

    model = timm.create_model("resnet50d", num_classes=CLASSES).eval()
    path = f"{folder}/model.onnx"
    torch.onnx.export(model, (torch.zeros(batch, 3, size, size),), path, verbose=False)
    return path


def to_floats(pixels: np.ndarray) -> np.ndarray:
    """Converts pixels (n, height, width, 3) uint8 to what timm's network takes, (n, 3, height, width) from 0 to 1."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), "float32") / np.float32(255)


def onnx_runtime(size: int, precision: str, batch: int):
    import onnxruntime

    from resnetd_tf.environment import core_count

    if precision != "float32":
        raise NotImplementedError(f"ONNX Runtime does not compute in {precision} on CPUs")
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = core_count()
        session = onnxruntime.InferenceSession(write_onnx(size, batch, folder), options, ["CPUExecutionProvider"])
    (input_,) = session.get_inputs()
    pixels = images(size, batch)[0]
    return rate(lambda: session.run(None, {input_.name: to_floats(pixels)}), batch)


def openvino(size: int, precision: str, batch: int):
    import openvino

    from resnetd_tf.environment import core_count

    hints = {"INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision]}
    hints["INFERENCE_NUM_THREADS"] = core_count()
    with tempfile.TemporaryDirectory() as folder:
        compiled = openvino.Core().compile_model(write_onnx(size, batch, folder), "CPU", hints)
    pixels = images(size, batch)[0]
    return rate(lambda: compiled([to_floats(pixels)]), batch)


def matrix_products(size: int, precision: str, batch: int):
    return train_step.matrix_products(size, precision, batch, passes=1)


if __name__ == "__main__":
    contest.main(
        "inference",
        {
            "ours": ours,
            "KerasHub": kerashub,
            "keras.applications": keras_applications,
            "timm": timm,
            "ONNX Runtime": onnx_runtime,
            "OpenVINO": openvino,
            "matrix products": matrix_products,
        },
        {"size": (64, 224), "precision": ("bfloat16", "float32"), "batch": (32, 1)},
        profiled=("ours", "KerasHub"),
        profile_of="ms of thread time a call",
    )
