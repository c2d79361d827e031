"""`module:attribute` import paths: found and digested without importing, imported when a job needs them."""

import ast
import builtins
import difflib
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from lossatlas.errors import LossAtlasError
from lossatlas.vision import mended


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
        try:
            value = importlib.import_module(module_name)
        except Exception as error:
            if not mended(error):
                raise
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
            if os.path.isfile(file):
                return file
    return None


def _parse(file: Path, text: bytes, where: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise LossAtlasError(f"{where}: {file}, line {error.lineno}: {error.msg}") from error
    except ValueError as error:
        raise LossAtlasError(f"{where}: {file} is no Python source: {error}") from error


def check_installed(module: str, name: str, where: str) -> None:
    """Refuse a name that a module of an installed package does not define, as far as its text shows.

    The package is read, not imported. Where it is not installed nothing is checked: a head node may lack it.

    Raises:
        LossAtlasError: there is no such name; ``where`` names the config key.
    """
    file = _installed_file(module)
    if file is not None:
        _check_defined(name, file, where, module)


def check_call(
    module: str, name: str, given: Iterable[str], passed: Iterable[str], where: str, closed: bool = False
) -> None:
    """Refuse arguments that a class of an installed package does not take, and the lack of those that it needs.

    Its text is read, not run; what it does not show is not checked.

    Args:
        passed: arguments that we pass ourselves.
        closed: whether ``**kwargs`` of the class take nothing in truth.

    Raises:
        LossAtlasError: names the argument and what there is; ``where`` names the config key.
    """
    given, passed, found = list(given), set(passed), _find_class(module, name)
    body = found[0].body if found else []
    init = next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__"), None)
    if init is None:
        return
    named = [*init.args.posonlyargs, *init.args.args][1:]
    without = len(named) - len(init.args.defaults)
    needed = {argument.arg for argument in named[:without]}
    needed |= {a.arg for a, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True) if default is None}
    known = sorted({argument.arg for argument in (*named, *init.args.kwonlyargs)} - passed)
    for key in given:
        if key not in known and (closed or init.args.kwarg is None or key in passed):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
            raise LossAtlasError(f"{where}.{key}: {name} takes no {key!r}; {hint}")
    for key in sorted(needed - passed - set(given)):
        raise LossAtlasError(f"{where}: {name} needs {key!r}")


def is_kind_of(module: str, name: str, base: str) -> bool:
    """Return False where a class's text shows that it does not derive from a class named ``base``, or is that one."""
    found = _find_class(module, name)
    if name == base:
        return False
    if found is None:
        return True
    bases = {ast.unparse(node).split(".")[-1] for node in found[0].bases}
    others = {one for one in bases - {name} if not hasattr(builtins, one)}
    return base in bases or any(is_kind_of(found[1], one, base) for one in others)


def _installed_file(module: str) -> Path | None:
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    roots = spec.submodule_search_locations if spec is not None else None
    return _local_file(".".join(rest), [Path(root) for root in roots or []])


@cache
def _find_class(module: str, name: str) -> tuple[ast.ClassDef, str] | None:
    """Return the text of a class of an installed package and its module, whatever modules pass it on."""
    file = _installed_file(module)
    if file is None:
        return None
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in _tree(file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, module
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find_class(_absolute(node, package), alias.name)
    return None


@cache
def _tree(file: Path) -> ast.Module:
    return _parse(file, file.read_bytes(), str(file))


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the full name of the module that is imported from."""
    parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    return ".".join([*parents, *([node.module] if node.module else [])])


def _check_defined(name: str, file: Path, where: str, shown: object = None) -> None:
    """Refuse a name that a module does not define, as far as its text shows."""
    names: set[str] = set()
    queue: list[ast.AST] = [_tree(file) if shown else _parse(file, file.read_bytes(), where)]
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
            base = _absolute(node, package)
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    found = {(name, _local_file(name, roots)) for name in names if name}
    return {(name, path) for name, path in found if path is not None}


def _installed_digest(module: str, roots: list[Path], where: str, import_path: str) -> str:
    top = module.split(".")[0]
    spec = importlib.util.find_spec(top) if top != "__main__" else None
    if spec is None or spec.origin is None:
        folders = ", ".join(str(root.resolve()) for root in roots)
        raise LossAtlasError(
            f"{where}: no module {module!r} for {import_path!r} in {folders} (python_path) "
            "nor among the installed packages"
        )
    text = Path(spec.origin).read_bytes() if os.path.isfile(spec.origin) else spec.origin.encode()  # one is built in
    return hashlib.sha256(text).hexdigest()[:16]
