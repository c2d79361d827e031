"""From what the user wrote to a checked config in which nothing is left open."""

import copy
import re
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lossatlas.config import frameworks, models, references
from lossatlas.config.messages import explain
from lossatlas.config.models import Config, DirectionsBase, Run
from lossatlas.config.sizes import check_sizes
from lossatlas.config.value_checks import check_folder, check_values
from lossatlas.errors import LossAtlasError


def resolve(given: dict) -> dict:
    """Return the config as dicts, with all defaults filled in.

    Raises:
        LossAtlasError: a key is unknown, a value has a wrong type or range, or two keys contradict each
            other. The message names the key, the value and what would be right; each mistake has a line.
    """
    return load(given).plain()


def load(given: dict) -> Config:
    """Return the config, checked.

    Raises:
        LossAtlasError: as for ``resolve``.
    """
    given = copy.deepcopy(dict(given))
    check_values(given)
    runs, shared = given.get("runs"), given.get("defaults", {})
    if isinstance(shared, dict):
        _make(Run, shared, "config", "defaults", partial=True)
    if not isinstance(runs, dict):
        return _make(Config, given, "config")
    try:
        return _checked(
            {**given, "runs": {name: _of_run(shared, {} if run is None else run) for name, run in runs.items()}}
        )
    except LossAtlasError as error:
        lines = (_at_origin(line, runs, shared) for line in str(error).split("\n"))
        raise LossAtlasError("\n".join(dict.fromkeys(lines))) from error


def check(values: dict, definition: str, where: str) -> Any:
    """Check values against one of the models: ``plane``, ``directions``, ``spectra``.

    Returns:
        The model, with the defaults filled in.

    Raises:
        LossAtlasError: a value has a wrong type or range; the message begins with ``where``.
    """
    return _make(getattr(models, definition.title().replace("_", "")), _plain(values), where)


def _plain(value: Any) -> Any:
    """Return numbers of NumPy as Python's, in dicts and lists too."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value


def schema() -> dict:
    """Return the JSON schema of the config, made from the models."""
    return Config.model_json_schema()


def _make(kind: Any, values: Any, prefix: str, top: str = "", partial: bool = False) -> Any:
    """Make a model; None where keys that may be missing (``partial``) are."""
    try:
        return (kind.model_validate if hasattr(kind, "model_validate") else TypeAdapter(kind).validate_python)(values)
    except ValidationError as error:
        if mistakes := explain(error, values, top, partial):
            raise LossAtlasError("\n".join(f"{prefix}: {mistake}" for mistake in mistakes)) from None
    return None


def _checked(given: dict) -> Config:
    """Return a config whose runs hold the shared keys already."""
    config = _make(Config, given, "config")
    for key in ("results", "data_root"):
        check_folder(getattr(config, key), f"config: {key}")
    mistakes = []
    for name, run in config.runs.items():
        try:
            frameworks.check(f"config: runs.{name}", run)
            references.check(f"config: runs.{name}", name, run, config)
        except LossAtlasError as error:
            mistakes.append(str(error))
    if mistakes:
        raise LossAtlasError("\n".join(mistakes))
    references.check_kinds(config.runs)
    check_sizes(config)
    return config


def _at_origin(message: str, runs: dict, shared: Any) -> str:
    """Return a message that names a key under ``defaults`` where the run itself does not give it."""
    found = re.match(r"config: runs\.([^.:]+)\.([^: ]+): ", message)
    if found and not _holds(runs.get(found[1]), found[2]) and _holds(shared, found[2]):
        return f"config: defaults.{message[found.start(2) :]}"
    return message


def _holds(value: Any, path: str) -> bool:
    """Return whether a dict holds a key such as ``planes.p.points.0``."""
    for part in path.split("."):
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            return False
    return True


def _of_run(shared: Any, own: Any) -> Any:
    """Return a run's keys with the shared ones, but for those of directions whose kind is another one here."""
    merged = _merge(shared, own)
    kinds = {model.label().removeprefix("kind: "): model.fields() for model in DirectionsBase.__subclasses__()}
    sets = own.get("directions") if isinstance(own, dict) else None
    for name, chosen in sets.items() if isinstance(sets, dict) else ():
        if isinstance(chosen, dict) and "kind" in chosen:
            mixed, fitting = merged["directions"][name], {*kinds.get(str(chosen["kind"]), {})}
            if chosen["kind"] == "gradient" and "samples" not in mixed:
                fitting -= {"count", "seed"}  # of batches, which there are none of
            foreign = {key for fields in kinds.values() for key in fields} - fitting - chosen.keys()
            merged["directions"][name] = {key: value for key, value in mixed.items() if key not in foreign}
    return merged


def _merge(base: Any, over: Any) -> Any:
    """Merge two nested dicts; ``over`` wins. A choice in ``over`` drops the rival choice in ``base``."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return copy.deepcopy(over)
    rivals = [("name", "import"), ("train", "checkpoints"), ("import", "name"), ("checkpoints", "train")]
    dropped = {theirs for ours, theirs in rivals if ours in over and theirs not in over}
    if dropped & {"name", "import"}:
        dropped.add("kwargs")  # of the builder that is dropped
    merged = {k: copy.deepcopy(v) for k, v in base.items() if k not in dropped}
    return merged | {k: _merge(merged.get(k), v) for k, v in over.items()}
