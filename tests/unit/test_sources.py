"""Import paths: digested without running the code, and failing in one line."""

import pytest
from lossatlas.config import imports
from lossatlas.errors import LossAtlasError


@pytest.fixture
def code(tmp_path):
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("")
    (tmp_path / "own_package" / "parts.py").write_text("WIDTH = 3\n")
    (tmp_path / "own_package" / "models.py").write_text(
        "from .parts import WIDTH\nimport own_helper\ndef build(): return WIDTH\n"
    )
    (tmp_path / "own_helper.py").write_text("raise RuntimeError('must not run while digesting')\n")
    return tmp_path


@pytest.mark.parametrize("file", ["own_package/models.py", "own_package/parts.py", "own_helper.py"])
def test_a_change_in_any_local_module_changes_the_digest(code, file):
    before = imports.source_digest("own_package.models:build", [code], "model.import")
    (code / file).write_text((code / file).read_text() + "# changed\n")
    assert imports.source_digest("own_package.models:build", [code], "model.import") != before


def test_a_module_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(LossAtlasError, match=r"model.import: no module 'nowhere_at_all'"):
        imports.source_digest("nowhere_at_all:build", [tmp_path], "model.import")


def test_a_syntax_error_is_named_with_its_line(tmp_path):
    (tmp_path / "broken_module.py").write_text("x = 1\ndef f(:\n")
    with pytest.raises(LossAtlasError, match=r"broken_module.py, line 2"):
        imports.source_digest("broken_module:f", [tmp_path], "model.import")


def test_failing_imports_and_missing_attributes_are_one_line(code):
    with pytest.raises(LossAtlasError, match="RuntimeError: must not run"):
        imports.load("own_package.models:build", [code], "model.import")
    with pytest.raises(LossAtlasError, match="no attribute 'nothing'"):
        imports.load("own_package.parts:nothing", [code], "model.import")
    assert imports.load("own_package.parts:WIDTH", [code], "model.import") == 3


def test_installed_modules_are_accepted(tmp_path):
    assert imports.source_digest("json:loads", [tmp_path], "loss.import")
