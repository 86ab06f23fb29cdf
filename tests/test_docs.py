"""README and documentation promise nothing that is missing: links, commands, files, flags, names, and figures."""

import ast
import csv
import importlib.util
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from resnetd_tf.networks.pretrained import PUBLISHED

FOLDERS = ("benchmarks", "samples", "saved_models")
NOTEBOOKS = sorted(path for folder in ("tutorials", "reference") for path in (ROOT / "docs" / folder).glob("*.py"))
PAGES = sorted(
    [path for pattern in ("*.md", "docs/**/*.md", *(f"{name}/*.md" for name in FOLDERS)) for path in ROOT.glob(pattern)]
    + NOTEBOOKS
)
PROGRAMS = ("train", "evaluate", "predict", "map", "assess", "patches", "export")
SOURCES = ("resnetd_tf", "benchmarks", "docs", "samples", "tests")
PYTHON_FILES = {path.name for folder in SOURCES for path in (ROOT / folder).rglob("*.py")}
PYTHON_FILES |= {path.name for path in ROOT.glob("*.py")}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def page_text(page) -> str:
    """The text of a page; of a notebook, its cells with their Markdown and shell commands uncommented."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^# ?", "", text, flags=re.M) if page.suffix == ".py" else text


def page_code(page) -> str:
    """Everything on a page that is set as code, with the code cells of a notebook."""
    text = page_text(page)
    if page.suffix == ".py":
        text, code_cells = "", text
        for cell in re.split(r"^(?=%% )|^(?=%%$)", code_cells, flags=re.M):
            text += cell if cell.startswith("%% [markdown]") else f"\n```{cell}\n```\n"
    blocks = re.findall(r"^    .*$", text, flags=re.M) + re.findall(r"^```.*?^```", text, flags=re.M | re.S)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", text)])


def code_lines(page) -> list[str]:
    """The lines of code of a page, where a command that goes on after a backslash is one line."""
    return re.sub(r"\\\n\s*", " ", page_code(page)).splitlines()


def navigation() -> set[str]:
    """The pages that the site's navigation lists, relative to docs/."""
    _, _, entries = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")
    return set(re.findall(r"([\w/-]+\.md)$", entries, flags=re.M))


def test_every_page_of_the_navigation_exists():
    for name in navigation():
        assert (ROOT / "docs" / name).is_file() or (ROOT / "docs" / name).with_suffix(".py") in NOTEBOOKS, name


def test_the_navigation_lists_every_page():
    pages = {page.relative_to(ROOT / "docs").with_suffix(".md") for page in PAGES if ROOT / "docs" in page.parents}
    assert {page.as_posix() for page in pages} == navigation()


@pytest.mark.parametrize("name, most", [("README.md", 120), ("CONTRIBUTING.md", 40)])
def test_pages_for_newcomers_stay_short(name, most):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= most


@each_page
def test_links_lead_to_a_file_and_an_anchor_that_exist(page):
    for link in re.findall(r"\]\(([^)]+)\)", page_text(page)):
        if not re.match(r"https?://", link):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            if not target.exists() and target.with_suffix(".py") in NOTEBOOKS:
                target = target.with_suffix(".py")
            assert target.exists(), link
            if anchor:
                headings = re.findall(r"^#+ (.+)$", page_text(target), flags=re.M)
                anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                anchors |= set(re.findall(r'<a id="([^"]+)"', page_text(target)))
                assert anchor in anchors, link


@each_page
def test_modules_in_commands_exist(page):
    for module in re.findall(r"python -m (benchmarks\.\w+|resnetd_tf[\w.]*)", page_code(page)):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


@each_page
def test_paths_in_the_repository_exist(page):
    for path in re.findall(r"(?<![\w/.])(?:resnetd_tf|tests|benchmarks|docs)/[\w/.-]*\w", page_code(page)):
        assert (ROOT / path).exists() or path == "benchmarks/results", path


@each_page
def test_python_files_exist(page):
    for name in re.findall(r"(?<![\w/])(\w+\.py)\b", page_code(page)):
        assert name in PYTHON_FILES, name


@each_page
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z][\w-]*)", page_code(page)):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


@each_page
def test_commands_for_samples_can_be_pasted_in_a_fresh_clone(page):
    # Python code on a notebook is run when the site is built, and reads what earlier cells have written.
    paths = [] if page in NOTEBOOKS else re.findall(r'"([^"\s]+\.(?:jpg|png|tif|SAFE))"', page_code(page))
    for line in code_lines(page):
        for arguments in re.findall(r"python (?:predict|map)\.py (.+)", line):
            parts = arguments.partition("#")[0].split()
            paths += [path for path in parts if not path.startswith(("--", "stac:", "https:"))]
    paths += re.findall(r"\bsamples/[\w/.*-]*\w", page_code(page))
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


@pytest.fixture(scope="module")
def known_flags(flags) -> set[str]:
    """The flags of all programs and benchmarks."""
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
    benchmarks = set(re.findall(r'"--(\w+)"|DEFINE_\w+\(\s*"(\w+)"', sources))
    return set().union(*flags.values(), *benchmarks) | {"size", "precision", "batch", "only", "help"}


@each_page
def test_flags_belong_to_the_program_of_their_command(page, flags, known_flags):
    """A flag in a command is one of its program's; a flag elsewhere is one of any program or benchmark."""
    for line in code_lines(page):
        if re.search(r"docker|curl|pip |pytest|tfds|tensorboard|jupytext", line):
            continue
        program = re.search(rf"(?:python |resnetd-)({'|'.join(PROGRAMS)})(?:\.py)?\b", line)
        for flag in re.findall(r"(?<!\S)--(\w+)", line):
            assert flag in (flags[program[1]] | {"help"} if program else known_flags), line


@pytest.mark.parametrize("figures", sorted((ROOT / "docs/figures").glob("*.csv")), ids=lambda path: path.stem)
def test_a_table_has_every_value_of_its_csv(figures):
    """One page links to each CSV, and a row of its tables has all values of each row of the CSV."""
    (page,) = (page for page in PAGES if f"figures/{figures.name}" in page_text(page))
    rows = [line for line in page_text(page).splitlines() if line.startswith("|")]
    with figures.open(encoding="utf-8", newline="") as file:
        _, *numbers = csv.reader(file)
    assert numbers
    for values in numbers:
        cells = [re.compile(rf"(?<![\w.]){re.escape(value)}(?![\w.])") for value in values if value]
        assert any(all(cell.search(row) for cell in cells) for row in rows), values


def test_the_table_of_published_checkpoints_is_that_of_the_code():
    text = (ROOT / "docs/how-to/choose-weights.md").read_text(encoding="utf-8")
    for (depth, variant), published in PUBLISHED.items():
        name = published.source if "/" in published.source else f"{published.source} ResNet{depth}"
        evaluated = f"{published.size}, crop {published.crop:g}"
        assert f"| {depth}{variant} | {name} | {published.top1:.2f} % | {evaluated} | {published.licence} |" in text


@pytest.mark.parametrize("page", sorted((ROOT / "docs/reference").glob("*.md")), ids=lambda path: path.stem)
def test_the_reference_names_what_its_modules_define(page):
    entries = re.findall(r"^::: ([\w.]+)\n    options:\n      members: \[(.+)\]$", page_text(page), flags=re.M)
    assert len(entries) == page_text(page).count(":::")
    for module, members in entries:
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        defined |= {target.id for target in targets if isinstance(target, ast.Name)}
        assert set(members.split(", ")) <= defined, module


@pytest.fixture
def dead_links(tmp_path):
    """A function that checks a site of one page with the given HTML."""
    spec = importlib.util.spec_from_file_location("check_site", ROOT / "docs/check_site.py")
    check_site = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check_site)

    def check(content: str) -> list[str]:
        (tmp_path / "index.html").write_text(content, encoding="utf-8")
        return check_site.dead_links(tmp_path)

    return check


@pytest.mark.parametrize("link", ["missing.html", "index.html#missing", "#missing"])
def test_the_check_of_the_site_finds_a_dead_link(dead_links, link):
    assert dead_links(f'<p id="top"><a href="{link}">text</a></p>') == [f"index.html: {link}"]


@pytest.mark.parametrize("link", ["index.html", "index.html#top", "#top", "https://example.org/missing"])
def test_the_check_of_the_site_accepts_links_that_work_and_other_hosts(dead_links, link):
    assert dead_links(f'<p id="top"><a href="{link}">text</a></p>') == []
