"""A small server with TensorFlow Serving's interface, where that cannot run: for tests and for benchmarks.serving.

    python -m benchmarks.model_server saved_models/resnet50d          # prints its ports, serves until it is ended

It loads the newest SavedModel under a base path by TensorFlow's own loader, answers its warm-up requests, and merges
requests to a signature into batches as TensorFlow Serving does with --enable_batching: up to MAX_BATCH images, waiting
TIMEOUT seconds for more, the images of all requests put one behind the other without padding, one status for all. It
knows Predict, Classify, GetModelMetadata and GetModelStatus by gRPC, and the same by REST with rows and columns.
Nothing of resnetd_tf is imported, so that nothing but the SavedModel can be what answers.
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
    """No such model, version or signature."""


class Batcher:
    """Merges calls of one signature."""

    def __init__(self, signature):
        self.signature, self.waiting = signature, queue.Queue()
        self.batches: list[int] = []  # how many requests each had
        threading.Thread(target=self.work, daemon=True).start()

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answer: concurrent.futures.Future = concurrent.futures.Future()
        self.waiting.put((inputs, answer))
        return answer.result()

    def work(self) -> None:
        left = None
        while True:
            together, until = [left or self.waiting.get()], time.monotonic() + TIMEOUT
            left = None
            while (wait := until - time.monotonic()) > 0:
                try:
                    following = self.waiting.get(timeout=wait)
                except queue.Empty:
                    break
                if sum(map(size, together)) + size(following) > MAX_BATCH:
                    left = following
                    break
                together.append(following)
            self.batches.append(len(together))
            self.run(together)

    def run(self, together) -> None:
        try:
            names = {tuple(sorted(inputs)) for inputs, _ in together}
            if len(names) > 1:
                raise ValueError(f"requests have different inputs: {names}")
            merged = {name: np.concatenate([inputs[name] for inputs, _ in together]) for name in names.pop()}
            outputs = self.signature(**{name: tf.constant(value) for name, value in merged.items()})
            outputs = {name: value.numpy() for name, value in outputs.items()}
        except Exception as error:
            for _, answer in together:
                answer.set_exception(error)
            return
        start = 0
        for task in together:
            end = start + size(task)
            task[1].set_result({name: value[start:end] for name, value in outputs.items()})
            start = end


def size(task) -> int:
    return len(next(iter(task[0].values())))


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
        wanted = set(self.definitions[signature].inputs)
        if set(inputs) != wanted:
            raise ValueError(f"input keys {sorted(inputs)}, expected {sorted(wanted)}")
        return self.batchers[signature](inputs)

    def predict(self, request) -> predict_pb2.PredictResponse:
        spec = request.model_spec
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        for name, value in self.run(spec.signature_name, inputs).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        self.sign(response.model_spec, spec.signature_name)
        return response

    def classify(self, request) -> classification_pb2.ClassificationResponse:
        signature = request.model_spec.signature_name
        if self.definitions[signature].method_name != "tensorflow/serving/classify":
            raise ValueError(f"Expected classification signature method_name for {signature}")
        examples = np.array([one.SerializeToString() for one in request.input.example_list.examples], object)
        found = self.run(signature, {"inputs": examples})
        response = classification_pb2.ClassificationResponse()
        for names, scores in zip(found["classes"], found["scores"]):
            classes = response.result.classifications.add().classes
            for name, score in zip(names, scores):
                classes.add(label=name.decode(), score=float(score))
        self.sign(response.model_spec, signature)
        return response

    def sign(self, spec, signature: str) -> None:
        spec.name, spec.version.value, spec.signature_name = self.name, self.version, signature

    def metadata(self) -> get_model_metadata_pb2.GetModelMetadataResponse:
        response, signatures = (
            get_model_metadata_pb2.GetModelMetadataResponse(),
            get_model_metadata_pb2.SignatureDefMap(),
        )
        for name, definition in self.definitions.items():
            signatures.signature_def[name].CopyFrom(definition)
        response.metadata["signature_def"].Pack(signatures)
        self.sign(response.model_spec, "")
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


def rest(model: Model) -> type[http.server.BaseHTTPRequestHandler]:
    """What answers requests of HTTP."""

    class Rest(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer(
                lambda asked, _: json_format.MessageToDict(
                    model.status() if not asked else model.metadata(), preserving_proto_field_name=True
                )
            )

        def do_POST(self):
            self.answer(lambda asked, body: predicted(model, body) if asked == "predict" else classified(model, body))

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


def predicted(model: Model, body: dict) -> dict:
    """Predict by rows, `instances`, or by columns, `inputs`."""
    signature = body.get("signature_name") or "serving_default"
    inputs = model.definitions[signature].inputs if signature in model.definitions else {}
    if "instances" in body:
        rows = body["instances"]
        named = bool(rows) and isinstance(rows[0], dict) and set(rows[0]) != {"b64"}
        columns = {name: [row[name] if named else row for row in rows] for name in inputs}
    else:
        columns = body["inputs"] if isinstance(body["inputs"], dict) and set(body["inputs"]) != {"b64"} else {}
        columns = columns or {name: body["inputs"] for name in inputs}
    arrays = {name: array(value, inputs[name].dtype) for name, value in columns.items() if name in inputs}
    found = {name: plain(name, value) for name, value in model.run(signature, arrays or columns).items()}
    if "inputs" in body:
        return {"outputs": found if len(found) > 1 else next(iter(found.values()))}
    count = len(next(iter(found.values())))
    return {"predictions": [{name: value[index] for name, value in found.items()} for index in range(count)]}


def classified(model: Model, body: dict) -> dict:
    """Classify, of examples with strings as features."""
    request = classification_pb2.ClassificationRequest()
    request.model_spec.signature_name = body.get("signature_name") or "serving_default"
    for given in body["examples"]:
        features = request.input.example_list.examples.add().features
        for name, value in given.items():
            features.feature[name].bytes_list.value.append(base64.b64decode(value["b64"]))
    answer = model.classify(request).result.classifications
    return {"results": [[[one.label, one.score] for one in some.classes] for some in answer]}


def array(value, dtype: int) -> np.ndarray:
    if dtype == tf.string.as_datatype_enum:
        return np.array(
            [base64.b64decode(one["b64"]) if isinstance(one, dict) else one.encode() for one in value], object
        )
    return np.asarray(value, tf.as_dtype(dtype).as_numpy_dtype)


def plain(name: str, value: np.ndarray):
    if value.dtype != object:
        return value.tolist()
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(one).decode()} for one in value.ravel()]
    return np.array([one.decode() for one in value.ravel()], object).reshape(value.shape).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.model_server", allow_abbrev=False)
    parser.add_argument("base", type=pathlib.Path, help="a folder of versions")
    for name in ("grpc_port", "http_port"):
        parser.add_argument(f"--{name}", type=int, default=0, help="default any that is free")
    given = parser.parse_args()
    model = Model(given.base)
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(THREADS), options=[("grpc.max_receive_message_length", -1)]
    )
    service = Service(model)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    port = server.add_insecure_port(f"127.0.0.1:{given.grpc_port}")
    server.start()
    web = http.server.ThreadingHTTPServer(("127.0.0.1", given.http_port), rest(model))
    print(json.dumps({"grpc": port, "http": web.server_port}), flush=True)
    web.serve_forever()


if __name__ == "__main__":
    main()
