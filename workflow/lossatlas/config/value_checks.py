"""What a config may be made of, whatever its keys mean: text for names, finite numbers, paths that can be handed on."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lossatlas.errors import LossAtlasError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The faster one, where it is there."""

LONGEST_NAME = 100
"""Characters of a name; file names of 255 hold it together with what stands around it."""

LARGEST = 2**63
"""Whole numbers must be below; frameworks and stores hold 64 bits."""

DEEPEST = 50
"""Levels of keys; an alias that holds itself has no end."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


def check_values(config: Any, where: str = "config") -> None:
    """Refuse what no key takes: names that are no text, dates, NaN and inf, numbers beyond 64 bits, lines in names.

    Raises:
        LossAtlasError: names the first such value.
    """
    for path, value in walk(config):
        shown = f"{where}: {'.'.join(map(str, path)) or 'top level'}"
        if isinstance(value, float) and not math.isfinite(value):
            raise LossAtlasError(f"{shown}: {value} is no finite number")
        if isinstance(value, int) and abs(value) >= LARGEST:
            raise LossAtlasError(f"{shown}: a whole number of {len(str(abs(value)))} digits is beyond 64 bits")
        if not isinstance(value, dict | list | str | int | float | None):
            raise LossAtlasError(
                f"{shown}: {str(value)!r} is a {type(value).__name__} to YAML; put it into quotes if text is meant"
            )
        for name in value if isinstance(value, dict) else ():
            _check_name(shown, name)
        if isinstance(value, str) and _CONTROL.search(value) and not any("kwargs" in str(part) for part in path):
            raise LossAtlasError(f"{shown}: {value!r} holds a control character")


def walk(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Yield (path, value) of a value and of all that lies in it.

    Raises:
        LossAtlasError: it is nested too deeply.
    """
    if len(path) > DEEPEST:
        raise LossAtlasError(f"config: {'.'.join(map(str, path[:3]))}: nested deeper than {DEEPEST} levels (an alias?)")
    yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from walk(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from walk(item, (*path, number))


def _check_name(where: str, name: Any) -> None:
    if not isinstance(name, str):
        kind = "empty" if name is None else f"of type {type(name).__name__}"
        raise LossAtlasError(f"{where}: the name {name} is {kind} to YAML; put it into quotes, as you mean it")
    if _CONTROL.search(name):
        raise LossAtlasError(f"{where}: the name {name!r} holds a control character")
    if not name:
        raise LossAtlasError(f"{where}: a name is empty")
    if len(name) > LONGEST_NAME:
        raise LossAtlasError(f"{where}: the name {name[:20]!r}... has {len(name)} characters; at most {LONGEST_NAME}")


def check_folder(path: str, where: str) -> None:
    """Refuse a folder whose name Snakemake cannot take, or that is a file.

    Raises:
        LossAtlasError: ``where`` names the config key.
    """
    if not path.strip():
        raise LossAtlasError(f"{where}: {path!r} names no folder")
    found = _CONTROL.search(path) or re.search("[{}]", path)
    if found:
        raise LossAtlasError(f"{where}: {path!r} holds {found[0]!r}, which Snakemake cannot take in a path")
    if long := [part for part in Path(path).parts if len(os.fsencode(part)) > 255]:
        raise LossAtlasError(f"{where}: {long[0][:20]!r}... is longer than a file's name may be, 255 bytes")
    for part in map(str, (Path(path), *Path(path).parents)):
        if os.path.exists(part) and not os.path.isdir(part):
            raise LossAtlasError(f"{where}: {path!r} cannot be a folder; {part!r} is a file")


def check_submitted(path: str) -> None:
    """Refuse a path that means something else between double quotes of a shell.

    Raises:
        LossAtlasError: names the path and the character.
    """
    if found := re.search(r'[$`"\\]', path):
        raise LossAtlasError(
            f"{path!r} holds {found[0]!r}, with which no job can be submitted to a scheduler; rename it"
        )


def plain_path(path: str) -> str:
    """Return a path in one spelling, which no program takes for an option."""
    path = os.path.normpath(path)
    return os.path.abspath(path) if path.startswith("-") else path


def check_file(file: str | Path) -> None:
    """Refuse a config file that gives a key twice; the later one would win without a word.

    Raises:
        LossAtlasError: names file, lines and key.
    """
    try:
        with open(file, encoding="utf-8") as text:
            root = yaml.compose(text, Loader=LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return  # Snakemake, which has read it as JSON or says why it cannot, knows better
    queue, seen = [(root, "")], set()
    while queue:
        node, path = queue.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            queue += _check_mapping(node, path, file)
        elif isinstance(node, yaml.SequenceNode):
            queue += [(item, f"{path}.{number}") for number, item in enumerate(node.value)]


def _check_mapping(node: yaml.MappingNode, path: str, file: str | Path) -> list[tuple[yaml.Node, str]]:
    """Return the values of a mapping with their paths."""
    before: dict[tuple[str, str], yaml.Node] = {}
    for key, _ in node.value:
        other = before.setdefault((key.tag, str(key.value)), key)
        if other is not key:
            lines = " and ".join(str(one.start_mark.line + 1) for one in (other, key))
            shown = f"{path}.{key.value}".removeprefix(".")
            raise LossAtlasError(f"config: {shown}: given twice in {file}, lines {lines}; keep one")
    return [(value, f"{path}.{getattr(key, 'value', '?')}") for key, value in node.value]
