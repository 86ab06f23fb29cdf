"""Exports a trained classifier for deployment, and compares the export with the classifier.

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
    flags.DEFINE_enum("format", "tflite", list(deployment.PRECISIONS), "The format to write.")
    choices = "; ".join(f"{format}: {', '.join(names)}" for format, names in deployment.PRECISIONS.items())
    precisions = dict.fromkeys(name for names in deployment.PRECISIONS.values() for name in names)
    flags.DEFINE_enum(
        "precision",
        "float32",
        list(precisions),
        "The precision that the export computes in; safetensors, and TFLite in float16 and dynamic, only store it. "
        f"{choices}.",
    )
    flags.DEFINE_integer(
        "batch",
        1,
        "TFLite only: the number of images at once; 0 for any number, to which the input is resized.",
        lower_bound=0,
    )
    flags.DEFINE_enum(
        "output_type", "float32", ["float32", "uint8"], "TFLite in int8 only: the type of the probabilities."
    )
    flags.DEFINE_enum(
        "verify", "some", ["some", "full"], "Compare on 256 validation images (some), or on all of them (full)."
    )
    flags.DEFINE_string(
        "output",
        None,
        "The new file or folder to write. The default is in the run's folder, or for eurosat in the current folder.",
    )
    program.define_dataset_flags(
        "The dataset to compare on, and to calibrate int8 on. The default is the one the model was trained on."
    )


def main() -> None:
    define_flags()
    program.run_program(export)
