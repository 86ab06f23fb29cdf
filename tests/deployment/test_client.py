"""The client over real gRPC and HTTP, against a server that has TensorFlow's loader and the SavedModel alone."""

import base64
import concurrent.futures
import contextlib
import http.server
import json
import socket
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
import requests
from conftest import ROOT
from pictures import encode
from PIL import Image
from tensorflow_serving.apis import get_model_metadata_pb2, prediction_service_pb2_grpc

from resnetd_tf.data import synthetic
from resnetd_tf.deployment import client
from resnetd_tf.errors import InputError


@pytest.fixture(scope="module")
def addresses(run):
    """Addresses of a running server with the small classifier, by protocol."""
    command = [sys.executable, "-m", "benchmarks.model_server", str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT) as server:
        ports = json.loads(server.stdout.readline())
        yield {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items()}
        server.terminate()


@pytest.fixture(scope="module")
def expected(small_classifier):
    return small_classifier


@contextlib.contextmanager
def http_server(answer):
    """Yields the address of a server. `answer` takes GET or POST and returns status, content and bytes lacking."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content, lacking = answer(self.command)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) + lacking))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(params=["grpc", "http"])
def address(addresses, request):
    """The server's address by each protocol."""
    return addresses[request.param]


def test_answers_are_those_of_the_model(address, expected):
    """For pictures of two sizes in one request, more than a batch of them, with a bad one among them."""
    images = [*synthetic.draw_scenes(40, seed=5)[0]]
    images[7] = images[7][:40, :50]
    files = [encode(image) for image in images]
    probabilities, errors = client.connect(address, "small").classify([*files[:5], b"bad", *files[5:]])
    assert errors.pop(5) == "not a JPEG or PNG file" and not any(errors)
    assert not probabilities[5].any()
    np.testing.assert_allclose(np.delete(probabilities, 5, axis=0), expected.predict(images), atol=1e-5)


def test_a_server_says_its_classes_without_a_picture(address):
    server = client.connect(address, "small")
    assert server.describe()[0] == synthetic.CLASSES and server.classify([])[0].shape == (0, 10)


def test_a_served_classifier_is_like_one_on_disk(address, expected):
    images = [*synthetic.draw_scenes(40, seed=5)[0]]
    served = client.open_served_classifier(address, "small", version=1)
    assert served.classes == synthetic.CLASSES and (served.patch_side, served.metadata["largest_patch"]) == (64, 128)
    np.testing.assert_allclose(served.predict(images[:9]), expected.predict(images[:9]), atol=1e-5)
    whole_numbers = [image.astype("float64") for image in images[:2]]
    np.testing.assert_allclose(served.predict(whole_numbers), expected.predict(whole_numbers), atol=1e-5)
    with pytest.raises(InputError, match="expected whole numbers from 0 to 255"):
        served.predict([images[0] / 255])


@pytest.mark.parametrize(
    ("address", "package"),
    [
        ("grpc://localhost:1", "grpc"),
        ("grpc://localhost:1", "tensorflow_serving.apis"),
        ("http://localhost:1", "requests"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, address, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError) as raised:
        client.connect(address, "small")
    assert raised.value.name == package


def test_the_client_imports_without_the_extra_for_serving():
    """TensorFlow itself needs requests."""
    script = (
        "import sys; sys.modules |= dict.fromkeys(['grpc', 'tensorflow_serving']); import resnetd_tf.deployment.client"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=200, stderr=subprocess.DEVNULL)


def test_a_scene_is_mapped_as_without_a_server(addresses, run, program, tmp_path):
    Image.fromarray(np.tile(synthetic.draw_scenes(1)[0][0], (1, 4, 1))).save(tmp_path / "wide.png")
    for name, model in (("local", f"--model={run}"), ("served", f"--server={addresses['grpc']}")):
        flags = [model, "--model_name=small"] if name == "served" else [model]
        result = program("map.py", *flags, "wide.png", f"--output={name}", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    areas = [(tmp_path / f"{name}_areas.csv").read_text() for name in ("local", "served")]
    assert areas[0] == areas[1]


def test_requests_of_many_are_merged_and_do_not_disturb_each_other(addresses, expected):
    """With two sizes of pictures and malformed ones, and eight connections at once."""
    images = [*synthetic.draw_scenes(16, seed=6)[0]]
    images = [image[:48, :40] if index % 2 else image for index, image in enumerate(images)]
    answers = expected.predict(images)
    server = client.connect(addresses["grpc"], "small")

    def ask(index):
        is_bad = index % 5 == 0
        probabilities, errors = server.classify([b"malformed" if is_bad else encode(images[index % 16])])
        return probabilities[0], errors[0], is_bad, answers[index % 16]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for probabilities, error, is_bad, answer in pool.map(ask, range(64)):
            assert bool(error) == is_bad
            np.testing.assert_allclose(probabilities, 0 * answer if is_bad else answer, atol=1e-5)


@pytest.fixture
def picture(expected):
    """A picture as JSON has it, and the probabilities of its classes."""
    image = synthetic.draw_scenes(1, seed=5)[0]
    return {"b64": base64.b64encode(encode(image[0])).decode()}, expected.predict(image)[0]


def test_rows_by_http(addresses, picture):
    """As curl asks for them: docs/deployment.md."""
    encoded, expected_row = picture
    url = f"{addresses['http']}/v1/models/small"
    body = {"signature_name": "encoded", "instances": [encoded]}
    (row,) = requests.post(f"{url}:predict", json=body, timeout=20).json()["predictions"]
    np.testing.assert_allclose(row["probabilities"], expected_row, atol=1e-5)
    assert row["labels"] == list(synthetic.CLASSES) and row["error"] == ""
    assert row["top_class"] == synthetic.CLASSES[expected_row.argmax()]


def test_classify_by_http(addresses, picture):
    encoded, expected_row = picture
    body = {"signature_name": "classify", "examples": [{"image/encoded": encoded}]}
    (pairs,) = requests.post(f"{addresses['http']}/v1/models/small:classify", json=body, timeout=20).json()["results"]
    np.testing.assert_allclose([score for _, score in pairs], expected_row, atol=1e-5)


def test_the_status_by_http(addresses):
    status = requests.get(f"{addresses['http']}/v1/models/small", timeout=20).json()
    assert status["model_version_status"][0]["state"] == "AVAILABLE"


def test_an_empty_request_by_http_is_refused(addresses):
    body = {"signature_name": "encoded", "instances": []}
    response = requests.post(f"{addresses['http']}/v1/models/small:predict", json=body, timeout=20)
    assert response.status_code == 400


def test_predict_asks_a_server(addresses, program, bad_input, expected, tmp_path):
    image = synthetic.draw_scenes(1, seed=5)[0]
    Image.fromarray(image[0]).save(tmp_path / "a.webp", lossless=True)  # a kind that the server does not know
    (tmp_path / "b.png").write_bytes(b"no picture")
    server = (f"--server={addresses['grpc']}", "--model_name=small")
    result = program("predict.py", *server, "--top=1", "--format=json", tmp_path / "a.webp", tmp_path / "b.png")
    assert result.returncode == 2 and "1 of 2 images have no label" in result.stderr
    model = f"Model: small at {addresses['grpc']}, the newest version there, test accuracy not known\n"
    assert result.stderr.startswith(model)
    (label,) = json.loads(result.stdout)
    ((name, probability),) = label["probabilities"].items()
    answer = expected.predict(image)[0]
    assert name == synthetic.CLASSES[answer.argmax()] and abs(probability - answer.max()) < 1e-5
    assert "--model has no effect beside --server" in bad_input("predict.py", *server, "--model=x", "a.png")


def test_a_model_that_the_server_does_not_have(address):
    with pytest.raises(InputError, match=r"Servable not found.*other; give another --model_name"):
        client.connect(address, "other")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_that_does_not_run(protocol):
    with pytest.raises(InputError, match=r"cannot be reached by .*; start it"):
        client.connect(f"{protocol}://127.0.0.1:9", "small")


@pytest.mark.parametrize(
    "address", ["localhost:8500", "grpc://localhost", "grpc://localhost:x", "ftp://localhost:1", "http://h:1/path"]
)
def test_what_is_no_address(address):
    with pytest.raises(InputError, match=r"give grpc://HOST:8500 or http://HOST:8501"):
        client.connect(address, "small")


@pytest.mark.parametrize("timeout", [0, -1, 1e6, float("nan")])
def test_a_timeout_must_be_seconds(timeout):
    with pytest.raises(InputError, match="give seconds, above 0 and below a million"):
        client.connect("grpc://localhost:8500", "small", timeout=timeout)


@pytest.mark.parametrize(
    ("outputs", "answer", "message"),
    [
        (None, None, "no TensorFlow Serving"),
        ({"probabilities": {}}, None, "no RGB classifier that export.py wrote"),
        ({key: {} for key in client.NEEDED_OUTPUTS}, {"predictions": []}, "no classifier of this package"),
        (
            {key: {} for key in client.NEEDED_OUTPUTS},
            {"outputs": {"probabilities": [[float("nan")]], "labels": [["a"]], "error": [""]}},
            "probabilities that are not finite",
        ),
    ],
)
def test_servers_that_answer_something_else(outputs, answer, message):
    metadata = {"metadata": {"signature_def": {"signature_def": {"encoded": {"outputs": outputs}}}}}

    def answers(method):
        content = {"hello": 1} if outputs is None else metadata if method == "GET" else answer
        return 200, json.dumps(content).encode(), 0

    with http_server(answers) as address, pytest.raises(InputError, match=message):
        client.connect(address, "small").classify([b"a picture"])


UNAVAILABLE, BROKEN_OFF = (503, b"", 0), (200, b"{", 9)
COMPLETE = (200, b'{"metadata": {"signature_def": {"signature_def": {}}}}', 0)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([UNAVAILABLE, BROKEN_OFF, COMPLETE], "no RGB classifier that export.py wrote"),
        ([UNAVAILABLE] * 3, "is not available, it answered 503 3 times; try again later"),
        ([BROKEN_OFF] * 3, "cannot be reached by HTTP .*; start it"),
    ],
)
def test_http_requests_are_repeated(answers, message):
    """Twice, where a server is not available or breaks its answer off."""
    requested = []

    def answer(method):
        requested.append(method)
        return answers[len(requested) - 1]

    with http_server(answer) as address, pytest.raises(InputError, match=message):
        client.connect(address, "small")
    assert len(requested) == 3


def test_grpc_requests_are_repeated():
    requested = []

    class Starting(prediction_service_pb2_grpc.PredictionServiceServicer):
        def GetModelMetadata(self, request, context):
            requested.append(request)
            if len(requested) < 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.metadata["signature_def"].Pack(get_model_metadata_pb2.SignatureDefMap())
            return response

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Starting(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with pytest.raises(InputError, match=r"no RGB classifier that export.py wrote"):
        client.connect(f"grpc://127.0.0.1:{port}", "small")
    assert len(requested) == 3
    server.stop(None)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_silent_server_is_given_up_after_the_timeout(protocol):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(InputError, match=r"no answer within 1 s; raise --timeout"):
            client.connect(f"{protocol}://127.0.0.1:{silent.getsockname()[1]}", "small", timeout=1)
        assert time.monotonic() - start < 10


def test_a_server_that_halts_in_the_middle_of_its_answer():
    with socket.create_server(("127.0.0.1", 0)) as halting:

        def answer():
            with halting.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
                time.sleep(3)

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(InputError, match=r"no answer within 1 s; raise --timeout"):
            client.connect(f"http://127.0.0.1:{halting.getsockname()[1]}", "small", timeout=1)
