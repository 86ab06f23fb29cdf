"""What several tests share: a small trained run, the programs, a stand-in for the Hugging Face hub, and real data."""

import contextlib
import functools
import hashlib
import http.server
import importlib
import io
import os
import pathlib
import subprocess
import sys
import threading
from unittest import mock

import filelock
import numpy as np
import pytest
from absl import flags

from resnetd_tf.data import synthetic

ROOT = pathlib.Path(__file__).parent.parent
# One block a stage, on synthetic images: for tests that need a run and not a particular network.
SMALLEST = ("--depth=10", "--variant=d", "--dataset=synthetic", "--image_size=32")
# Three training steps, for tests in which nothing is to be learned.
THREE_STEPS = ("--dataset=synthetic", "--image_size=32", "--epochs=1", "--batch_size=700")
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(ROOT / "no-hub")}


def run_in_process(name: str, *arguments: str, cwd=os.curdir) -> subprocess.CompletedProcess:
    """Runs a program in this process, which has imported TensorFlow already: that saves four seconds.

    The flags that the program defines are removed again, and the current folder is `cwd` only while it runs.
    """
    main = importlib.import_module(f"resnetd_tf.cli.{name.removesuffix('.py')}").main
    former_flags = set(flags.FLAGS)
    stdout, stderr = io.StringIO(), io.StringIO()
    command = [str(ROOT / name), *arguments]
    try:
        with (
            mock.patch.object(sys, "argv", command),
            mock.patch.dict(os.environ),
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            pytest.raises(SystemExit) as exit_info,
        ):
            main()
    finally:
        for flag in set(flags.FLAGS) - former_flags:
            delattr(flags.FLAGS, flag)
    return subprocess.CompletedProcess(command, exit_info.value.code or 0, stdout.getvalue(), stderr.getvalue())


def run_subprocess(name: str, *arguments: str, environment=None, **options) -> subprocess.CompletedProcess:
    """Runs a program as a user does."""
    # JAX, imported by Keras in this process, sets TensorFlow's log level for its children.
    variables = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    variables |= environment or NO_HUB
    command = [sys.executable, str(ROOT / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=variables, **options)


@pytest.fixture(scope="session", autouse=True)
def hidden_libraries(tmp_path_factory):
    """Hides JAX and scikit-learn from child processes, as in an installation for users, which has neither.

    Keras imports both where they are installed, which takes more than a second. A child that needs one of them gets a
    PYTHONPATH of its own.
    """
    folder = tmp_path_factory.mktemp("hidden")
    for name in ("jax", "sklearn"):
        message = f"No module named {name!r}"
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError({message!r}, name={name!r})\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session", autouse=True)
def kept_scenes():
    """Keeps the 3,000 scenes of the dataset "synthetic", because drawing them takes two seconds."""
    draw_scenes = synthetic.draw_scenes
    draw_dataset = functools.cache(draw_scenes)

    def draw(*arguments, **options):
        if arguments or options:
            return draw_scenes(*arguments, **options)
        return tuple(array.copy() for array in draw_dataset())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "draw_scenes", draw)
        yield


@pytest.fixture(scope="session")
def program():
    """Runs a program of the top level and returns its exit code and output: `program("train.py", "--epochs=1")`.

    It finds no Hugging Face hub unless `environment` names one. Other options are those of `subprocess.run`. Training
    changes settings of TensorFlow, so it has a process of its own, as every program with options but `cwd` has.
    """

    def run(name: str, *arguments, **options) -> subprocess.CompletedProcess:
        is_own_process = name == "train.py" or bool(options.keys() - {"cwd"})
        return (run_subprocess if is_own_process else run_in_process)(name, *map(str, arguments), **options)

    return run


@pytest.fixture(scope="session")
def program_process():
    """Like `program`, always as a process of its own."""

    def run(name: str, *arguments, **options) -> subprocess.CompletedProcess:
        return run_subprocess(name, *map(str, arguments), **options)

    return run


@pytest.fixture(scope="session")
def bad_input():
    """Runs a program that must refuse: exit code 2, one line on stderr, which it returns.

    Training that is refused changes no setting of TensorFlow but --deterministic, so it needs no process of its own.
    """

    def run(name: str, *arguments, **options) -> str:
        is_own_process = "--deterministic" in arguments or bool(options)
        result = (run_subprocess if is_own_process else run_in_process)(name, *map(str, arguments), **options)
        assert result.returncode == 2, result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        return result.stderr

    return run


@pytest.fixture
def hub(tmp_path):
    """A local server that answers as the Hugging Face hub does to a download of one file, whatever its name.

    Called with the file's content, and with how many bytes of it arrive, it returns the environment of a process that
    takes it for the hub, with an empty cache in hub/.
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


@pytest.fixture(scope="session")
def small_classifier(run):
    """The small classifier, opened once."""
    from resnetd_tf.saved import open_classifier

    return open_classifier(run)


@pytest.fixture(scope="session")
def eurosat_pictures() -> dict[str, np.ndarray]:
    """The pictures in EuroSAT RGB of the patches in $SENTINEL2_DIR, by file name; decoding all takes six seconds."""
    import tensorflow_datasets as tfds

    from resnetd_tf.data import images

    names = {f"{path.stem}.jpg" for path in (sentinel2_dir() / "eurosat_all").rglob("*.tif")}
    examples = tfds.builder("eurosat/rgb", data_dir=eurosat_dir()).as_dataset(
        split="train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    return {
        name: images.decode_picture(example["image"]).numpy()
        for example in examples.as_numpy_iterator()
        if (name := example["filename"].decode()) in names
    }


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
