"""The config: defaults filled in, every mistake named in one line. Knows no framework and no file format of ours."""

import copy
import difflib
import math
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from lossatlas.config import imports
from lossatlas.config.sizes import check_sizes
from lossatlas.config.value_checks import LOADER, check_case, check_finite, check_folder, check_values
from lossatlas.errors import LossAtlasError

SCHEMA_FILE = Path(__file__).with_name("schema.yaml")


@cache
def schema() -> dict:
    """Return the schema of the config."""
    return yaml.load(SCHEMA_FILE.read_text(encoding="utf-8"), Loader=LOADER)


def resolve(config: dict) -> dict:
    """Return the config with all defaults filled in.

    Raises:
        LossAtlasError: a key is unknown, a value has a wrong type or range, or two keys contradict each
            other. The message names the key, the value and what would be right.
    """
    config = copy.deepcopy(dict(config))
    if config.get("fresh") in ("true", "false"):  # `--config fresh=true` arrives as text
        config["fresh"] = config["fresh"] == "true"
    check_values(config)
    _validate({**config, "runs": {}} if isinstance(config.get("runs"), dict) else config, minimum_runs=0)
    runs, shared = config.get("runs") or {}, config.pop("defaults", {})
    _validate_defaults(shared)
    config["runs"] = {name: _merge(shared, {} if run is None else run) for name, run in runs.items()}
    try:
        _resolve(config, runs)
    except LossAtlasError as error:
        raise LossAtlasError(_at_origin(str(error), runs, shared)) from error
    return config


def _resolve(config: dict, given: dict) -> None:
    """Fill and check a config whose runs hold the shared keys beside the ``given`` ones."""
    _validate(config)
    for name, run in config["runs"].items():
        _drop_foreign(run.get("directions", {}), (given[name] or {}).get("directions", {}))
    _check_kinds(config["runs"])
    _fill(config, schema())
    config.pop("defaults")
    for key in ("results", "data_root"):
        check_folder(config[key], f"config: {key}")
    for name, run in config["runs"].items():
        _check_run(f"runs.{name}", run, config)
    _check_names(config["runs"])
    check_sizes(config)


def _at_origin(message: str, runs: dict, shared: dict) -> str:
    """Return a message that names a key under ``defaults`` where the run itself does not give it."""
    found = re.match(r"config: runs\.([^.:]+)\.([^: ]+): ", message)
    if found and not _holds(runs[found[1]], found[2]) and _holds(shared, found[2]):
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


def check(values: dict, definition: str, where: str) -> None:
    """Check values against one definition of the schema: ``plane``, ``directions``, ``spectra``.

    Raises:
        LossAtlasError: a value has a wrong type or range; the message begins with ``where``.
    """
    rules = schema()["$defs"]
    found = rules.get(definition) or rules["run"]["properties"][definition]
    check_finite(values, where)
    errors = list(Draft202012Validator({**found, "$defs": rules}).iter_errors(values))
    if errors:
        raise LossAtlasError(f"{where}: {_explain(errors[0])}")


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


def _drop_foreign(directions: dict, own: dict) -> None:
    """Drop what shared directions hand to those of another kind that a run sets itself."""
    for name, chosen in own.items():
        for key in [key for key in directions[name] if key not in chosen and "kind" in chosen]:
            if _foreign(key, directions[name]):
                del directions[name][key]
        if chosen.get("kind") == "gradient" and "samples" not in directions[name]:
            for key in {"count", "seed"} - chosen.keys():  # of batches, which there are none of
                directions[name].pop(key, None)


def _foreign(key: str, directions: dict) -> list[str]:
    """Return the kinds that a key of directions belongs to, nothing where it belongs to theirs."""
    kinds = schema()["$defs"]["directions"]["properties"].get(key, {}).get("kinds", [])
    return [] if directions.get("kind") in kinds else kinds


def _check_kinds(runs: dict) -> None:
    """Refuse keys of directions that belong to another kind; they could not take effect."""
    for run, settings in runs.items():
        for name, directions in settings.get("directions", {}).items():
            where = f"config: runs.{run}.directions.{name}"
            for key in directions:
                if kinds := _foreign(key, directions):
                    known = " or ".join(kinds)
                    raise LossAtlasError(
                        f"{where}.{key}: belongs to kind: {known}; leave it out with kind: {directions['kind']}"
                    )
                if key in ("count", "seed") and directions["kind"] == "gradient" and "samples" not in directions:
                    raise LossAtlasError(f"{where}.{key}: needs 'samples'; the gradient over all samples is one")


def _validate_defaults(shared: dict) -> None:
    """Check the shared keys on their own; a run may complete what is missing."""
    rules = schema()["$defs"]
    errors = list(Draft202012Validator({**_optional(rules["run"]), "$defs": _optional(rules)}).iter_errors(shared))
    if errors:
        raise LossAtlasError("config: " + _explain(min(errors, key=lambda e: len(e.absolute_path)), "defaults"))


def _optional(rules: Any) -> Any:
    """Return rules by which no key is required."""
    if isinstance(rules, list):
        return [_optional(rule) for rule in rules]
    if not isinstance(rules, dict):
        return rules
    return {key: rule if key == "if" else _optional(rule) for key, rule in rules.items() if key != "required"}


def _validate(config: dict, minimum_runs: int = 1) -> None:
    rules = schema() if minimum_runs else _without_minimum(schema())
    errors = sorted(Draft202012Validator(rules).iter_errors(config), key=lambda e: len(e.absolute_path))
    if errors:
        raise LossAtlasError("config: " + _explain(errors[0]))


def _without_minimum(rules: dict) -> dict:
    rules = copy.deepcopy(rules)
    del rules["properties"]["runs"]["minProperties"]
    return rules


def _explain(error, top: str = "") -> str:
    where = ".".join(str(part) for part in (*([top] if top else []), *error.absolute_path)) or "top level"
    known = sorted(error.schema.get("properties", {}))
    if error.validator == "additionalProperties":
        unknown = sorted(set(error.instance) - set(known))[0]
        near = _nearest(unknown, known, 0.5)
        hint = f"did you mean {near!r}?" if near else "known keys: " + ", ".join(known)
        return f"{where}: unknown key {unknown!r}; {hint}"
    if error.validator == "enum":
        near = _nearest(str(error.instance), [str(value) for value in error.validator_value])
        hint = f"; did you mean {near!r}?" if near else ""
        return f"{where}: {error.instance!r} is not one of {', '.join(map(str, error.validator_value))}{hint}"
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return f"{where}: the key {missing[0]!r} is missing"
    if error.validator == "type" and error.validator_value == "number" and _is_number(error.instance):
        return f"{where}: {error.instance!r} is text to YAML; write it with a point, such as 1.0e-2 or 0.01"
    if error.validator == "type":
        form = error.schema.get("examples", [error.schema.get("default")])[0]
        hint = f", such as {form}" if form and error.validator_value in ("array", "object") else ""
        return f"{where}: {error.instance!r} is not of type {error.validator_value}{hint}"
    if error.validator == "anyOf":
        return f"{where}: {error.instance!r} does not fit: {_alternatives(error.validator_value)}"
    if error.validator == "pattern":
        meaning = error.schema.get("description", error.validator_value)
        return f"{where}: {error.instance!r} does not have the right form: {meaning}"
    return f"{where}: {error.message}"


def _nearest(word: str, known: list[str], cutoff: float = 0.6) -> str | None:
    """Return what was probably meant: the same in another case, or something like it."""
    same = [other for other in known if other.lower() == word.lower()]
    return next(iter(same or difflib.get_close_matches(word, known, n=1, cutoff=cutoff)), None)


def _is_number(text: Any) -> bool:
    try:
        return isinstance(text, str) and math.isfinite(float(text))
    except ValueError:
        return False


def _alternatives(options: list[dict]) -> str:
    texts = [", ".join(map(str, o["enum"])) if "enum" in o else f"type {o.get('type')}" for o in options]
    return " or ".join(texts)


def _fill(value: Any, rules: dict) -> None:
    """Fill the defaults of ``rules`` into ``value``, in place and recursively; 10.0 becomes 10 for integers."""
    rules = _deref(rules)
    if isinstance(value, list) and "items" in rules:
        for number, item in enumerate(value):
            value[number] = _whole(item, rules["items"])
            _fill(value[number], rules["items"])
    if not isinstance(value, dict):
        return
    named = rules.get("then", {}).get("properties", {}) if "name" in value else {}
    for key, sub in rules.get("properties", {}).items():
        sub = {**_deref(sub), **sub}
        if key not in value and "default" in sub and value.get("kind") in sub.get("kinds", [value.get("kind")]):
            value[key] = copy.deepcopy(sub["default"])
        if key in value:
            value[key] = _whole(value[key], sub)
            _fill(value[key], sub)
            _fill(value[key], named.get(key, {}))
    extra = rules.get("additionalProperties")
    if isinstance(extra, dict):
        for key in value.keys() - rules.get("properties", {}).keys():
            value[key] = _whole(value[key], extra)
            _fill(value[key], extra)


def _whole(value: Any, rules: dict) -> Any:
    """Return 10 for 10.0 where ``rules`` want an integer."""
    rules = _deref(rules)
    wanted = [_deref(option).get("type") for option in (rules, *rules.get("anyOf", []))]
    return int(value) if isinstance(value, float) and "integer" in wanted else value


def _deref(rules: dict) -> dict:
    while "$ref" in rules:
        rules = schema()["$defs"][rules["$ref"].rsplit("/", 1)[1]]
    return rules


NETWORK_KINDS = ("eigen", "gradient")
"""Kinds of directions that need the network itself; each has a rule of its own, as `pca` has."""


def _check_names(runs: dict) -> None:
    """Refuse a name that means another kind in another run when two rules would make it, and folders that are one."""
    check_case(runs, "config: runs")
    kinds: dict[str, str] = {}
    for run, settings in runs.items():
        for name, directions in settings["directions"].items():
            kind, before = directions["kind"], kinds.setdefault(name, directions["kind"])
            if kind != before and {kind, before} & {"pca", *NETWORK_KINDS}:
                raise LossAtlasError(
                    f"config: runs.{run}.directions.{name}: kind {kind!r} here and {before!r} in "
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
    _check_pretrained(where, run)
    _check_framework(where, run)
    check_metrics(run["metrics"], f"config: {where}.metrics")
    if "train" in run and "checkpoints" in run:
        raise LossAtlasError(f"config: {where}: give either 'train' or 'checkpoints', not both")
    if "checkpoints" not in run:
        _fill(run.setdefault("train", {}), schema()["$defs"]["run"]["properties"]["train"])
        _check_optimizer(f"config: {where}.train", run["train"], run["backend"])
    _check_pairs(f"{where}.tracking", run.get("tracking"))
    if "name" in run["data"] and run["data"]["kwargs"]:
        raise LossAtlasError(f"config: {where}.data.kwargs: built-in datasets take none; they belong to 'import'")
    for kind in ("directions", "planes", "curves", "spectra_between"):
        check_case(run[kind], f"config: {where}.{kind}")
    check_case(run.get("spectra", {}).get("variants", {}), f"config: {where}.spectra.variants")
    for name, directions in run["directions"].items():
        _check_directions(f"{where}.directions.{name}", directions, config)
    for name, plane in run["planes"].items():
        _check_plane(f"{where}.planes.{name}", plane, run["directions"])
        _check_paths(f"{where}.planes.{name}.paths", plane, where.split(".", 1)[1], config)
    for name, curve in run["curves"].items():
        _check_curve(f"{where}.curves.{name}", curve, where.split(".", 1)[1], run["directions"], config)
    for name, line in run["spectra_between"].items():
        _check_line(f"{where}.spectra_between.{name}", line, where.split(".", 1)[1], config)


TAKEN = re.compile(
    "loss|accuracy|loss_standard_error|work|x|y|alpha|split|iteration|curve|evaluated|error|logarithmic|minimum.*"
    "|stationary.*|barrier.*|monotonicity|clipped_variances|(path|other|subset)_.*|direction.*|eigenvalue|residual"
    "|converged|row|angle|variance_share|distance"
)
"""Names of the arrays in stores of planes and curves, which a metric of the user's must not have."""


def check_metrics(names: Iterable[str], where: str) -> None:
    """Check the names of the user's own metrics, which become names of arrays.

    Raises:
        LossAtlasError: a name is none in lower case, or is that of another array.
    """
    for name in names:
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise LossAtlasError(f"{where}: {name!r} must be of lower-case letters, digits and _, a letter first")
        if TAKEN.fullmatch(name):
            raise LossAtlasError(f"{where}: {name!r} is an array of the stores already; choose another name")


SCHEDULES_OF_BOTH = ("StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR")
"""Schedules of PyTorch that runs with TensorFlow know too."""

OPTIMIZERS = {
    "torch": {
        "home": "torch.optim",
        "base": "Optimizer",
        "unfit": ("LBFGS", "SparseAdam"),
        "passed": ("self", "params", "lr"),
        "aliases": {},
    },
    "tensorflow": {
        "home": "keras.optimizers",
        "base": "Optimizer",
        "unfit": ("LossScaleOptimizer", "MultiOptimizer", "OptimizerMap"),
        "passed": ("learning_rate",),
        "aliases": {"betas": ("beta_1", "beta_2"), "eps": ("epsilon",), "alpha": ("rho",), "weight_decay": ()},
    },
}
"""Where optimisers are, which of them cannot train here, what we pass ourselves, and PyTorch's names of Keras's."""

SCHEDULES = {
    "torch": {
        "home": "torch.optim.lr_scheduler",
        "base": "LRScheduler",
        "unfit": (
            "_LRScheduler",
            "ReduceLROnPlateau",
            "LambdaLR",
            "MultiplicativeLR",
            "SequentialLR",
            "ChainedScheduler",
        ),
        "passed": ("optimizer",),
    },
    "tensorflow": {
        "home": "keras.optimizers.schedules",
        "base": "LearningRateSchedule",
        "unfit": (),
        "passed": ("initial_learning_rate",),
    },
}
"""The same of schedules; those that watch the loss or take functions or other schedules do not fit."""


def _check_optimizer(where: str, train: dict, backend: str) -> None:
    """Refuse optimisers and schedules, and arguments of theirs, that the framework lacks, before a job finds out."""
    has, given = OPTIMIZERS[backend], list(train["optimizer_kwargs"])
    for rate in {"lr", "learning_rate"} & {*given}:
        raise LossAtlasError(f"{where}.optimizer_kwargs.{rate}: give the learning rate as train.learning_rate")
    for alias in [key for key in given if key in has["aliases"]]:
        given.remove(alias)
        given += has["aliases"][alias]
    _check_class(f"{where}.optimizer", train["optimizer"], has)
    closed = backend == "tensorflow"  # Keras's optimisers refuse what their **kwargs take
    imports.check_call(has["home"], train["optimizer"], given, has["passed"], f"{where}.optimizer_kwargs", closed)
    name = train.get("schedule", {}).get("name")
    if name is not None and (backend == "torch" or name not in SCHEDULES_OF_BOTH):
        has = SCHEDULES[backend]
        _check_class(f"{where}.schedule.name", name, has)
        passed = has["passed"] if name != "PiecewiseConstantDecay" else ()
        imports.check_call(has["home"], name, train["schedule"]["kwargs"], passed, f"{where}.schedule.kwargs")


def _check_class(where: str, name: str, has: dict) -> None:
    imports.check_installed(has["home"], name, where)
    if name in has["unfit"] or not imports.is_kind_of(has["home"], name, has["base"]):
        raise LossAtlasError(f"{where}: {name!r} of {has['home']} cannot be used here; choose another one")


def _check_pretrained(where: str, run: dict) -> None:
    if "pretrained" not in run["model"]:
        return
    if run["model"].get("name") != "mobilenet-v2":
        raise LossAtlasError(f"config: {where}.model.pretrained: there are published weights of 'mobilenet-v2' only")
    if "checkpoints" in run:
        raise LossAtlasError(f"config: {where}.model.pretrained: 'checkpoints' hold all weights; leave it out")


BY_FRAMEWORK = {
    "torch": {
        "products": ("split", "retained", "rebuild"),
        "points": ("eager", "folded", "first-layer", "compiled", "vmapped"),
        "precision": ("full", "bfloat16"),
        "model": None,
    },
    "tensorflow": {
        "products": ("nested", "forward"),
        "points": ("graph",),
        "precision": ("full",),
        "model": (
            *("lenet", "mlp", "vgg9", "vgg11"),
            *(f"resnet{depth}{kind}" for depth in (20, 32, 56, 110) for kind in ("", "-noshort")),
        ),
    },
}
"""What the frameworks offer of strategies, precisions and built-in networks (None: all)."""


def _check_framework(where: str, run: dict) -> None:
    """Refuse what the run's framework does not have."""
    has = BY_FRAMEWORK[run["backend"]]
    asked = [("model.name", run["model"].get("name"), has["model"])]
    for kind in ("spectra", "tracking"):
        asked.append((f"{kind}.strategy", run.get(kind, {}).get("strategy"), has["products"]))
    for name, variant in run.get("spectra", {}).get("variants", {}).items():
        asked.append((f"spectra.variants.{name}.strategy", variant.get("strategy"), has["products"]))
    for kind in ("directions", "spectra_between"):
        for name, chosen in run[kind].items():
            asked.append((f"{kind}.{name}.strategy", chosen.get("strategy"), has["products"]))
    for name, plane in run["planes"].items():
        asked.append((f"planes.{name}.strategy", plane.get("strategy"), has["points"]))
        asked.append((f"planes.{name}.precision", plane.get("precision"), has["precision"]))
        strategy = plane.get("curvature", {}).get("strategy")
        asked.append((f"planes.{name}.curvature.strategy", strategy, has["products"]))
    for name, curve in run["curves"].items():
        asked.append((f"curves.{name}.strategy", curve.get("strategy"), has["points"]))
        asked.append((f"curves.{name}.precision", curve.get("precision"), has["precision"]))
    for key, value, known in asked:
        if value not in (None, "auto") and known is not None and value not in known:
            raise LossAtlasError(
                f"config: {where}.{key}: {value!r} is not there with backend: {run['backend']}; choose one of "
                f"{', '.join(known)}"
            )


def _check_directions(where: str, directions: dict, config: dict) -> None:
    kind = directions["kind"]
    unbent = kind in ("difference", *NETWORK_KINDS)
    if kind == "gradient" and "samples" not in directions:
        directions.pop("count"), directions.pop("seed")
    directions.setdefault("normalize", "none" if unbent else "filter")
    directions.setdefault("ignore", [] if unbent else ["bias", "norm"])
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
        _check_axis(f"{where}.{axis}", plane[axis], directions)
    _check_grid(f"{where}.grid", plane["grid"])
    if plane["x"] == plane["y"]:
        raise LossAtlasError(f"config: {where}: x and y are both {plane['x']!r}; a plane needs two directions")
    if plane["strategy"] == "eager" and plane["precision"] != "full":
        raise LossAtlasError(
            f"config: {where}.precision: {plane['precision']!r} needs another strategy than 'eager'; leave it out"
        )
    _check_batchnorm(where, plane, directions)
    for axis, interval in plane.get("range", {}).items():
        _check_interval(f"{where}.range.{axis}", interval)


def _check_batchnorm(where: str, plane: dict, directions: dict) -> None:
    policy = plane["batchnorm"]
    if policy != "frozen":
        check_plain(plane, f"config: {where}")
    for axis in ("x", "y") if policy == "interpolate" else ():
        name, _ = split_axis(plane[axis])
        as_made = directions[name]["normalize"] == "none" and not directions[name]["ignore"]
        if directions[name]["kind"] != "difference" or not as_made or plane["orthogonalize"]:
            raise LossAtlasError(
                f"config: {where}.batchnorm: 'interpolate' needs axes of kind 'difference' with normalize: none, "
                f"ignore: [] and orthogonalize: false; {name!r} on {axis} is not such a one"
            )


def _check_axis(where: str, axis: str, directions: dict) -> None:
    name, number = split_axis(axis)
    if name not in directions:
        near = difflib.get_close_matches(name, directions, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"directions: {', '.join(directions) or 'none'}"
        raise LossAtlasError(f"config: {where}: no directions {name!r} in this run; {hint}")
    available = count(directions[name])
    if None not in (available, number) and number >= available:
        raise LossAtlasError(f"config: {where}: {axis!r}, but {name!r} has only {available} direction(s)")


def _check_interval(where: str, interval: list) -> None:
    if not interval[0] < interval[1]:
        raise LossAtlasError(f"config: {where}: {interval} is not [smaller, larger]")


def check_plain(spec: dict, where: str) -> None:
    """Refuse strategies and precisions of points that need running statistics that are the same at all of them."""
    for key, plain in (("strategy", ("auto", "eager")), ("precision", ("full",))):
        if spec.get(key, plain[0]) not in plain:
            raise LossAtlasError(f"{where}.{key}: {spec[key]!r} needs batchnorm: frozen; leave it out")


def _check_curve(where: str, curve: dict, name: str, directions: dict, config: dict) -> None:
    """Fill what depends on the kind of a curve, and check it."""
    if ("x" in curve) == ("to" in curve):
        raise LossAtlasError(
            f"config: {where}: give either 'x' (along directions) or 'to' (between two checkpoints), "
            f"not {'both' if 'x' in curve else 'none'}"
        )
    kind, other = ("x", "to") if "x" in curve else ("to", "x")
    keys = {
        "x": {"center": "last", "range": [-1, 1], "batchnorm": "frozen"},
        "to": {"from": "last", "range": [-0.5, 1.5], "batchnorm": "interpolate"},
    }
    if kind == "x" and curve.get("batchnorm") == "interpolate":
        raise LossAtlasError(
            f"config: {where}.batchnorm: 'interpolate' needs a checkpoint at either end, which curves with 'to' have; "
            "choose 'frozen' or 'recompute'"
        )
    for key in (keys[other].keys() - keys[kind].keys()) & curve.keys():
        raise LossAtlasError(f"config: {where}.{key}: belongs to {other!r}; a curve with {kind!r} has none")
    for key, value in keys[kind].items():
        curve.setdefault(key, value)
    if curve["batchnorm"] != "frozen":
        check_plain(curve, f"config: {where}")
    for key, interval in {"range": curve["range"], **{f"view.{k}": i for k, i in curve["view"].items()}}.items():
        _check_interval(f"{where}.{key}", interval)
    for end in (0, 1) if kind == "to" else (0,):
        if not curve["range"][0] <= end <= curve["range"][1]:
            raise LossAtlasError(f"config: {where}.range: {curve['range']} must hold {end}")
    if kind == "to":
        _check_line(where, curve, name, config)
    for axis in axes_of(curve):
        _check_axis(f"{where}.x", axis, directions)


def axes_of(curve: dict) -> list[str]:
    """Return the directions of a curve as a list, nothing between checkpoints."""
    x = curve.get("x", [])
    return [x] if isinstance(x, str) else x


def _check_grid(where: str, grid: dict) -> None:
    if grid["mode"] == "adaptive":
        grid.setdefault("tolerance", 0.01)
        grid.setdefault("scale", "auto")
    elif extra := sorted(grid.keys() - {"mode"}):
        raise LossAtlasError(f"config: {where}.{extra[0]}: only an adaptive grid has it; set mode: adaptive")


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
    if directions["kind"] == "gradient" and "samples" not in directions:
        return 1
    return len(directions["to"]) if directions["kind"] == "difference" else directions["count"]


def split_axis(axis: str) -> tuple[str, int | None]:
    """Split ``pca/2`` into the name of the set and the index counted from 0; ``pca`` has no index."""
    name, _, number = axis.partition("/")
    return name, int(number) - 1 if number else None


def document() -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, type, default, description) of every key, in the schema's order."""
    yield from _document("", schema())


def _document(prefix: str, rules: dict) -> Iterator[tuple[str, str, str, str]]:
    named = rules.get("then", {}).get("properties", {})  # what holds of built-in choices only
    for key, sub in rules.get("properties", {}).items():
        full = {**_deref(sub), **_deref(named.get(key, {})), **sub}
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
