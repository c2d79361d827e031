"""The house: modules import only from their own floor or below, and frameworks stay in their rooms."""

import ast
import re
import tomllib

import yaml

from tests.conftest import ROOT

PACKAGE = ROOT / "workflow" / "lossatlas"
FLOORS = {
    "errors": 0, "rng": 0, "progress": 0, "layout": 0, "store": 0, "parallel": 0, "trajectory": 0, "config": 0,
    "config_values": 0, "config_sizes": 0,
    "sources": 0, "units": 0, "team": 0, "interrupt": 0, "listen": 0, "saves": 0, "profile": 0, "refinement": 0,
    "problem": 1, "readiness": 1, "backends": 1, "zoo": 1, "data": 1,
    "krylov": 2,
    "directions": 3, "normalize": 3, "sites": 3,
    "landscape": 4, "paths": 4, "curves": 4, "training": 4, "spectra": 4, "curvature": 4, "tracking": 4,
    "render": 5,
    "cli": 6, "api": 6, "hessian_job": 6,
}  # fmt: skip
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


def test_modules_import_only_downwards():
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for name in imports(file):
            parts = name.split(".")
            if parts[0] == "lossatlas" and len(parts) > 1 and parts[1] in FLOORS:
                assert FLOORS[parts[1]] <= FLOORS[room], f"{file.relative_to(ROOT)} imports {name}"


def test_only_backends_and_zoo_import_a_framework():
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).parts[0]
        used = {name.split(".")[0] for name in imports(file, top_level_only=True)} & FRAMEWORKS
        assert not used or room in ("backends", "zoo"), f"{file.relative_to(ROOT)} imports {used}"


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
    project = declared["dependencies"] + declared["optional-dependencies"]["tensorflow"]
    pins = {re.match(r"[\w-]+", d)[0]: d.split(";")[0][len(re.match(r"[\w-]+", d)[0]) :].strip() for d in project}
    conda_names = {"pytorch": "torch"}
    for file in (ROOT / "envs").glob("*.yaml"):
        for line in yaml.safe_load(file.read_text())["dependencies"]:
            name, _, pin = line.partition(" ")
            name = conda_names.get(name, name)
            if name in ("python", "mpich"):
                continue
            assert pin.replace("=", "==", 1).replace(">==", ">=") == pins[name], f"{file.name}: {line}"
