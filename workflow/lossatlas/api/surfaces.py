"""The loss on planes and curves through a model at hand."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import xarray as xr

from lossatlas import config
from lossatlas.api.inputs import backend_of, computed, problems_of, recorded
from lossatlas.config import models
from lossatlas.data import Subset
from lossatlas.drivers.landscape import Landscape
from lossatlas.drivers.line_scans import Along, Between, Course, LineScan, random_guess
from lossatlas.drivers.second_order import check as check_second_order
from lossatlas.errors import LossAtlasError
from lossatlas.geometry import directions as direction_sets
from lossatlas.geometry.directions import pca, random
from lossatlas.geometry.directions.direction_set import Axes, DirectionSet
from lossatlas.geometry.directions.eigen import eigen
from lossatlas.geometry.directions.gradient import gradient
from lossatlas.geometry.directions.unnormalized import RawDirections, Source
from lossatlas.io.trajectory import Trajectory
from lossatlas.problem import Problem
from lossatlas.results import Plane, Result

EVALUATION = models.Evaluation()
PLANE, CURVE = models.Plane(x="a/1", y="a/2"), models.CurveAlong(x="a")
RANDOM, PCA, EIGEN = models.Random(kind="random"), models.PCA(kind="pca"), models.Eigen(kind="eigen")
"""The config's defaults, which hold here too."""


def plane(
    model: Any,
    loss: Any,
    data: Any,
    directions: str | Sequence[Any] = "random",
    *,
    near: float | None = None,
    path: Sequence[Any] = (),
    test: Any = None,
    metrics: dict[str, Callable] | None = None,
    points: Sequence[int] = tuple(PLANE.points),
    tolerance: float | None = None,
    range: Sequence[Sequence[float]] | None = None,
    border: float = PLANE.border,
    normalize: str | None = None,
    ignore: Sequence[str] | None = None,
    orthogonalize: bool = PLANE.orthogonalize,
    seed: int = RANDOM.seed,
    batch_size: int = EVALUATION.batch_size,
    dtype: str | None = None,
    strategy: str = PLANE.strategy,
    precision: str = PLANE.precision,
    batchnorm: str = PLANE.batchnorm,
    vectors: bool = False,
) -> Plane:
    """Return the loss on a plane through the model's present parameters, with the path projected onto it.

    Its dataset is that of ``landscape/<name>.zarr`` in the workflow, and what is known of eigenvectors.

    Args:
        model, loss, data, dtype: as for ``hessian``. ``test`` is a second set of samples.
        directions: ``"random"``; ``"eigen"``, of the largest eigenvalues or those nearest to ``near``; ``"pca"``, of
            ``path``; or two vectors (N,), dicts of tensors by name, or modules (their parameters minus the model's).
        path: as for ``track``; of a recorder's file the last iteration is the plane's centre.
        metrics: your own by name: functions (outputs, targets) -> mean over the batch or one value per sample.
        points: along x and y; ``tolerance`` makes their grid adaptive. With strategy and precision as in the config.
        batchnorm: ``"frozen"``, the model's running statistics everywhere; ``"recompute"``, those of each point.
        range: ((x from, x to), (y from, y to)) in multiples of the directions; left out the path's extent plus
            ``border`` times it on each side, or [-1, 1] for random directions or without a path.
        normalize, ignore: as in the config (``none``, ``model``, ``layer``, ``filter``; ``bias``, ``norm``). Left out
            random directions are filter-normalised without biases and norm parameters, all others are kept.
        orthogonalize: make the second direction orthogonal to the first, unscaled.
        vectors: also hold the directions, ``direction(axis, parameter)``, each as large as the model.

    Raises:
        LossAtlasError: as for ``hessian``, or the two directions span no plane.
    """
    drawn = isinstance(directions, str) and directions == "random"
    spec = {"points": _listed(points), "border": border, "center": "last", "orthogonalize": orthogonalize}
    spec |= {"strategy": strategy, "precision": precision, "batchnorm": batchnorm, **_grid(tolerance)}
    spec |= _intervals(range or ([(-1, 1)] * 2 if drawn else None))
    choices = _normalization(drawn, seed, normalize, ignore)
    config.check({"x": "a/1", "y": "a/2", **spec}, "plane", "plane")
    choices |= _check_directions(directions, {"kind": "random", **choices, "count": 1}, near, "plane")
    backend = backend_of(model)
    with tempfile.TemporaryDirectory() as folder, backend.own_modes():
        network, problems, subsets = problems_of(backend, model, loss, data, test, batch_size, dtype, metrics, "plane")
        trajectory = recorded(backend, Path(folder), model, path, network)
        raw = _raw(backend, directions, choices, trajectory, problems["train"], network, 2)
        return Plane(_evaluate_plane(Path(folder), spec, raw, choices, trajectory, (problems, subsets), vectors))


def curve(
    model: Any,
    loss: Any,
    data: Any,
    directions: str | Sequence[Any] | None = None,
    *,
    near: float | None = None,
    to: Any = None,
    count: int = 1,
    test: Any = None,
    metrics: dict[str, Callable] | None = None,
    points: int = CURVE.points,
    range: Sequence[float] | None = None,
    normalize: str | None = None,
    ignore: Sequence[str] | None = None,
    seed: int = RANDOM.seed,
    batch_size: int = EVALUATION.batch_size,
    dtype: str | None = None,
    strategy: str = CURVE.strategy,
    precision: str = CURVE.precision,
    batchnorm: str | None = None,
    vectors: bool = False,
    second_order: Sequence[float] = (),
) -> Result:
    """Return the loss on straight lines through the model's present parameters.

    Its dataset is that of ``curves/<name>.zarr`` in the workflow: ``loss(curve, split, alpha)``, and for each curve
    stationary points, barrier, monotonicity and minimum; besides, what is known of eigenvectors.

    Args:
        model, loss, data, test, metrics, batch_size, dtype, strategy, precision: as for ``plane``.
        directions: ``"random"``, the default without ``to``; ``"eigen"``; ``"gradient"``, the negative gradient; or
            directions as for ``plane``, any number. ``count`` is that of random ones and eigenvectors.
        to: another model or its weights, in place of ``directions``, ``count``, ``normalize`` and ``ignore``: the
            curve leads from the model (alpha = 0) to this one (1).
        points, range: equally spaced, with 0, and 1 with ``to``, added; else [-1, 1], and [-0.5, 1.5] with ``to``.
        near, normalize, ignore, seed, vectors, batchnorm: as for ``plane``; with ``to`` it is "interpolate" by default.
        second_order: positions at which ``slope`` and ``curvature`` are computed; BatchNorm must be frozen.

    Raises:
        LossAtlasError: as for ``hessian``; or model and ``to`` are one point or differ in their parameters.
    """
    if to is not None and (directions is not None or count != 1 or normalize is not None or ignore is not None):
        raise LossAtlasError("curve: 'directions', 'count', 'normalize' and 'ignore' belong to curves without 'to'")
    drawn = directions is None or (isinstance(directions, str) and directions == "random")
    directions = "random" if drawn else directions
    how: dict[str, Any] = {"points": points, "strategy": strategy, "precision": precision}
    how |= {"second_order": {"at": at}} if (at := _listed(second_order)) != [] else {}
    spec = _course(to is not None, _listed(range), batchnorm, **how)
    choices = _normalization(drawn, seed, normalize, ignore)
    choices |= _check_directions(directions, {"kind": "random", **choices, "count": count}, near, "curve")
    backend = backend_of(model)
    with tempfile.TemporaryDirectory() as folder, backend.own_modes():
        network, problems, subsets = problems_of(backend, model, loss, data, test, batch_size, dtype, metrics, "curve")
        trajectory = recorded(backend, Path(folder), model, [] if to is None else [to], network, "to")
        at = trajectory, problems["train"], network, count
        raw = _raw(backend, directions, choices, *at) if to is None else None
        course, added = _curves(spec, raw, choices, trajectory, vectors)
        about = problems, subsets, _random_guess(backend, loss, subsets["train"], problems["train"])
        return Result(computed(LineScan({"curve": spec}, course, *about), Path(folder)).assign(added), "curves")


def _check_directions(directions: Any, choices: dict, near: float | None, where: str) -> dict:
    """Return the value whose nearest eigenvalues are asked for as a choice of directions; check that and the others."""
    config.check(choices, "directions", where)
    if choices["count"] != 1 and not (isinstance(directions, str) and directions in ("random", "eigen")):
        raise LossAtlasError(f"{where}: count: {choices['count']} is for random directions and eigenvectors")
    if near is None:
        return {}
    if not (isinstance(directions, str) and directions == "eigen"):
        raise LossAtlasError(f"{where}: near: {near} belongs to directions 'eigen'")
    config.check({"kind": "eigen", "near": near}, "directions", where)
    return {"near": near}


def _random_guess(backend: ModuleType, loss: Any, subset: Subset, problem: Problem) -> float | None:
    name = "cross-entropy" if backend.is_cross_entropy(backend.as_loss(loss)) else ""
    return random_guess({"name": name}, subset.samples.targets, problem.class_count)


def _course(between: bool, range: Any, batchnorm: str | None, **choices: Any) -> dict:
    """Return the choices of a curve, checked, with the defaults of its kind."""
    choices |= {key: value for key, value in (("range", range), ("batchnorm", batchnorm)) if value is not None}
    ends = {"to": {"iteration": "first"}} if between else {"x": "a"}
    return config.check({**choices, **ends}, "curve", "curve").model_dump(include={"range", "batchnorm", *choices})


def _curves(
    spec: dict, raw: RawDirections | None, choices: dict, trajectory: Trajectory, vectors: bool
) -> tuple[Course, dict]:
    """Return the curves along directions, without any the one between two checkpoints, and what is told besides."""
    course: Course
    added: dict[str, Any] = {}
    if raw is None:
        course = _between(spec, trajectory)
    else:
        course, added = _along(spec, direction_sets.complete(raw, choices, trajectory), trajectory, vectors)
    check_second_order(spec, course.moves and trajectory.buffers(0).size > 0, "curve")
    return course, added


def _along(spec: dict, chosen: DirectionSet, trajectory: Trajectory, vectors: bool) -> tuple[Along, dict]:
    """Return the curves along directions through the model, and what the dataset says of these besides."""
    axes = Axes(chosen.used, chosen.raw.labels, chosen.variance_share, {})
    course = Along({**spec, "center": "last"}, axes, trajectory)
    course.attributes["center"] = "the model"
    added = {"direction": (("curve", "parameter"), chosen.used)} if vectors else {}
    return course, added | {name: ("curve", values) for name, values in chosen.raw.values.items()}


def _between(spec: dict, trajectory: Trajectory) -> Between:
    """Return the curve from the model, the last checkpoint, to the first."""
    ends = {"from": "last", "to": {"iteration": "first"}}
    course = Between({**spec, **ends}, trajectory, {}, "curve")
    course.labels = ["the model to the other one"]
    course.attributes |= {"from": "the model", "to": "the other one"}
    return course


def _raw(
    backend: ModuleType, chosen: Any, choices: dict, trajectory: Trajectory, problem: Problem, network: Any, count: int
) -> RawDirections:
    """Make ``count`` directions of a kind, or read those that are given."""
    last, seed = len(trajectory) - 1, choices["seed"]
    if not isinstance(chosen, str) and hasattr(chosen, "__iter__"):
        vectors = [backend.as_direction(network, one, f"directions[{k}]") for k, one in enumerate(chosen)]
        if not vectors:
            raise LossAtlasError("directions: none were given")
        return RawDirections(np.stack(vectors), [f"direction {k + 1}" for k in range(len(vectors))])
    if chosen == "random":
        return random.make({"count": count, "seed": seed}, Source(trajectory, last))
    if chosen == "pca":
        if last < 3:
            raise LossAtlasError(f"directions: 'pca' needs a path of at least 3 earlier checkpoints, got {last}")
        return pca.make({**PCA.model_dump(), "count": count, "seed": seed}, Source(trajectory, last))
    if chosen == "eigen":
        search = EIGEN.model_dump(include={"smallest", "tolerance", "max_products", "memory_gb"})
        wanted = {"near": choices["near"], "count": count} if "near" in choices else {"largest": count}
        return eigen(problem, trajectory, last, {**search, **wanted, "seed": seed})
    if chosen == "gradient":
        return gradient({"negative gradient": problem}, trajectory, last, {})
    raise LossAtlasError(f"directions: {chosen!r} is not one of random, pca, eigen, gradient, nor a list of directions")


def _evaluate_plane(
    folder: Path,
    spec: dict,
    raw: RawDirections,
    choices: dict,
    trajectory: Trajectory,
    on: tuple[dict, dict],
    vectors: bool,
) -> xr.Dataset:
    """Evaluate all points of a plane; ``on`` are problems and subsets."""
    chosen = direction_sets.complete(raw, choices, trajectory)
    if len(chosen.used) != 2:
        raise LossAtlasError(f"directions: {len(chosen.used)} were given; a plane needs two")
    direction_sets.check_independent(chosen.used, chosen.raw.labels)
    axes = Axes(chosen.used, chosen.raw.labels, chosen.variance_share, {})
    if spec["orthogonalize"]:
        axes = direction_sets.orthogonalize(axes, trajectory)
    dataset = computed(Landscape({"plane": spec}, axes, trajectory, *on), folder)
    if vectors:
        dataset["direction"] = (("axis", "parameter"), axes.vectors)
    losses = trajectory.store["batch_loss"][: len(trajectory)]
    if np.isfinite(losses).any():  # a recorder has seen them
        dataset["batch_loss"] = ("iteration", losses)
    return dataset.assign({name: ("axis", values) for name, values in chosen.raw.values.items()})


def _intervals(range: Sequence[Sequence[float]] | None) -> dict:
    if range is None:
        return {}
    if not isinstance(range, Sequence | np.ndarray) or len(range) != 2:
        raise LossAtlasError(f"plane: range: {range!r} is not ((x from, x to), (y from, y to))")
    return {"range": dict(zip(("x", "y"), map(_listed, range), strict=True))}


def _listed(value: Any) -> Any:
    """Return a sequence as a list, and anything else as it is, for the check to refuse."""
    return list(value) if isinstance(value, Sequence | np.ndarray) else value


def _grid(tolerance: float | None) -> dict:
    return {} if tolerance is None else {"grid": {"mode": "adaptive", "tolerance": tolerance}}


def _normalization(drawn: bool, seed: int, normalize: str | None, ignore: Sequence[str] | None) -> dict:
    """Return a set of directions' choices; ``drawn`` are random ones, whose defaults differ."""
    usual = RANDOM if drawn else EIGEN
    dropped = usual.ignore if ignore is None else list(ignore)
    return {"center": "last", "seed": seed, "normalize": normalize or usual.normalize, "ignore": dropped}
