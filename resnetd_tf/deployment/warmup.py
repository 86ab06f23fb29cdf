"""The requests that TensorFlow Serving answers while it loads a SavedModel, so that the first user need not wait."""

import io
import pathlib

import numpy as np
import PIL.Image
import tensorflow as tf

from resnetd_tf.deployment import signatures

LARGEST = 32  # images; a server's own batches are at most so large, see serving/batching.config
LARGEST_REQUEST = 2**24  # bytes of pixels


def write(savedmodel: pathlib.Path, images: np.ndarray) -> None:
    """Writes assets.extra/tf_serving_warmup_requests: each signature's requests of one image and of many.

    https://www.tensorflow.org/tfx/serving/saved_model_warmup. A request that fails would fail the loading.

    Args:
        savedmodel: The folder.
        images: Raw pixels (n, height, width, bands) as it will be given, some.
    """
    from tensorflow_serving.apis import prediction_log_pb2  # imports much

    many = max(1, min(LARGEST, LARGEST_REQUEST // images[0].nbytes))
    path = savedmodel / "assets.extra" / "tf_serving_warmup_requests"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch in (images[:1], np.resize(images, (many, *images.shape[1:]))):
            log = prediction_log_pb2.PredictionLog()
            _predict(log.predict_log.request, signatures.PIXELS, "pixels", batch)
            writer.write(log.SerializeToString())
            if images.shape[-1] != 3:
                continue
            files = [_jpeg(image) for image in batch]
            log = prediction_log_pb2.PredictionLog()
            _predict(log.predict_log.request, signatures.ENCODED, "image_bytes", files)
            writer.write(log.SerializeToString())
            log = prediction_log_pb2.PredictionLog()
            log.classify_log.request.model_spec.signature_name = signatures.CLASSIFY
            for file in files:
                example = log.classify_log.request.input.example_list.examples.add()
                example.features.feature[signatures.FEATURE].bytes_list.value.append(file)
            writer.write(log.SerializeToString())


def _predict(request, signature: str, name: str, values) -> None:
    request.model_spec.signature_name = signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(values))


def _jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()
