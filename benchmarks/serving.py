"""Load test: the client against a server that merges requests, with eight connections at once and encoded pictures.

    python -m benchmarks.serving --model=saved_models/resnet50d             # a minute

The server is benchmarks/model_server.py, in a process of its own on the same cores as the client. Pictures have two
sizes; every hundredth request holds a file that is no picture, which must not disturb the others. First it measures the
time from the start of a server until it has answered its warm-up requests, and its first answers after that. Then it
counts requests, their time, unexpected errors, and the server's memory at the start and at the end.
"""

import concurrent.futures
import functools
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from absl import flags

from benchmarks import contest
from resnetd_tf.cli import program

FLAGS = flags.FLAGS
BAD_INTERVAL = 100  # one request in so many is bad


def encode_pictures() -> list[bytes]:
    """Returns drawn pictures as JPEG files, of 64 and of 96 pixels."""
    from PIL import Image

    from resnetd_tf.data import synthetic

    encoded = []
    for index, image in enumerate(synthetic.draw_scenes(64)[0]):
        file, picture = io.BytesIO(), Image.fromarray(image)
        (picture.resize((96, 96)) if index % 2 else picture).save(file, "JPEG", quality=95)
        encoded.append(file.getvalue())
    return encoded


def send_requests(
    address: str, name: str, pictures: list[bytes], expected: np.ndarray, end_time: float, first_index: int
) -> dict:
    """Sends the requests of one connection, one after the other, until a time of `time.monotonic`."""
    from resnetd_tf.deployment import client
    from resnetd_tf.errors import InputError

    server, seconds, errors, refused, index = client.connect(address, name), [], [], 0, first_index
    while time.monotonic() < end_time:
        index += 1
        is_bad = index % BAD_INTERVAL == 0
        start = time.perf_counter()
        try:
            (answer,), (problem,) = server.classify([b"no picture" if is_bad else pictures[index % len(pictures)]])
        except InputError as error:
            errors.append(str(error))
            continue
        seconds.append(time.perf_counter() - start)
        refused += is_bad
        differs = not is_bad and np.abs(answer - expected[index % len(pictures)]).max() > 1e-4
        if is_bad != bool(problem) or differs:
            errors.append(f"request {index}: another answer than alone ({problem})")
    return {"seconds": seconds, "errors": errors, "refused": refused}


def time_first_answers(address: str, name: str, picture: bytes) -> list[float]:
    """Returns the milliseconds of a server's first answer and of its second, and the median of the next sixty."""
    from resnetd_tf.deployment import client

    server, milliseconds = client.connect(address, name), []
    for _ in range(62):
        start = time.perf_counter()
        server.classify([picture])
        milliseconds.append(1000 * (time.perf_counter() - start))
    return [*milliseconds[:2], float(np.median(milliseconds[2:]))]


def load_server(
    address: str, name: str, pictures: list[bytes], memory_bytes: Callable[[], int], seconds: float, connections: int
) -> dict:
    """Loads a server by one protocol.

    Args:
        address: The server's address, which says the protocol.
        name: Name of the model there.
        pictures: JPEG files, which connections send in turn.
        memory_bytes: Function that returns the server's memory.
        seconds: How long the load lasts.
        connections: Connections at once.

    Returns:
        Results of the requests, by name.
    """
    from resnetd_tf.deployment import client

    expected, _ = client.connect(address, name).classify(pictures)  # a warm-up too
    errors = []
    for length in (min(10, seconds), seconds):  # during the first the server frees what loading took
        start_memory, end_time = memory_bytes(), time.monotonic() + length
        send = functools.partial(send_requests, address, name, pictures, expected, end_time)
        with concurrent.futures.ThreadPoolExecutor(connections) as pool:
            results = list(pool.map(send, range(0, 17 * connections, 17)))
        errors += [error for result in results for error in result["errors"]]
    times = np.concatenate([result["seconds"] for result in results])
    return {
        "requests": len(times),
        "requests_per_second": len(times) / seconds,
        "milliseconds": (1000 * np.percentile(times, (50, 95, 99))).tolist(),
        "errors": errors,
        "refused": sum(result["refused"] for result in results),
        "memory_mib": [start_memory / 2**20, memory_bytes() / 2**20],
    }


def load(arguments: list[str]) -> None:
    program.import_tensorflow()
    import psutil

    from resnetd_tf.errors import InputError
    from resnetd_tf.saved import locate_model

    path = locate_model(program.model_path_from_flags())
    if not path.is_dir() or not path.name.isdecimal():
        raise InputError(f"{path}: give a folder of versions, which a server can serve")
    base = path.parent
    command = [sys.executable, "-m", "benchmarks.model_server", str(base)]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        ports = json.loads(server.stdout.readline())
        try:
            ready, pictures, process = time.monotonic() - start, encode_pictures(), psutil.Process(server.pid)
            addresses = {protocol: f"{protocol}://127.0.0.1:{ports[protocol]}" for protocol in ("grpc", "http")}
            first = time_first_answers(addresses["grpc"], base.name, pictures[0])
            results = {
                protocol: load_server(
                    address,
                    base.name,
                    pictures,
                    lambda: process.memory_info().rss,
                    FLAGS.seconds,
                    FLAGS.connections,
                )
                for protocol, address in addresses.items()
            }
        finally:
            server.terminate()
    lines = [
        f"{base}: ready after {ready:.1f} s; its first answer then took {first[0]:.1f} ms, its second {first[1]:.1f}, "
        f"the median of sixty more {first[2]:.1f}. {FLAGS.connections} connections, {FLAGS.seconds:g} s each way.",
        "",
        "| by | requests/s | p50, p95, p99 in ms | refused, as expected | errors | memory in MiB, at start and end |",
        "|---|---|---|---|---|---|",
    ]
    for protocol, result in results.items():
        times, memory = (", ".join(f"{value:.0f}" for value in result[key]) for key in ("milliseconds", "memory_mib"))
        lines.append(
            f"| {protocol} | {result['requests_per_second']:.0f} | {times} | {result['refused']} "
            f"| {len(result['errors'])} | {memory} |"
        )
    print("\n".join(lines))
    contest.keep("serving", lines, {"model": str(base), "ready": ready, "first_answers": first, **results})


def main() -> None:
    program.define_model_flags()
    flags.DEFINE_float("seconds", 60, "The length of the load by each protocol.", lower_bound=0.1)
    flags.DEFINE_integer("connections", 8, "The number of connections at once.", lower_bound=1)
    contest.define_output_dir()
    program.run_program(load)


if __name__ == "__main__":
    main()
