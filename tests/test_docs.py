"""What README and docs mention is there: links, commands, files, flags, and the numbers behind the tables."""

import csv
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from resnetd_tf.networks.pretrained import PUBLISHED

FOLDERS = ("docs", "benchmarks", "samples", "saved_models")
PAGES = sorted(path for pattern in ("*.md", *(f"{folder}/*.md" for folder in FOLDERS)) for path in ROOT.glob(pattern))
PROGRAMS = ("train", "evaluate", "predict", "export")
ids = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def test_pages():
    names = {str(path.relative_to(ROOT)) for path in PAGES}
    docs = ("results", "speed", "data", "weights", "training", "deployment", "design", "glossary")
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"} <= names
    assert {f"docs/{name}.md" for name in docs} <= names
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 40


@ids
def test_links(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if not re.match(r"https?://", link):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), link
            if anchor:
                headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), flags=re.M)
                places = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                places |= set(re.findall(r'<a id="([^"]+)"', target.read_text(encoding="utf-8")))
                assert anchor in places, link


def code(page) -> str:
    """Everything on a page that is set as code."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^    .*$", text, flags=re.M) + re.findall(r"^```.*?^```", text, flags=re.M | re.S)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", text)])


@ids
def test_modules_and_files(page):
    text = code(page)
    for module in re.findall(r"python -m (benchmarks\.\w+|resnetd_tf[\w.]*)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
    for path in re.findall(r"(?<![\w/.])(?:resnetd_tf|tests|benchmarks|docs)/[\w/.-]*\w", text):
        assert (ROOT / path).exists() or path == "benchmarks/results", path
    for name in re.findall(r"(?<![\w/])(\w+)\.py\b", text):
        assert list(ROOT.glob(f"**/{name}.py")), name
    for target in re.findall(r"\bmake ([a-z][\w-]*)", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M), target


@ids
def test_inputs_exist(page):
    """A command for images, or a line of Python that opens one, can be pasted in a fresh clone."""
    text = code(page).replace("\\\n", " ")
    paths = re.findall(r'"([^"\s]+\.(?:jpg|png|tif|SAFE))"', text)
    for arguments in re.findall(r"python (?:predict|docs/map_a_product)\.py (.+)", text):
        paths += [path for path in arguments.partition("#")[0].split() if not path.startswith("--")]
    paths += re.findall(r"\bsamples/[\w/.*-]*\w", text)
    for path in paths:
        assert list(ROOT.glob(path)), path


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    """The flags of every program, from its --help."""
    helps = {
        name: subprocess.run([sys.executable, ROOT / f"{name}.py", "--help"], capture_output=True, text=True).stdout
        for name in PROGRAMS
    }
    return {name: set(re.findall(r"^  --(?:\[no\])?(\w+)", text, flags=re.M)) for name, text in helps.items()}


@ids
def test_flags(page, flags):
    """In a command those of its program; elsewhere those of any program or benchmark."""
    text = code(page).replace("\\\n", " ")
    benchmarks = set(re.findall(r'"--(\w+)"|DEFINE_\w+\(\s*"(\w+)"', _benchmark_sources()))
    known = set().union(*flags.values(), *benchmarks)
    known |= {"size", "precision", "batch", "only", "help"}
    for line in text.splitlines():
        program = re.search(rf"(?:python |resnetd-)({'|'.join(PROGRAMS)})(?:\.py)?\b", line)
        if re.search(r"docker|curl|pip |pytest|tfds|tensorboard", line):
            continue
        for flag in re.findall(r"(?<!\S)--(\w+)", line):
            assert flag in (flags[program[1]] | {"help"} if program else known), line


def _benchmark_sources() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("figures", sorted((ROOT / "docs/figures").glob("*.csv")), ids=lambda path: path.stem)
def test_tables_are_their_numbers(figures):
    """A page links to every CSV, and has a row of a table for each of its rows with all of its values."""
    (page,) = (page for page in PAGES if f"figures/{figures.name}" in page.read_text(encoding="utf-8"))
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    with figures.open(encoding="utf-8", newline="") as file:
        _, *numbers = csv.reader(file)
    assert numbers
    for values in numbers:
        cells = [re.compile(rf"(?<![\w.]){re.escape(value)}(?![\w.])") for value in values if value]
        assert any(all(cell.search(row) for cell in cells) for row in rows), values


def test_published_checkpoints():
    text = (ROOT / "docs/weights.md").read_text(encoding="utf-8")
    for (depth, variant), chosen in PUBLISHED.items():
        name = chosen.source if "/" in chosen.source else f"{chosen.source} ResNet{depth}"
        measured = f"{chosen.size}, crop {chosen.crop:g}"
        assert f"| {depth}{variant} | {name} | {chosen.top1:.2f} % | {measured} | {chosen.licence} |" in text
