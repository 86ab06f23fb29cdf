"""The package imports in one direction, declares what it imports, and its functions fit a screen."""

import ast
import configparser
import graphlib
import pathlib
import re
import sys
from importlib.metadata import packages_distributions

import pytest
from conftest import ROOT
from packaging.utils import canonicalize_name

from resnetd_tf.cli.program import EXTRAS
from resnetd_tf.runtimes import RUNTIME_EXTRAS

# Each subpackage uses only those after it.
SUBPACKAGES = ("cli", "training", "evaluation", "deployment", "imagery", "networks", "data")
# Every subpackage may use these modules. They use each other, and no subpackage but those named here.
SHARED_MODULES = {
    "applicability": set(),
    "environment": set(),
    "errors": set(),
    "figures": set(),
    "metadata": set(),
    "normalization": set(),
    "process": set(),
    "rundir": set(),
    "runtimes": set(),
    "saved": {"networks", "data"},
    "sentinel2": set(),
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "resnetd_tf").rglob("*.py")
}
OTHER_BACKENDS = {"jax", "torch"}  # backends of Keras that nothing installs


def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_names(path: pathlib.Path) -> set[str]:
    """The full names of all modules that a file imports, at its top or in a function, and of the names in them."""
    names = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def imported_modules(path: pathlib.Path) -> set[str]:
    """The modules of this package that a file imports."""
    names = imported_names(path) & MODULES.keys()
    # "from package import module" imports the module.
    return {name for name in names if not any(longer.startswith(f"{name}.") for longer in names)}


def declared_packages() -> dict[str, set[str]]:
    """The packages in setup.cfg: under "" those that everybody needs, under its name those of each extra."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    return {
        extra: {canonicalize_name(re.match(r"[\w.-]*", line)[0]) for line in text.splitlines() if line}
        for extra, text in lists.items()
    }


def imported_packages() -> set[str]:
    """The top-level names of all modules of other packages that this package imports."""
    names = {name.partition(".")[0] for path in MODULES.values() for name in imported_names(path)}
    return names - {*sys.stdlib_module_names, "resnetd_tf"} - OTHER_BACKENDS


DISTRIBUTIONS = packages_distributions()  # takes seconds


def is_declared(module: str, packages: set[str]) -> bool:
    return bool(packages & set(map(canonicalize_name, DISTRIBUTIONS[module])))


def test_every_import_is_declared():
    declared = declared_packages()
    names = imported_packages()
    assert len(names) > 15
    for name in names:
        assert is_declared(name, declared[EXTRAS.get(name, "")]), name


def test_the_extra_of_a_missing_module_installs_it():
    declared = declared_packages()
    for module, extra in EXTRAS.items():
        assert is_declared(module, declared[extra]), module
        assert not is_declared(module, declared[""]), module


def test_programs_and_runtimes_name_the_same_extras():
    assert RUNTIME_EXTRAS.items() <= EXTRAS.items()


def test_no_import_circle():
    graph = {name: imported_modules(path) - {name} for name, path in MODULES.items()}
    assert len(graph) > 40
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_every_module_belongs_to_a_subpackage_or_is_shared():
    parts = {name.split(".")[1] for name in MODULES if "." in name}
    assert parts <= {*SUBPACKAGES, *SHARED_MODULES}


@pytest.mark.parametrize("name", MODULES)
def test_subpackages_use_only_those_below(name):
    part = [*name.split("."), ""][1]
    used = {module.split(".")[1] for module in imported_modules(MODULES[name]) if "." in module} & set(SUBPACKAGES)
    allowed = SUBPACKAGES[SUBPACKAGES.index(part) :] if part in SUBPACKAGES else SHARED_MODULES.get(part, set())
    assert used <= set(allowed)


@pytest.mark.parametrize("name", MODULES)
def test_functions_fit_a_screen(name):
    for node in ast.walk(parse(MODULES[name])):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 80, node.name


@pytest.mark.parametrize("name", MODULES)
def test_a_caller_orders_at_most_six_arguments(name):
    """A function may have more parameters if they are keyword-only or have a default."""
    for node in ast.walk(parse(MODULES[name])):
        if isinstance(node, ast.FunctionDef):
            positional = [*node.args.posonlyargs, *node.args.args]
            required = positional[: len(positional) - len(node.args.defaults)]
            names = [argument.arg for argument in required if argument.arg not in ("self", "cls")]
            assert len(names) <= 6, node.name
