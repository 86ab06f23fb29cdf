"""Asks a classifier that TensorFlow Serving runs, by gRPC or by HTTP.

    server = client.connect("grpc://localhost:8500", "resnet50d")
    probabilities, errors = server.classify([path.read_bytes() for path in pathlib.Path("patches").glob("*.jpg")])
    classifier = client.open_served_classifier("grpc://localhost:8500", "resnet50d")  # a SavedClassifier

The extra `serving` installs gRPC, TensorFlow Serving's API and requests. The protocol that needs one imports it, so
that this module imports without the extra.
"""

import base64
import contextlib
import io
import json
import pathlib
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import tensorflow as tf

from resnetd_tf.data.images import convert_dtype
from resnetd_tf.deployment.savedmodel import ENCODED_SIGNATURE
from resnetd_tf.errors import InputError, damage_as_input_error, first_line, root_cause, root_cause_text
from resnetd_tf.saved import SavedClassifier

MAX_REQUEST_IMAGES = 32  # the largest batch that a server with serving/batching.config makes
MAX_TIMEOUT = 1e6  # seconds
NEEDED_OUTPUTS = {"probabilities", "labels", "error", "patch_side", "largest_patch"}  # of the signature `encoded`
FOREIGN_ANSWER = "answers what no classifier of this package does"
REPLACED_MODEL = "its model was replaced during the request"


def connect(address: str, model: str, version: int | None = None, timeout: float = 30) -> "Server":
    """Connects to a classifier on a server, and checks that it is one.

    Args:
        address: grpc://HOST:PORT, http://HOST:PORT or https://HOST:PORT.
        model: The model's name on the server.
        version: The model's version; `None` for the newest that the server has.
        timeout: Seconds in which a request must be answered. By HTTP it is the time that a server may be silent.

    Raises:
        InputError: There is no such server or model, or it is no classifier of this package.
        ModuleNotFoundError: A package of the extra `serving` is not installed.
    """
    try:
        url = urllib.parse.urlsplit(address)
        is_complete = url.hostname and url.port and not url.path.strip("/")
        is_address = is_complete and url.scheme in ("grpc", "http", "https")
    except ValueError:
        is_address = False
    if not 0 < timeout < MAX_TIMEOUT:  # NaN is refused too
        raise InputError(f"--timeout={timeout}: give seconds, above 0 and below a million")
    if not is_address:
        raise InputError(f"--server={address}: give grpc://HOST:8500 or http://HOST:8501")
    protocol = GrpcConnection if url.scheme == "grpc" else RestConnection
    connection = protocol(address, url, model, version, timeout)
    with damage_as_input_error(f"server {address}: answers what no TensorFlow Serving does"):
        outputs = connection.output_names()
    if not outputs >= NEEDED_OUTPUTS:
        raise InputError(
            f"server {address}: {model} is no RGB classifier that export.py wrote: it has no signature "
            f"`{ENCODED_SIGNATURE}` with {', '.join(sorted(NEEDED_OUTPUTS))}; "
            "export it anew, or give another --model_name"
        )
    return Server(address, connection.predict, "dissimilarity" in outputs)


def open_served_classifier(
    address: str, model: str, version: int | None = None, timeout: float = 30
) -> SavedClassifier:
    """Opens a classifier on a server, for all functions that take one from disk.

    Pictures are decoded here and sent as PNG, so that every kind of file has the answer that it has without a server.

    Args:
        address: grpc://HOST:PORT, http://HOST:PORT or https://HOST:PORT.
        model: The model's name on the server.
        version: The model's version; `None` for the newest that the server has.
        timeout: Seconds in which a request must be answered.

    Raises:
        InputError: There is no such server or model, or it is no classifier of this package.
        ModuleNotFoundError: A package of the extra `serving` is not installed.
    """
    server = connect(address, model, version, timeout)
    classes, metadata = server.describe()

    def classify(images: np.ndarray | list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        probabilities, dissimilarity, errors = server.request([_encode_png(image) for image in images])
        if len(probabilities) and probabilities.shape[1] != len(classes):
            raise InputError(f"server {address}: {REPLACED_MODEL}; try again")
        if error := next(filter(None, errors), None):
            raise InputError(f"server {address}: {error}")
        return probabilities, dissimilarity

    path = pathlib.Path(f"{model} at {address}")
    return SavedClassifier(
        path,
        pathlib.Path(),
        classes,
        3,
        lambda images: classify(images)[0],
        metadata,
        is_served=True,
        predict_with_dissimilarity=classify if server.knows_dissimilarity else None,
    )


@dataclass(frozen=True)
class Server:
    """A classifier on a server, as `connect` returns it.

    Attributes:
        address: The address that was given to `connect`.
        predict: Function that sends files to the signature `encoded` and returns its outputs by name.
        knows_dissimilarity: Whether the model tells how unlike the training images a picture is.
    """

    address: str
    predict: Callable[[Sequence[bytes]], dict[str, np.ndarray]]
    knows_dissimilarity: bool = False

    def classify(self, files: Sequence[bytes]) -> tuple[np.ndarray, list[str]]:
        """Classifies pictures.

        Args:
            files: JPEG and PNG files of any sizes.

        Returns:
            Probabilities (n, classes) float32, and for each file an error. The error is empty for a picture that can be
            read; the others have probabilities of zero.

        Raises:
            InputError: The server cannot be reached, does not answer in time, or answers something else.
        """
        probabilities, _, errors = self.request(files)
        return probabilities, errors

    def request(self, files: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Classifies pictures as `classify` does, and returns how unlike the training images they are as well.

        Returns:
            Probabilities (n, classes) float32; dissimilarities (n,) float32, NaN if the model does not know them; and
            for each file an error.
        """
        if not files:
            classes, _ = self.describe()
            return np.zeros((0, len(classes)), "float32"), np.zeros(0, "float32"), []
        probabilities: list[np.ndarray] = []
        dissimilarity = np.full(len(files), np.nan, "float32")
        errors: list[str] = []
        for start in range(0, len(files), MAX_REQUEST_IMAGES):
            batch = files[start : start + MAX_REQUEST_IMAGES]
            with damage_as_input_error(f"server {self.address}: {FOREIGN_ANSWER}"):
                outputs = self.predict(batch)
                if len(outputs["error"]) != len(batch):
                    raise ValueError(f"{len(outputs['error'])} answers to {len(batch)} images")
                if not np.isfinite(outputs["probabilities"]).all():
                    raise ValueError("probabilities that are not finite")
                probabilities.append(outputs["probabilities"].astype("float32").reshape(len(batch), -1))
                if self.knows_dissimilarity:
                    dissimilarity[start : start + len(batch)] = outputs["dissimilarity"]
                errors += map(str, outputs["error"])
        with damage_as_input_error(f"server {self.address}: {REPLACED_MODEL}", "; try again"):
            return np.concatenate(probabilities), dissimilarity, errors

    def describe(self) -> tuple[tuple[str, ...], dict]:
        """Returns the class names, and the sizes of patches as in metadata.json. Any answer of the server has both."""
        with damage_as_input_error(f"server {self.address}: {FOREIGN_ANSWER}"):
            outputs = self.predict([b"no picture"])
            side, largest = (int(outputs[name][0]) for name in ("patch_side", "largest_patch"))
            return tuple(map(str, outputs["labels"][0])), {"patch_shape": [side, side, 3], "largest_patch": largest}


def _encode_png(image: np.ndarray) -> bytes:
    (pixels,) = convert_dtype(np.asarray(image)[np.newaxis], 3, np.dtype("uint8"))
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


# The two protocols of TensorFlow Serving. Both classes have the same methods: `output_names`, the names of the outputs
# of the signature `encoded`, and `predict`, which sends it files and returns the outputs by name. Their InputErrors say
# what the server did not do, and what to try.

ATTEMPTS = 3  # a request changes nothing on the server, so it can be repeated
UNAVAILABLE_STATUS = (502, 503, 504)  # of HTTP; proxies too answer so while a server starts


class GrpcConnection:
    """Connection by gRPC, as TensorFlow Serving's prediction_service.proto defines it."""

    def __init__(self, address: str, url: urllib.parse.SplitResult, model: str, version: int | None, timeout: float):
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        retry_policy = {
            "maxAttempts": ATTEMPTS,
            "initialBackoff": "0.2s",
            "maxBackoff": "2s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        method = {"name": [{"service": "tensorflow.serving.PredictionService"}], "retryPolicy": retry_policy}
        options = [
            ("grpc.service_config", json.dumps({"methodConfig": [method]})),
            ("grpc.max_receive_message_length", -1),
        ]
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(url.netloc, options))
        self.address, self.model, self.version, self.timeout = address, model, version, timeout

    def output_names(self) -> set[str]:
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._fill_model_spec(request.model_spec)
        with self._errors_as_input_errors():
            response = self.stub.GetModelMetadata(request, timeout=self.timeout)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        if ENCODED_SIGNATURE not in signatures.signature_def:
            return set()
        return set(signatures.signature_def[ENCODED_SIGNATURE].outputs)

    def predict(self, files: Sequence[bytes]) -> dict[str, np.ndarray]:
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        self._fill_model_spec(request.model_spec)
        request.model_spec.signature_name = ENCODED_SIGNATURE
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(list(files), tf.string))
        with self._errors_as_input_errors():
            response = self.stub.Predict(request, timeout=self.timeout)
        outputs = {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}
        return {name: _decode_strings(array) if array.dtype == object else array for name, array in outputs.items()}

    def _fill_model_spec(self, model_spec) -> None:
        model_spec.name = self.model
        if self.version is not None:
            model_spec.version.value = self.version

    @contextlib.contextmanager
    def _errors_as_input_errors(self) -> Iterator[None]:
        import grpc

        try:
            yield
        except grpc.RpcError as error:
            code, details = error.code(), first_line(ValueError(error.details() or ""))
            messages = {
                grpc.StatusCode.UNAVAILABLE: _unreachable_message("gRPC", details),
                grpc.StatusCode.DEADLINE_EXCEEDED: _timeout_message(self.timeout),
                grpc.StatusCode.NOT_FOUND: f"{details}; give another --model_name or --version",
            }
            message = messages.get(code, f"{code.name}: {details}")
            raise InputError(f"server {self.address}: {message}") from error


class RestConnection:
    """Connection by HTTP and JSON, https://www.tensorflow.org/tfx/serving/api_rest."""

    def __init__(self, address: str, url: urllib.parse.SplitResult, model: str, version: int | None, timeout: float):
        import requests

        name = urllib.parse.quote(model, safe="")
        version_path = "" if version is None else f"/versions/{version}"
        self.url = f"{url.scheme}://{url.netloc}/v1/models/{name}{version_path}"
        self.address, self.timeout, self.session = address, timeout, requests.Session()

    def output_names(self) -> set[str]:
        signatures = self._request("GET", f"{self.url}/metadata")["metadata"]["signature_def"]["signature_def"]
        return set(signatures.get(ENCODED_SIGNATURE, {}).get("outputs", {}))

    def predict(self, files: Sequence[bytes]) -> dict[str, np.ndarray]:
        encoded_files = [{"b64": base64.b64encode(file).decode()} for file in files]
        body = {"signature_name": ENCODED_SIGNATURE, "inputs": {"image_bytes": encoded_files}}
        answer = self._request("POST", f"{self.url}:predict", body)
        return {name: np.asarray(values) for name, values in answer["outputs"].items()}

    def _request(self, method: str, url: str, body: dict | None = None) -> Any:
        """Sends a request, repeats it where the server is not available, and returns the JSON object of the answer."""
        response = self._send(method, url, body)
        answer = None
        with contextlib.suppress(ValueError):
            answer = response.json()
        if not isinstance(answer, dict):
            message = f"is no TensorFlow Serving: it answered {response.status_code} with no JSON"
            if response.status_code in UNAVAILABLE_STATUS:
                message = f"is not available, it answered {response.status_code} {ATTEMPTS} times; try again later"
            raise InputError(f"server {self.address}: {message}")
        if "error" in answer or not response.ok:
            message = first_line(ValueError(str(answer.get("error", response.reason))))
            advice = "; give another --model_name or --version" if response.status_code == 404 else ""
            raise InputError(f"server {self.address}: {message}{advice}")
        return answer

    def _send(self, method: str, url: str, body: dict | None):
        """Returns the first response that does not say that the server is not available, or the last of `ATTEMPTS`."""
        import requests

        broken_connection = requests.ConnectionError, requests.exceptions.ChunkedEncodingError
        for attempt in range(ATTEMPTS):
            is_last = attempt == ATTEMPTS - 1
            try:
                response = self.session.request(method, url, json=body, timeout=self.timeout)
                if is_last or response.status_code not in UNAVAILABLE_STATUS:
                    return response
            except requests.RequestException as error:
                # In the middle of an answer requests raises no Timeout of its own, but Python's lies beneath.
                if isinstance(error, requests.Timeout) or isinstance(root_cause(error), TimeoutError):
                    raise InputError(f"server {self.address}: {_timeout_message(self.timeout)}") from error
                if is_last or not isinstance(error, broken_connection):
                    message = _unreachable_message("HTTP", root_cause_text(error))
                    raise InputError(f"server {self.address}: {message}") from error
            time.sleep(0.2 * 2**attempt)


def _timeout_message(timeout: float) -> str:
    return f"no answer within {timeout:g} s; raise --timeout"


def _unreachable_message(protocol: str, reason: str) -> str:
    advice = "start it, or give another --server, grpc://HOST:8500 or http://HOST:8501"
    return f"cannot be reached by {protocol} ({reason}); {advice}"


def _decode_strings(strings: np.ndarray) -> np.ndarray:
    return np.array([string.decode(errors="replace") for string in strings.ravel()], object).reshape(strings.shape)
