"""Kills a training run at random moments, resumes it each time, and compares its end with an undisturbed run's.

    python -m benchmarks.kills --count=100          # about half an hour on two cores
    python -m benchmarks.kills --count=5 --runs=1 -- --variant=d --image_size=64 --weights=none --epochs=3

SIGKILL comes at any moment of a process's life: start-up, training, the writing of checkpoints, export, evaluation.
What stands after `--` are flags of train.py, by default a small network's on the synthetic dataset. Work lost is the
time from the newest checkpoint, or the start of the process if that was later, to the kill.
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
flags.DEFINE_integer("runs", None, "Number of runs that the kills are spread over; default a quarter of --count.")
flags.DEFINE_integer("seed", 0, "Seed for the moments.")

SMALL = "--depth=18 --variant=d --dataset=synthetic --image_size=32 --epochs=3 --weights=none --checkpoint_minutes=0.01"


def start(arguments: list[str], base: pathlib.Path, log: pathlib.Path) -> subprocess.Popen:
    """A process that trains, or goes on with training, in `base`."""
    command = [sys.executable, "train.py", *arguments, "--deterministic", "--resume", f"--output_dir={base}"]
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def wait(process: subprocess.Popen, log: pathlib.Path, seconds: float | None = None) -> None:
    """Waits for a run's end, which must be a good one, or for so many seconds."""
    if process.wait(seconds) != 0:
        sys.exit(f"{shlex.join(map(str, process.args))} ended with {process.returncode}:\n{log.read_text()}")


def left_by(base: pathlib.Path) -> dict:
    """What a finished run left, without its times: all that must be the same."""
    import keras

    from resnetd_tf.saved import open_classifier

    run = base / "run-1"
    with (run / "history.csv").open() as file:
        history = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    metadata = json.loads((run / "metadata.json").read_text())
    kept = {name: metadata[name] for name in ("best_epoch", "validation_accuracy", "test_accuracy", "data_sha256")}
    files = {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file() and "logs" not in path.parts}
    # Killed while its checkpoint was removed, last of all: the next run does that.
    files = {name for name in files if ".tmp.unfinished/" not in name}
    classifier = open_classifier(base)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, classifier.bands)).astype("uint8")
    return {
        "history": history,
        "metadata": kept,
        "files": files,
        "weights": [weights.tobytes() for weights in keras.saving.load_model(run / "model.keras").get_weights()],
        "SavedModel": classifier.predict(pixels).tobytes(),
        "evaluation": (run / "evaluation-test-1/metrics.json").read_text(),
    }


def ended(base: pathlib.Path) -> bool:
    """Whether the run is published and all else of it done."""
    return (base / "1").exists() and not (base / "run-1/unfinished").exists()


def killed_run(arguments: list[str], base: pathlib.Path, moments: list[float], log: pathlib.Path) -> list[float]:
    """Runs, killed after each of these seconds; the seconds of work that each kill lost."""
    lost = []
    for moment in moments:
        began, process = time.time(), start(arguments, base, log)
        try:
            wait(process, log, moment)
            break  # it ended before it could be killed
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        written = [path.stat().st_mtime for path in base.glob("run-1/unfinished/epoch-*")]
        lost.append(time.time() - max([began, *written]))
        if ended(base):  # killed while it only had to exit: another life would be another run
            break
    if not ended(base):
        wait(start(arguments, base, log), log)
    return lost


def kills(arguments: list[str]) -> None:
    program.import_tensorflow()
    trained = arguments or SMALL.split()
    runs = FLAGS.runs or max(1, FLAGS.count // 4)
    chance, lost, different = random.Random(FLAGS.seed), [], []
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        began = time.monotonic()
        wait(start(trained, place / "undisturbed", place / "undisturbed.txt"), place / "undisturbed.txt")
        duration = time.monotonic() - began
        expected = left_by(place / "undisturbed")
        print(f"Undisturbed: {duration:.0f} s", flush=True)
        run = 0
        while len(lost) < FLAGS.count:
            run += 1
            moments = min(-(-FLAGS.count // runs), FLAGS.count - len(lost))
            # What is done in a life stays done, but for start-up: on the average the run ends with its last kill.
            longest = 2 * duration / moments + 10
            seconds = [chance.uniform(0, longest) for _ in range(moments)]
            base = place / f"killed-{run}"
            lost += killed_run(trained, base, seconds, place / f"killed-{run}.txt")
            found = left_by(base)
            different += [f"run {run}: {name}" for name in expected if found[name] != expected[name]]
            print(f"Run {run}: {len(lost)} kills so far; different: {', '.join(different) or 'nothing'}", flush=True)
    print(
        f"{len(lost)} kills in {run} runs; "
        f"work lost {statistics.median(lost):.1f} s in the median, {max(lost):.1f} s at worst"
    )
    if different:
        sys.exit(f"Different from the undisturbed run: {', '.join(different)}")
    print("History, weights, predictions, evaluation and files are those of the undisturbed run.")


if __name__ == "__main__":
    program.run_program(kills, takes_arguments=True)
