"""Exports a classifier in every format and precision, and measures each on the test split: `make deploy-check`.

    python -m benchmarks.deployment --model=saved_models/resnet50d

Each export runs in its own runtime, in a process without this package. The table has its accuracy, its agreement with
the Keras model, the time of one image with one thread and two (p50, p95), and images/s in batches of 32 with all cores.
Exports are kept. OpenVINO's INFERENCE_PRECISION_HINT is f32, or bf16 for bfloat16.
"""

import contextlib
import io
import pathlib

import numpy as np
from absl import flags

from benchmarks import contest
from resnetd_tf.cli import program
from resnetd_tf.deployment import DEFAULT_NAMES, PRECISIONS

FLAGS = flags.FLAGS
BATCH = 32
FORMATS = [format for format in PRECISIONS if format != "safetensors"]  # safetensors has no runtime
HEADER = [
    "| format | precision | MB | test accuracy | same class as Keras | largest difference | one thread, ms: p50, p95 "
    "| two threads, ms: p50, p95 | images/s |",
    "|---|---|---|---|---|---|---|---|---|",
]


def measure(path: pathlib.Path, images: np.ndarray, labels: np.ndarray, expected: np.ndarray, calls: int) -> dict:
    """Measures an export.

    Args:
        path: The export.
        images: Raw pixels (n, height, width, bands) of the test split.
        labels: Their class numbers (n,).
        expected: Probabilities (n, classes) of the Keras model.
        calls: Number of timed calls.

    Returns:
        The entries of a row of the table, by name.
    """
    from resnetd_tf import runtimes
    from resnetd_tf.deployment import export

    probabilities = runtimes.run_exported(path, images)["probabilities"]
    result = {
        "megabytes": export.size_megabytes(path),
        "accuracy": float((probabilities.argmax(1) == labels).mean()),
        **export.compare_probabilities(probabilities, expected),
    }
    result |= export.measure_latency(path, images[:BATCH], calls)
    batches = runtimes.run_exported(path, images[:BATCH], 0, BATCH, calls)["seconds_of_batches"]
    result["images_per_second"] = BATCH / float(np.median(batches))
    return result


def format_row(format: str, precision: str, result: dict) -> str:
    one_thread, two_threads = (
        f"{p50:.1f}, {p95:.1f}" for p50, p95 in (result["milliseconds_1"], result["milliseconds_2"])
    )
    return (
        f"| {format} | {precision} | {result['megabytes']:.1f} | {100 * result['accuracy']:.2f} % "
        f"| {100 * result['same_class']:.2f} % | {result['largest_difference']:.1e} | {one_thread} | {two_threads} "
        f"| {result['images_per_second']:.0f} |"
    )


def check(arguments: list[str]) -> None:
    program.import_tensorflow()
    from resnetd_tf import rundir
    from resnetd_tf.deployment import export
    from resnetd_tf.saved import open_classifier, open_keras_model

    classifier = open_classifier(program.model_path_from_flags(), trust=FLAGS.trust)
    source, _ = open_keras_model(classifier.path, trust=FLAGS.trust)
    ((images, labels),) = export.load_comparison_images(
        classifier, {"test": FLAGS.images}, **program.dataset_arguments()
    )
    expected = open_classifier(source, trust=FLAGS.trust).predict(images)
    if FLAGS.output_dir:
        folder = pathlib.Path(FLAGS.output_dir)
        rundir.require_absent(folder)
        folder.mkdir()
    else:
        _, folder = rundir.create_numbered_folder(classifier.folder, "deployment-{}".format)
    lines = [
        f"{source}: right on {100 * (expected.argmax(1) == labels).mean():.2f} % of {len(images)} test images.",
        "",
        *HEADER,
    ]
    print("\n".join(lines), flush=True)
    results = {}
    for format in FLAGS.formats:
        for precision in PRECISIONS[format]:
            path = folder / DEFAULT_NAMES[format].format(precision)
            with contextlib.redirect_stdout(io.StringIO()):
                export.export_classifier(str(source), format, precision, str(path), **program.dataset_arguments())
            result = measure(path, images, labels, expected, FLAGS.calls)
            results[f"{format} {precision}"] = result
            lines.append(format_row(format, precision, result))
            print(lines[-1], flush=True)
    contest.keep("deployment", lines, {"model": str(source), "images": len(images), "exports": results}, folder)


def main() -> None:
    program.define_model_flags()
    program.define_dataset_flags(
        "The dataset whose test split is used. The default is the one the model was trained on."
    )
    flags.DEFINE_multi_enum("formats", FORMATS, FORMATS, "A format to export. The flag can be given several times.")
    flags.DEFINE_integer("images", 10**9, "The largest number of test images.", lower_bound=1)
    flags.DEFINE_integer("calls", 200, "The number of timed calls.", lower_bound=1)
    flags.DEFINE_string(
        "output_dir", None, "The new folder for the exports. The default is deployment-K in the run's folder."
    )
    program.run_program(check)


if __name__ == "__main__":
    main()
