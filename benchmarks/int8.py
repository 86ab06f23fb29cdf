"""TFLite in int8, as `export.py` makes it, beside the int8 of ONNX Runtime, OpenVINO and LiteRT's own quantizer.

    pip install -e '.[peers]'
    python -m benchmarks.int8 --image_size=224

All quantise the same classifier in float32, each by its own tool, calibrated on the same 200 training images. Each runs
in its own runtime, one image at a time, with one thread and two, in turn. Classes of validation images are compared
with the Keras model's. Images are resized: at another size than the classifier's own, their classes say little.
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
SAVEDMODEL, POOLS_AS_CONVOLUTIONS = "savedmodel", "pools_as_convolutions"  # the second is what export.py makes for int8
PACKAGES = ("tensorflow", "ai-edge-litert", "litert-quantizer", "onnxruntime", "openvino", "nncf")
HEADER = [
    "| int8 by | MB | same class as Keras | one thread, ms | two threads, ms |",
    "|---|---|---|---|---|",
]


def write_prepared_onnx(savedmodel: pathlib.Path, size: int, folder: pathlib.Path) -> pathlib.Path:
    """Writes the classifier in float32 for one image of that size, prepared as ONNX Runtime's quantising wants it."""
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

    path, shape = folder / "ours.tflite", calibration.shape[1:]
    savedmodel = savedmodel.with_name(POOLS_AS_CONVOLUTIONS)
    converters.write_tflite(savedmodel, shape, (), {}, path, precision="int8", calibration=calibration)
    return path


def litert(savedmodel: pathlib.Path, calibration: np.ndarray, folder: pathlib.Path) -> pathlib.Path:
    from litert_quantizer import quantizer, recipe

    from resnetd_tf.deployment import converters

    float32_path, path = folder / "float32.tflite", folder / "litert.tflite"
    converters.write_tflite(savedmodel, calibration.shape[1:], (), {}, float32_path)
    tool = quantizer.Quantizer(str(float32_path), recipe.static_wi8_ai8())
    ranges = tool.calibrate({"serving_default": [{"pixels": image[np.newaxis]} for image in calibration]})
    path.write_bytes(tool.quantize(ranges).quantized_model)
    return path


def onnx_runtime(savedmodel: pathlib.Path, calibration: np.ndarray, folder: pathlib.Path) -> pathlib.Path:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        images = iter(calibration)

        def get_next(self):
            return next(({"pixels": image[np.newaxis]} for image in self.images), None)

    path = folder / "onnx-runtime.onnx"
    prepared = write_prepared_onnx(savedmodel, calibration.shape[1], folder)
    quantization.quantize_static(prepared, path, Reader(), per_channel=True)
    return path


def openvino(savedmodel: pathlib.Path, calibration: np.ndarray, folder: pathlib.Path) -> pathlib.Path:
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    model = openvino.convert_model(write_prepared_onnx(savedmodel, calibration.shape[1], folder))
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


def resize_classifier(classifier, metadata: dict, size: int):
    """Returns a classifier with the same weights that resizes images to another size."""
    from resnetd_tf.networks.classifier import add_preprocessing
    from resnetd_tf.networks.resnet import resnet
    from resnetd_tf.normalization import statistics_from_metadata

    trained = classifier.layers[-1]
    network = resnet(
        metadata["depth"], metadata["variant"], input_shape=(size, size, 3), classes=trained.output_shape[-1]
    )
    network.set_weights(trained.get_weights())
    return add_preprocessing(network, statistics_from_metadata(metadata), metadata["interpolation"])


def quantise(savedmodel: pathlib.Path, calibration: np.ndarray) -> dict[str, pathlib.Path]:
    """Has each contestant write its model beside the SavedModel. One whose packages are missing is left out."""
    from resnetd_tf.process import silence_stderr

    paths = {}
    for contestant, write in CONTESTANTS.items():
        folder = savedmodel.with_name(write.__name__)
        folder.mkdir()
        try:
            with silence_stderr():
                paths[contestant] = write(savedmodel, calibration, folder)
        except ModuleNotFoundError as error:
            print(f"{contestant} left out: {error}")
    return paths


def compare(arguments: list[str]) -> None:
    program.import_tensorflow()
    from resnetd_tf import runtimes
    from resnetd_tf.data import images
    from resnetd_tf.deployment import export, savedmodel
    from resnetd_tf.environment import environment_info
    from resnetd_tf.saved import open_classifier, open_keras_model

    name, size = program.model_path_from_flags(), FLAGS.image_size
    classifier = open_classifier(name)
    classes, metadata = classifier.classes, classifier.metadata
    if classifier.bands != 3 or {"depth", "variant", "normalization", "interpolation"} - metadata.keys():
        raise InputError(f"{classifier.path}: give a classifier of RGB with its metadata.json")
    model = resize_classifier(open_keras_model(name)[1], metadata, size)
    counts = {"validation": FLAGS.images, "train": 200}
    pixels, calibration = (
        images.resize_all(split_images, size, size)
        for split_images, _ in export.load_comparison_images(classifier, counts, **program.dataset_arguments())
    )
    expected = model.predict(pixels, verbose=0)
    with tempfile.TemporaryDirectory() as temporary:
        folder, results = pathlib.Path(temporary), {}
        savedmodel.write_savedmodel(model, classes, metadata, folder / SAVEDMODEL)
        savedmodel.write_savedmodel(
            model, classes, metadata, folder / POOLS_AS_CONVOLUTIONS, pools_as_convolutions=True
        )
        paths = quantise(folder / SAVEDMODEL, calibration)
        for contestant, path in paths.items():
            probabilities = runtimes.run_exported(path, pixels, batch=1)["probabilities"]
            results[contestant] = {
                "megabytes": export.size_megabytes(path),
                **export.compare_probabilities(probabilities, expected),
                "milliseconds": {"1": [], "2": []},
            }
        for _ in range(FLAGS.rounds):
            for contestant, path in paths.items():
                for threads, milliseconds in results[contestant]["milliseconds"].items():
                    answer = runtimes.run_exported(path, pixels[:32], int(threads), batch=1, calls=CALLS)
                    milliseconds.append(1000 * statistics.median(answer["seconds"]))
    lines = list(HEADER)
    for contestant, result in results.items():
        one_thread, two_threads = (statistics.median(result["milliseconds"][threads]) for threads in ("1", "2"))
        lines.append(
            f"| {contestant} | {result['megabytes']:.1f} | {100 * result['same_class']:.2f} % "
            f"| {one_thread:.1f} | {two_threads:.1f} |"
        )
    print("\n".join(lines))
    versions = environment_info(PACKAGES)["versions"]
    contest.keep(f"int8-{size}", lines, {"image_size": size, "results": results, "versions": versions})


def main() -> None:
    program.define_model_flags()
    program.define_dataset_flags("The dataset whose images are used. The default is the one the model was trained on.")
    flags.DEFINE_integer("image_size", 224, "Side in pixels to which the network's images are resized.", lower_bound=32)
    flags.DEFINE_integer("images", 256, "The number of validation images.", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "The number of rounds, whose median is printed.", lower_bound=1)
    contest.define_output_dir()
    program.run_program(compare)


if __name__ == "__main__":
    main()
