"""What the tests share: a small trained run, EuroSAT where it is at hand, and the programs as subprocesses."""

import hashlib
import http.server
import os
import pathlib
import subprocess
import sys
import threading

import filelock
import pytest

ROOT = pathlib.Path(__file__).parent.parent
# One block a stage, on drawn scenes: for all that needs a run and not a particular network.
SMALLEST = ("--depth=10", "--variant=d", "--dataset=synthetic", "--image_size=32")
# Where nothing is to be learned: three steps.
THREE_STEPS = ("--dataset=synthetic", "--image_size=32", "--epochs=1", "--batch_size=700")
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(ROOT / "no-hub")}


@pytest.fixture(scope="session")
def program():
    """Runs a program of the top level and returns what it left: `program("train.py", "--epochs=1")`.

    It finds no Hugging Face hub unless `environment` names one.
    """

    def run(name: str, *arguments, environment=None, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / name), *map(str, arguments)]
        # JAX, imported by Keras in this process, sets TensorFlow's log level for its children.
        variables = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
        variables |= environment or NO_HUB
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=variables, **options)

    return run


@pytest.fixture(scope="session")
def bad_input(program):
    """Runs a program that must refuse: exit code 2, one line on stderr, which it returns."""

    def run(name: str, *arguments, **options) -> str:
        result = program(name, *arguments, **options)
        assert result.returncode == 2, result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        return result.stderr

    return run


@pytest.fixture
def hub(tmp_path):
    """A local server that answers as the Hugging Face hub does to a download of one file, whatever its name.

    Called with the file's content, and with how much of it arrives, it returns the environment of a process
    that takes it for the hub, with an empty cache in hub/.
    """
    servers = []

    def serve(content: bytes, arriving: int | None = None) -> dict[str, str]:
        class Hub(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(200)
                self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()

            def do_GET(self):
                self.do_HEAD()
                self.wfile.write(content[:arriving])

            def log_message(self, *arguments):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hub")}

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def run(program, tmp_path_factory):
    """Base path of a small classifier trained on the synthetic dataset, by the first worker that needs it."""
    folder = tmp_path_factory.getbasetemp()
    base = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "models" / "small"
    with filelock.FileLock(f"{base.parent}.lock"):
        if not (base / "stdout.txt").exists():
            result = program("train.py", *SMALLEST, "--epochs=2", "--profile", f"--output_dir={base}")
            assert result.returncode == 0, result.stderr
            (base / "stdout.txt").write_text(result.stdout)
    return base


def eurosat_dir() -> str | None:
    """$TFDS_DATA_DIR, if EuroSAT RGB is in it."""
    folder = os.environ.get("TFDS_DATA_DIR")
    return folder if folder and (pathlib.Path(folder) / "eurosat/rgb/2.0.0").is_dir() else None


needs_eurosat = pytest.mark.skipif(eurosat_dir() is None, reason="set TFDS_DATA_DIR to where TFDS has eurosat/rgb")


def sentinel2_dir() -> pathlib.Path | None:
    """$SENTINEL2_DIR, if the 13-band EuroSAT patches are in it."""
    folder = pathlib.Path(os.environ.get("SENTINEL2_DIR", "")) / "eurosat_all"
    return folder.parent if folder.is_dir() else None


needs_sentinel2 = pytest.mark.skipif(
    sentinel2_dir() is None, reason="set SENTINEL2_DIR to a folder with eurosat_all/CLASS/*.tif"
)
