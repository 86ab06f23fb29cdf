"""From a trained classifier to the SavedModel that TensorFlow Serving runs."""

import pathlib

import keras
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from resnetd_tf import rundir
from resnetd_tf.data import images
from resnetd_tf.deployment import comparison
from resnetd_tf.deployment.folding import folded
from resnetd_tf.saved import keras_file, open_classifier


def write(classifier: keras.Model, classes: tuple[str, ...], path: pathlib.Path, precision: str = "float32") -> None:
    """Writes a SavedModel for TensorFlow Serving, whole or not at all.

    Batch normalisation is folded into the convolutions before it, and the weights are constants of the graph.

    Signatures:
        serving_default: `pixels` (n, height, width, bands) raw pixels -> `probabilities` (n, classes) float32.
        encoded: `image_bytes` (n,) JPEG or PNG files, of any sizes -> the same. RGB classifiers only.

    Args:
        classifier: As built by `networks.classifier.build`, or its `portable` copy.
        classes: Class names; stored in assets.extra/labels.txt.
        path: Where; must not exist.
        precision: "float32", or "bfloat16" for the network's weights and activations; probabilities are
            float32.

    Raises:
        InputError: It cannot be written.
    """
    classifier = folded(classifier, precision)
    pixels = classifier.inputs[0]
    preprocessing = [classifier.get_layer(name) for name in ("normalization", "resizing")]
    network = classifier.layers[-1]

    shape = (None, *network.inputs[0].shape[1:])
    infer = tf.function(lambda images: network(images, training=False))
    infer = convert_variables_to_constants_v2(infer.get_concrete_function(tf.TensorSpec(shape, tf.float32)))

    def classify(normalised):
        (probabilities,) = infer(normalised)
        return {"probabilities": tf.ensure_shape(probabilities, (None, len(classes)))}

    def preprocess(x):
        for layer in preprocessing:
            x = layer(x)
        return x

    def from_bytes(image_bytes):
        def decode(encoded):
            return preprocess(images.decode(encoded)[tf.newaxis])[0]

        return classify(tf.map_fn(decode, image_bytes, fn_output_signature=tf.TensorSpec(shape[1:], tf.float32)))

    served = tf.Module()
    served.from_pixels = tf.function(
        lambda pixels: classify(preprocess(pixels)), [tf.TensorSpec(pixels.shape, pixels.dtype, name="pixels")]
    )
    signatures = {"serving_default": served.from_pixels}
    if pixels.shape[-1] == 3:
        served.from_bytes = tf.function(from_bytes, [tf.TensorSpec((None,), tf.string, name="image_bytes")])
        signatures["encoded"] = served.from_bytes
    with rundir.atomic(path) as temporary:
        tf.saved_model.save(served, str(temporary), signatures)
        extra = temporary / "assets.extra"
        extra.mkdir()
        rundir.write_labels(extra / "labels.txt", classes)


def convert_to_bfloat16(
    model: str,
    output: str | None,
    dataset: str | None = None,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
) -> pathlib.Path:
    """Writes a SavedModel that computes in bfloat16, and compares it with the float32 model it is made from.

    For processors and GPUs that have bfloat16 instructions; others compute it slowly.

    Args:
        model: A .keras file of a run, or a path as `saved.locate` takes it of the SavedModel of a run.
        output: The folder; `None` for savedmodel-bfloat16 in the run's folder.
        dataset: What to compare on; `None` for the dataset the model was trained on.
        data_dir, eurosat_zip: As for `sources.load`.

    Returns:
        The path of the SavedModel.

    Raises:
        InputError: Something given cannot be used.
    """
    source = keras_file(model)
    path = pathlib.Path(output) if output else source.parent / "savedmodel-bfloat16"
    rundir.must_not_exist(path)
    classifier = open_classifier(source)
    loaded = comparison.load_splits(classifier, ("validation",), dataset, data_dir, eurosat_zip)
    check = loaded.splits["validation"].images[: comparison.IMAGES]
    write(keras.saving.load_model(source, compile=False), classifier.classes, path, "bfloat16")
    result = comparison.agreement(open_classifier(path).predict(check), classifier.predict(check))
    print(f"{path}: SavedModel in bfloat16\nAgainst {source} on {len(check)} validation images: {result}")
    return path
