"""Mistakes in a config in one line: the key, the value, and what would be right."""

import math
import re
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lossatlas.config.model import FORMS, Conflict, nearest

TYPES = {
    "int_type": "integer",
    "float_type": "number",
    "bool_type": "boolean",
    "string_type": "string",
    "list_type": "array",
    "dict_type": "object",
    "model_type": "object",
    "model_attributes_type": "object",
}
"""Types by pydantic's errors, in words of JSON."""

BOUNDS = {
    "greater_than": ("gt", "is less than or equal to the minimum of"),
    "greater_than_equal": ("ge", "is less than the minimum of"),
    "less_than": ("lt", "is greater than or equal to the maximum of"),
    "less_than_equal": ("le", "is greater than the maximum of"),
    "too_short": ("min_length", "has fewer entries than"),
    "too_long": ("max_length", "has more entries than"),
}
"""What is compared with by pydantic's errors, and in words."""


def explain(error: ValidationError, given: Any, top: str = "", partial: bool = False) -> list[str]:
    """Return the mistakes, a line each; of alternatives that all fail, the one that lies on the highest level.

    Args:
        given: what was to be made into a model.
        top: where ``given`` itself is.
        partial: whether keys may be missing; nothing is returned where nothing else is wrong.
    """
    errors = [one for one in error.errors(include_url=False) if not (partial and _incomplete(one))]
    groups: dict[tuple, list] = {}
    for one in errors:
        path, alternative = _path(one, given)
        groups.setdefault(path if alternative is None else alternative[0], []).append((path, alternative, one))
    lines = []
    for group in groups.values():
        if len({alternative for _, alternative, _ in group}) > 1:
            # The one that fits best counts, whose mistakes lie deeper.
            group = [one for one in group if not any(_above(one[0], deeper) for deeper, *_ in group)]
            highest = min((path for path, *_ in group), key=len)
            group = [one for one in group if one[0] == highest]
        for path in dict.fromkeys(path for path, *_ in group):
            shown, text = _mistake([one for other, _, one in group if other == path], path)
            lines.append(f"{'.'.join(map(str, ([top] if top else []) + list(shown))) or 'top level'}: {text}")
    return list(dict.fromkeys(lines))


def _path(error: ErrorDetails, given: Any) -> tuple[tuple, tuple[tuple, Any] | None]:
    """Return where an error lies, without the names of alternatives that pydantic puts in between.

    Besides, where the innermost alternatives stood, and which of them it was; None where there were none.
    """
    path: list[Any] = []
    value: Any = given
    alternative: tuple[tuple, Any] | None = None
    part: Any
    for number, part in enumerate(error["loc"]):
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            value = value[part]
        elif error["type"] != "missing" or number < len(error["loc"]) - 1:
            if part != "[key]":
                alternative = tuple(path), part
            continue
        path.append(part)
    return tuple(path), alternative


def _incomplete(error: ErrorDetails) -> bool:
    """Return whether keys that are still to come may mend an error."""
    conflict = isinstance(error.get("ctx", {}).get("error"), Conflict)
    return conflict or error["type"] in ("missing", "union_tag_not_found", "either")


def _above(path: tuple, other: tuple) -> bool:
    return len(path) < len(other) and other[: len(path)] == path


def _mistake(errors: list[ErrorDetails], path: tuple) -> tuple[tuple, str]:
    """Return where a mistake is to be shown, and what it is; ``errors`` are those of all alternatives at one place."""
    error, kind, value, about = errors[0], errors[0]["type"], errors[0]["input"], errors[0].get("ctx", {})
    if len(errors) > 1:
        return path, f"{value!r} does not fit: {' or '.join(map(_alternative, errors))}"
    if kind == "value_error":
        key = getattr(about["error"], "key", "")
        return (*path, key) if key else path, str(about["error"])
    if kind == "missing":
        chosen = value.get("kind")
        return path[
            :-1
        ], f"kind {chosen!r} needs the key {path[-1]!r}" if chosen else f"the key {path[-1]!r} is missing"
    if kind == "either":
        return path, f"{error['msg']}, not {'several' if about['keys'] & value.keys() else 'none'}"
    if kind == "union_tag_not_found":
        return path, f"the key {about['discriminator']} is missing"
    if kind == "union_tag_invalid":
        key = about["discriminator"].strip("'()")
        return (*path, key), _not_one_of(value[key], _quoted(about["expected_tags"]))
    if kind == "string_pattern_mismatch":
        shown = path[:-1] if error["loc"][-1] == "[key]" else path
        return shown, f"{value!r} does not have the right form: {FORMS[about['pattern']]}"
    if kind == "literal_error":
        return path, _not_one_of(value, _quoted(about["expected"]))
    if kind in BOUNDS:
        bound, words = BOUNDS[kind]
        return path, f"{value!r} {words} {about[bound]:.12g}"
    if kind == "finite_number":
        return path, f"{value} is no finite number"
    if kind == "float_type" and _is_number(value):
        return path, f"{value!r} is text to YAML; write it with a point, such as 1.0e-2 or 0.01"
    return path, f"{value!r} is not of type {TYPES[kind]}" if kind in TYPES else error["msg"]


def _alternative(error: ErrorDetails) -> str:
    if error["type"] == "literal_error":
        return ", ".join(_quoted(error["ctx"]["expected"]))
    if error["type"] == "string_pattern_mismatch":
        return FORMS[error["ctx"]["pattern"]]
    if error["type"] == "too_short":
        return f"a list of at least {error['ctx']['min_length']}"
    return f"type {TYPES[error['type']]}" if error["type"] in TYPES else f"at least {error['ctx']['ge']}"


def _not_one_of(value: Any, known: list[str]) -> str:
    near = nearest(str(value), known)
    return f"{value!r} is not one of {', '.join(known)}" + (f"; did you mean {near!r}?" if near else "")


def _quoted(text: str) -> list[str]:
    return re.findall("'([^']*)'", text)


def _is_number(text: Any) -> bool:
    try:
        return isinstance(text, str) and math.isfinite(float(text))
    except ValueError:
        return False
