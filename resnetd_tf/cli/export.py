"""Converts a trained classifier for deployment, and compares what comes out with it.

Examples:
    python export.py --model=saved_models/resnet50d --format=tflite --precision=int8
    python export.py --model=saved_models/resnet50d --format=savedmodel --precision=bfloat16
    python export.py --model=saved_models/resnet50d/run-1/model.keras --format=savedmodel --precision=float32
    python export.py --model=saved_models/resnet50d --format=onnx --verify=full
    python export.py --model=saved_models/resnet50d --format=openvino --precision=bfloat16
    python export.py --model=saved_models/resnet50d --format=safetensors --precision=float16
"""

from absl import flags

from resnetd_tf import deployment
from resnetd_tf.cli import program

FLAGS = flags.FLAGS


def export(arguments: list[str]) -> None:
    deployment.check_options(FLAGS.format, FLAGS.precision, FLAGS.batch, FLAGS.output_type)
    program.import_tensorflow()
    from resnetd_tf.deployment import export

    export.export_classifier(
        program.open_model(),
        FLAGS.format,
        FLAGS.precision,
        FLAGS.output,
        batch=FLAGS.batch,
        output_type=FLAGS.output_type,
        verify_all=FLAGS.verify == "full",
        trust=FLAGS.trust,
        **program.dataset_arguments(),
    )


def define_flags() -> None:
    program.define_model_flags()
    flags.DEFINE_enum("format", "tflite", list(deployment.PRECISIONS), "What to make.")
    made = "; ".join(f"{format}: {', '.join(made)}" for format, made in deployment.PRECISIONS.items())
    precisions = dict.fromkeys(precision for made in deployment.PRECISIONS.values() for precision in made)
    flags.DEFINE_enum(
        "precision",
        "float32",
        list(precisions),
        f"What it computes in, or of safetensors and of TFLite in float16 and dynamic stores. {made}.",
    )
    flags.DEFINE_integer(
        "batch", 1, "Of TFLite: images at once; 0 for any number, to which the input is resized.", lower_bound=0
    )
    flags.DEFINE_enum("output_type", "float32", ["float32", "uint8"], "Of TFLite in int8: type of the probabilities.")
    flags.DEFINE_enum("verify", "some", ["some", "full"], "Validation images to compare on: 256, or all.")
    flags.DEFINE_string("output", None, "A new file or folder; default one in the run's folder, or here for eurosat.")
    program.define_dataset_flags(
        "What to compare on, and to calibrate on for int8; default the one the model was trained on."
    )


def main() -> None:
    define_flags()
    program.run_program(export)
