"""Trainings that a benchmark compares: each a run of train.py, made once, and gone on with where it was stopped."""

import csv
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable

from resnetd_tf.errors import InputError
from resnetd_tf.training.settings import RECIPES


def trained(base: pathlib.Path, own: list[str], given: list[str]) -> dict:
    """What metadata.json says of the finished run under `base`, which is trained first if there is none.

    Its output goes to `base`.log. A run that is unfinished goes on. One with other flags, or by a recipe that has
    changed since, ends the benchmark.

    Args:
        base: Base path of the run's model.
        own: Flags of train.py that the benchmark sets.
        given: Further ones, which stand after -- on its command line.
    Raises:
        InputError: Flags are wrong, or others than those of the run that is there.
    """
    check(given, _names(own))
    arguments = [*own, *given]
    if not (base / "1").is_dir():
        _call(["train.py", *arguments, f"--output_dir={base}", "--resume"], base)
    metadata = found(base)
    if metadata.get("interrupted"):
        raise InputError(f"{base} was stopped before its last epoch: give another --runs_dir, or delete it")
    before = [
        flag for flag in shlex.split(metadata["command"])[1:] if not flag.startswith(("--output_dir=", "--resume"))
    ]
    if before != arguments:
        raise InputError(
            f"{base} was trained with {shlex.join(before)}, not with {shlex.join(arguments)}: give another --runs_dir, "
            "or delete it"
        )
    named = _names(arguments)
    for name, value in RECIPES[metadata["recipe"]].items():
        if name not in named and metadata.get(name) != value:
            raise InputError(
                f"{base} was trained with --{name}={metadata.get(name)}, which the recipe {metadata['recipe']} says no "
                f"longer, but {value}: give another --runs_dir, or delete it"
            )
    return metadata


def check(given: list[str], own: Iterable[str]) -> None:
    """Raises InputError if what stands after -- are no flags, or some whose names are those that the benchmark sets."""
    if stray := [argument for argument in given if not argument.startswith("--")]:
        raise InputError(f"unexpected argument {stray[0]!r}; what stands after -- are flags of train.py, --NAME=VALUE")
    for name in _names(given):
        if name in {*own, "output_dir", "resume"}:
            raise InputError(f"--{name} after --: this benchmark sets it; leave it out there")


def _names(arguments: list[str]) -> list[str]:
    return [argument.lstrip("-").partition("=")[0] for argument in arguments]


def found(base: pathlib.Path) -> dict:
    """What metadata.json says of the finished run under `base`."""
    return json.loads((base / "run-1/metadata.json").read_text(encoding="utf-8"))


def under_corruptions(base: pathlib.Path, split: str) -> dict:
    """What `evaluate.py --corruptions` finds on a split for the run under `base`, measured once."""
    folder = base / "run-1" / ("corruptions-" + "".join(letter if letter.isalnum() else "-" for letter in split))
    if not (folder / "corruptions.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)  # of an evaluation that was stopped
        arguments = [f"--model={base}", "--corruptions", f"--split={split}", f"--output_dir={folder}"]
        _call(["evaluate.py", *arguments], base)
    return json.loads((folder / "corruptions.json").read_text(encoding="utf-8"))


def history(base: pathlib.Path) -> list[dict[str, float]]:
    """The rows of the run's history.csv."""
    with (base / "run-1/history.csv").open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _call(arguments: list[str], base: pathlib.Path) -> None:
    base.parent.mkdir(parents=True, exist_ok=True)
    log = pathlib.Path(f"{base}.log")
    print(f"python {shlex.join(arguments)}  # output in {log}", flush=True)
    with log.open("ab") as output:
        before = output.tell()
        # In a session of its own: on a terminal's Ctrl-C a training would end as one that is done.
        process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=output, start_new_session=True)
        try:
            status = process.wait()
        except BaseException:
            process.terminate()  # it leaves a checkpoint
            process.wait()
            raise
    if status:
        said = log.read_bytes()[before:].decode(errors="replace").strip()
        raise InputError(f"it ended with {status}: {said.splitlines()[-1] if said else 'it printed nothing'}")
