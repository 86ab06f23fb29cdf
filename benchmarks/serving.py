"""Load: the client against a server that merges requests, eight connections at once, encoded pictures.

    python -m benchmarks.serving --model=saved_models/resnet50d             # a minute

The server is benchmarks/model_server.py, in a process of its own on the same cores as the client. Pictures have two
sizes; every hundredth request holds a file that is no picture, which must not disturb the others. Counted are requests,
how long they take, errors that were not asked for, and the server's memory before and after; first of all, how long a
server takes from its start until it has answered its warm-up requests, and its first answers after that.
"""

import concurrent.futures
import functools
import io
import json
import subprocess
import sys
import time

import numpy as np
from absl import flags

from benchmarks import contest
from resnetd_tf.cli import program

FLAGS = flags.FLAGS
BAD = 100  # every so many requests


def files() -> list[bytes]:
    """Drawn pictures as JPEG, of 64 and of 96 pixels."""
    from PIL import Image

    from resnetd_tf.data import synthetic

    encoded = []
    for index, image in enumerate(synthetic.draw_scenes(64)[0]):
        file, picture = io.BytesIO(), Image.fromarray(image)
        (picture.resize((96, 96)) if index % 2 else picture).save(file, "JPEG", quality=95)
        encoded.append(file.getvalue())
    return encoded


def ask(address: str, name: str, pictures: list[bytes], expected: np.ndarray, until: float, start: int) -> dict:
    """One connection's requests, one after the other, until a time."""
    from resnetd_tf.deployment import client
    from resnetd_tf.errors import InputError

    server, seconds, errors, refused, index = client.connect(address, name), [], [], 0, start
    while time.monotonic() < until:
        index += 1
        bad = index % BAD == 0
        begun = time.perf_counter()
        try:
            (answer,), (problem,) = server.classify([b"no picture" if bad else pictures[index % len(pictures)]])
        except InputError as error:
            errors.append(str(error))
            continue
        seconds.append(time.perf_counter() - begun)
        refused += bad
        wrong = bad != bool(problem) or (not bad and np.abs(answer - expected[index % len(pictures)]).max() > 1e-4)
        if wrong:
            errors.append(f"request {index}: another answer than alone ({problem})")
    return {"seconds": seconds, "errors": errors, "refused": refused}


def first_answers(address: str, name: str, picture: bytes) -> list[float]:
    """Milliseconds of the first answer of a server, of its second, and of the sixty after them, their median."""
    from resnetd_tf.deployment import client

    server, milliseconds = client.connect(address, name), []
    for _ in range(62):
        begun = time.perf_counter()
        server.classify([picture])
        milliseconds.append(1000 * (time.perf_counter() - begun))
    return [*milliseconds[:2], float(np.median(milliseconds[2:]))]


def load(arguments: list[str]) -> None:
    program.import_tensorflow()
    import psutil

    from resnetd_tf.deployment import client
    from resnetd_tf.errors import InputError
    from resnetd_tf.saved import locate_model

    path = locate_model(program.model_path_from_flags())
    if not path.is_dir() or not path.name.isdecimal():
        raise InputError(f"{path}: give a folder of versions, which a server can serve")
    base = path.parent
    command = [sys.executable, "-m", "benchmarks.model_server", str(base)]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        ports = json.loads(server.stdout.readline())
        try:
            ready, pictures, memory = time.monotonic() - started, files(), psutil.Process(server.pid).memory_info
            first = first_answers(f"grpc://127.0.0.1:{ports['grpc']}", base.name, pictures[0])
            results: dict = {}
            for protocol in ("grpc", "http"):
                address = f"{protocol}://127.0.0.1:{ports[protocol]}"
                expected, _ = client.connect(address, base.name).classify(pictures)  # and as a warm-up
                errors = []
                for length in (min(10, FLAGS.seconds), FLAGS.seconds):  # in the first, what loading took is freed
                    before, until = memory().rss, time.monotonic() + length
                    one = functools.partial(ask, address, base.name, pictures, expected, until)
                    with concurrent.futures.ThreadPoolExecutor(FLAGS.connections) as pool:
                        found = list(pool.map(one, range(0, 17 * FLAGS.connections, 17)))
                    errors += [error for one in found for error in one["errors"]]
                seconds = np.concatenate([one["seconds"] for one in found])
                results[protocol] = {
                    "requests": len(seconds),
                    "requests_per_second": len(seconds) / FLAGS.seconds,
                    "milliseconds": (1000 * np.percentile(seconds, (50, 95, 99))).tolist(),
                    "errors": errors,
                    "refused": sum(one["refused"] for one in found),
                    "memory_mib": [before / 2**20, memory().rss / 2**20],
                }
        finally:
            server.terminate()
    lines = [
        f"{base}: ready after {ready:.1f} s; its first answer then took {first[0]:.1f} ms, its second {first[1]:.1f}, "
        f"the median of sixty more {first[2]:.1f}. {FLAGS.connections} connections, {FLAGS.seconds:g} s each way.",
        "",
        "| by | requests/s | p50, p95, p99 in ms | refused, as asked | errors | memory in MiB, before and after |",
        "|---|---|---|---|---|---|",
    ]
    for protocol, one in results.items():
        times, memories = (", ".join(f"{value:.0f}" for value in one[name]) for name in ("milliseconds", "memory_mib"))
        lines.append(
            f"| {protocol} | {one['requests_per_second']:.0f} | {times} | {one['refused']} | {len(one['errors'])} "
            f"| {memories} |"
        )
    print("\n".join(lines))
    found = {"model": str(base), "ready": ready, "first_answers": first, **results}
    contest.keep("serving", lines, found)


def main() -> None:
    program.define_model_flags()
    flags.DEFINE_float("seconds", 60, "How long, by each protocol.", lower_bound=0.1)
    flags.DEFINE_integer("connections", 8, "Connections at once.", lower_bound=1)
    contest.define_output_dir()
    program.run_program(load)


if __name__ == "__main__":
    main()
