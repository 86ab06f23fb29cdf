"""Runs of train.py that a benchmark compares. Each is made once, and resumed if it was stopped."""

import csv
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable

import numpy as np

from resnetd_tf.errors import InputError
from resnetd_tf.training.settings import RECIPES


def train_once(base: pathlib.Path, own_flags: list[str], extra_flags: list[str]) -> dict:
    """Trains under `base`, or resumes an unfinished run there, unless a finished run exists.

    The output goes to `base`.log. A run with other flags, or with a recipe that has changed since, is an error.

    Args:
        base: Base path of the model.
        own_flags: Flags of train.py that the benchmark sets.
        extra_flags: Flags that stand after -- on the command line of the benchmark.

    Returns:
        The content of metadata.json.

    Raises:
        InputError: Flags are wrong, or differ from those of the existing run.
    """
    check_extra_flags(extra_flags, _flag_names(own_flags))
    arguments = [*own_flags, *extra_flags]
    if not (base / "1").is_dir():
        _call(["train.py", *arguments, f"--output_dir={base}", "--resume"], base)
    metadata = read_metadata(base)
    if metadata.get("interrupted"):
        raise InputError(f"{base} was stopped before its last epoch: give another --runs_dir, or delete it")
    recorded_flags = [
        flag for flag in shlex.split(metadata["command"])[1:] if not flag.startswith(("--output_dir=", "--resume"))
    ]
    if recorded_flags != arguments:
        raise InputError(
            f"{base} was trained with {shlex.join(recorded_flags)}, not with {shlex.join(arguments)}: give another "
            "--runs_dir, or delete it"
        )
    names = _flag_names(arguments)
    for name, value in RECIPES[metadata["recipe"]].items():
        if name not in names and metadata.get(name) != value:
            raise InputError(
                f"{base} was trained with --{name}={metadata.get(name)}, but the recipe {metadata['recipe']} now has "
                f"{value}: give another --runs_dir, or delete it"
            )
    return metadata


def check_extra_flags(extra_flags: list[str], own_names: Iterable[str]) -> None:
    """Checks the arguments after -- on the command line of a benchmark.

    Args:
        extra_flags: The arguments.
        own_names: Names of the flags that the benchmark sets itself.

    Raises:
        InputError: One of the arguments is no flag, or is a flag that the benchmark sets.
    """
    if stray := [argument for argument in extra_flags if not argument.startswith("--")]:
        raise InputError(f"unexpected argument {stray[0]!r}; what stands after -- are flags of train.py, --NAME=VALUE")
    for name in _flag_names(extra_flags):
        if name in {*own_names, "output_dir", "resume"}:
            raise InputError(f"--{name} after --: this benchmark sets it; leave it out there")


def _flag_names(arguments: list[str]) -> list[str]:
    return [argument.lstrip("-").partition("=")[0] for argument in arguments]


def read_metadata(base: pathlib.Path) -> dict:
    """Reads metadata.json of the finished run under `base`."""
    return json.loads((base / "run-1/metadata.json").read_text(encoding="utf-8"))


def evaluate_under_corruptions(base: pathlib.Path, split: str) -> dict:
    """Evaluates the run under `base` with `evaluate.py --corruptions`, once, and returns the results.

    Args:
        base: Base path of the model.
        split: The split, or a part of one.
    """
    folder = base / "run-1" / ("corruptions-" + "".join(letter if letter.isalnum() else "-" for letter in split))
    if not (folder / "corruptions.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)  # An evaluation that was stopped may have left it.
        arguments = [f"--model={base}", "--corruptions", f"--split={split}", f"--output_dir={folder}"]
        _call(["evaluate.py", *arguments], base)
    return json.loads((folder / "corruptions.json").read_text(encoding="utf-8"))


def find_wrong_images(base: pathlib.Path) -> np.ndarray:
    """Returns which images of EuroSAT's validation split the run under `base` classifies wrongly, (n,) bool."""
    from resnetd_tf.data import datasets
    from resnetd_tf.saved import open_classifier

    split = datasets.load_dataset("eurosat/rgb", splits=("validation",)).splits["validation"]
    return open_classifier(base).predict(split.images).argmax(1) != split.labels


def read_history(base: pathlib.Path) -> list[dict[str, float]]:
    """Reads the rows of history.csv of the run under `base`."""
    with (base / "run-1/history.csv").open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _call(arguments: list[str], base: pathlib.Path) -> None:
    """Runs a program with its output in `base`.log; if this process is interrupted, ends the program."""
    base.parent.mkdir(parents=True, exist_ok=True)
    log = pathlib.Path(f"{base}.log")
    print(f"python {shlex.join(arguments)}  # output in {log}", flush=True)
    with log.open("ab") as output:
        start = output.tell()
        # The program gets a session of its own, so that Ctrl-C in this terminal does not end a training as complete.
        process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=output, start_new_session=True)
        try:
            status = process.wait()
        except BaseException:
            process.terminate()  # A training leaves a checkpoint.
            process.wait()
            raise
    if status:
        printed = log.read_bytes()[start:].decode(errors="replace").strip()
        raise InputError(f"it ended with {status}: {printed.splitlines()[-1] if printed else 'it printed nothing'}")
