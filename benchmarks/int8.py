"""TFLite in int8, as `export.py` makes it, beside the int8 of ONNX Runtime, OpenVINO and LiteRT's own quantizer.

    pip install -e '.[peers]'
    python -m benchmarks.int8 --image_size=224

All quantise the same classifier in float32, each by its own tool, calibrated on the same 200 training images. Each runs
in its own runtime, one image at a time, with one thread and two, in turn. Classes are compared with the Keras model's,
for validation images, which are resized: at another size than the classifier's own they say little.
"""

import logging
import pathlib
import statistics
import tempfile
from collections.abc import Callable

import numpy as np
from absl import flags

from benchmarks import contest
from resnetd_tf.cli import program
from resnetd_tf.errors import InputError

FLAGS = flags.FLAGS
CALLS = 100
PACKAGES = ("tensorflow", "ai-edge-litert", "litert-quantizer", "onnxruntime", "openvino", "nncf")
HEADER = [
    "| int8 by | MB | same class as Keras | one thread, ms | two threads, ms |",
    "|---|---|---|---|---|",
]


def onnx_of(savedmodel: pathlib.Path, size: int, folder: pathlib.Path) -> pathlib.Path:
    """The classifier in float32 for one image of that size, as ONNX Runtime's documentation wants it for quantising."""
    import onnx
    from onnxruntime.quantization import shape_inference
    from onnxruntime.tools.onnx_model_utils import make_input_shape_fixed

    from resnetd_tf.deployment import converters

    path, prepared = folder / "float32.onnx", folder / "prepared.onnx"
    converters.write_onnx(savedmodel, 3, (), {}, path)
    model = onnx.load(path)
    make_input_shape_fixed(model.graph, "pixels", (1, size, size, 3))
    onnx.save(model, path)
    shape_inference.quant_pre_process(path, prepared, skip_symbolic_shape=True)
    return prepared


def ours(savedmodel: pathlib.Path, calibration: np.ndarray, folder: pathlib.Path) -> pathlib.Path:
    from resnetd_tf.deployment import converters

    path = folder / "ours.tflite"
    converters.write_tflite(savedmodel, calibration.shape[1:], (), {}, path, "int8", calibration=calibration)
    return path


def litert(savedmodel: pathlib.Path, calibration: np.ndarray, folder: pathlib.Path) -> pathlib.Path:
    from litert_quantizer import quantizer, recipe

    from resnetd_tf.deployment import converters

    given, path = folder / "float32.tflite", folder / "litert.tflite"
    converters.write_tflite(savedmodel, calibration.shape[1:], (), {}, given)
    work = quantizer.Quantizer(str(given), recipe.static_wi8_ai8())
    found = work.calibrate({"serving_default": [{"pixels": image[np.newaxis]} for image in calibration]})
    path.write_bytes(work.quantize(found).quantized_model)
    return path


def onnx_runtime(savedmodel: pathlib.Path, calibration: np.ndarray, folder: pathlib.Path) -> pathlib.Path:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        images = iter(calibration)

        def get_next(self):
            return next(({"pixels": image[np.newaxis]} for image in self.images), None)

    path = folder / "onnx-runtime.onnx"
    prepared = onnx_of(savedmodel, calibration.shape[1], folder)
    quantization.quantize_static(prepared, path, Reader(), per_channel=True)
    return path


def openvino(savedmodel: pathlib.Path, calibration: np.ndarray, folder: pathlib.Path) -> pathlib.Path:
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    model = openvino.convert_model(onnx_of(savedmodel, calibration.shape[1], folder))
    images = nncf.Dataset([image[np.newaxis] for image in calibration])
    (folder / "openvino").mkdir()
    path = folder / "openvino" / "model.xml"
    openvino.save_model(nncf.quantize(model, images, subset_size=len(calibration)), path, compress_to_fp16=False)
    return path


CONTESTANTS: dict[str, Callable] = {
    "export.py (TFLite)": ours,
    "litert-quantizer (TFLite)": litert,
    "ONNX Runtime": onnx_runtime,
    "OpenVINO (NNCF)": openvino,
}


def at_size(classifier, described: dict, size: int):
    """A classifier that resizes images to another size, with the same weights."""
    from resnetd_tf.networks.classifier import add_preprocessing
    from resnetd_tf.networks.resnet import resnet
    from resnetd_tf.normalization import statistics_from_metadata

    trained = classifier.layers[-1]
    network = resnet(
        described["depth"], described["variant"], input_shape=(size, size, 3), classes=trained.output_shape[-1]
    )
    network.set_weights(trained.get_weights())
    return add_preprocessing(network, statistics_from_metadata(described), described["interpolation"])


def compare(arguments: list[str]) -> None:
    program.import_tensorflow()
    from resnetd_tf import runtimes
    from resnetd_tf.data import images
    from resnetd_tf.deployment import export, savedmodel
    from resnetd_tf.environment import environment_info
    from resnetd_tf.process import silence_stderr
    from resnetd_tf.saved import open_classifier, open_keras_model

    name, size = program.model_path_from_flags(), FLAGS.image_size
    given = open_classifier(name)
    needed = {"depth", "variant", "normalization", "interpolation"}
    if given.bands != 3 or needed - given.metadata.keys():
        raise InputError(f"{given.path}: give a classifier of RGB with its metadata.json")
    model = at_size(open_keras_model(name)[1], given.metadata, size)
    counts = {"validation": FLAGS.images, "train": 200}
    check, calibration = (
        images.resize_all(found, size, size)
        for found, _ in export.load_comparison_images(given, counts, **program.dataset_arguments())
    )
    expected = model.predict(check, verbose=0)
    with tempfile.TemporaryDirectory() as temporary:
        base, paths, results = pathlib.Path(temporary), {}, {}
        savedmodel.write_savedmodel(model, given.classes, given.metadata, base / "savedmodel")
        for contestant, write in CONTESTANTS.items():
            folder = base / write.__name__
            folder.mkdir()
            try:
                with silence_stderr():
                    path = write(base / "savedmodel", calibration, folder)
            except ModuleNotFoundError as error:
                print(f"{contestant} left out: {error}")
                continue
            paths[contestant] = path
            answers = runtimes.run_exported(path, check, batch=1)["probabilities"]
            results[contestant] = {
                "megabytes": export.size_megabytes(path),
                **export.compare_probabilities(answers, expected),
                "milliseconds": {"1": [], "2": []},
            }
        for _ in range(FLAGS.rounds):
            for contestant, path in paths.items():
                for threads, each in results[contestant]["milliseconds"].items():
                    seconds = runtimes.run_exported(path, check[:32], int(threads), batch=1, calls=CALLS)["seconds"]
                    each.append(1000 * statistics.median(seconds))
    lines = list(HEADER)
    for contestant, found in results.items():
        one, two = (statistics.median(found["milliseconds"][threads]) for threads in ("1", "2"))
        lines.append(
            f"| {contestant} | {found['megabytes']:.1f} | {100 * found['same_class']:.2f} % | {one:.1f} | {two:.1f} |"
        )
    print("\n".join(lines))
    found = {"image_size": size, "results": results, "versions": environment_info(PACKAGES)["versions"]}
    contest.keep(f"int8-{size}", lines, found)


def main() -> None:
    program.define_model_flags()
    program.define_dataset_flags("Whose images; default the dataset the model was trained on.")
    flags.DEFINE_integer("image_size", 224, "Side in pixels to which the network's images are resized.", lower_bound=32)
    flags.DEFINE_integer("images", 256, "Validation images.", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "Rounds; medians of them are told.", lower_bound=1)
    contest.define_output_dir()
    program.run_program(compare)


if __name__ == "__main__":
    main()
