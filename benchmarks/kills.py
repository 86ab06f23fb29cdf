"""Kills a training run at random moments, resumes it each time, and compares its end with an undisturbed run.

    python -m benchmarks.kills --count=100          # about half an hour on two cores
    python -m benchmarks.kills --count=5 --runs=1 -- --variant=d --image_size=64 --weights=none --epochs=3

SIGKILL comes at any moment: start-up, training, the writing of checkpoints, export, evaluation. Arguments after `--`
are flags of train.py; by default a small network trains on the synthetic dataset. The lost work is the time from the
newest checkpoint, or from the start of the process if that was later, to the kill.
"""

import csv
import json
import pathlib
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import flags

from resnetd_tf.cli import program

FLAGS = flags.FLAGS
flags.DEFINE_integer("count", 100, "Number of kills.", lower_bound=1)
flags.DEFINE_integer("runs", None, "Number of runs over which the kills are spread; default a quarter of --count.")
flags.DEFINE_integer("seed", 0, "Seed for the moments of the kills.")

SMALL = "--depth=18 --variant=d --dataset=synthetic --image_size=32 --epochs=3 --weights=none --checkpoint_minutes=0.01"


def start(arguments: list[str], base: pathlib.Path, log: pathlib.Path) -> subprocess.Popen:
    """Starts a process that trains or resumes a run under `base`."""
    command = [sys.executable, "train.py", *arguments, "--deterministic", "--resume", f"--output_dir={base}"]
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def wait(process: subprocess.Popen, log: pathlib.Path, seconds: float | None = None) -> None:
    """Waits for the end of a process, which must succeed.

    Raises:
        subprocess.TimeoutExpired: The process has not ended after `seconds`.
    """
    if process.wait(seconds) != 0:
        sys.exit(f"{shlex.join(map(str, process.args))} ended with {process.returncode}:\n{log.read_text()}")


def read_results(base: pathlib.Path) -> dict:
    """Reads everything that must be the same for two finished runs, so no times."""
    import keras

    from resnetd_tf.saved import open_classifier

    folder = base / "run-1"
    with (folder / "history.csv").open() as file:
        history = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    metadata = json.loads((folder / "metadata.json").read_text())
    names = ("best_epoch", "validation_accuracy", "test_accuracy", "data_sha256")
    files = {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file() and "logs" not in path.parts}
    # If the process was killed while it removed the checkpoint, the last step, the next run does that.
    files = {name for name in files if ".tmp.unfinished/" not in name}
    classifier = open_classifier(base)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, classifier.bands)).astype("uint8")
    return {
        "history": history,
        "metadata": {name: metadata[name] for name in names},
        "files": files,
        "weights": [weights.tobytes() for weights in keras.saving.load_model(folder / "model.keras").get_weights()],
        "SavedModel": classifier.predict(pixels).tobytes(),
        "evaluation": (folder / "evaluation-test-1/metrics.json").read_text(),
    }


def is_finished(base: pathlib.Path) -> bool:
    """Returns whether the run is published and nothing is left to do."""
    return (base / "1").exists() and not (base / "run-1/unfinished").exists()


def run_with_kills(arguments: list[str], base: pathlib.Path, delays: list[float], log: pathlib.Path) -> list[float]:
    """Trains under `base`, with a kill after each of several delays.

    Args:
        arguments: Flags of train.py.
        base: Base path of the model.
        delays: Time from the start of each process to its kill, s.
        log: File for the output of the processes.

    Returns:
        The work that each kill lost, s.
    """
    lost_seconds = []
    for delay in delays:
        start_time, process = time.time(), start(arguments, base, log)
        try:
            wait(process, log, delay)
            break  # The run ended before it could be killed.
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        checkpoint_times = [path.stat().st_mtime for path in base.glob("run-1/unfinished/epoch-*")]
        lost_seconds.append(time.time() - max([start_time, *checkpoint_times]))
        if is_finished(base):  # Killed when it only had to exit. Another process would start another run.
            break
    if not is_finished(base):
        wait(start(arguments, base, log), log)
    return lost_seconds


def compare_with_undisturbed(arguments: list[str]) -> None:
    program.import_tensorflow()
    arguments = arguments or SMALL.split()
    runs = FLAGS.runs or max(1, FLAGS.count // 4)
    rng = random.Random(FLAGS.seed)
    lost_seconds: list[float] = []
    differences: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        start_time, log = time.monotonic(), folder / "undisturbed.txt"
        wait(start(arguments, folder / "undisturbed", log), log)
        duration = time.monotonic() - start_time
        expected = read_results(folder / "undisturbed")
        print(f"Undisturbed: {duration:.0f} s", flush=True)
        run = 0
        while len(lost_seconds) < FLAGS.count:
            run += 1
            kills = min(-(-FLAGS.count // runs), FLAGS.count - len(lost_seconds))
            # Work that one process does stays done, except for start-up. So on average a run ends with its last kill.
            longest_delay = 2 * duration / kills + 10
            delays = [rng.uniform(0, longest_delay) for _ in range(kills)]
            base = folder / f"killed-{run}"
            lost_seconds += run_with_kills(arguments, base, delays, folder / f"killed-{run}.txt")
            results = read_results(base)
            differences += [f"run {run}: {name}" for name in expected if results[name] != expected[name]]
            print(
                f"Run {run}: {len(lost_seconds)} kills so far; different: {', '.join(differences) or 'nothing'}",
                flush=True,
            )
    print(
        f"{len(lost_seconds)} kills in {run} runs; "
        f"work lost {statistics.median(lost_seconds):.1f} s in the median, {max(lost_seconds):.1f} s at worst"
    )
    if differences:
        sys.exit(f"Different from the undisturbed run: {', '.join(differences)}")
    print("History, weights, predictions, evaluation and files are those of the undisturbed run.")


if __name__ == "__main__":
    program.run_program(compare_with_undisturbed, takes_arguments=True)
