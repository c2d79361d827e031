"""The config's keys with type, default and meaning, from the models: the rows of config/README.md."""

from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic_core import to_jsonable_python

from lossatlas.config.model import Model
from lossatlas.config.models import Config, ImageFolderKwargs, NetworkKwargs

Row = tuple[str, str, str, str]
JSON_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string", NoneType: "null", Any: "anything"}

BUILT_IN = {"model.kwargs": NetworkKwargs, "data.kwargs": ImageFolderKwargs}
"""Models of keys that take other things too."""


def document() -> Iterator[Row]:
    """Yield (key, type, default, description) of every key, in the order of the models."""
    yield from _rows("", [Config])


def _rows(prefix: str, models: list[type[Model]]) -> Iterator[Row]:
    """Yield the rows of a model, or of alternatives together."""
    for key in dict.fromkeys(key for model in models for key in model.meanings()):
        homes = {model: model.fields()[key] for model in models if key in model.fields()}
        kinds = dict.fromkeys(map(_type_of, homes.values()))
        defaults = {_default(field) for field in homes.values()} - {""}
        text = next(iter(homes)).meanings()[key]
        if len(homes) < len(models):
            labels = [f"`{model.label().rpartition(': ')[2]}`".replace("'", "") for model in homes]
            text = f"{' and '.join(filter(None, [', '.join(labels[:-1]), labels[-1]]))}: {text}"
        yield f"{prefix}{key}", " | ".join(kinds), defaults.pop() if len(defaults) == 1 else "", text
        yield from _below(f"{prefix}{key}", next(iter(homes.values())).annotation)


def _below(path: str, kind: Any) -> Iterator[Row]:
    """Yield the rows of what lies below a key."""
    kind = BUILT_IN.get(".".join(path.split(".")[-2:]), kind)
    if get_origin(kind) in (dict, list):
        yield from _below(f"{path}.<name>" if get_origin(kind) is dict else f"{path}[]", get_args(kind)[-1])
    else:
        yield from _rows(f"{path}.", _models(kind))


def _models(kind: Any) -> list[type[Model]]:
    """Return the models that a type is, one or all alternatives."""
    if isinstance(kind, type):
        return [kind] if issubclass(kind, Model) else []
    return [model for one in get_args(kind) for model in _models(one)]


def _type_of(field: Any) -> str:
    name = type_name(field.annotation)
    return name.removesuffix(" | null") if field.exclude_if else name


def _default(field: Any) -> str:
    if field.is_required() or field.exclude_if:
        return ""
    default = field.get_default(call_default_factory=True)
    plain = {} if isinstance(default, Model) else to_jsonable_python(default)
    return yaml.safe_dump(plain, default_flow_style=True).split("\n...")[0].strip()


def type_name(kind: Any) -> str:
    """Return a type in words of JSON."""
    parts = get_args(kind)
    origin = get_origin(kind)
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin is Annotated:
        return type_name(parts[0])
    if origin is list:
        return f"list of {type_name(parts[0])}"
    if origin is dict or _models(kind):
        return "object"
    return " | ".join(dict.fromkeys(map(type_name, parts))) if parts else JSON_TYPES[kind]
