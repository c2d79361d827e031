"""The house: modules import only from their own floor or below, and frameworks stay in their rooms."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from lossatlas.krylov.collective import Collective, SingleProcess
from lossatlas.krylov.lanczos import Checkpoint
from lossatlas.parallel.checkpointing import State
from lossatlas.parallel.process_group import Team

from tests.conftest import ROOT

PACKAGE = ROOT / "workflow" / "lossatlas"
ORDER = (
    *("errors", "rng", "krylov", "vision", "config", "io", "parallel", "data", "zoo"),
    *("problem", "backends", "geometry", "drivers", "render", "results", "api", "command"),
)
"""The rooms of the house, from the ground up: each imports only from those before it."""

FRAMEWORKS = {"torch", "torchvision", "tensorflow", "keras"}


def imports(file, top_level_only=False):
    tree = ast.parse(file.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "lossatlas":
                yield from (f"lossatlas.{alias.name}" for alias in node.names)


def test_packages_import_strictly_downwards():
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for name in imports(file):
            parts = name.split(".")
            if parts[0] == "lossatlas" and len(parts) > 1 and parts[1] not in (room, "__version__", "LossAtlasError"):
                assert ORDER.index(parts[1]) < ORDER.index(room), f"{file.relative_to(ROOT)} imports {name}"


def module_graph():
    """Return which modules of the package each one imports when it is loaded."""
    names = {
        ".".join(("lossatlas", *file.relative_to(PACKAGE).with_suffix("").parts)) for file in PACKAGE.rglob("*.py")
    }
    graph = {}
    for name in names:
        tree = ast.parse((PACKAGE.parent / Path(*name.split("."))).with_suffix(".py").read_text())
        needed = set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                needed |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        graph[name] = (needed & names) - {name}
    return graph


def test_no_module_imports_itself_through_others():
    TopologicalSorter(module_graph()).prepare()  # raises CycleError, which names the cycle


def test_krylov_could_be_published_alone():
    allowed = {"lossatlas.errors", "lossatlas.rng", "lossatlas.krylov", "numpy", "scipy", *sys.stdlib_module_names}
    for file in (PACKAGE / "krylov").glob("*.py"):
        for name in imports(file):
            known = {".".join(name.split(".")[:depth]) for depth in (1, 2)}
            assert known & allowed or name == "lossatlas", f"{file.name} imports {name}"


ALONE = """
import sys
import numpy as np
from lossatlas.krylov import Spectrum, eigenpairs, lanczos, probe_vectors, quadrature_runs

rng = np.random.default_rng(0)
rotation, _ = np.linalg.qr(rng.standard_normal((60, 60)))
exact = np.sort(np.concatenate([rng.uniform(-1, 1, 57), [3.0, 5.0, 9.0]]))

class Dense:
    size, dtype = 60, np.dtype(np.float64)
    def matmat(self, vectors):
        return (vectors @ rotation) * exact @ rotation.T

(run,) = lanczos(Dense(), probe_vectors(60, range(1), 0), 60)
assert np.allclose(run.ritz()[0], exact, atol=1e-8)
runs = quadrature_runs(Dense(), lambda numbers: probe_vectors(60, numbers, 0), range(4), 60)
traces = [probe @ Dense().matmat(probe[None])[0] * 60 for probe in probe_vectors(60, range(4), 0)]
spectrum = Spectrum.of(runs, 60)
assert np.isclose(60 * (spectrum.weights * spectrum.nodes).sum(axis=1).mean(), np.mean(traces))
assert abs(spectrum.trace().value - exact.sum()) < 4 * spectrum.trace().standard_error
pairs = eigenpairs(Dense(), 3, 1)
assert np.allclose(pairs.values, exact[[-1, -2, -3, 0]], atol=1e-4)
print([name for name in sys.modules if name.startswith("lossatlas")])
"""


def test_krylov_runs_without_the_rest_of_the_package():
    told = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    rooms = {name.split(".")[1] for name in ast.literal_eval(told.stdout) if "." in name}
    assert rooms == {"errors", "rng", "krylov"}


@pytest.mark.parametrize(("ours", "protocol"), [(Team, Collective), (SingleProcess, Collective), (State, Checkpoint)])
def test_what_krylov_methods_are_given_has_the_methods_that_they_call(ours, protocol):
    methods = {name: method for name, method in vars(protocol).items() if callable(method) and name[0] != "_"}
    assert len(methods) >= 5
    for name, method in methods.items():
        asked, given = (list(inspect.signature(one).parameters) for one in (method, getattr(ours, name)))
        assert given[: len(asked)] == asked, name


def test_only_backends_and_zoo_import_a_framework():
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).parts[0]
        used = {name.split(".")[0] for name in imports(file, top_level_only=True)} & FRAMEWORKS
        assert not used or room in ("backends", "zoo", "vision"), f"{file.relative_to(ROOT)} imports {used}"


def test_nothing_below_the_scripts_knows_snakemake():
    for file in [*PACKAGE.rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        assert not any(name.split(".")[0] == "snakemake" for name in imports(file)), file


def test_functions_fit_a_screen():
    for file in [*PACKAGE.rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f"{file.relative_to(ROOT)}: {node.name} has {length} lines"


def test_public_functions_and_modules_have_docstrings():
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text())
        assert ast.get_docstring(tree), file
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{file.relative_to(ROOT)}: {node.name}"


def test_every_dependency_says_why():
    text = (ROOT / "pyproject.toml").read_text()
    block = text[text.index("\ndependencies") : text.index("[tool.setuptools]")]
    for line in block.splitlines():
        if line.startswith('  "'):
            assert re.search(r'",\s+# \w', line), line


def test_conda_environments_agree_with_pyproject():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    project = sum(declared["optional-dependencies"].values(), declared["dependencies"])
    pins = {re.match(r"[\w-]+", d)[0]: d.split(";")[0][len(re.match(r"[\w-]+", d)[0]) :].strip() for d in project}
    conda_names = {"pytorch": "torch"}
    for file in (ROOT / "envs").glob("*.yaml"):
        for line in yaml.safe_load(file.read_text())["dependencies"]:
            name, _, pin = line.partition(" ")
            name = conda_names.get(name, name)
            if name in ("python", "mpich"):
                continue
            assert pin.replace("=", "==", 1).replace(">==", ">=") == pins[name], f"{file.name}: {line}"
