"""From a trained classifier to the SavedModel that TensorFlow Serving runs.

`write_savedmodel` comes first, then its parts: the signatures, the graph that other formats are converted from, and the
requests that a server warms up with.
"""

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

from resnetd_tf import metadata as metadata_files
from resnetd_tf import rundir
from resnetd_tf.applicability import Applicability
from resnetd_tf.data import images
from resnetd_tf.errors import InputError
from resnetd_tf.networks.classifier import network_with_features
from resnetd_tf.networks.layers import Resizing, fold_batch_norm
from resnetd_tf.runtimes import FLOAT_OUTPUTS

WEIGHT_PREFIX = "weight_"  # the name of a weight in the graph is this and its number


def write_savedmodel(
    classifier: keras.Model,
    classes: tuple[str, ...],
    metadata: dict,
    path: pathlib.Path,
    precision: str = "float32",
    examples: np.ndarray | None = None,
    *,
    applicability: Applicability | None = None,
    pools_as_convolutions: bool = False,
) -> None:
    """Writes a SavedModel for TensorFlow Serving. Either the whole folder is written or nothing is.

    Batch normalisation is folded into the convolutions before it, and the weights are constants of the graph.
    `make_signatures` says what requests the SavedModel answers. Its assets.extra/ holds labels.txt and metadata.json,
    so that the folder can be copied without its run.

    Args:
        classifier: A classifier of `networks.classifier.build_classifier`, or its `portable_copy`.
        classes: Class names in the order of the probabilities.
        metadata: The metadata of the classifier's run, see `resnetd_tf.metadata`.
        path: The folder to write, which must not exist.
        precision: "float32" or "bfloat16", the type of the network's weights and activations. Probabilities are float32
            in both.
        examples: Raw pixels (n, height, width, bands) for the requests that TensorFlow Serving warms up with; `None`
            writes no such requests.
        applicability: Where the classifier applies; `None` writes a SavedModel that does not tell.
        pools_as_convolutions: Whether average pools become convolutions, which TFLite in int8 runs faster.

    Raises:
        InputError: The folder cannot be written.
    """
    classifier = fold_batch_norm(classifier, precision, pools_as_convolutions)
    pixels = classifier.inputs[0]
    normalization = classifier.get_layer("normalization")
    resizing = Resizing.from_config(classifier.get_layer("resizing").get_config())
    network = classifier.layers[-1]
    pixels_spec = tf.TensorSpec(pixels.shape, pixels.dtype)
    normalised_spec = tf.TensorSpec((None, *network.inputs[0].shape[1:]), tf.float32)

    classify = _make_classify(network, len(classes), applicability)
    signatures = make_signatures(
        classify, lambda pixels: resizing(normalization(pixels)), classes, pixels_spec, metadata
    )
    served = tf.Module()
    # `load_inference_function` puts these two parts together again, with a resizing for images of one size.
    served.normalization = tf.function(normalization.call, [pixels_spec], autograph=False)
    served.network = tf.function(classify, [normalised_spec], autograph=False)
    preprocessing = {
        "image_size": resizing.height,
        "interpolation": resizing.interpolation,
        "antialias": resizing.antialias,
        "exported_precision": precision,
    }
    with rundir.write_atomically(path) as temporary:
        tf.saved_model.save(served, str(temporary), signatures)
        _fill_weights(temporary / "saved_model.pb", [weight.numpy() for weight in network.trainable_variables])
        extra_assets = temporary / "assets.extra"
        extra_assets.mkdir()
        rundir.write_labels(extra_assets / "labels.txt", classes)
        rundir.write_json(extra_assets / "metadata.json", metadata | preprocessing)
        if examples is not None:
            write_warmup_requests(temporary, examples)


def _make_classify(network: keras.Model, class_count: int, applicability: Applicability | None) -> Callable:
    """Makes a function for a graph, from normalised images to outputs by name, without the network's weights.

    Instead of the weights, the graph has placeholders that `_fill_weights` fills. Constants of a single value take no
    room, and TensorFlow holds up to ten copies of a graph while it saves it. With the weights themselves the process
    takes 3.1 GiB for ResNet-50-D instead of 1.2 and 2.5 times as long, for the same 94.3 MB.

    Args:
        network: A network whose batch normalisation is folded.
        class_count: Number of classes.
        applicability: Where the classifier applies; with it, `dissimilarity` is an output beside `probabilities`.
    """
    with_features = network_with_features(network)

    @tf.function(input_signature=[tf.TensorSpec((None, *network.inputs[0].shape[1:]), tf.float32)], autograph=False)
    def infer(normalised):
        weights = [
            tf.constant(0, weight.dtype, weight.shape, name=f"{WEIGHT_PREFIX}{index}")
            for index, weight in enumerate(network.trainable_variables)
        ]
        (probabilities, features), _ = with_features.stateless_call(weights, [], normalised, training=False)
        outputs = {"probabilities": probabilities}
        if applicability:
            outputs["dissimilarity"] = applicability.dissimilarity_tensor(tf.cast(features, tf.float32))
        return outputs

    def classify(normalised):
        outputs = infer(normalised)
        outputs["probabilities"] = tf.ensure_shape(outputs["probabilities"], (None, class_count))
        return outputs

    return classify


def _fill_weights(path: pathlib.Path, weights: list[np.ndarray]) -> None:
    """Puts the weights into a saved_model.pb, and the method that TensorFlow Serving calls for `classify`."""
    savedmodel = SavedModel.FromString(path.read_bytes())
    (meta_graph,) = savedmodel.meta_graphs
    if CLASSIFY_SIGNATURE in meta_graph.signature_def:
        meta_graph.signature_def[CLASSIFY_SIGNATURE].method_name = tf.saved_model.CLASSIFY_METHOD_NAME
    for function in meta_graph.graph_def.library.function:
        for node in function.node_def:
            if node.name.startswith(WEIGHT_PREFIX):
                weight = weights[int(node.name.removeprefix(WEIGHT_PREFIX))]
                node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(weight))
    path.write_bytes(savedmodel.SerializeToString())
    write_fingerprint(str(path.parent))


# Signatures: the requests that a SavedModel answers, with pixels, with encoded pictures, or with examples to classify.

PIXELS_SIGNATURE, ENCODED_SIGNATURE, CLASSIFY_SIGNATURE = "serving_default", "encoded", "classify"
EXAMPLE_FEATURE = "image/encoded"  # in a tf.train.Example, the name that TensorFlow's own image datasets use
UNREADABLE_MESSAGE = "damaged: it cannot be decoded"
ROTATED_MESSAGE = "its EXIF says that it is to be turned; save it upright"


def make_signatures(
    classify: Callable, preprocess: Callable, classes: Sequence[str], pixels: tf.TensorSpec, metadata: dict
) -> dict[str, tf.types.experimental.GenericFunction]:
    """Builds the signatures of a SavedModel.

    - serving_default takes `pixels` (n, height, width, bands), raw. It returns `probabilities` (n, classes) float32,
      `labels` (n, classes), the class name of each probability, and `top_class` (n,), the most probable class name. If
      `classify` knows it, `dissimilarity` (n,) float32 says how unlike the training images each is, above 1
      for unlike.
    - encoded takes `image_bytes` (n,), JPEG or PNG files of any sizes. It returns the same and `error` (n,), which is
      empty or says why a picture has no answer. Such a picture has probabilities and a dissimilarity of zero and an
      empty `top_class`. `patch_side` and `largest_patch` (n,) int32 repeat the sizes of patches in pixels, see
      `resnetd_tf.metadata`.
    - classify takes `inputs` (n,), serialized tf.train.Example messages with such a file as `image/encoded`. It returns
      `classes` (n, classes), class names, and `scores` (n, classes) float32, zero for a picture without an answer.

    A classifier of other bands than RGB has the first signature alone. A batch without images is refused.

    Args:
        classify: Function from normalised images (n, size, size, bands) to a dictionary of probabilities (n, classes),
            and of their dissimilarity (n,), if that is known.
        preprocess: Function from raw pixels to normalised images.
        classes: Class names in the order of the probabilities.
        pixels: Shape and dtype of the raw pixels.
        metadata: The metadata of the classifier's run.

    Returns:
        The signatures by name, as `tf.saved_model.save` takes them.
    """
    class_names = tf.constant(list(classes), tf.string)

    def name_classes(outputs):
        probabilities = outputs["probabilities"]
        labels = tf.tile(class_names[tf.newaxis], [tf.shape(probabilities)[0], 1])
        top_class = tf.gather(class_names, tf.argmax(probabilities, axis=1))
        return outputs | {"labels": labels, "top_class": top_class}

    def classify_pixels(pixels):
        with tf.control_dependencies([_require_images(pixels, "pixels")]):
            return name_classes(classify(preprocess(pixels)))

    def classify_pictures(strings, name, extract_picture):
        with tf.control_dependencies([_require_images(strings, name)]):
            normalised, errors = _decode_pictures(strings, extract_picture, preprocess)
        readable = errors == ""
        is_answer = tf.cast(readable, tf.float32)
        outputs = name_classes(classify(normalised))
        outputs["probabilities"] *= is_answer[:, tf.newaxis]
        if "dissimilarity" in outputs:
            outputs["dissimilarity"] *= is_answer
        return outputs | {"error": errors, "top_class": tf.where(readable, outputs["top_class"], "")}

    def classify_files(image_bytes):
        outputs = classify_pictures(image_bytes, "image_bytes", lambda file: file)
        sizes = {
            "patch_side": metadata_files.patch_side(metadata),
            "largest_patch": metadata_files.largest_patch(metadata),
        }
        return outputs | {name: tf.fill(tf.shape(image_bytes), size) for name, size in sizes.items()}

    def classify_examples(inputs):
        features = {EXAMPLE_FEATURE: tf.io.FixedLenFeature((), tf.string, default_value="")}
        outputs = classify_pictures(
            inputs, "inputs", lambda example: tf.io.parse_single_example(example, features)[EXAMPLE_FEATURE]
        )
        return {"classes": outputs["labels"], "scores": outputs["probabilities"]}

    strings = tf.TensorSpec((None,), tf.string)
    functions = {PIXELS_SIGNATURE: (classify_pixels, pixels, "pixels")}
    if pixels.shape[-1] == 3:
        functions |= {
            ENCODED_SIGNATURE: (classify_files, strings, "image_bytes"),
            CLASSIFY_SIGNATURE: (classify_examples, strings, "inputs"),
        }
    return {
        signature: tf.function(function, [tf.TensorSpec(spec.shape, spec.dtype, name=input_name)], autograph=False)
        for signature, (function, spec, input_name) in functions.items()
    }


def _decode_pictures(strings, extract_picture, preprocess):
    """Decodes pictures in a graph.

    Args:
        strings: What holds the pictures, (n,).
        extract_picture: Function from one of them to the bytes of a JPEG or PNG file.
        preprocess: Function from raw pixels to normalised images.

    Returns:
        Normalised images (n, size, size, bands), zero where a picture cannot be read, and (n,) strings that are empty
        or say why it cannot.
    """
    count = tf.size(strings, out_type=tf.int64)
    shape = preprocess(tf.zeros((1, 1, 1, 3), tf.uint8)).shape[1:]

    def decode(index, string):
        picture = extract_picture(string)
        problem = images.picture_problem(picture)
        problem = tf.where((problem == "") & images.has_rotation(picture), ROTATED_MESSAGE, problem)
        image = tf.cond(
            problem == "",
            lambda: preprocess(images.decode_picture(picture)[tf.newaxis])[0],
            lambda: tf.zeros(shape),
        )
        return index, tf.ensure_shape(image, shape), problem

    # A server merges requests, and one picture must not fail the answers to others: where decoding fails, the element
    # is left out, and its index has no image. The element at the end is there because an empty batch is an error.
    elements = tf.data.Dataset.from_tensor_slices((tf.range(count), strings))
    decode = tf.autograph.experimental.do_not_convert(decode)
    elements = elements.map(decode, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    elements = elements.concatenate(tf.data.Dataset.from_tensors((count, tf.zeros(shape), "")))
    indices, decoded, problems = elements.batch(count + 1).get_single_element()
    indices = indices[:, tf.newaxis]
    normalised = tf.scatter_nd(indices, decoded, tf.stack([count + 1, *shape]))
    errors = tf.tensor_scatter_nd_update(tf.fill([count + 1], UNREADABLE_MESSAGE), indices, problems)
    return normalised[:count], errors[:count]


def _require_images(batch, name: str):
    """Makes an operation that refuses an empty batch by the name of the input; oneDNN's own message is a riddle."""
    return tf.debugging.assert_positive(tf.shape(batch)[0], f"{name}: no image is given")


# The frozen graph: what TFLite, ONNX and OpenVINO are converted from.


def load_inference_function(
    savedmodel: pathlib.Path, shape: tuple[int | None, ...], *, with_dissimilarity: bool = True
) -> tuple[tf.types.experimental.ConcreteFunction, object]:
    """Loads a SavedModel as a function that converters understand.

    It takes `pixels` and returns `probabilities`, and `dissimilarity` if the SavedModel knows it.

    Args:
        savedmodel: The folder. TensorFlow's loader opens it, so it must be trusted, or checked by `resnetd_tf.saved`.
        shape: Shape of the pixels, (n, height, width, bands), `None` for any size. Where height and width are numbers,
            images are resized by constant matrices.
        with_dissimilarity: Whether the function returns the dissimilarity, if the SavedModel knows it.

    Returns:
        The function, and the object that owns its weights and must live as long.

    Raises:
        InputError: The SavedModel is of an older version, or computes in another precision than float32.
    """
    loaded = tf.saved_model.load(str(savedmodel))
    metadata_path = savedmodel / "assets.extra" / "metadata.json"
    if not hasattr(loaded, "network") or not metadata_path.is_file():
        raise InputError(f"{savedmodel} is of an older version: export.py --format=savedmodel makes it anew")
    metadata = metadata_files.read_metadata(
        metadata_path, ("exported_precision", "image_size", "interpolation", "antialias")
    )
    if metadata["exported_precision"] != "float32":
        raise InputError(f"{savedmodel} computes in {metadata['exported_precision']}; give a model in float32")
    size, dtype = metadata["image_size"], loaded.normalization.input_signature[0].dtype
    resizing = Resizing(size, size, metadata["interpolation"], antialias=metadata["antialias"], dtype="float32")
    normalize = _normalization_by_convolution(loaded.normalization, shape[-1], dtype)

    def classify(pixels):
        outputs = loaded.network(resizing(tf.ensure_shape(normalize(pixels), shape)))
        wanted = FLOAT_OUTPUTS if with_dissimilarity else ("probabilities",)
        return {name: tf.identity(outputs[name], name=name) for name in wanted if name in outputs}

    function = tf.function(classify, [tf.TensorSpec(shape, dtype, name="pixels")], autograph=False)
    return function.get_concrete_function(), loaded


def _normalization_by_convolution(normalization: Callable, bands: int | None, dtype: tf.DType) -> Callable:
    """Makes a normalisation a convolution of each band by itself: in int8 it takes a tenth of the time.

    Digital numbers are normalised one band after the other. Quantised together, dark bands would have no levels left.

    Args:
        normalization: Function from raw pixels (1, height, width, bands) to normalised ones, linear in each band.
        bands: Number of bands.
        dtype: Type of the pixels, tf.uint8 for grey levels or tf.uint16 for digital numbers.
    """
    assert bands
    groups = 1 if dtype == tf.uint8 else bands
    at_zero, at_largest = (
        normalization(tf.fill((1, 1, 1, bands), tf.constant(value, dtype)))[0] for value in (0, dtype.max)
    )
    kernel, bias = ((at_largest - at_zero) / dtype.max)[..., tf.newaxis].numpy(), at_zero.numpy()
    kernels_and_biases = list(zip(np.split(kernel, groups, axis=2), np.split(bias, groups, axis=-1)))

    def normalize(pixels):
        parts = [pixels] if groups == 1 else tf.split(tf.cast(pixels, tf.int32), groups, axis=-1)
        return tf.concat(
            [
                tf.nn.depthwise_conv2d(tf.cast(part, tf.float32), kernel, [1] * 4, "VALID") + bias
                for part, (kernel, bias) in zip(parts, kernels_and_biases)
            ],
            axis=-1,
        )

    return normalize


def freeze_graph(savedmodel: pathlib.Path, bands: int) -> tuple[tf.Graph, list[str]]:
    """Freezes a SavedModel to a graph without functions, which takes any number of images of any size as `pixels`.

    Args:
        savedmodel: The folder, as `load_inference_function` takes it.
        bands: Number of bands of the images.

    Returns:
        The graph, and the names of its outputs in the order that exports should have.

    Raises:
        InputError: The SavedModel is of an older version, or computes in another precision than float32.
    """
    concrete, _owner = load_inference_function(savedmodel, (None, None, None, bands))
    names = [name for name in FLOAT_OUTPUTS if name in concrete.structured_outputs]
    return convert_variables_to_constants_v2(concrete).graph, names


# Warm-up: requests that TensorFlow Serving answers while it loads a SavedModel, so that the first user need not wait.

WARMUP_IMAGES = 32  # the largest batch that a server with serving/batching.config makes
MAX_REQUEST_BYTES = 2**24  # of pixels


def write_warmup_requests(savedmodel: pathlib.Path, images: np.ndarray) -> None:
    """Writes assets.extra/tf_serving_warmup_requests: for each signature a request of one image and one of many.

    The format is https://www.tensorflow.org/tfx/serving/saved_model_warmup, records of
    tensorflow.serving.PredictionLog. A request that fails would fail the loading. The few messages are encoded here,
    because tensorflow-serving-api, which defines them, is not installed for training.

    Args:
        savedmodel: The folder of the SavedModel.
        images: Some raw pixels (n, height, width, bands) of the shape and dtype that requests will have.
    """
    count = max(1, min(WARMUP_IMAGES, MAX_REQUEST_BYTES // images[0].nbytes))
    path = savedmodel / "assets.extra" / "tf_serving_warmup_requests"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch in (images[:1], np.resize(images, (count, *images.shape[1:]))):
            writer.write(_encode_predict_log(PIXELS_SIGNATURE, "pixels", batch))
            if images.shape[-1] == 3:
                files = [_encode_jpeg(image) for image in batch]
                writer.write(_encode_predict_log(ENCODED_SIGNATURE, "image_bytes", files))
                writer.write(_encode_classify_log(files))


def _encode_message(*fields: tuple[int, bytes]) -> bytes:
    """Encodes a protobuf message from numbers (below 16) and contents of fields that hold text, bytes or messages."""
    encoded = b""
    for number, content in fields:
        field_1 = tf.train.BytesList(value=[content]).SerializeToString()
        encoded += bytes([number << 3 | 2]) + field_1[1:]  # the first byte is the tag, which has the number
    return encoded


def _encode_predict_log(signature: str, name: str, values) -> bytes:
    """Encodes PredictionLog.predict_log.request with an input of that name."""
    model_spec = _encode_message((3, signature.encode()))
    tensor = tf.make_tensor_proto(values).SerializeToString()
    request = _encode_message((1, model_spec), (2, _encode_message((1, name.encode()), (2, tensor))))
    return _encode_message((6, _encode_message((1, request))))


def _encode_classify_log(files: list[bytes]) -> bytes:
    """Encodes PredictionLog.classify_log.request with an example for each file."""
    examples = [tf.train.Example() for _ in files]
    for example, file in zip(examples, files):
        example.features.feature[EXAMPLE_FEATURE].bytes_list.value.append(file)
    example_list = _encode_message(*((1, example.SerializeToString()) for example in examples))
    model_spec = _encode_message((3, CLASSIFY_SIGNATURE.encode()))
    request = _encode_message((1, model_spec), (2, _encode_message((1, example_list))))
    return _encode_message((2, _encode_message((1, request))))


def _encode_jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()
