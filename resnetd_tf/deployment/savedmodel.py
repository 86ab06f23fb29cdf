"""From a trained classifier to the SavedModel that TensorFlow Serving runs."""

import io
import pathlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
import PIL.Image
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

from resnetd_tf import metadata, rundir
from resnetd_tf.data import images
from resnetd_tf.errors import InputError
from resnetd_tf.metadata import largest_patch, patch_side
from resnetd_tf.networks.layers import Resizing, keras_class

WEIGHT_PREFIX = "weight_"  # and a number: the name of a weight in the graph


def write_savedmodel(
    classifier: keras.Model,
    classes: tuple[str, ...],
    metadata: dict,
    path: pathlib.Path,
    precision: str = "float32",
    examples: np.ndarray | None = None,
) -> None:
    """Writes a SavedModel for TensorFlow Serving, whole or not at all.

    Batch normalisation is folded into the convolutions before it, and the weights are constants of the graph.
    What labels.txt and metadata.json of a run hold is in assets.extra/, so that it can be copied alone.

    What it answers to, `signatures` says.

    Args:
        classifier: As built by `networks.classifier.build`, or its `portable` copy.
        classes: Class names.
        metadata: What is known of how it was trained.
        path: Where; must not exist.
        precision: "float32", or "bfloat16" for the network's weights and activations; probabilities are
            float32.
        examples: Raw pixels (n, height, width, bands) for the requests that TensorFlow Serving warms up with; `None`
            for no such requests.

    Raises:
        InputError: It cannot be written.
    """
    classifier = fold_batch_norm(classifier, precision)
    pixels = classifier.inputs[0]
    normalization = classifier.get_layer("normalization")
    resizing = Resizing.from_config(classifier.get_layer("resizing").get_config())
    network = classifier.layers[-1]

    shape = (None, *network.inputs[0].shape[1:])

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)])
    def infer(images):
        # Constants of one value take no room: TensorFlow has up to ten copies of a graph while it saves it.
        weights = [
            tf.constant(0, weight.dtype, weight.shape, name=f"{WEIGHT_PREFIX}{index}")
            for index, weight in enumerate(network.trainable_variables)
        ]
        probabilities, _ = network.stateless_call(weights, [], images, training=False)
        return probabilities

    def classify(normalised):
        return tf.ensure_shape(infer(normalised), (None, len(classes)))

    answers = make_signatures(
        classify,
        lambda pixels: resizing(normalization(pixels)),
        classes,
        tf.TensorSpec(pixels.shape, pixels.dtype),
        metadata,
    )
    served = tf.Module()
    # Its parts, for `tflite`, which knows the size of the image and resizes by constant matrices.
    served.normalization = tf.function(normalization.call, [tf.TensorSpec(pixels.shape, pixels.dtype)])
    served.network = tf.function(
        lambda normalised: {"probabilities": classify(normalised)}, [tf.TensorSpec(shape, tf.float32)]
    )
    with rundir.write_atomically(path) as temporary:
        tf.saved_model.save(served, str(temporary), answers)
        _fill_constants(temporary / "saved_model.pb", [weight.numpy() for weight in network.trainable_variables])
        extra = temporary / "assets.extra"
        extra.mkdir()
        rundir.write_labels(extra / "labels.txt", classes)
        exported = {
            "image_size": resizing.height,
            "interpolation": resizing.interpolation,
            "antialias": resizing.antialias,
            "exported_precision": precision,
        }
        rundir.write_json(extra / "metadata.json", metadata | exported)
        if examples is not None:
            write_warmup_requests(temporary, examples)


def _fill_constants(path: pathlib.Path, weights: list[np.ndarray]) -> None:
    """Gives the constants of a SavedModel's graph their values, and the signature of Classify its method."""
    saved = SavedModel.FromString(path.read_bytes())
    (meta,) = saved.meta_graphs
    if CLASSIFY_SIGNATURE in meta.signature_def:
        meta.signature_def[CLASSIFY_SIGNATURE].method_name = tf.saved_model.CLASSIFY_METHOD_NAME
    for function in meta.graph_def.library.function:
        for node in function.node_def:
            if node.name.startswith(WEIGHT_PREFIX):
                values = weights[int(node.name.removeprefix(WEIGHT_PREFIX))]
                node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values))
    path.write_bytes(saved.SerializeToString())
    write_fingerprint(str(path.parent))


# What a SavedModel answers to: pixels, encoded pictures, and the examples that TensorFlow Serving classifies.


PIXELS_SIGNATURE, ENCODED_SIGNATURE, CLASSIFY_SIGNATURE = "serving_default", "encoded", "classify"
EXAMPLE_FEATURE = "image/encoded"  # of a tf.train.Example, as TensorFlow's own datasets of images call it
UNREADABLE_MESSAGE = "damaged: it cannot be decoded"
ROTATED_MESSAGE = "its EXIF says that it is to be turned; save it upright"


def make_signatures(
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
        with tf.control_dependencies([_require_images(pixels, "pixels")]):
            return answer(classify(preprocess(pixels)))

    def from_strings(strings, name, content):
        with tf.control_dependencies([_require_images(strings, name)]):
            normalised, errors = _decode_pictures(strings, content, preprocess)
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
        feature = {EXAMPLE_FEATURE: tf.io.FixedLenFeature((), tf.string, default_value="")}
        found = from_strings(
            inputs, "inputs", lambda example: tf.io.parse_single_example(example, feature)[EXAMPLE_FEATURE]
        )
        return {"classes": found["labels"], "scores": found["probabilities"]}

    strings = tf.TensorSpec((None,), tf.string)
    functions = {PIXELS_SIGNATURE: (from_pixels, pixels, "pixels")}
    if pixels.shape[-1] == 3:
        functions |= {
            ENCODED_SIGNATURE: (from_files, strings, "image_bytes"),
            CLASSIFY_SIGNATURE: (from_examples, strings, "inputs"),
        }
    return {
        key: tf.function(function, [tf.TensorSpec(spec.shape, spec.dtype, name=name)])
        for key, (function, spec, name) in functions.items()
    }


def _decode_pictures(files, content, preprocess):
    """Normalised images (n, size, size, bands) of what holds encoded pictures, and what is wrong with each (n,)."""
    count = tf.size(files, out_type=tf.int64)
    shape = preprocess(tf.zeros((1, 1, 1, 3), tf.uint8)).shape[1:]

    def decode(index, file):
        picture = content(file)
        problem = images.picture_problem(picture)
        problem = tf.where((problem == "") & images.has_rotation(picture), ROTATED_MESSAGE, problem)
        image = tf.cond(
            problem == "",
            lambda: preprocess(images.decode_picture(picture)[tf.newaxis])[0],
            lambda: tf.zeros(shape),
        )
        return index, tf.ensure_shape(image, shape), problem

    # A server merges requests, and one picture must not fail others' answers: it is left out where decoding fails. The
    # element at the end is there because a batch of none is an error.
    elements = tf.data.Dataset.from_tensor_slices((tf.range(count), files))
    elements = elements.map(decode, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    elements = elements.concatenate(tf.data.Dataset.from_tensors((count, tf.zeros(shape), "")))
    places, decoded, problems = elements.batch(count + 1).get_single_element()
    places, filled = places[:, tf.newaxis], tf.fill([count + 1], UNREADABLE_MESSAGE)
    normalised = tf.scatter_nd(places, decoded, tf.stack([count + 1, *shape]))
    return normalised[:count], tf.tensor_scatter_nd_update(filled, places, problems)[:count]


def _require_images(batch, name: str):
    """An operation that refuses an empty batch by its name: oneDNN's convolutions have another word for it."""
    return tf.debugging.assert_positive(tf.shape(batch)[0], f"{name}: no image is given")


# Batch normalisation folded into the convolutions before it: the network that is deployed.


def fold_batch_norm(model: keras.Model, precision: str = "float32") -> keras.Model:
    """A copy for inference: every batch normalisation is part of the convolution before it.

    With g = gamma / sqrt(moving variance + epsilon), kernels become kernel * g and biases
    beta - moving mean * g. In every network here a normalisation `X_bn` follows the convolution `X_conv`.

    Args:
        model: A network, or a classifier.
        precision: Type of the network's weights and activations, all but its head's: "float32" or "bfloat16".
    """
    float32 = ("pixels", "normalization", "resizing", "predictions")

    def clone(layer):
        biased = {"use_bias": True} if isinstance(layer, keras.layers.Conv2D) else {}
        dtype = "float32" if layer.name in float32 else precision
        return keras_class(layer).from_config({**layer.get_config(), **biased, "dtype": dtype})

    def call(layer, inputs, **kwargs):
        return inputs if isinstance(layer, keras.layers.BatchNormalization) else layer(inputs, **kwargs)

    def fill(copy, original):
        for layer in original.layers:
            if isinstance(layer, keras.Model):
                fill(copy.get_layer(layer.name), layer)
            elif isinstance(layer, keras.layers.Conv2D):
                norm = original.get_layer(layer.name.removesuffix("conv") + "bn")
                gamma, beta, mean, variance = (np.asarray(weight, "float64") for weight in norm.get_weights())
                scale = gamma / np.sqrt(variance + norm.epsilon)
                copy.get_layer(layer.name).set_weights([layer.get_weights()[0] * scale, beta - mean * scale])
            elif layer.get_weights() and not isinstance(layer, keras.layers.BatchNormalization):
                copy.get_layer(layer.name).set_weights(layer.get_weights())

    copy = keras.models.clone_model(model, clone_function=clone, call_function=call, recursive=True)
    fill(copy, model)
    return copy


# The graph of a SavedModel for other runtimes: raw pixels in, probabilities out, weights and preprocessing inside.


def load_inference_function(
    savedmodel: pathlib.Path, shape: tuple[int | None, ...]
) -> tuple[tf.types.experimental.ConcreteFunction, object]:
    """A function from `pixels` to `probabilities`, and what owns its weights.

    Args:
        savedmodel: The folder, which was opened before, and so is known or trusted.
        shape: Of the pixels, (n, height, width, bands). Where height and width are numbers they are resized by constant
            matrices.

    Raises:
        InputError: It is of an older version, or computes in another precision than float32.
    """
    loaded = tf.saved_model.load(str(savedmodel))
    extra = savedmodel / "assets.extra" / "metadata.json"
    if not hasattr(loaded, "network") or not extra.is_file():
        raise InputError(f"{savedmodel} is of an older version: export.py --format=savedmodel makes it anew")
    described = metadata.read_metadata(extra, ("exported_precision", "image_size", "interpolation", "antialias"))
    if described["exported_precision"] != "float32":
        raise InputError(f"{savedmodel} computes in {described['exported_precision']}; give a model in float32")
    size, dtype = described["image_size"], loaded.normalization.input_signature[0].dtype
    resizing = Resizing(size, size, described["interpolation"], antialias=described["antialias"], dtype="float32")
    # Normalisation as a convolution of each band by itself: in int8 a tenth of the time of a difference and a product.
    # Digital numbers one band after the other: quantised together, dark bands would have no levels.
    assert shape[-1]
    parts = 1 if dtype == tf.uint8 else shape[-1]
    at_zero, at_largest = (
        loaded.normalization(tf.fill((1, 1, 1, shape[-1]), tf.constant(value, dtype)))[0] for value in (0, dtype.max)
    )
    kernel, bias = ((at_largest - at_zero) / dtype.max)[..., tf.newaxis].numpy(), at_zero.numpy()
    lines = list(zip(np.split(kernel, parts, axis=2), np.split(bias, parts, axis=-1)))

    def classify(pixels):
        bands = [pixels] if parts == 1 else tf.split(tf.cast(pixels, tf.int32), parts, axis=-1)
        normalised = tf.concat(
            [
                tf.nn.depthwise_conv2d(tf.cast(band, tf.float32), kernel, [1] * 4, "VALID") + bias
                for band, (kernel, bias) in zip(bands, lines)
            ],
            axis=-1,
        )
        answer = loaded.network(resizing(tf.ensure_shape(normalised, shape)))
        return {"probabilities": tf.identity(answer["probabilities"], name="probabilities")}

    return tf.function(classify).get_concrete_function(tf.TensorSpec(shape, dtype, name="pixels")), loaded


def replace_pools_by_convolutions(
    concrete: tf.types.experimental.ConcreteFunction,
) -> tf.types.experimental.ConcreteFunction:
    """The same function with means of 2 x 2 pixels as convolutions of each channel by itself.

    In int8 XNNPACK, which runs TFLite, has no other pooling: without, the graph falls into parts. Where a side is odd,
    and the mean at the edge one of fewer pixels, pooling stays.
    """
    graph = convert_variables_to_constants_v2(concrete).graph
    definition = graph.as_graph_def()
    for node in [node for node in definition.node if node.op == "AvgPool"]:
        _, height, width, channels = graph.get_tensor_by_name(f"{node.input[0]}:0").shape
        side = node.attr["ksize"].list.i[1]
        if height % side or width % side:
            continue
        kernel = definition.node.add(name=f"{node.name}/kernel", op="Const")
        kernel.attr["dtype"].type = tf.float32.as_datatype_enum
        mean = np.full((side, side, channels, 1), 1 / side**2, "float32")
        kernel.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(mean))
        node.op = "DepthwiseConv2dNative"
        node.input.append(kernel.name)
        del node.attr["ksize"]
    (pixels,), (name,) = concrete.inputs, concrete.structured_outputs
    answer = graph.outputs[0].name

    def classify(pixels):
        return {name: tf.graph_util.import_graph_def(definition, {"pixels": pixels}, [answer])[0]}

    return tf.function(classify).get_concrete_function(tf.TensorSpec(pixels.shape, pixels.dtype, name="pixels"))


def frozen_graph(savedmodel: pathlib.Path, bands: int) -> tf.Graph:
    """A graph of any number of images of any size, from `pixels:0` to `probabilities:0`, without functions.

    Raises:
        InputError: As for `function`.
    """
    concrete, _owner = load_inference_function(savedmodel, (None, None, None, bands))
    return convert_variables_to_constants_v2(concrete).graph


# The requests that TensorFlow Serving answers while it loads a SavedModel, so that the first user need not wait.


WARMUP_IMAGES = 32  # images; a server's own batches are at most so large, see serving/batching.config
MAX_REQUEST_BYTES = 2**24  # bytes of pixels


def write_warmup_requests(savedmodel: pathlib.Path, images: np.ndarray) -> None:
    """Writes assets.extra/tf_serving_warmup_requests: each signature's requests of one image and of many.

    https://www.tensorflow.org/tfx/serving/saved_model_warmup. A request that fails would fail the loading.

    Args:
        savedmodel: The folder.
        images: Raw pixels (n, height, width, bands) as it will be given, some.
    """
    from tensorflow_serving.apis import prediction_log_pb2  # imports much

    many = max(1, min(WARMUP_IMAGES, MAX_REQUEST_BYTES // images[0].nbytes))
    path = savedmodel / "assets.extra" / "tf_serving_warmup_requests"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch in (images[:1], np.resize(images, (many, *images.shape[1:]))):
            log = prediction_log_pb2.PredictionLog()
            _fill_predict_request(log.predict_log.request, PIXELS_SIGNATURE, "pixels", batch)
            writer.write(log.SerializeToString())
            if images.shape[-1] != 3:
                continue
            files = [_encode_jpeg(image) for image in batch]
            log = prediction_log_pb2.PredictionLog()
            _fill_predict_request(log.predict_log.request, ENCODED_SIGNATURE, "image_bytes", files)
            writer.write(log.SerializeToString())
            log = prediction_log_pb2.PredictionLog()
            log.classify_log.request.model_spec.signature_name = CLASSIFY_SIGNATURE
            for file in files:
                example = log.classify_log.request.input.example_list.examples.add()
                example.features.feature[EXAMPLE_FEATURE].bytes_list.value.append(file)
            writer.write(log.SerializeToString())


def _fill_predict_request(request, signature: str, name: str, values) -> None:
    request.model_spec.signature_name = signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(values))


def _encode_jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()
