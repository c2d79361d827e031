"""Every oracle is held by `make test` already, not only by the costly repetitions that it leaves out."""

import ast
import re

from tests.conftest import ORACLES, ROOT


def test_every_oracle_is_held_by_tests_that_always_run():
    held = set()
    for file in (ROOT / "tests").glob("*/test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            named = re.match(r"test_oracles?_((?:\d+_)+)", getattr(node, "name", None) or "")
            if named and "pytest.mark.full" not in map(ast.unparse, node.decorator_list):
                held |= {int(number) for number in named[1].strip("_").split("_")}
    assert held == set(ORACLES)
