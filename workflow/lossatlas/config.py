"""The config: defaults filled in, every mistake named in one line. Knows no framework and no file format of ours."""

import copy
import difflib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from lossatlas.errors import LossAtlasError

SCHEMA_FILE = Path(__file__).parents[1] / "schemas" / "config.schema.yaml"


@cache
def schema() -> dict:
    """Return the schema of the config."""
    return yaml.safe_load(SCHEMA_FILE.read_text())


def resolve(config: dict) -> dict:
    """Return the config with all defaults filled in.

    Raises:
        LossAtlasError: a key is unknown, a value has a wrong type or range, or two keys contradict each
            other. The message names the key, the value and what would be right.
    """
    config = copy.deepcopy(dict(config))
    if config.get("fresh") in ("true", "false"):  # `--config fresh=true` arrives as text
        config["fresh"] = config["fresh"] == "true"
    _validate({**config, "runs": {}} if isinstance(config.get("runs"), dict) else config, minimum_runs=0)
    runs = config.get("runs") or {}
    shared = config.get("defaults", {})
    config["runs"] = {name: _merge(shared, run or {}) for name, run in runs.items()}
    _validate(config)
    _fill(config, schema())
    for name, run in config["runs"].items():
        _check_run(f"runs.{name}", run, config)
    _check_names(config["runs"])
    config.pop("defaults")
    return config


def check(values: dict, definition: str, where: str) -> None:
    """Check values against one definition of the schema: ``plane``, ``directions``, ``spectra``.

    Raises:
        LossAtlasError: a value has a wrong type or range; the message begins with ``where``.
    """
    rules = schema()["$defs"]
    found = rules.get(definition) or rules["run"]["properties"][definition]
    errors = list(Draft202012Validator({**found, "$defs": rules}).iter_errors(values))
    if errors:
        raise LossAtlasError(f"{where}: {_explain(errors[0])}")


def _merge(base: Any, over: Any) -> Any:
    """Merge two nested dicts; ``over`` wins. A choice in ``over`` drops the rival choice in ``base``."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return copy.deepcopy(over)
    rivals = [("name", "import"), ("train", "checkpoints"), ("import", "name"), ("checkpoints", "train")]
    dropped = {theirs for ours, theirs in rivals if ours in over and theirs not in over}
    merged = {k: copy.deepcopy(v) for k, v in base.items() if k not in dropped}
    return merged | {k: _merge(merged.get(k), v) for k, v in over.items()}


def _validate(config: dict, minimum_runs: int = 1) -> None:
    rules = schema() if minimum_runs else _without_minimum(schema())
    errors = sorted(Draft202012Validator(rules).iter_errors(config), key=lambda e: len(e.absolute_path))
    if errors:
        raise LossAtlasError("config: " + _explain(errors[0]))


def _without_minimum(rules: dict) -> dict:
    rules = copy.deepcopy(rules)
    del rules["properties"]["runs"]["minProperties"]
    return rules


def _explain(error) -> str:
    where = ".".join(str(part) for part in error.absolute_path) or "top level"
    known = sorted(error.schema.get("properties", {}))
    if error.validator == "additionalProperties":
        unknown = sorted(set(error.instance) - set(known))[0]
        near = difflib.get_close_matches(unknown, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "known keys: " + ", ".join(known)
        return f"{where}: unknown key {unknown!r}; {hint}"
    if error.validator == "enum":
        near = difflib.get_close_matches(str(error.instance), map(str, error.validator_value), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{where}: {error.instance!r} is not one of {', '.join(map(str, error.validator_value))}{hint}"
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return f"{where}: the key {missing[0]!r} is missing"
    if error.validator == "type" and error.validator_value == "number" and _is_number(error.instance):
        return f"{where}: {error.instance!r} is text to YAML; write it with a point, such as 1.0e-2 or 0.01"
    if error.validator == "type":
        return f"{where}: {error.instance!r} is not of type {error.validator_value}"
    if error.validator == "anyOf":
        return f"{where}: {error.instance!r} does not fit: {_alternatives(error.validator_value)}"
    if error.validator == "pattern":
        meaning = error.schema.get("description", error.validator_value)
        return f"{where}: {error.instance!r} does not have the right form: {meaning}"
    return f"{where}: {error.message}"


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def _alternatives(options: list[dict]) -> str:
    texts = [", ".join(map(str, o["enum"])) if "enum" in o else f"type {o.get('type')}" for o in options]
    return " or ".join(texts)


def _fill(value: Any, rules: dict) -> None:
    """Fill the defaults of ``rules`` into ``value``, in place and recursively."""
    rules = _deref(rules)
    if not isinstance(value, dict):
        if isinstance(value, list) and "items" in rules:
            for item in value:
                _fill(item, rules["items"])
        return
    for key, sub in rules.get("properties", {}).items():
        sub = {**_deref(sub), **sub}
        if key not in value and "default" in sub:
            value[key] = copy.deepcopy(sub["default"])
        if key in value:
            _fill(value[key], sub)
    extra = rules.get("additionalProperties")
    if isinstance(extra, dict):
        for key in value.keys() - rules.get("properties", {}).keys():
            _fill(value[key], extra)


def _deref(rules: dict) -> dict:
    while "$ref" in rules:
        rules = schema()["$defs"][rules["$ref"].rsplit("/", 1)[1]]
    return rules


def rule_of(kind: str) -> str:
    """Return the workflow's rule that makes directions of a kind."""
    return kind if kind in ("eigen", "pca") else "directions"


def _check_names(runs: dict) -> None:
    """Refuse a name that means another kind in another run when two rules would make it."""
    kinds: dict[str, str] = {}
    for run, settings in runs.items():
        for name, directions in settings["directions"].items():
            before = kinds.setdefault(name, directions["kind"])
            if rule_of(before) != rule_of(directions["kind"]):
                raise LossAtlasError(
                    f"config: runs.{run}.directions.{name}: kind {directions['kind']!r} here and {before!r} in "
                    "another run; give one of them another name"
                )


def _check_run(where: str, run: dict, config: dict) -> None:
    """Check what a schema cannot say: choices, cross-references, contradictions."""
    for key, default in (("model", None), ("data", "fashion-mnist-mini"), ("loss", "cross-entropy")):
        chosen = [choice for choice in ("name", "import") if choice in run[key]]
        if len(chosen) == 2:
            raise LossAtlasError(f"config: {where}.{key}: give either 'name' or 'import', not both")
        if not chosen and default is None:
            raise LossAtlasError(f"config: {where}.{key}: give 'name' (built in) or 'import' (your own)")
        if not chosen:
            run[key]["name"] = default
    if "train" in run and "checkpoints" in run:
        raise LossAtlasError(f"config: {where}: give either 'train' or 'checkpoints', not both")
    if "checkpoints" not in run:
        _fill(run.setdefault("train", {}), schema()["$defs"]["run"]["properties"]["train"])
    _check_pairs(f"{where}.tracking", run.get("tracking"))
    for name, directions in run["directions"].items():
        _check_directions(f"{where}.directions.{name}", directions, config)
    for name, plane in run["planes"].items():
        _check_plane(f"{where}.planes.{name}", plane, run["directions"])
        _check_paths(f"{where}.planes.{name}.paths", plane, where.split(".", 1)[1], config)
    for name, line in run["spectra_between"].items():
        _check_line(f"{where}.spectra_between.{name}", line, where.split(".", 1)[1], config)


def _check_directions(where: str, directions: dict, config: dict) -> None:
    kind = directions["kind"]
    directions.setdefault("normalize", "none" if kind == "eigen" else "filter")
    directions.setdefault("ignore", [] if kind == "eigen" else ["bias", "norm"])
    needed = {"difference": "to", "file": "path"}.get(kind)
    if needed and needed not in directions:
        raise LossAtlasError(f"config: {where}: kind {kind!r} needs the key {needed!r}")
    if kind == "pca" and directions["solver"] == "incremental" and not directions["center_rows"]:
        raise LossAtlasError(
            f"config: {where}.solver: 'incremental' always centres; set center_rows: true or solver: gram"
        )
    if kind == "eigen":
        _check_pairs(where, directions)
    for i, end in enumerate(directions.get("to", [])):
        _check_point(f"{where}.to.{i}", end, config)


def _check_point(where: str, point: dict, config: dict) -> None:
    if "run" in point and point["run"] not in config["runs"]:
        known = ", ".join(config["runs"])
        raise LossAtlasError(f"config: {where}.run: no run {point['run']!r}; runs: {known}")


def _check_line(where: str, line: dict, name: str, config: dict) -> None:
    _check_point(f"{where}.to", line["to"], config)
    if line["to"].get("run", name) == name and line["to"]["iteration"] == line["from"]:
        raise LossAtlasError(
            f"config: {where}: 'from' and 'to' are both iteration {line['from']!r} of this run; "
            "a line needs two different checkpoints"
        )


def _check_pairs(where: str, search: dict | None) -> None:
    if search is None:
        return
    pairs, products = search["largest"] + search["smallest"], search["max_products"]
    if pairs == 0:
        raise LossAtlasError(f"config: {where}: largest and smallest are both 0; ask for at least one eigenvector")
    if products < pairs:
        raise LossAtlasError(f"config: {where}.max_products: {products} is less than largest + smallest, {pairs}")


def _check_plane(where: str, plane: dict, directions: dict) -> None:
    for axis in ("x", "y"):
        name, number = split_axis(plane[axis])
        if name not in directions:
            near = difflib.get_close_matches(name, directions, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"directions: {', '.join(directions) or 'none'}"
            raise LossAtlasError(f"config: {where}.{axis}: no directions {name!r} in this run; {hint}")
        available = count(directions[name])
        if available is not None and number >= available:
            raise LossAtlasError(
                f"config: {where}.{axis}: {plane[axis]!r}, but {name!r} has only {available} direction(s)"
            )
    if plane["x"] == plane["y"]:
        raise LossAtlasError(f"config: {where}: x and y are both {plane['x']!r}; a plane needs two directions")
    for axis, interval in plane.get("range", {}).items():
        if not interval[0] < interval[1]:
            raise LossAtlasError(f"config: {where}.range.{axis}: {interval} is not [smaller, larger]")


def _check_paths(where: str, plane: dict, name: str, config: dict) -> None:
    for other in plane.get("paths", []):
        if other == name:
            raise LossAtlasError(f"config: {where}: {name!r} is this run, whose path is there in any case")
        if other not in config["runs"]:
            known = ", ".join(run for run in config["runs"] if run != name) or "none"
            raise LossAtlasError(f"config: {where}: no run {other!r}; other runs: {known}")


def count(directions: dict) -> int | None:
    """Return how many directions a set will hold, None where only its file knows."""
    if directions["kind"] == "file":
        return None
    if directions["kind"] == "eigen":
        return directions["largest"] + directions["smallest"]
    return len(directions["to"]) if directions["kind"] == "difference" else directions["count"]


def split_axis(axis: str) -> tuple[str, int]:
    """Split ``pca/2`` into the name of the set and the index counted from 0."""
    name, number = axis.split("/")
    return name, int(number) - 1


def document() -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, type, default, description) of every key, in the schema's order."""
    yield from _document("", schema())


def _document(prefix: str, rules: dict) -> Iterator[tuple[str, str, str, str]]:
    for key, sub in rules.get("properties", {}).items():
        full = {**_deref(sub), **sub}
        path = f"{prefix}{key}"
        default = (
            yaml.safe_dump(full["default"], default_flow_style=True).split("\n...")[0].strip()
            if "default" in full
            else ""
        )
        yield path, _type_name(full), default, full.get("description", "")
        yield from _document(f"{path}.", full)
        extra = full.get("additionalProperties")
        if isinstance(extra, dict):
            yield from _document(f"{path}.<name>.", _deref(extra))
        if full.get("type") == "array" and "$ref" in full.get("items", {}):
            yield from _document(f"{path}[].", _deref(full["items"]))


def _type_name(rules: dict) -> str:
    if "enum" in rules:
        return " | ".join(map(str, rules["enum"]))
    if "anyOf" in rules:
        return " | ".join(_type_name(option) for option in rules["anyOf"])
    if rules.get("type") == "array" and "items" in rules:
        return f"list of {_type_name(_deref(rules['items']))}"
    return rules.get("type", "")
