"""For notebooks: the Hessian, planes and curves of a PyTorch model at hand, without Snakemake, MPI or files.

The code underneath is that of the workflow, and so are the numbers. The model is copied, never changed.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.sparse.linalg import LinearOperator

from lossatlas import config
from lossatlas.backends import torch as backend
from lossatlas.data import Split, Subset
from lossatlas.drivers import landscape, line_scans
from lossatlas.errors import LossAtlasError
from lossatlas.geometry import directions as direction_sets
from lossatlas.geometry.directions.direction_set import Axes, DirectionSet
from lossatlas.geometry.directions.eigen import eigen
from lossatlas.geometry.directions.gradient import gradient
from lossatlas.geometry.directions.pca import pca
from lossatlas.geometry.directions.random import random
from lossatlas.geometry.directions.unnormalized import RawDirections
from lossatlas.io import store
from lossatlas.io.trajectory import RowWriter, Trajectory
from lossatlas.krylov import Eigenpairs, Spectrum, check_deterministic, eigenpairs, probe_vectors, quadrature_runs
from lossatlas.krylov.eigenpairs import check_count
from lossatlas.krylov.lanczos import check_steps
from lossatlas.parallel import Timing, World, work_units
from lossatlas.parallel.progress import Progress
from lossatlas.problem import Problem

ENDS = {"LA": "largest", "SA": "smallest", "BE": "both ends, the larger half at the top", "LM": "largest magnitude"}


def hessian(
    model: Any,
    loss: Any,
    data: Any,
    *,
    operator: str = "hessian",
    parameters: Sequence[str] = ("*",),
    batch_size: int = 100,
    batchnorm: str = "frozen",
    dtype: str | None = None,
    memory_gb: float = 2.0,
    strategy: str = "auto",
) -> "Hessian":
    """Return the Hessian of the mean loss over ``data`` at the model's present parameters.

    Args:
        model: a ``torch.nn.Module``. It is copied and evaluated in inference mode, dropout off. Parameters with
            ``requires_grad=False`` are constants.
        loss: a function (outputs, targets) -> mean over the batch, or one value per sample or position, averaged
            plainly (where targets are ignored zeros count); or ``"cross-entropy"`` or ``"mse"``. Of
            ``nn.CrossEntropyLoss`` and ``nn.NLLLoss`` weights and ignored targets count over all samples, as in one
            batch. Without weight decay: it may read no parameters.
        data: a pair (inputs, targets) of arrays or tensors, or an iterable of such batches, such as a
            ``DataLoader``. It is read once and kept on the model's device.
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
    choices = {"operator": operator, "parameters": list(parameters), "memory_gb": memory_gb}
    choices["strategy"] = strategy
    config.check({"batch_size": batch_size, "batchnorm": batchnorm, **choices}, "spectra", "hessian")
    with backend.own_modes():
        network = backend.FlatNetwork(model, backend.device_of(model, dtype))
        problem = backend.TorchProblem(network, backend.as_loss(loss), _split(data), batch_size, batchnorm)
        theta, buffers = network.parameters(), network.buffers()
        choice = problem.choose_strategy(theta, buffers, 1, **choices)
        choices["strategy"] = choice.strategy
        check_deterministic(lambda: problem.linearize(theta, buffers, **choices))
        return Hessian(problem.linearize(theta, buffers, **choices), choice.agreement)


class Hessian:
    """A symmetric N x N matrix known by its products.

    ``layout`` says which parameter lies where in a vector, ``agreement`` how well products agreed with double backward
    and central differences when they were tried.
    """

    def __init__(self, operator: Any, agreement: dict[str, Any]):
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
        self, k: int = 1, which: str = "LA", tolerance: float = 1e-4, max_products: int = 1000, seed: int = 0
    ) -> Eigenpairs:
        """Return ``k`` eigenpairs, as often as they are there, in descending order.

        The result has ``values`` (k,), unit ``vectors`` (k, N) as rows, true ``residuals`` ||Hy - lambda y|| (k,),
        flags ``converged`` (k,), and ``products``, the number of products used.

        Args:
            which: ``LA`` largest, ``SA`` smallest (most negative), ``BE`` both ends, ``LM`` largest magnitude.
            tolerance: residual ||Hy - lambda y|| relative to ||H|| at which a pair has converged.
            max_products: after which the search ends, converged or not.
            seed: of the starting vectors.
        """
        choices = {"kind": "eigen", "tolerance": tolerance, "max_products": max_products, "seed": seed}
        config.check(choices, "directions", "eigenpairs")
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
            parts = (getattr(pairs, name)[chosen] for name in ("values", "vectors", "residuals", "converged"))
            pairs = Eigenpairs(*parts, products=pairs.products)
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
        ``distribution``, ``count``, ``moment``, ``trace``, ``effective_dimension``; and ``accuracy``, which says
        whether probes and steps suffice.

        Args:
            probes: random probe vectors (GradVis's k); error bars need at least two.
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
    path: Sequence[Any] = (),
    test: Any = None,
    metrics: dict[str, Callable] | None = None,
    points: tuple[int, int] = (25, 25),
    tolerance: float | None = None,
    range: Sequence[Sequence[float]] | None = None,
    border: float = 0.4,
    normalize: str | None = None,
    ignore: Sequence[str] | None = None,
    orthogonalize: bool = False,
    seed: int = 0,
    batch_size: int = 250,
    dtype: str | None = None,
    strategy: str = "auto",
    precision: str = "full",
    batchnorm: str = "frozen",
) -> xr.Dataset:
    """Return the loss on a plane through the model's present parameters, with the path projected onto it.

    The dataset is what ``landscape/<name>.zarr`` of the workflow holds, ``loss(split, y, x)`` and more; besides, the
    vectors ``direction(axis, parameter)``, and what is known of eigenvectors. ``lossatlas.render.figures`` draws it.

    Args:
        model, loss, data, dtype: as for ``hessian``.
        directions: ``"random"``; ``"eigen"``, of the largest eigenvalues; ``"pca"``, of ``path``; or two vectors, each
            a flat vector (N,), a dict of tensors by parameter name, or a module (its parameters minus the model's).
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
    config.check({"kind": "random", **choices, "batch_size": batch_size}, "directions", "plane")
    with tempfile.TemporaryDirectory() as folder, backend.own_modes():
        network, problems, subsets = _problems(model, loss, data, test, batch_size, dtype, metrics)
        trajectory = _record(Path(folder), model, list(path), network)
        raw = _raw(directions, choices, trajectory, problems["train"], network, 2)
        made = direction_sets.complete(raw, choices, trajectory)
        return _evaluate_plane(Path(folder), spec, made, trajectory, problems, subsets)


def curve(
    model: Any,
    loss: Any,
    data: Any,
    directions: str | Sequence[Any] | None = None,
    *,
    to: Any = None,
    count: int = 1,
    test: Any = None,
    metrics: dict[str, Callable] | None = None,
    points: int = 41,
    range: Sequence[float] | None = None,
    normalize: str | None = None,
    ignore: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 250,
    dtype: str | None = None,
    strategy: str = "auto",
    precision: str = "full",
    batchnorm: str | None = None,
) -> xr.Dataset:
    """Return the loss on straight lines through the model's present parameters.

    The dataset is what ``curves/<name>.zarr`` of the workflow holds: ``loss(curve, split, alpha)``, ``accuracy`` where
    targets are classes, and for each curve stationary points, barrier, monotonicity and minimum; besides, the vectors
    ``direction(curve, parameter)`` and for eigenvectors ``eigenvalue``, ``residual`` and ``converged``.
    ``render.figures.line_scans.curve_figure`` draws it.

    Args:
        model, loss, data, test, metrics, batch_size, dtype, strategy, precision: as for ``plane``.
        directions: ``"random"``, the default without ``to``; ``"eigen"``, Hessian eigenvectors of the largest
            eigenvalues; ``"gradient"``, the negative gradient; or directions as for ``plane``, any number.
        to: another model or its state dict, in place of ``directions``, ``count``, ``normalize`` and ``ignore``: the
            curve leads from the model (alpha = 0) to this one (1).
        count: random directions or eigenvectors.
        points, range: equally spaced, with 0, and 1 with ``to``, added; else [-1, 1], and [-0.5, 1.5] with ``to``.
        normalize, ignore, seed, batchnorm: as for ``plane``; with ``to``, batchnorm is by default ``"interpolate"``.

    Raises:
        LossAtlasError: as for ``hessian``; or model and ``to`` are one point or differ in their parameters.
    """
    if to is not None and (directions is not None or count != 1 or normalize is not None or ignore is not None):
        raise LossAtlasError("curve: 'directions', 'count', 'normalize' and 'ignore' belong to curves without 'to'")
    directions = "random" if directions is None else directions
    drawn = isinstance(directions, str) and directions == "random"
    spec = _course(to is not None, range, batchnorm, points=points, strategy=strategy, precision=precision)
    choices = _normalization(drawn, seed, normalize, ignore)
    _check_count(directions, {"kind": "random", **choices, "count": count, "batch_size": batch_size})
    with tempfile.TemporaryDirectory() as folder, backend.own_modes():
        network, problems, subsets = _problems(model, loss, data, test, batch_size, dtype, metrics)
        trajectory = _record(Path(folder), model, [] if to is None else [to], network, "to")
        course: line_scans.Course
        if to is None:
            raw = _raw(directions, choices, trajectory, problems["train"], network, count)
            course, added = _along(spec, direction_sets.complete(raw, choices, trajectory), trajectory)
        else:
            course, added = _between(spec, trajectory), {}
        guess = _random_guess(loss, subsets["train"], problems["train"])
        plan = line_scans.Plan(spec, course, problems, subsets, guess)
        return _evaluate_curves(Path(folder), plan).assign(added)


def _check_count(directions: Any, choices: dict) -> None:
    config.check(choices, "directions", "curve")
    if choices["count"] != 1 and not (isinstance(directions, str) and directions in ("random", "eigen")):
        raise LossAtlasError(f"curve: count: {choices['count']} is for random directions and eigenvectors")


def _random_guess(loss: Any, subset: Subset, problem: Problem) -> float | None:
    name = "cross-entropy" if backend.is_cross_entropy(backend.as_loss(loss)) else ""
    return line_scans.random_guess({"name": name}, subset.samples.targets, problem.class_count)


def _course(between: bool, range: Sequence[float] | None, batchnorm: str | None, **choices: Any) -> dict:
    """Return the choices of a curve, checked, with the defaults of its kind."""
    range = ((-0.5, 1.5) if between else (-1, 1)) if range is None else range
    spec = {"range": _listed(range), **choices}
    spec["batchnorm"] = batchnorm or ("interpolate" if between else "frozen")
    config.check(spec, "curve", "curve")
    if spec["batchnorm"] == "interpolate" and not between:
        raise LossAtlasError("curve: batchnorm: 'interpolate' needs 'to'; choose 'frozen' or 'recompute'")
    for end in (0, 1) if between else (0,):
        if not spec["range"][0] <= end <= spec["range"][1]:
            raise LossAtlasError(f"curve: range: {spec['range']} must hold {end}")
    return spec


def _along(spec: dict, made: DirectionSet, trajectory: Trajectory) -> tuple[line_scans.Along, dict]:
    """Return the curves along directions through the model, and what the dataset says of these besides."""
    axes = Axes(made.used, made.raw.labels, made.variance_share, {})
    course = line_scans.Along({**spec, "center": "last"}, axes, trajectory)
    course.attributes["center"] = "the model"
    added = {"direction": (("curve", "parameter"), made.used)}
    return course, added | {name: ("curve", values) for name, values in made.raw.values.items()}


def _between(spec: dict, trajectory: Trajectory) -> line_scans.Between:
    """Return the curve from the model, the last checkpoint, to the first."""
    ends = {"from": "last", "to": {"iteration": "first"}}
    course = line_scans.Between({**spec, **ends}, trajectory, {}, "curve")
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
) -> tuple:
    """Return the network, and problems and subsets by split."""
    if not isinstance(metrics or {}, dict) or not all(map(callable, (metrics or {}).values())):
        raise LossAtlasError(f"metrics: {metrics!r} is no dict of functions by name, such as {{'top5': top5}}")
    config.check_metrics(metrics or {}, "metrics")
    splits = {"train": _split(data)} | ({"test": _split(test)} if test is not None else {})
    subsets = {name: Subset(split, np.arange(len(split)), split.digest, False) for name, split in splits.items()}
    network = backend.FlatNetwork(model, backend.device_of(model, dtype))
    own = backend.as_metrics(metrics or {})
    return network, backend.problems(network, backend.as_loss(loss), subsets, batch_size, metrics=own), subsets


def _record(folder: Path, model: Any, path: Sequence[Any], network: Any, where: str = "path[{}]") -> Trajectory:
    """Write the path and the model itself as a trajectory; ``where`` names a checkpoint in messages."""
    (folder / ".stores").mkdir()
    reader, link = backend.FlatNetwork(model, network.device), folder / "trajectory.zarr"
    recording = reader.recording(np.arange(len(path) + 1))
    made = store.create(link, folder, store.Fingerprint("trajectory", {}), recording.build)
    writer = RowWriter(made)
    for number, checkpoint in enumerate([*path, model]):
        backend.load_weights(reader, checkpoint, where.format(number))
        row = {"parameters": reader.parameters(), "buffers": reader.buffers()}
        writer.append(**row, batch_loss=np.nan, learning_rate=np.nan)
    writer.flush()
    made.finish({})
    return Trajectory(made.path)


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
        return random(trajectory.layout.size, count, seed)
    if chosen == "pca":
        if last < 3:
            raise LossAtlasError(f"directions: 'pca' needs a path of at least 3 earlier checkpoints, got {last}")
        return pca(trajectory, last, count, True, "gram", seed)
    if chosen == "eigen":
        search = {"largest": count, "smallest": 0, "tolerance": 1e-3, "max_products": 300, "memory_gb": 2.0}
        return eigen(problem, trajectory, last, {**search, "seed": seed})
    if chosen == "gradient":
        return gradient({"negative gradient": problem}, trajectory, last, {})
    raise LossAtlasError(f"directions: {chosen!r} is not one of random, pca, eigen, gradient, nor a list of directions")


def _evaluate_plane(folder: Path, spec: dict, made: DirectionSet, trajectory: Trajectory, *on: dict) -> xr.Dataset:
    """Evaluate all points of a plane; ``on`` are problems and subsets."""
    if len(made.used) != 2:
        raise LossAtlasError(f"directions: {len(made.used)} were given; a plane needs two")
    direction_sets.check_independent(made.used, made.raw.labels)
    axes = Axes(made.used, made.raw.labels, made.variance_share, {})
    if spec["orthogonalize"]:
        axes = direction_sets.orthogonalize(axes, trajectory)
    planned = landscape.Plane(spec, axes, trajectory, *on)

    def evaluator(made_store: store.Store) -> landscape.Evaluator:
        return landscape.Evaluator(made_store, axes, trajectory, planned.problems)

    dataset = _compute("landscape", folder, spec, landscape.with_strategy(planned), evaluator, landscape)
    dataset["direction"] = (("axis", "parameter"), axes.vectors)
    return dataset.assign({name: ("axis", values) for name, values in made.raw.values.items()})


def _evaluate_curves(folder: Path, plan: line_scans.Plan) -> xr.Dataset:
    """Evaluate all points of curves."""

    def evaluator(made: store.Store) -> line_scans.Evaluator:
        return line_scans.Evaluator(plan.course, plan.problems, landscape.choices_of(made.attrs))

    return _compute("curves", folder, plan.spec, line_scans.with_strategy(plan), evaluator, line_scans)


def _compute(kind: str, folder: Path, spec: dict, build: Callable, evaluator: Callable, driver: Any) -> xr.Dataset:
    """Make a store in a temporary folder and return its contents, in memory; ``driver`` is the module that makes it."""
    made = store.create(folder / f"{kind}.zarr", folder, store.Fingerprint(kind, spec), build)
    compute = getattr(driver, "compute", work_units.compute)  # rounds, where the driver has them
    compute(made, evaluator(made), World(), Timing(), "static", kind)
    driver.finish(made, {})
    dataset = xr.open_zarr(made.path, chunks=None).load()
    for key in ("fingerprint", "provenance", "content", "chunk_files", "attempts", "finished", "subset_stratified"):
        del dataset.attrs[key]  # these speak of stores on disk
    for key in (
        "samples",
        "subset_digest",
        "nonfinite_points",
        "grid",
        "agreement",
    ):  # files such as NetCDF hold no dicts
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
    how = normalize or ("filter" if drawn else "none")
    dropped = list(ignore) if ignore is not None else (["bias", "norm"] if drawn else [])
    return {"center": "last", "seed": seed, "normalize": how, "ignore": dropped}


def _split(data: Any) -> Split:
    inputs, targets = backend.collect(data)
    return Split(inputs, targets)
