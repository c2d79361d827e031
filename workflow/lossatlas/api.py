"""For notebooks: the Hessian, planes and curves of a PyTorch model at hand, without Snakemake, MPI or files.

The code underneath is that of the workflow, and so are the numbers. The model is copied, never changed.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.sparse.linalg import LinearOperator

from lossatlas import config
from lossatlas.backends import torch as backend
from lossatlas.config import models
from lossatlas.data import Split, Subset, read
from lossatlas.drivers import own_metrics
from lossatlas.drivers.base import Job, Order
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
from lossatlas.io import store
from lossatlas.io.trajectory import RowWriter, Trajectory
from lossatlas.krylov import (
    Eigenpairs,
    NearestPairs,
    Spectrum,
    eigenpairs,
    nearest_eigenpairs,
    probe_vectors,
    quadrature_runs,
)
from lossatlas.krylov.eigenpairs import check_count
from lossatlas.krylov.lanczos import check_steps
from lossatlas.parallel import Timing, World
from lossatlas.parallel.progress import Progress
from lossatlas.problem import Problem
from lossatlas.problem.readiness import choose_products

ENDS = {"LA": "largest", "SA": "smallest", "BE": "both ends, the larger half at the top", "LM": "largest magnitude"}

MATRIX, EVALUATION = models.Matrix(), models.Evaluation()
PLANE, CURVE = models.Plane(x="a/1", y="a/2"), models.CurveAlong(x="a")
RANDOM, PCA, EIGEN = models.Random(kind="random"), models.PCA(kind="pca"), models.Eigen(kind="eigen")
"""The config's defaults, which hold here too."""


def hessian(
    model: Any,
    loss: Any,
    data: Any,
    *,
    operator: str = MATRIX.operator,
    parameters: Sequence[str] = tuple(MATRIX.parameters),
    batch_size: int = MATRIX.batch_size,
    batchnorm: str = MATRIX.batchnorm,
    dtype: str | None = None,
    memory_gb: float = MATRIX.memory_gb,
    strategy: str = MATRIX.strategy,
) -> "Hessian":
    """Return the Hessian of the mean loss over ``data`` at the model's present parameters.

    Args:
        model: a ``torch.nn.Module``. It is copied and evaluated in inference mode, dropout off. Parameters with
            ``requires_grad=False`` are constants.
        loss: a function (outputs, targets) -> mean over the batch, or one value per sample or position, averaged
            plainly (where targets are ignored zeros count); or ``"cross-entropy"`` or ``"mse"``. Of
            ``nn.CrossEntropyLoss`` and ``nn.NLLLoss`` weights and ignored targets count over all samples, as in one
            batch. Without weight decay: it may read no parameters.
        data: what ``lossatlas.sample`` returns or takes: a pair (inputs, targets) of arrays or tensors, a dict of
            these with ``labels``, batches of such, a map-style data set or a ``DataLoader``. All of it is read, once,
            and kept on the model's device.
        operator: ``"hessian"``; ``"ggn"``, its generalised Gauss-Newton part; or ``"residual"``, the rest.
        parameters: patterns of names (``"fc*"``) of the parameters that the matrix is restricted to.
        batch_size: samples per chunk; results agree to rounding for any value, unless ``batchnorm`` is ``"batch"``.
        batchnorm: ``"frozen"``, BatchNorm normalises by its running statistics; or ``"batch"``, by mean and variance
            over each chunk, through which derivatives pass, as in training. Running statistics are never changed.
        dtype: ``"float32"`` or ``"float64"`` for the products; left out it is the model's.
        memory_gb: what products may take: values kept between them, and what one works with.
        strategy: how products are computed. ``"split"`` multiplies blocks of vectors forward and keeps all that does
            not depend on them; ``"retained"`` keeps the gradient's graph; ``"rebuild"`` keeps nothing. ``"auto"``
            measures which is fastest here, so that results may differ by rounding from one machine to another.

    Raises:
        LossAtlasError: model, loss and data do not fit together, nothing requires a gradient, loss or gradient is
            NaN or infinite, the loss draws random numbers, or the gradient is not the derivative of the loss.
    """
    choices: dict[str, Any] = {"operator": operator, "parameters": list(parameters), "memory_gb": memory_gb}
    choices["strategy"] = strategy
    config.check({"batch_size": batch_size, "batchnorm": batchnorm, **choices}, "spectra", "hessian")
    with backend.own_modes():
        network = backend.FlatNetwork(model, backend.device_of(model, dtype))
        problem = backend.TorchProblem(network, backend.as_loss(loss), _split(data), batch_size, batchnorm)
        theta, buffers = network.parameters(), network.buffers()
        choice = choose_products(problem, (theta, buffers), 1, choices)
        choices["strategy"] = choice.strategy
        return Hessian(problem.linearize(theta, buffers, **choices), choice.agreement)


class Hessian:
    """A symmetric N x N matrix known by its products.

    ``layout`` says which parameter lies where in a vector, ``agreement`` how well products agreed with double backward
    and central differences when they were tried.
    """

    def __init__(self, operator: Any, agreement: dict[str, Any] | None):
        self._operator, self.agreement = operator, agreement
        self.layout, self.samples = operator.layout, operator.samples
        self.size, self.dtype, self.strategy = operator.size, operator.dtype, operator.strategy
        self.shape = (self.size, self.size)

    def __repr__(self) -> str:
        return f"<Hessian of {self.size:,} parameters, mean over {self.samples:,} samples, {self.dtype} products>"

    def __matmul__(self, other: np.ndarray) -> np.ndarray:
        """Return H times a vector (N,) or the columns of a matrix (N, k)."""
        return self.linear_operator() @ other

    def matvec(self, vector: np.ndarray) -> np.ndarray:
        """Return H v, float64, for ``vector`` of shape (N,)."""
        return self.matmat(np.asarray(vector).reshape(1, -1))[0]

    def matmat(self, vectors: np.ndarray) -> np.ndarray:
        """Return H v, float64, for every row of ``vectors`` (k, N)."""
        with backend.own_modes():
            return self._operator.matmat(vectors)

    def linear_operator(self) -> LinearOperator:
        """Return a view for SciPy, whose ``matmat`` takes vectors as columns."""
        return LinearOperator(
            self.shape, matvec=self.matvec, matmat=lambda columns: self.matmat(columns.T).T, dtype=np.float64
        )

    def eigenpairs(
        self,
        k: int = 1,
        which: str = "LA",
        tolerance: float = 1e-4,
        max_products: int = 1000,
        seed: int = 0,
        near: float | None = None,
    ) -> Eigenpairs:
        """Return ``k`` eigenpairs, as often as they are there, in descending order.

        The result has ``values`` (k,), unit ``vectors`` (k, N) as rows, true ``residuals`` ||Hy - lambda y|| (k,),
        flags ``converged`` (k,), and ``products``, the number of products used.

        Args:
            which: ``LA`` largest, ``SA`` smallest (most negative), ``BE`` both ends, ``LM`` largest magnitude.
            tolerance: residual ||Hy - lambda y|| relative to ||H|| at which a pair has converged.
            max_products: after which the search ends, converged or not.
            seed: of the starting vectors.
            near: in place of ``which``, the pairs of the eigenvalues nearest to this number, the nearest first. The
                result then says besides which are ``isolated`` from their neighbours by more than the residual,
                whether there is ``none_nearer`` by more than the tolerance, and ``norm``, ||H||.
        """
        if near is not None:
            return self._nearest(near, k, which, tolerance, max_products, seed)
        choices = {"largest": 1, "tolerance": tolerance, "max_products": max_products, "seed": seed}
        config.check(choices, "search", "eigenpairs")
        if which not in ENDS:
            known = ", ".join(f"{key} ({meaning})" for key, meaning in ENDS.items())
            raise LossAtlasError(f"which: {which!r} is not one of {known}")
        check_count(self.size, k)
        largest = {"LA": k, "SA": 0, "BE": -(-k // 2), "LM": min(k, self.size)}[which]
        smallest = {"LA": 0, "SA": k, "BE": k // 2, "LM": min(k, self.size - largest)}[which]
        watched = _Watched(self, "eigenpairs", max_products)
        pairs = eigenpairs(watched, largest, smallest, tolerance, max_products, seed)
        watched.progress.close(pairs.products)
        if which == "LM":
            chosen = np.sort(np.argsort(-np.abs(pairs.values), kind="stable")[:k])
            parts = {name: getattr(pairs, name)[chosen] for name in ("values", "vectors", "residuals", "converged")}
            pairs = replace(pairs, **parts)
        return pairs

    def _nearest(self, near: float, k: int, which: str, tolerance: float, max_products: int, seed: int) -> NearestPairs:
        if which != "LA":
            raise LossAtlasError(f"which: {which!r} is an end of the spectrum; leave it out with 'near'")
        choices = {"near": near, "tolerance": tolerance, "max_products": max_products, "seed": seed}
        config.check({"kind": "eigen", "count": 1, **choices}, "directions", "eigenpairs")
        watched = _Watched(self, "eigenpairs", max_products)
        pairs = nearest_eigenpairs(watched, near, k, tolerance, max_products, seed)
        watched.progress.close(pairs.products)
        return pairs

    def spectrum(
        self,
        probes: int = 10,
        steps: int | None = None,
        seed: int = 0,
        distribution: str = "gaussian",
        tolerance: float | None = None,
    ) -> Spectrum:
        """Return the stochastic Lanczos quadrature (GradVis Algorithm 2).

        The result has ``nodes`` and ``weights`` (probe, node) and methods with error bars: ``density``,
        ``distribution``, ``count``, ``moment``, ``trace``, ``effective_dimension``; ``outliers``, isolated eigenvalues
        whose weight is exactly 1 / N in all of these; and ``accuracy``, which says whether probes and steps suffice.

        Args:
            probes: random probe vectors (GradVis's k).
            steps: Lanczos steps per probe, with full reorthogonalisation (GradVis's m); left out 80, or N if that
                is less.
            seed: of the probes, which are the same for all matrices of one size.
            distribution: ``gaussian`` or ``rademacher`` entries, scaled to unit length.
            tolerance: Wasserstein-1 error of the density, relative to the largest magnitude of an eigenvalue, up to
                which probes and steps are added; ``probes`` and ``steps`` are then the most that may be used.
        """
        steps = min(80, self.size) if steps is None else steps
        choices = {"probes": probes, "steps": steps, "seed": seed, "distribution": distribution, "tolerance": tolerance}
        config.check(choices, "spectra", "spectrum")
        check_steps(self.size, steps, probes)
        watched = _Watched(self, "spectrum", probes * steps)
        vectors = partial(probe_vectors, self.size, seed=seed, distribution=distribution)
        runs = quadrature_runs(watched, vectors, range(probes), steps, tolerance)
        watched.progress.close()
        return Spectrum.of(runs, self.size)


class _Watched:
    """The operator with a progress bar."""

    def __init__(self, operator: Hessian, label: str, total: int):
        self.operator, self.size, self.dtype = operator, operator.size, operator.dtype
        self.progress, self._done = Progress(label, total, unit="products"), 0

    def matmat(self, vectors: np.ndarray) -> np.ndarray:
        products = self.operator.matmat(vectors)
        self._done += len(vectors)
        self.progress.update(self._done)
        return products


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
) -> xr.Dataset:
    """Return the loss on a plane through the model's present parameters, with the path projected onto it.

    The dataset is what ``landscape/<name>.zarr`` of the workflow holds, ``loss(split, y, x)`` and more; besides, the
    vectors ``direction(axis, parameter)``, and what is known of eigenvectors. ``lossatlas.render.figures`` draws it.

    Args:
        model, loss, data, dtype: as for ``hessian``.
        directions: ``"random"``; ``"eigen"``, of the largest eigenvalues or those nearest to ``near``; ``"pca"``, of
            ``path``; or two vectors (N,), dicts of tensors by name, or modules (their parameters minus the model's).
        path: earlier checkpoints, state dicts or modules, in order; the model itself is the last point.
        test: a second set of samples, as ``data``.
        metrics: your own by name: functions (outputs, targets) -> mean over the batch or one value per sample.
        points, strategy, precision: grid points along x and y, and how they are evaluated, as in the config.
        batchnorm: ``"frozen"``, the model's running statistics everywhere; ``"recompute"``, those of each point.
        tolerance: of an adaptive grid, as in the config; left out all points are evaluated.
        range: ((x from, x to), (y from, y to)) in multiples of the directions; left out the path's extent plus
            ``border`` times it on each side, or [-1, 1] for random directions or without a path.
        normalize, ignore: as in the config (``none``, ``model``, ``layer``, ``filter``; ``bias``, ``norm``). Left out
            random directions are filter-normalised without biases and norm parameters, all others are kept.
        orthogonalize: make the second direction orthogonal to the first, unscaled.

    Raises:
        LossAtlasError: as for ``hessian``, or the two directions span no plane.
    """
    drawn = isinstance(directions, str) and directions == "random"
    spec = {"points": _listed(points), "border": border, "center": "last", "orthogonalize": orthogonalize}
    spec |= {"strategy": strategy, "precision": precision, "batchnorm": batchnorm, **_grid(tolerance)}
    spec |= _intervals(range or ([(-1, 1)] * 2 if drawn else None))
    choices = _normalization(drawn, seed, normalize, ignore)
    config.check({"x": "a/1", "y": "a/2", **spec}, "plane", "plane")
    config.check({"kind": "random", **choices}, "directions", "plane")
    with tempfile.TemporaryDirectory() as folder, backend.own_modes():
        network, problems, subsets = _problems(model, loss, data, test, batch_size, dtype, metrics, "plane")
        trajectory = _record(Path(folder), model, list(path), network)
        raw = _raw(directions, choices | _near(directions, near, "plane"), trajectory, problems["train"], network, 2)
        return _evaluate_plane(Path(folder), spec, raw, choices, trajectory, problems, subsets)


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
    second_order: Sequence[float] = (),
) -> xr.Dataset:
    """Return the loss on straight lines through the model's present parameters.

    The dataset is what ``curves/<name>.zarr`` of the workflow holds: ``loss(curve, split, alpha)``, ``accuracy`` where
    targets are classes, and for each curve stationary points, barrier, monotonicity and minimum; besides, the vectors
    ``direction(curve, parameter)`` and for eigenvectors ``eigenvalue``, ``residual`` and ``converged``.
    ``render.figures.line_scans.curve_figure`` draws it.

    Args:
        model, loss, data, test, metrics, batch_size, dtype, strategy, precision: as for ``plane``.
        directions: ``"random"``, the default without ``to``; ``"eigen"``; ``"gradient"``, the negative gradient; or
            directions as for ``plane``, any number. ``count`` is that of random ones and eigenvectors.
        to: another model or its state dict, in place of ``directions``, ``count``, ``normalize`` and ``ignore``: the
            curve leads from the model (alpha = 0) to this one (1).
        points, range: equally spaced, with 0, and 1 with ``to``, added; else [-1, 1], and [-0.5, 1.5] with ``to``.
        near, normalize, ignore, seed, batchnorm: as for ``plane``; with ``to`` batchnorm is by default "interpolate".
        second_order: positions at which ``slope`` and ``curvature`` are computed; BatchNorm must be frozen.

    Raises:
        LossAtlasError: as for ``hessian``; or model and ``to`` are one point or differ in their parameters.
    """
    if to is not None and (directions is not None or count != 1 or normalize is not None or ignore is not None):
        raise LossAtlasError("curve: 'directions', 'count', 'normalize' and 'ignore' belong to curves without 'to'")
    directions = "random" if directions is None else directions
    drawn = isinstance(directions, str) and directions == "random"
    how: dict[str, Any] = {"points": points, "strategy": strategy, "precision": precision}
    how |= {"second_order": {"at": _listed(second_order)}} if len(second_order) else {}
    spec = _course(to is not None, _listed(range), batchnorm, **how)
    choices = _normalization(drawn, seed, normalize, ignore)
    choices |= _check_count(directions, {"kind": "random", **choices, "count": count}, near)
    with tempfile.TemporaryDirectory() as folder, backend.own_modes():
        network, problems, subsets = _problems(model, loss, data, test, batch_size, dtype, metrics, "curve")
        trajectory = _record(Path(folder), model, [] if to is None else [to], network, "to")
        raw = _raw(directions, choices, trajectory, problems["train"], network, count) if to is None else None
        course, added = _curves(spec, raw, choices, trajectory)
        guess = _random_guess(loss, subsets["train"], problems["train"])
        job = LineScan({"curve": spec}, course, problems, subsets, guess)
        return _compute(job, Path(folder)).assign(added)


def _near(directions: Any, near: float | None, where: str) -> dict:
    """Return the value whose nearest eigenvalues are asked for, checked, as a choice of directions."""
    if near is None:
        return {}
    if not (isinstance(directions, str) and directions == "eigen"):
        raise LossAtlasError(f"{where}: near: {near} belongs to directions 'eigen'")
    config.check({"kind": "eigen", "near": near}, "directions", where)
    return {"near": near}


def _check_count(directions: Any, choices: dict, near: float | None) -> dict:
    """Return the choice that ``near`` is, after a check of all others."""
    config.check(choices, "directions", "curve")
    if choices["count"] != 1 and not (isinstance(directions, str) and directions in ("random", "eigen")):
        raise LossAtlasError(f"curve: count: {choices['count']} is for random directions and eigenvectors")
    return _near(directions, near, "curve")


def _random_guess(loss: Any, subset: Subset, problem: Problem) -> float | None:
    name = "cross-entropy" if backend.is_cross_entropy(backend.as_loss(loss)) else ""
    return random_guess({"name": name}, subset.samples.targets, problem.class_count)


def _course(between: bool, range: Any, batchnorm: str | None, **choices: Any) -> dict:
    """Return the choices of a curve, checked, with the defaults of its kind."""
    choices |= {key: value for key, value in (("range", range), ("batchnorm", batchnorm)) if value is not None}
    ends = {"to": {"iteration": "first"}} if between else {"x": "a"}
    return config.check({**choices, **ends}, "curve", "curve").model_dump(include={"range", "batchnorm", *choices})


def _curves(spec: dict, raw: RawDirections | None, choices: dict, trajectory: Trajectory) -> tuple[Course, dict]:
    """Return the curves along directions, without any the one between two checkpoints, and what is told besides."""
    course: Course
    added: dict[str, Any] = {}
    if raw is None:
        course = _between(spec, trajectory)
    else:
        course, added = _along(spec, direction_sets.complete(raw, choices, trajectory), trajectory)
    check_second_order(spec, course.moves and trajectory.buffers(0).size > 0, "curve")
    return course, added


def _along(spec: dict, chosen: DirectionSet, trajectory: Trajectory) -> tuple[Along, dict]:
    """Return the curves along directions through the model, and what the dataset says of these besides."""
    axes = Axes(chosen.used, chosen.raw.labels, chosen.variance_share, {})
    course = Along({**spec, "center": "last"}, axes, trajectory)
    course.attributes["center"] = "the model"
    added = {"direction": (("curve", "parameter"), chosen.used)}
    return course, added | {name: ("curve", values) for name, values in chosen.raw.values.items()}


def _between(spec: dict, trajectory: Trajectory) -> Between:
    """Return the curve from the model, the last checkpoint, to the first."""
    ends = {"from": "last", "to": {"iteration": "first"}}
    course = Between({**spec, **ends}, trajectory, {}, "curve")
    course.labels = ["the model to the other one"]
    course.attributes |= {"from": "the model", "to": "the other one"}
    return course


def _problems(
    model: Any,
    loss: Any,
    data: Any,
    test: Any,
    batch_size: int,
    dtype: str | None,
    metrics: dict[str, Callable] | None,
    where: str,
) -> tuple:
    """Return the network, and problems and subsets by split."""
    if not isinstance(metrics or {}, dict) or not all(map(callable, (metrics or {}).values())):
        raise LossAtlasError(f"metrics: {metrics!r} is no dict of functions by name, such as {{'top5': top5}}")
    own_metrics.check(metrics or {}, "metrics")
    config.check({"batch_size": batch_size}, "evaluation", where)
    splits = {"train": _split(data)} | ({"test": _split(test)} if test is not None else {})
    subsets = {name: Subset(split, np.arange(len(split)), split.digest, False) for name, split in splits.items()}
    network = backend.FlatNetwork(model, backend.device_of(model, dtype))
    about = network, backend.as_loss(loss)
    own = backend.as_metrics(metrics or {})
    problems = {name: backend.TorchProblem(*about, split, batch_size, metrics=own) for name, split in splits.items()}
    return network, problems, subsets


def _record(folder: Path, model: Any, path: Sequence[Any], network: Any, where: str = "path[{}]") -> Trajectory:
    """Write the path and the model itself as a trajectory; ``where`` names a checkpoint in messages."""
    (folder / ".stores").mkdir()
    reader, link = backend.FlatNetwork(model, network.device), folder / "trajectory.zarr"
    recording = reader.recording(np.arange(len(path) + 1))
    recorded = store.create(link, folder, store.Fingerprint("trajectory", {}), recording.build)
    writer = RowWriter(recorded)
    for number, checkpoint in enumerate([*path, model]):
        backend.load_weights(reader, checkpoint, where.format(number))
        row = {"parameters": reader.parameters(), "buffers": reader.buffers()}
        writer.append(**row, batch_loss=np.nan, learning_rate=np.nan)
    writer.flush()
    recorded.finish({})
    return Trajectory(recorded.path)


def _raw(
    chosen: Any, choices: dict, trajectory: Trajectory, problem: Problem, network: Any, count: int
) -> RawDirections:
    """Make ``count`` directions of a kind, or read those that are given."""
    last, seed = len(trajectory) - 1, choices["seed"]
    if not isinstance(chosen, str):
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
    folder: Path, spec: dict, raw: RawDirections, choices: dict, trajectory: Trajectory, *on: Any
) -> xr.Dataset:
    """Evaluate all points of a plane; ``on`` are problems and subsets."""
    chosen = direction_sets.complete(raw, choices, trajectory)
    if len(chosen.used) != 2:
        raise LossAtlasError(f"directions: {len(chosen.used)} were given; a plane needs two")
    direction_sets.check_independent(chosen.used, chosen.raw.labels)
    axes = Axes(chosen.used, chosen.raw.labels, chosen.variance_share, {})
    if spec["orthogonalize"]:
        axes = direction_sets.orthogonalize(axes, trajectory)
    dataset = _compute(Landscape({"plane": spec}, axes, trajectory, *on), folder)
    dataset["direction"] = (("axis", "parameter"), axes.vectors)
    return dataset.assign({name: ("axis", values) for name, values in chosen.raw.values.items()})


def _compute(job: Job, folder: Path) -> xr.Dataset:
    """Make the store of a job in a temporary folder, and return its contents in memory."""
    order = Order(folder / f"{job.kind}.zarr", folder, job.kind)
    result = job.create(order, job.plan())
    job.compute(result, order, World(), Timing())
    job.finish(result, {})
    dataset = xr.open_zarr(result.path, chunks=None).load()
    for key in ("fingerprint", "provenance", "content", "chunk_files", "attempts", "finished", "subset_stratified"):
        del dataset.attrs[key]  # these speak of stores on disk
    for key in ("samples", "subset_digest", "nonfinite_points", "grid", "second_order", "agreement"):  # no dicts
        dataset.attrs |= {f"{key}_{name}": value for name, value in dataset.attrs.pop(key, {}).items()}
    dataset.attrs = {key: value for key, value in dataset.attrs.items() if value not in (None, [])}
    return dataset


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


def _split(data: Any) -> Split:
    return read(data, "data").whole()
