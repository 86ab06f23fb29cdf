"""Measures contestants in turn: each runs in its own process, and only one works at a time, round after round.

A benchmark gives `main` its contestants. Each is a function that takes a case's settings as keyword arguments, sets
everything up, and returns a function that works for about `ROUND` seconds and returns its rate. The first is ours.
"""

import argparse
import itertools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from absl import flags

from resnetd_tf.cli import program

flags.disclaim_key_flags()  # --help lists the flags under the benchmark that defines them

PEERS = ("resnetd_tf", "tensorflow", "keras", "keras-hub", "timm", "torch", "jax", "onnxruntime", "openvino")
RESULTS = pathlib.Path(__file__).parent / "results"
ROUND = 3.0  # seconds, about, that a contestant works in a round


def rate(seconds: Callable[[int], float], images: int) -> Callable[[], float]:
    """Makes a function that measures images a second.

    Args:
        seconds: Function that makes a number of calls and returns the seconds that they took.
        images: Images in a call.
    """
    seconds(2)
    calls = max(2, round(ROUND / (seconds(2) / 2)))
    return lambda: calls * images / seconds(calls)


class Contestant:
    """A contestant's process, ready to be measured."""

    def __init__(self, module: str, name: str, case: dict):
        self.name = name
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        command = [sys.executable, "-m", module, json.dumps({"contestant": name, **case})]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.missing = self._answer()

    def ask(self, question: str):
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            sys.exit(f"{self.name} failed:\n{self.log.read()[-3000:]}")
        return json.loads(line)

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


def _answer_questions(contestants: dict[str, Callable], settings: dict) -> None:
    """Runs a contestant's process: sets up, then answers questions from standard input on standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps output of libraries out of the answers
    try:
        measure = contestants[settings.pop("contestant")](**settings)
    except (ImportError, NotImplementedError) as error:
        print(json.dumps(str(error)), file=answers, flush=True)
        return
    measure()  # warm-up
    print("null", file=answers, flush=True)
    for question in sys.stdin:
        answer = measure() if question.strip() == "rate" else measure.profile()
        print(json.dumps(answer), file=answers, flush=True)


def _compare(module: str, names: tuple[str, ...], case: dict, rounds: int, profiled: tuple[str, ...]) -> dict:
    """Measures contestants in one case.

    Returns:
        The case, each contestant's rates by round, the reasons of missing contestants, and profiles.
    """
    contestants, result = [], {"case": case, "rates": {}, "missing": {}, "profiles": {}}
    for name in names:
        contestant = Contestant(module, name, case)
        if contestant.missing:
            result["missing"][name] = contestant.missing
            contestant.end()
        else:
            contestants.append(contestant)
            result["rates"][name] = []
    for number in range(rounds):
        for contestant in contestants if number % 2 == 0 else reversed(contestants):
            result["rates"][contestant.name].append(contestant.ask("rate"))
    for contestant in contestants:
        if contestant.name in profiled:
            result["profiles"][contestant.name] = contestant.ask("profile")
        contestant.end()
    return result


def table(result: dict, unit: str, profile_of: str) -> str:
    """Markdown of one case: median rates, and the first contestant's rate over each other's, round by round."""
    lines = [", ".join(f"{name} {value}" for name, value in result["case"].items()), ""]
    lines += [
        f"| | {unit}, median | lowest to highest | ours over it, median | lowest to highest |",
        "|---|---|---|---|---|",
    ]
    ours = next(iter(result["rates"].values()))
    for name, rates in result["rates"].items():
        ratios = [a / b for a, b in zip(ours, rates)]
        row = f"| {name} | {statistics.median(rates):.1f} | {min(rates):.1f} to {max(rates):.1f} |"
        lines.append(f"{row} {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |")
    lines += [f"\n{name} left out: {reason}" for name, reason in result["missing"].items()]
    for name, profile in result["profiles"].items():
        lines += ["", f"| {name} | {profile_of} | share |", "|---|---|---|"]
        total = sum(profile.values())
        lines += [f"| {part} | {value:.4g} | {100 * value / total:.0f} % |" for part, value in profile.items() if value]
    return "\n".join(lines) + "\n"


def define_output_dir() -> None:
    """Defines the flag --output_dir."""
    flags.DEFINE_string("output_dir", str(RESULTS), "Folder for the table.")


def keep(name: str, lines: list[str], results: dict, folder: pathlib.Path | None = None) -> None:
    """Writes a table and the results behind it.

    Args:
        name: Name of the files, NAME.md and NAME.json.
        lines: Lines of the table.
        results: Results that JSON can hold.
        folder: The folder; `None` for --output_dir.
    """
    from resnetd_tf import rundir

    folder = folder or pathlib.Path(flags.FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    rundir.write_text(folder / f"{name}.md", "\n".join(lines) + "\n")
    rundir.write_json(folder / f"{name}.json", results)
    print(f"Written: {folder / name}.md, .json")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\n")


def _list_parser(known: tuple) -> Callable[[str], tuple]:
    """Makes a parser of `A,B`: some of the known names, or any numbers if the known values are numbers."""

    def parse(text: str) -> tuple:
        items = tuple(type(known[0])(item) for item in text.split(","))
        if isinstance(known[0], str) and (unknown := set(items) - set(known)):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))} not among {', '.join(known)}")
        return items

    parse.__name__ = "list"  # for argparse's message "invalid list value"
    return parse


def main(
    name: str,
    contestants: dict[str, Callable],
    settings: dict[str, tuple],
    *,
    unit: str = "images/s",
    rounds: int = 5,
    profiled: tuple[str, ...] = (),
    profile_of: str = "ms of thread time a step",
) -> None:
    """Runs a benchmark from the command line, or one contestant of it, and writes results/NAME-TIME.md and .json.

    Args:
        name: Name of the module in `benchmarks`.
        contestants: Functions by name, as the top of this module describes them.
        settings: The values of each setting of a case; all combinations are measured. On the command line
            `--SETTING=A,B` selects values or gives other numbers, `--rounds` sets the number of rounds, `--only=A,B`
            selects contestants, and `--output_dir` sets the folder for the results.
        unit: Unit of the rates.
        rounds: Number of rounds; each measures every contestant once.
        profiled: Contestants whose `profile()` is called after the rounds; it returns a dictionary of parts of a sum.
        profile_of: Unit and meaning of the parts.
    """
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        return _answer_questions(contestants, json.loads(sys.argv[1]))
    parser = _Parser(prog=f"benchmarks.{name}", allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default {rounds}")
    parser.add_argument("--output_dir", type=pathlib.Path, default=RESULTS, help="default benchmarks/results")
    for flag, values in {**settings, "only": tuple(contestants)}.items():
        parser.add_argument(
            f"--{flag}", type=_list_parser(values), default=values, metavar="A,B", help=", ".join(map(str, values))
        )
    arguments = vars(parser.parse_args())
    rounds, names, folder = (arguments.pop(argument) for argument in ("rounds", "only", "output_dir"))
    if rounds < 1:
        parser.error(f"argument --rounds: {rounds} is below 1")
    results, tables = [], []
    for values in itertools.product(*arguments.values()):
        case = dict(zip(arguments, values))
        results.append(_compare(f"benchmarks.{name}", names, case, rounds, profiled))
        tables.append(table(results[-1], unit, profile_of))
        print(tables[-1], flush=True)
    _write(name, folder, rounds, results, tables)


def _write(name: str, folder: pathlib.Path, rounds: int, results: list[dict], tables: list[str]) -> None:
    """Writes the tables, and the rates behind them, with versions and hardware."""
    # Imported late: the libraries of this process must not disturb the contestants.
    if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
        program.import_tensorflow()
    from resnetd_tf.environment import environment_info

    environment = environment_info(PEERS)
    hardware, versions = environment["hardware"], environment["versions"]
    heading = (
        f"`python -m benchmarks.{' '.join([name, *sys.argv[1:]])}`, {rounds} rounds, contestants in turn. "
        f"{hardware['cores']} cores of {hardware['cpu']}, {hardware['memory_gib']} GiB, "
        f"GPUs: {', '.join(hardware['gpus']) or 'none'}, {platform.system()}. "
        + ", ".join(f"{package} {version}" for package, version in versions.items() if version)
        + f". Revision {environment['git_revision']}.\n"
    )
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path.with_suffix(".md").write_text("\n".join([heading, *tables]))
    path.with_suffix(".json").write_text(json.dumps({"environment": environment, "results": results}, indent=1) + "\n")
    print(f"Written: {path}.md, {path.name}.json")
