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

# Each uses only those after it; modules beside them are used by all, and use each other and what is named here.
ORDER = ("cli", "training", "evaluation", "deployment", "imagery", "networks", "data")
BESIDE = {"resnetd_tf.saved": {"networks", "data"}}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "resnetd_tf").rglob("*.py")
}


def imported(path: pathlib.Path) -> set[str]:
    """The modules of this package that a file imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    found &= MODULES.keys()
    # "from package import module" imports the module.
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def test_what_is_imported_is_declared():
    """In setup.cfg, with the package or an extra of what it is needed for."""
    names = set()
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    names -= {*sys.stdlib_module_names, "resnetd_tf", "jax", "torch"}  # other backends of Keras, if they are there
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = (config["options.extras_require"][name] for name in ("onnx", "openvino"))
    lines = "\n".join([config["options"]["install_requires"], *extras]).splitlines()
    declared = {canonicalize_name(re.match(r"[\w.-]*", line)[0]) for line in lines}
    distributions = packages_distributions()
    assert len(names) > 15
    for name in names:
        assert declared & set(map(canonicalize_name, distributions[name])), name


def test_no_import_circle():
    graph = {name: imported(path) - {name} for name, path in MODULES.items()}
    assert len(graph) > 40
    assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", MODULES)
def test_subpackages_use_only_those_below(name):
    part = [*name.split("."), ""][1]
    used = {other.split(".")[1] for other in imported(MODULES[name]) if "." in other} & set(ORDER)
    allowed = ORDER[ORDER.index(part) :] if part in ORDER else BESIDE.get(name, set())
    assert used <= set(allowed)


@pytest.mark.parametrize("name", MODULES)
def test_functions_fit_a_screen(name):
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 80, node.name
