"""How a classifier on TensorFlow Serving is asked: by gRPC, or by HTTP and JSON.

Both have the same two methods: `outputs`, the names of what its signature `encoded` gives, and `predict`, which sends
it files and returns these by name. An InputError of theirs says what the server did not do, and what to try.
"""

import base64
import contextlib
import json
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import requests
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from resnetd_tf.deployment.signatures import ENCODED
from resnetd_tf.errors import InputError, first_line, origin, reason

ATTEMPTS = 3  # to classify changes nothing on the server, so that a request can be repeated
UNAVAILABLE = (502, 503, 504)  # HTTP's, of what stands before a server that is starting, too


class Grpc:
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
        self._name(request.model_spec).signature_name = ENCODED
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(list(files), tf.string))
        with self._told():
            response = self.stub.Predict(request, timeout=self.timeout)
        found = {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}
        return {name: _text(value) if value.dtype == object else value for name, value in found.items()}

    def outputs(self) -> set[str]:
        """Names of what the signature `encoded` gives."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._name(request.model_spec)
        with self._told():
            response = self.stub.GetModelMetadata(request, timeout=self.timeout)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return set(signatures.signature_def[ENCODED].outputs) if ENCODED in signatures.signature_def else set()

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
                grpc.StatusCode.UNAVAILABLE: _unreachable("gRPC", details),
                grpc.StatusCode.DEADLINE_EXCEEDED: _late(self.timeout),
                grpc.StatusCode.NOT_FOUND: f"{details}; give another --model_name or --version",
            }.get(code, f"{code.name}: {details}")
            raise InputError(f"server {self.address}: {said}") from error


class Rest:
    """By HTTP and JSON, https://www.tensorflow.org/tfx/serving/api_rest."""

    def __init__(self, address: str, parts, model: str, version: int | None, timeout: float):
        name = urllib.parse.quote(model, safe="")
        at = "" if version is None else f"/versions/{version}"
        self.url = f"{parts.scheme}://{parts.netloc}/v1/models/{name}{at}"
        self.address, self.timeout, self.session = address, timeout, requests.Session()

    def predict(self, files: Sequence[bytes]) -> dict[str, np.ndarray]:
        encoded = [{"b64": base64.b64encode(file).decode()} for file in files]
        body = {"signature_name": ENCODED, "inputs": {"image_bytes": encoded}}
        answer = self._ask("POST", f"{self.url}:predict", body)
        return {name: np.asarray(value) for name, value in answer["outputs"].items()}

    def outputs(self) -> set[str]:
        """Names of what the signature `encoded` gives."""
        signatures = self._ask("GET", f"{self.url}/metadata")["metadata"]["signature_def"]["signature_def"]
        return set(signatures.get(ENCODED, {}).get("outputs", {}))

    def _ask(self, method: str, url: str, body: dict | None = None) -> Any:
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                response = self.session.request(method, url, json=body, timeout=self.timeout)
            except requests.RequestException as error:
                # Within an answer it is no Timeout of requests, but Python's own lies beneath.
                if isinstance(error, requests.Timeout) or isinstance(origin(error), TimeoutError):
                    raise InputError(f"server {self.address}: {_late(self.timeout)}") from error
                broken = requests.ConnectionError, requests.exceptions.ChunkedEncodingError
                if last or not isinstance(error, broken):
                    raise InputError(f"server {self.address}: {_unreachable('HTTP', reason(error))}") from error
            else:
                if last or response.status_code not in UNAVAILABLE:
                    break
            time.sleep(0.2 * 2**attempt)
        answer = None
        with contextlib.suppress(ValueError):
            answer = response.json()
        if not isinstance(answer, dict):
            said = f"is no TensorFlow Serving: it answered {response.status_code} with no JSON"
            if response.status_code in UNAVAILABLE:
                said = f"is not available, it answered {response.status_code} {ATTEMPTS} times; try again later"
            raise InputError(f"server {self.address}: {said}")
        if "error" in answer or not response.ok:
            said = first_line(ValueError(str(answer.get("error", response.reason))))
            advice = "; give another --model_name or --version" if response.status_code == 404 else ""
            raise InputError(f"server {self.address}: {said}{advice}")
        return answer


def _late(timeout: float) -> str:
    return f"no answer within {timeout:g} s; raise --timeout"


def _unreachable(protocol: str, why: str) -> str:
    advice = "start it, or give another --server, grpc://HOST:8500 or http://HOST:8501"
    return f"cannot be reached by {protocol} ({why}); {advice}"


def _text(strings: np.ndarray) -> np.ndarray:
    return np.array([value.decode(errors="replace") for value in strings.ravel()], object).reshape(strings.shape)
