"""Asks a classifier of ours that TensorFlow Serving runs.

server = client.connect("grpc://localhost:8500", "resnet50d")
probabilities, problems = server.classify([path.read_bytes() for path in pathlib.Path("patches").glob("*.jpg")])
classifier = client.classifier("grpc://localhost:8500", "resnet50d")  # as saved.open_classifier returns it
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

import grpc
import numpy as np
import PIL.Image
import requests
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from resnetd_tf.data.images import convert_dtype
from resnetd_tf.deployment.savedmodel import ENCODED_SIGNATURE
from resnetd_tf.errors import InputError, damage_as_input_error, first_line, root_cause, root_cause_text
from resnetd_tf.saved import SavedClassifier

REQUEST_IMAGES = 32  # images in a request: what one batch of the server's may hold, see serving/batching.config
NEEDED_OUTPUTS = {"probabilities", "labels", "error", "patch_side", "largest_patch"}  # of `encoded`, that are used here


@dataclass(frozen=True)
class Server:
    """A classifier on a server.

    Attributes:
        address: As it was given.
        predict: What sends files to the signature `encoded` and returns its outputs by name.
    """

    address: str
    predict: Callable[[Sequence[bytes]], dict[str, np.ndarray]]

    def classify(self, files: Sequence[bytes]) -> tuple[np.ndarray, list[str]]:
        """Probabilities (n, classes) float32 of JPEG and PNG files of any sizes, and what is wrong with each.

        What is wrong is empty for most; a picture with something wrong has probabilities of zero.

        Raises:
            InputError: The server cannot be reached, does not answer in time, or answers something else.
        """
        if not files:
            return np.zeros((0, len(self.about()[0])), "float32"), []
        probabilities: list[np.ndarray] = []
        problems: list[str] = []
        for start in range(0, len(files), REQUEST_IMAGES):
            some = files[start : start + REQUEST_IMAGES]
            with damage_as_input_error(f"server {self.address}: answers what no classifier of ours does"):
                answer = self.predict(some)
                if len(answer["error"]) != len(some) or not np.isfinite(answer["probabilities"]).all():
                    raise ValueError(f"{len(answer['error'])} answers to {len(some)} images, or what are no numbers")
                probabilities.append(answer["probabilities"].astype("float32").reshape(len(some), -1))
                problems += map(str, answer["error"])
        with damage_as_input_error(f"server {self.address}: its model was replaced meanwhile", "; try again"):
            return np.concatenate(probabilities), problems

    def about(self) -> tuple[tuple[str, ...], dict]:
        """Class names, and of what size patches are, as in metadata.json; it says them with each answer."""
        with damage_as_input_error(f"server {self.address}: answers what no classifier of ours does"):
            answer = self.predict([b"no picture"])
            side, largest = (int(answer[name][0]) for name in ("patch_side", "largest_patch"))
            return tuple(map(str, answer["labels"][0])), {"patch_shape": [side, side, 3], "largest_patch": largest}


def connect(address: str, model: str, version: int | None = None, timeout: float = 30) -> Server:
    """A classifier on a server, once it is known to be one.

    Args:
        address: grpc://HOST:PORT or http://HOST:PORT, also https.
        model: Its name there.
        version: Which version; `None` for the one that the server has as its newest.
        timeout: Seconds in which a request must be answered; by HTTP, that a server may be silent.

    Raises:
        InputError: There is no such server or model, or it is no classifier of ours.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        named = parts.hostname and parts.port and not parts.path.strip("/")
        given = named and parts.scheme in ("grpc", "http", "https")
    except ValueError:
        given = False
    if not 0 < timeout < 1e6:  # no number neither
        raise InputError(f"--timeout={timeout}: give seconds, above 0 and below a million")
    if not given:
        raise InputError(f"--server={address}: give grpc://HOST:8500 or http://HOST:8501")
    protocol = GrpcConnection if parts.scheme == "grpc" else RestConnection
    asked = protocol(address, parts, model, version, timeout)
    with damage_as_input_error(f"server {address}: answers what no TensorFlow Serving does"):
        outputs = asked.outputs()
    if not outputs >= NEEDED_OUTPUTS:
        raise InputError(
            f"server {address}: {model} is no classifier of RGB by export.py: it has no signature `{ENCODED_SIGNATURE}` with "
            f"{', '.join(sorted(NEEDED_OUTPUTS))}; export it anew, or give another --model_name"
        )
    return Server(address, asked.predict)


def open_served_classifier(
    address: str, model: str, version: int | None = None, timeout: float = 30
) -> SavedClassifier:
    """A classifier on a server as one on disk, for all that takes such.

    Pictures are decoded here and sent as PNG, so that every kind of file has the answer that it has without a server.

    Args:
        address, model, version, timeout: As for `connect`; errors too.
    """
    server = connect(address, model, version, timeout)
    classes, told = server.about()

    def predict(images: np.ndarray | list[np.ndarray]) -> np.ndarray:
        probabilities, problems = server.classify([_encode_png(image) for image in images])
        if len(probabilities) and probabilities.shape[1] != len(classes):
            raise InputError(f"server {address}: its model was replaced meanwhile; try again")
        if wrong := [problem for problem in problems if problem]:
            raise InputError(f"server {address}: {wrong[0]}")
        return probabilities

    return SavedClassifier(pathlib.Path(f"{model} at {address}"), pathlib.Path(), classes, 3, predict, told)


def _encode_png(image: np.ndarray) -> bytes:
    (pixels,) = convert_dtype(np.asarray(image)[np.newaxis], 3, np.dtype("uint8"))
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


# How a classifier on TensorFlow Serving is asked: by gRPC, or by HTTP and JSON.
#
# Both have the same two methods: `outputs`, the names of what its signature `encoded` gives, and `predict`, which sends
# it files and returns these by name. An InputError of theirs says what the server did not do, and what to try.


ATTEMPTS = 3  # to classify changes nothing on the server, so that a request can be repeated
UNAVAILABLE_STATUS = (502, 503, 504)  # HTTP's, of what stands before a server that is starting, too


class GrpcConnection:
    """By gRPC, as TensorFlow Serving's prediction_service.proto says."""

    def __init__(self, address: str, parts, model: str, version: int | None, timeout: float):
        retry = {
            "maxAttempts": ATTEMPTS,
            "initialBackoff": "0.2s",
            "maxBackoff": "2s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        service = {"name": [{"service": "tensorflow.serving.PredictionService"}], "retryPolicy": retry}
        options = [
            ("grpc.service_config", json.dumps({"methodConfig": [service]})),
            ("grpc.max_receive_message_length", -1),
        ]
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(parts.netloc, options))
        self.address, self.model, self.version, self.timeout = address, model, version, timeout

    def predict(self, files: Sequence[bytes]) -> dict[str, np.ndarray]:
        request = predict_pb2.PredictRequest()
        self._name(request.model_spec).signature_name = ENCODED_SIGNATURE
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(list(files), tf.string))
        with self._told():
            response = self.stub.Predict(request, timeout=self.timeout)
        found = {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}
        return {name: _decode_strings(value) if value.dtype == object else value for name, value in found.items()}

    def outputs(self) -> set[str]:
        """Names of what the signature `encoded` gives."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._name(request.model_spec)
        with self._told():
            response = self.stub.GetModelMetadata(request, timeout=self.timeout)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return (
            set(signatures.signature_def[ENCODED_SIGNATURE].outputs)
            if ENCODED_SIGNATURE in signatures.signature_def
            else set()
        )

    def _name(self, spec):
        spec.name = self.model
        if self.version is not None:
            spec.version.value = self.version
        return spec

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            code, details = error.code(), first_line(ValueError(error.details() or ""))
            said = {
                grpc.StatusCode.UNAVAILABLE: _unreachable_message("gRPC", details),
                grpc.StatusCode.DEADLINE_EXCEEDED: _timeout_message(self.timeout),
                grpc.StatusCode.NOT_FOUND: f"{details}; give another --model_name or --version",
            }.get(code, f"{code.name}: {details}")
            raise InputError(f"server {self.address}: {said}") from error


class RestConnection:
    """By HTTP and JSON, https://www.tensorflow.org/tfx/serving/api_rest."""

    def __init__(self, address: str, parts, model: str, version: int | None, timeout: float):
        name = urllib.parse.quote(model, safe="")
        at = "" if version is None else f"/versions/{version}"
        self.url = f"{parts.scheme}://{parts.netloc}/v1/models/{name}{at}"
        self.address, self.timeout, self.session = address, timeout, requests.Session()

    def predict(self, files: Sequence[bytes]) -> dict[str, np.ndarray]:
        encoded = [{"b64": base64.b64encode(file).decode()} for file in files]
        body = {"signature_name": ENCODED_SIGNATURE, "inputs": {"image_bytes": encoded}}
        answer = self._ask("POST", f"{self.url}:predict", body)
        return {name: np.asarray(value) for name, value in answer["outputs"].items()}

    def outputs(self) -> set[str]:
        """Names of what the signature `encoded` gives."""
        signatures = self._ask("GET", f"{self.url}/metadata")["metadata"]["signature_def"]["signature_def"]
        return set(signatures.get(ENCODED_SIGNATURE, {}).get("outputs", {}))

    def _ask(self, method: str, url: str, body: dict | None = None) -> Any:
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                response = self.session.request(method, url, json=body, timeout=self.timeout)
            except requests.RequestException as error:
                # Within an answer it is no Timeout of requests, but Python's own lies beneath.
                if isinstance(error, requests.Timeout) or isinstance(root_cause(error), TimeoutError):
                    raise InputError(f"server {self.address}: {_timeout_message(self.timeout)}") from error
                broken = requests.ConnectionError, requests.exceptions.ChunkedEncodingError
                if last or not isinstance(error, broken):
                    raise InputError(
                        f"server {self.address}: {_unreachable_message('HTTP', root_cause_text(error))}"
                    ) from error
            else:
                if last or response.status_code not in UNAVAILABLE_STATUS:
                    break
            time.sleep(0.2 * 2**attempt)
        answer = None
        with contextlib.suppress(ValueError):
            answer = response.json()
        if not isinstance(answer, dict):
            said = f"is no TensorFlow Serving: it answered {response.status_code} with no JSON"
            if response.status_code in UNAVAILABLE_STATUS:
                said = f"is not available, it answered {response.status_code} {ATTEMPTS} times; try again later"
            raise InputError(f"server {self.address}: {said}")
        if "error" in answer or not response.ok:
            said = first_line(ValueError(str(answer.get("error", response.reason))))
            advice = "; give another --model_name or --version" if response.status_code == 404 else ""
            raise InputError(f"server {self.address}: {said}{advice}")
        return answer


def _timeout_message(timeout: float) -> str:
    return f"no answer within {timeout:g} s; raise --timeout"


def _unreachable_message(protocol: str, why: str) -> str:
    advice = "start it, or give another --server, grpc://HOST:8500 or http://HOST:8501"
    return f"cannot be reached by {protocol} ({why}); {advice}"


def _decode_strings(strings: np.ndarray) -> np.ndarray:
    return np.array([value.decode(errors="replace") for value in strings.ravel()], object).reshape(strings.shape)
