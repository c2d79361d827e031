"""`module:attribute` import paths: found and digested without importing, imported when a job needs them."""

import ast
import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lossatlas.errors import LossAtlasError


def source_digest(import_path: str, python_path: Iterable[str], where: str) -> str:
    """Digest the source of a user's module and of all local modules that it imports.

    Local means: found under ``python_path``. Nothing is executed, so a dry run stays fast. An installed
    module is digested by its top-level file alone.

    Raises:
        LossAtlasError: there is no such module, or a local one does not define the attribute; ``where`` names the
            config key.
    """
    module, attribute = import_path.split(":")
    roots = [Path(folder) for folder in python_path]
    start = _local_file(module, roots)
    if start is None:
        return _installed_digest(module, roots, where, import_path)
    _check_defined(attribute.split(".")[0], start, where)
    digest, seen, queue = hashlib.sha256(), set(), [(module, start)]
    while queue:
        name, file = queue.pop()
        if file in seen:
            continue
        seen.add(file)
        text = file.read_bytes()
        digest.update(name.encode() + b"\0" + hashlib.sha256(text).digest())
        queue += sorted(_local_imports(name, file, text, roots, where))
    return digest.hexdigest()[:16]


def load(import_path: str, python_path: Iterable[str], where: str) -> Any:
    """Import ``module:attribute`` and return the attribute.

    Raises:
        LossAtlasError: the module cannot be imported or lacks the attribute; ``where`` names the config key.
    """
    module_name, attribute = import_path.split(":")
    for folder in reversed([str(Path(folder).resolve()) for folder in python_path]):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        value = importlib.import_module(module_name)
        for part in attribute.split("."):
            value = getattr(value, part)
    except Exception as error:
        raise LossAtlasError(
            f"{where}: importing {import_path!r} failed with {type(error).__name__}: {error}"
        ) from error
    return value


def _local_file(module: str, roots: list[Path]) -> Path | None:
    for root in roots:
        base = root.joinpath(*module.split("."))
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                return file
    return None


def _parse(file: Path, text: bytes, where: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise LossAtlasError(f"{where}: {file}, line {error.lineno}: {error.msg}") from error


def check_installed(module: str, name: str, where: str) -> None:
    """Refuse a name that a module of an installed package does not define, as far as its text shows.

    The package is read, not imported. Where it is not installed nothing is checked: a head node may lack it.

    Raises:
        LossAtlasError: there is no such name; ``where`` names the config key.
    """
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    roots = spec.submodule_search_locations if spec is not None else None
    file = _local_file(".".join(rest), [Path(root) for root in roots or []])
    if file is not None:
        _check_defined(name, file, where, module)


def _check_defined(name: str, file: Path, where: str, shown: object = None) -> None:
    """Refuse a name that a module does not define, as far as its text shows."""
    names, queue = set(), [_parse(file, file.read_bytes(), where)]
    while queue:
        for node in ast.iter_child_nodes(queue.pop()):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            else:
                names |= {node.id} if isinstance(node, ast.Name) else set()
                queue.append(node)
    if name not in names and not names & {"*", "__getattr__", "globals", "exec"}:
        same = [known for known in sorted(names) if known.lower() == name.lower()]
        near = same or difflib.get_close_matches(name, sorted(names), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise LossAtlasError(f"{where}: {shown or file} has no {name!r}{hint}")


def _local_imports(module: str, file: Path, text: bytes, roots: list[Path], where: str) -> set:
    """Return (name, file) of every module under ``roots`` that the source text imports."""
    tree = _parse(file, text, where)
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    found = {(name, _local_file(name, roots)) for name in names if name}
    return {(name, path) for name, path in found if path is not None}


def _installed_digest(module: str, roots: list[Path], where: str, import_path: str) -> str:
    top = module.split(".")[0]
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        folders = ", ".join(str(root.resolve()) for root in roots)
        raise LossAtlasError(
            f"{where}: no module {module!r} for {import_path!r} in {folders} (python_path) "
            "nor among the installed packages"
        )
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:16]
