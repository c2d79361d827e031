"""Every oracle is held by `make test` already, not only by the costly repetitions that it leaves out."""

import ast
import re

from tests.conftest import ORACLES, ROOT
from tests.costly import COSTLY


def functions():
    """Yield the name, as in tests/costly.py, and the syntax of every test."""
    for file in (ROOT / "tests").glob("*/test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield f"{file.relative_to(ROOT / 'tests')}::{node.name}", node


def test_every_oracle_is_held_by_tests_that_always_run():
    held = set()
    for name, node in functions():
        named = re.match(r"test_oracles?_((?:\d+_)+)", node.name)
        if named and name not in COSTLY and "pytest.mark.full" not in map(ast.unparse, node.decorator_list):
            held |= {int(number) for number in named[1].strip("_").split("_")}
    assert held == set(ORACLES)


def test_costly_tests_are_there():
    assert {name.split("[")[0] for name in COSTLY} <= {name for name, _ in functions()}
