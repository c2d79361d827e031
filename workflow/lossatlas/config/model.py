"""What all models of the config share: strict types, keys that may be left out, texts of the keys."""

import ast
import difflib
import inspect
import textwrap
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WrapValidator, model_validator
from pydantic.fields import FieldInfo

T = TypeVar("T")

FORMS: dict[str, str] = {}
"""Patterns of text and what they mean in words."""


class Mistake(ValueError):
    """A value that its type allows and that is wrong all the same; ``key`` is the one of a model to blame."""

    def __init__(self, text: str, key: str = ""):
        super().__init__(text)
        self.key = key


class Conflict(Mistake):
    """Keys of one model that do not go together, or one that is missing."""


class Model(BaseModel):
    """Keys of the config. A trailing underscore of a Python name (``from_``) is not part of the key.

    The text below a key is its entry in config/README.md and in the schema.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        defer_build=True,
        alias_generator=lambda name: name.rstrip("_"),
    )

    CHOSEN_BY: ClassVar[tuple[str, ...]] = ()
    """Keys by which one of the models is chosen that have this one as their base."""

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """Return the fields by key, as the config spells these."""
        return {str(field.alias): field for field in cls.model_fields.values()}

    def plain(self, *without: str) -> dict[str, Any]:
        """Return the keys as the config spells them; those that are left out, and fields ``without``, are not there."""
        return self.model_dump(by_alias=True, exclude={*without})

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, given: Any) -> Any:
        """Refuse unknown keys, empty values, and single values where there are lists or mappings, with a hint."""
        known = cls.fields()
        for key, value in given.items() if isinstance(given, dict) else ():
            if key not in known:
                raise Mistake(*cls._unknown(key))
            if value is None and known[key].exclude_if:
                nested = any(
                    isinstance(one, type) and issubclass(one, Model) for one in get_args(known[key].annotation)
                )
                give = "write {} for all defaults" if nested else "give one"
                raise Mistake(f"None is no value; {give}, or leave the key out", key)
            shape = (known[key].examples or [known[key].get_default(call_default_factory=True)])[0]
            if shape and isinstance(shape, list | dict) and not isinstance(value, type(shape)):
                kind = "array" if isinstance(shape, list) else "object"
                raise Mistake(f"{value!r} is not of type {kind}, such as {shape}", key)
        return given

    @classmethod
    def _unknown(cls, key: str) -> tuple[str, str]:
        """Return what there is to say of a key that is none, and where."""
        owners = [one.label() for base in cls.__mro__ for one in _alternatives(base) if key in one.fields()]
        if owners:
            shared = f" or {cls.label().partition(' ')[0]} "
            return f"belongs to {' or '.join(owners).replace(shared, ' or ')}; leave it out with {cls.label()}", key
        near = nearest(key, sorted(cls.fields()), 0.5)
        hint = f"did you mean {near!r}?" if near else "known keys: " + ", ".join(sorted(cls.fields()))
        return f"unknown key {key!r}; {hint}", ""

    @classmethod
    def label(cls) -> str:
        """Return what chooses this model among its alternatives, such as ``kind: pca``; only these have one."""
        key = next(key for key in cls.CHOSEN_BY if key in cls.fields())
        values = get_args(cls.fields()[key].annotation)
        return f"{key}: {values[0]}" if get_origin(cls.fields()[key].annotation) is Literal else repr(key)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict:
        schema = handler.resolve_ref_schema(handler(core_schema))
        for key, rules in schema["properties"].items():
            rules["description"] = cls.meanings().get(key, "")
            if cls.fields()[key].exclude_if:  # None stands for a key that is not there, which no schema needs to say
                rules |= next(rule for rule in rules.pop("anyOf") if rule != {"type": "null"})
                del rules["default"]
        return schema

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """Return the texts of the keys, those of the class itself before those of its bases."""
        texts = [_texts(one) for one in cls.__mro__ if issubclass(one, Model)]
        known = cls.fields()
        return {key: next(text[key] for text in texts if key in text) for text in texts for key in text if key in known}


def _alternatives(base: Any) -> list[type[Model]]:
    return base.__subclasses__() if vars(base).get("CHOSEN_BY") else []


def nearest(word: str, known: list[str], cutoff: float = 0.6) -> str | None:
    """Return what was probably meant: the same in another case, or something like it."""
    same = [other for other in known if other.lower() == word.lower()]
    return next(iter(same or difflib.get_close_matches(word, known, n=1, cutoff=cutoff)), None)


@cache
def _texts(model: type[Model]) -> dict[str, str]:
    """Return the texts below the keys of one class, read from its source; at import it would take 60 ms."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    return {
        ast.unparse(key.target).rstrip("_"): " ".join(str(text.value.value).split())
        for key, text in pairwise(getattr(tree, "body", []))
        if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def left_out(**rules: Any) -> Any:
    """Return the field of a key without a default: None where it is left out, and then in no dict either."""
    return Field(None, exclude_if=lambda value: value is None, **rules)


def form(pattern: str, meaning: str, **rules: Any) -> Any:
    """Return the field of text of a form, which ``meaning`` says in words."""
    FORMS[f"^{pattern}$"] = meaning
    return Field(pattern=f"^{pattern}$", **rules)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_given(value: Any, check: Callable) -> Any:
    check(value)
    return value


def _ordered(interval: list[float]) -> list[float]:
    if not interval[0] < interval[1]:
        raise Mistake(f"{interval} is not [smaller, larger]")
    return interval


def ascending(values: list) -> list:
    """Refuse numbers that do not ascend."""
    if any(one >= other for one, other in pairwise(values)):
        raise Mistake(f"{values} do not ascend")
    return values


def _distinct(values: list) -> list:
    if len({*values}) < len(values):
        raise Mistake(f"{values} holds an entry twice; keep one")
    return values


def _check_case(named: dict) -> dict:
    before: dict[str, str] = {}
    for name in named:
        if (other := before.setdefault(name.lower(), name)) != name:
            both = f"{other!r} and {name!r} differ only in case"
            raise Mistake(f"{both}, and are one file on some file systems; rename one")
    return named


Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number; 10.0 is one."""

Number = Annotated[float, WrapValidator(_as_given)]
"""A number, as it is given: 2 stays an integer, so that fingerprints do not depend on where a default stands."""

Pair = Annotated[list[T], Field(min_length=2, max_length=2)]
Interval = Annotated[Pair[Number], Field(examples=[[-1, 1]]), AfterValidator(_ordered)]
Distinct = Annotated[list[T], AfterValidator(_distinct)]
Name = Annotated[str, form("[A-Za-z0-9][A-Za-z0-9_-]*", "letters, digits, _ and -, a letter or a digit first")]
Named = Annotated[dict[Name, T], AfterValidator(_check_case)]
"""What has names of the user's choice, which become names of files."""

ImportPath = Annotated[
    str, form("[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*", "an import path is written as `module:function`")
]
