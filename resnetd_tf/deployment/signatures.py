"""What a SavedModel answers to: pixels, encoded pictures, and the examples that TensorFlow Serving classifies."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from resnetd_tf.data import decoding
from resnetd_tf.metadata import largest_patch, patch_side

PIXELS, ENCODED, CLASSIFY = "serving_default", "encoded", "classify"
FEATURE = "image/encoded"  # of a tf.train.Example, as TensorFlow's own datasets of images call it
UNREADABLE = "damaged: it cannot be decoded"
TURNED = "its EXIF says that it is to be turned; save it upright"


def make(
    classify: Callable, preprocess: Callable, classes: Sequence[str], pixels: tf.TensorSpec, described: dict
) -> dict[str, tf.types.experimental.GenericFunction]:
    """The signatures of a SavedModel.

    serving_default: `pixels` (n, height, width, bands) raw pixels -> `probabilities` (n, classes) float32, `labels`
        (n, classes), what each is of, and `top_class` (n,), the most probable, strings.
    encoded: `image_bytes` (n,) JPEG or PNG files, of any sizes -> the same, and `error` (n,), strings: empty, or why a
        picture has no answer. It then has probabilities of zero, and an empty `top_class`. `patch_side` and
        `largest_patch` (n,) int32 say of what size patches are, as in `metadata`.
    classify: `inputs` (n,) serialized tf.train.Example with such a file as `image/encoded` -> `classes` (n, classes),
        strings, and `scores` (n, classes), of zero for a picture without an answer.

    A batch without images is refused. Of a classifier that is not of RGB there is the first alone.

    Args:
        classify: Normalised images (n, size, size, bands) to probabilities.
        preprocess: Raw pixels to those.
        classes: Class names.
        pixels: What `preprocess` takes.
        described: What is known of how it was trained.
    """
    names = tf.constant(list(classes), tf.string)

    def answer(probabilities, **more):
        labels = tf.tile(names[tf.newaxis], [tf.shape(probabilities)[0], 1])
        top = tf.gather(names, tf.argmax(probabilities, axis=1))
        return {"probabilities": probabilities, "labels": labels, "top_class": top} | more

    def from_pixels(pixels):
        with tf.control_dependencies([_some(pixels, "pixels")]):
            return answer(classify(preprocess(pixels)))

    def from_strings(strings, name, content):
        with tf.control_dependencies([_some(strings, name)]):
            normalised, errors = _decoded(strings, content, preprocess)
        good = errors == ""
        probabilities = classify(normalised) * tf.cast(good[:, tf.newaxis], tf.float32)
        given = answer(probabilities, error=errors)
        return given | {"top_class": tf.where(good, given["top_class"], "")}

    def from_files(image_bytes):
        sizes = {"patch_side": patch_side(described), "largest_patch": largest_patch(described)}
        count = tf.shape(image_bytes)
        found = from_strings(image_bytes, "image_bytes", lambda file: file)
        return found | {name: tf.fill(count, size) for name, size in sizes.items()}

    def from_examples(inputs):
        feature = {FEATURE: tf.io.FixedLenFeature((), tf.string, default_value="")}
        found = from_strings(inputs, "inputs", lambda example: tf.io.parse_single_example(example, feature)[FEATURE])
        return {"classes": found["labels"], "scores": found["probabilities"]}

    strings = tf.TensorSpec((None,), tf.string)
    functions = {PIXELS: (from_pixels, pixels, "pixels")}
    if pixels.shape[-1] == 3:
        functions |= {ENCODED: (from_files, strings, "image_bytes"), CLASSIFY: (from_examples, strings, "inputs")}
    return {
        key: tf.function(function, [tf.TensorSpec(spec.shape, spec.dtype, name=name)])
        for key, (function, spec, name) in functions.items()
    }


def _decoded(files, content, preprocess):
    """Normalised images (n, size, size, bands) of what holds encoded pictures, and what is wrong with each (n,)."""
    count = tf.size(files, out_type=tf.int64)
    shape = preprocess(tf.zeros((1, 1, 1, 3), tf.uint8)).shape[1:]

    def decode(index, file):
        picture = content(file)
        problem = decoding.problem(picture)
        problem = tf.where((problem == "") & decoding.is_turned(picture), TURNED, problem)
        image = tf.cond(
            problem == "",
            lambda: preprocess(decoding.decode(picture)[tf.newaxis])[0],
            lambda: tf.zeros(shape),
        )
        return index, tf.ensure_shape(image, shape), problem

    # A server merges requests, and one picture must not fail others' answers: it is left out where decoding fails. The
    # element at the end is there because a batch of none is an error.
    elements = tf.data.Dataset.from_tensor_slices((tf.range(count), files))
    elements = elements.map(decode, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    elements = elements.concatenate(tf.data.Dataset.from_tensors((count, tf.zeros(shape), "")))
    places, decoded, problems = elements.batch(count + 1).get_single_element()
    places, filled = places[:, tf.newaxis], tf.fill([count + 1], UNREADABLE)
    normalised = tf.scatter_nd(places, decoded, tf.stack([count + 1, *shape]))
    return normalised[:count], tf.tensor_scatter_nd_update(filled, places, problems)[:count]


def _some(batch, name: str):
    """An operation that refuses an empty batch by its name: oneDNN's convolutions have another word for it."""
    return tf.debugging.assert_positive(tf.shape(batch)[0], f"{name}: no image is given")
