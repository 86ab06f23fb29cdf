"""A small server with TensorFlow Serving's interface, for tests and for benchmarks.serving where that cannot run.

    python -m benchmarks.model_server saved_models/resnet50d          # prints its ports, serves until it is ended

It loads the newest SavedModel under a base path by TensorFlow's own loader, and answers its warm-up requests. It merges
requests to a signature into batches as TensorFlow Serving does with --enable_batching: up to MAX_BATCH images, after
waiting TIMEOUT seconds for more. The images of all requests are concatenated without padding, and have one status. It
knows Predict, Classify, GetModelMetadata and GetModelStatus by gRPC, and the same by REST with rows and columns.
It imports nothing of resnetd_tf, so that the SavedModel alone answers.
"""

import argparse
import base64
import concurrent.futures
import http.server
import json
import pathlib
import queue
import re
import threading
import time

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

MAX_BATCH, TIMEOUT, THREADS = 32, 0.002, 16


class NotFound(Exception):
    """The server has no such model, version or path."""


class Batcher:
    """Merges calls of one signature into batches."""

    def __init__(self, signature):
        self.signature, self.queue = signature, queue.Queue()
        self.batch_sizes: list[int] = []  # in requests
        threading.Thread(target=self.work, daemon=True).start()

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answer: concurrent.futures.Future = concurrent.futures.Future()
        self.queue.put((inputs, answer))
        return answer.result()

    def work(self) -> None:
        postponed = None
        while True:
            batch, end_time = [postponed or self.queue.get()], time.monotonic() + TIMEOUT
            postponed = None
            while (wait := end_time - time.monotonic()) > 0:
                try:
                    task = self.queue.get(timeout=wait)
                except queue.Empty:
                    break
                if sum(map(count_images, batch)) + count_images(task) > MAX_BATCH:
                    postponed = task
                    break
                batch.append(task)
            self.batch_sizes.append(len(batch))
            self.run(batch)

    def run(self, batch) -> None:
        try:
            names = {tuple(sorted(inputs)) for inputs, _ in batch}
            if len(names) > 1:
                raise ValueError(f"requests have different inputs: {names}")
            merged = {name: np.concatenate([inputs[name] for inputs, _ in batch]) for name in names.pop()}
            outputs = self.signature(**{name: tf.constant(value) for name, value in merged.items()})
            outputs = {name: value.numpy() for name, value in outputs.items()}
        except Exception as error:
            for _, answer in batch:
                answer.set_exception(error)
            return
        start = 0
        for task in batch:
            _, answer = task
            end = start + count_images(task)
            answer.set_result({name: value[start:end] for name, value in outputs.items()})
            start = end


def count_images(task) -> int:
    inputs, _ = task
    return len(next(iter(inputs.values())))


class Model:
    """A SavedModel under a base path, its newest version."""

    def __init__(self, base: pathlib.Path):
        versions = [int(path.name) for path in base.iterdir() if path.name.isdecimal()]
        self.name, self.version = base.name, max(versions)
        path = base / str(self.version)
        self.loaded = tf.saved_model.load(str(path))
        definitions = SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].signature_def
        self.definitions = {name: signature for name, signature in definitions.items() if not name.startswith("__")}
        self.batchers = {name: Batcher(signature) for name, signature in self.loaded.signatures.items()}
        warmup = path / "assets.extra" / "tf_serving_warmup_requests"
        for record in tf.data.TFRecordDataset(str(warmup)) if warmup.is_file() else ():
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            if log.HasField("predict_log"):
                self.predict(log.predict_log.request)
            else:
                self.classify(log.classify_log.request)

    def check(self, name: str, version: int | None) -> None:
        if name != self.name or version not in (None, self.version):
            at = "" if version is None else f" Version: {version}"
            raise NotFound(
                f"Servable not found for request: Specific({name}{at})" if at else f"Servable not found: {name}"
            )

    def run(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        signature = signature or "serving_default"
        if signature not in self.batchers:
            raise ValueError(f'Serving signature name: "{signature}" not found in signature def')
        expected = set(self.definitions[signature].inputs)
        if set(inputs) != expected:
            raise ValueError(f"input keys {sorted(inputs)}, expected {sorted(expected)}")
        return self.batchers[signature](inputs)

    def predict(self, request) -> predict_pb2.PredictResponse:
        spec = request.model_spec
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        for name, value in self.run(spec.signature_name, inputs).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        self.fill_model_spec(response.model_spec, spec.signature_name)
        return response

    def classify(self, request) -> classification_pb2.ClassificationResponse:
        signature = request.model_spec.signature_name
        if self.definitions[signature].method_name != "tensorflow/serving/classify":
            raise ValueError(f"Expected classification signature method_name for {signature}")
        examples = [example.SerializeToString() for example in request.input.example_list.examples]
        outputs = self.run(signature, {"inputs": np.array(examples, object)})
        response = classification_pb2.ClassificationResponse()
        for names, scores in zip(outputs["classes"], outputs["scores"]):
            classes = response.result.classifications.add().classes
            for name, score in zip(names, scores):
                classes.add(label=name.decode(), score=float(score))
        self.fill_model_spec(response.model_spec, signature)
        return response

    def fill_model_spec(self, spec, signature: str) -> None:
        spec.name, spec.version.value, spec.signature_name = self.name, self.version, signature

    def metadata(self) -> get_model_metadata_pb2.GetModelMetadataResponse:
        response, signatures = (
            get_model_metadata_pb2.GetModelMetadataResponse(),
            get_model_metadata_pb2.SignatureDefMap(),
        )
        for name, definition in self.definitions.items():
            signatures.signature_def[name].CopyFrom(definition)
        response.metadata["signature_def"].Pack(signatures)
        self.fill_model_spec(response.model_spec, "")
        return response

    def status(self) -> get_model_status_pb2.GetModelStatusResponse:
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(version=self.version, state="AVAILABLE")
        return response


class Service(prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, model: Model):
        self.model = model

    def Predict(self, request, context):
        return self.answer(request, context, lambda: self.model.predict(request))

    def Classify(self, request, context):
        return self.answer(request, context, lambda: self.model.classify(request))

    def GetModelMetadata(self, request, context):
        return self.answer(request, context, self.model.metadata)

    def GetModelStatus(self, request, context):
        return self.answer(request, context, self.model.status)

    def answer(self, request, context, function):
        spec = request.model_spec
        try:
            self.model.check(spec.name, spec.version.value if spec.HasField("version") else None)
            return function()
        except NotFound as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except Exception as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


def rest_handler(model: Model) -> type[http.server.BaseHTTPRequestHandler]:
    """Returns a class that answers requests by HTTP."""

    class Rest(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer(
                lambda action, _: json_format.MessageToDict(
                    model.metadata() if action else model.status(), preserving_proto_field_name=True
                )
            )

        def do_POST(self):
            self.answer(
                lambda action, body: (
                    predict_by_rest(model, body) if action == "predict" else classify_by_rest(model, body)
                )
            )

        def answer(self, function):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = re.fullmatch(
                r"/v1/models/([^/:]+)(?:/versions/(\d+))?(?:[:/](predict|classify|metadata))?", self.path
            )
            try:
                if not path:
                    raise NotFound("Not found: no such path")
                model.check(path[1], int(path[2]) if path[2] else None)
                self.send(200, function(path[3], json.loads(body) if body else None))
            except NotFound as error:
                self.send(404, {"error": str(error)})
            except Exception as error:
                self.send(400, {"error": str(error)})

        def send(self, code, answer):
            content = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    return Rest


def predict_by_rest(model: Model, body: dict) -> dict:
    """Answers Predict with rows, `instances`, or with columns, `inputs`."""
    signature = body.get("signature_name") or "serving_default"
    inputs = model.definitions[signature].inputs if signature in model.definitions else {}
    if "instances" in body:
        rows = body["instances"]
        has_names = bool(rows) and isinstance(rows[0], dict) and set(rows[0]) != {"b64"}
        columns = {name: [row[name] if has_names else row for row in rows] for name in inputs}
    else:
        columns = body["inputs"] if isinstance(body["inputs"], dict) and set(body["inputs"]) != {"b64"} else {}
        columns = columns or {name: body["inputs"] for name in inputs}
    arrays = {name: json_to_array(value, inputs[name].dtype) for name, value in columns.items() if name in inputs}
    outputs = {name: array_to_json(name, array) for name, array in model.run(signature, arrays or columns).items()}
    if "inputs" in body:
        return {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}
    count = len(next(iter(outputs.values())))
    return {"predictions": [{name: values[index] for name, values in outputs.items()} for index in range(count)]}


def classify_by_rest(model: Model, body: dict) -> dict:
    """Answers Classify for examples with strings as features."""
    request = classification_pb2.ClassificationRequest()
    request.model_spec.signature_name = body.get("signature_name") or "serving_default"
    for example in body["examples"]:
        features = request.input.example_list.examples.add().features
        for name, value in example.items():
            features.feature[name].bytes_list.value.append(base64.b64decode(value["b64"]))
    classifications = model.classify(request).result.classifications
    return {"results": [[[label.label, label.score] for label in image.classes] for image in classifications]}


def json_to_array(values, dtype: int) -> np.ndarray:
    if dtype == tf.string.as_datatype_enum:
        strings = [base64.b64decode(text["b64"]) if isinstance(text, dict) else text.encode() for text in values]
        return np.array(strings, object)
    return np.asarray(values, tf.as_dtype(dtype).as_numpy_dtype)


def array_to_json(name: str, array: np.ndarray):
    if array.dtype != object:
        return array.tolist()
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(string).decode()} for string in array.ravel()]
    return np.array([string.decode() for string in array.ravel()], object).reshape(array.shape).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.model_server", allow_abbrev=False)
    parser.add_argument("base", type=pathlib.Path, help="a folder of versions")
    for name in ("grpc_port", "http_port"):
        parser.add_argument(f"--{name}", type=int, default=0, help="the port; default any that is free")
    arguments = parser.parse_args()
    model = Model(arguments.base)
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(THREADS), options=[("grpc.max_receive_message_length", -1)]
    )
    service = Service(model)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    port = server.add_insecure_port(f"127.0.0.1:{arguments.grpc_port}")
    server.start()
    web = http.server.ThreadingHTTPServer(("127.0.0.1", arguments.http_port), rest_handler(model))
    print(json.dumps({"grpc": port, "http": web.server_port}), flush=True)
    web.serve_forever()


if __name__ == "__main__":
    main()
