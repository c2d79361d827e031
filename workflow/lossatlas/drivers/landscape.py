"""Driver: the loss on a plane (GradVis Algorithms 1 and 3), with the path, by ranks that share one queue.

All evaluations lie on one axis ``row`` in the order of evaluation: the grid from coarse to fine, each checkpoint
projected onto the plane, each checkpoint itself (those of other runs after the run's own), and in an adaptive grid
round after round of further points. A unit of work is one chunk of that axis. Evaluations have numbers: the grid points
row by row, then the two kinds of the paths.
"""

import itertools
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import zarr

from lossatlas.data import Subset
from lossatlas.drivers import adaptive_grid, evaluation
from lossatlas.drivers.base import Job, Order, Plan
from lossatlas.drivers.inputs import identities, open_others, read_problems, read_subsets
from lossatlas.drivers.plane import OnPlane, grid_coordinates, grid_points, open_axes
from lossatlas.errors import LossAtlasError
from lossatlas.geometry.directions.direction_set import Axes
from lossatlas.geometry.projection import Others, other_arrays, path_arrays
from lossatlas.geometry.segments import variance_mask
from lossatlas.io.arrays import Array, create_arrays, unit_store_size
from lossatlas.io.store import Store
from lossatlas.io.trajectory import Trajectory
from lossatlas.parallel import Timing, World, work_units
from lossatlas.problem import Problem
from lossatlas.problem.protocol import Place

if TYPE_CHECKING:
    import xarray as xr

ORDER = "work/order"
"""Number and round of each row, both -1 where the row is not planned yet; one chunk, so that a round comes at once."""

WORK_ORDER = Array(
    "order",
    ("row", "number_round"),
    "what a row evaluates: its number (grid points row by row, projected paths, checkpoints), and its round",
)


def arrays(
    metrics: dict[str, str],
    splits: Sequence[str],
    adaptive: bool = False,
    moving: bool = False,
    labels: Sequence[str] = ("x", "y"),
) -> list[Array]:
    """Return the arrays of a landscape store, those of ``work`` and of other runs left out.

    Args:
        metrics: name -> units.
        moving: whether running statistics move along with the parameters.
        labels: of the axes.
    """
    along, grid = ("iteration",), ("y", "x")
    chosen = [Array(k, (k,), text, "multiples of the direction") for k, text in zip("xy", labels, strict=True)]
    chosen += [Array("split", ("split",), "evaluation subset", dtype=str)]
    chosen += [Array("iteration", along, "iteration", dtype="int64")]
    text = "samples of the {} set that were evaluated"
    chosen += [Array(f"subset_{name}", (f"sample_{name}",), text.format(name), dtype="int64") for name in splits]
    chosen += [Array(f"path_{k}", along, f"projection of the path on {k}") for k in "xy"]
    chosen += [Array("path_residual", along, "distance of the checkpoint from the plane", "Euclidean norm")]
    if moving:
        chosen.append(Array("clipped_variances", grid, "running variances below zero, set to zero", dtype="int64"))
    text = "whether the point is evaluated; at the others all metrics are interpolated"
    chosen.append(Array("evaluated", grid, text, dtype=bool))
    if adaptive:
        share = "share of the range up to the grid's maximum, of log10(loss) where 'logarithmic'"
        text = "whether the loss is interpolated on a logarithmic scale"
        chosen.append(Array("error", ("split",), "largest error of the interpolated loss", share))
        chosen.append(Array("logarithmic", ("split",), text, dtype=bool))
    for name, units in metrics.items():
        chosen += [Array(name, ("split", *grid), name, units), *path_arrays("path", *along, name, units)]
    return chosen


def planned_size(plane: dict, splits: Sequence[str], iterations: int, others: int) -> tuple[int, int]:
    """Return how many files the store of a plane has, and bytes before compression, both at most.

    Args:
        iterations, others: recorded ones of the run, and of other runs that are evaluated.
    """
    nx, ny = plane["points"]
    adaptive, moving = plane.get("grid", {}).get("mode") == "adaptive", plane.get("batchnorm") == "interpolate"
    metrics = evaluation.UNITS
    schema = [*arrays(metrics, splits, adaptive, moving), WORK_ORDER, *(other_arrays(metrics) if others else ())]
    sizes = {"x": nx, "y": ny, "split": len(splits), "iteration": iterations, "other_checkpoint": others}
    sizes |= {"row": nx * ny + 2 * (iterations + others), "number_round": 2}
    per_unit = evaluation.points_per_chunk(plane, sizes["row"])
    return unit_store_size(schema, sizes, len(metrics) * len(splits) + 1, per_unit)


@dataclass
class Landscape(OnPlane, Job):
    """The loss on a plane, and along the paths that it shows; ``spec["plane"]`` says which points."""

    axes: Axes
    trajectory: Trajectory
    problems: dict[str, Problem]
    subsets: dict[str, Subset]
    others: Others = field(default_factory=Others)

    kind: ClassVar[str] = "landscape"

    @classmethod
    def read(cls, args: Namespace, world: World) -> Self:
        """Open the axes, the paths and the samples, and rebuild the network on these."""
        spec, trajectory = args.spec, Trajectory(args.trajectory)
        others = Others(open_others(args), spec["plane"].get("paths_losses", True))
        axes = open_axes(args, trajectory)
        subsets = read_subsets(spec, world)
        problems, device = read_problems(args, world, trajectory, subsets, spec["evaluation"]["batch_size"])
        inputs = identities(trajectory, subsets, others.runs, axes)
        return cls(spec, axes, trajectory, problems, subsets, others, inputs=inputs, device=device)

    @property
    def adaptive(self) -> bool:
        """Whether points are chosen round after round."""
        return self.plane.get("grid", {}).get("mode") == "adaptive"

    @cached_property
    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """The coordinates (x, y) of the grid."""
        return grid_coordinates(self.shown, self.plane)

    @property
    def rows(self) -> int:
        """How many evaluations there are, in an adaptive grid at most."""
        x, y = self.grid
        return len(x) * len(y) + 2 * (len(self.trajectory) + len(self.others.evaluated))

    def plan(self) -> Plan:
        """Choose how points are evaluated: measured at the centre of the grid and its corners."""
        ends = [coordinates[[0, -1]] for coordinates in self.grid]
        if self.policy != "frozen":
            return evaluation.one_by_one(self.plane, "plane")
        (center, buffers), vectors = self.origin, self.axes.vectors
        points = np.array([np.mean(ends, axis=1), *itertools.product(*ends)])
        return evaluation.choose(self.problems, Place(center, vectors, buffers), points, self.rows, self.plane)

    def build(self, group: zarr.Group) -> None:
        """Create all arrays of the store: coordinates and paths at once, results to be filled in."""
        group.attrs.update(self._attributes())
        create_arrays(group, self.schema, self._known())
        if self.others.runs:
            group.attrs["other_evaluations"] = 2 * len(self.others.evaluated) * len(self.problems)
        summary = "One row per evaluation; 'order' tells which."
        columns = [f"{split}/{name}" for split in self.problems for name in evaluation.metrics(self.problems)]
        work_units.add_rows(group, summary, self.rows, columns, evaluation.points_per_chunk(self.plane, self.rows))
        self._add_order(group["work"], *map(len, self.grid))

    def evaluator(self, store: Store) -> "Evaluator":
        """Return the function that evaluates the points of a unit."""
        return Evaluator(self, store)

    def compute(self, store: Store, order: Order, world: World, timing: Timing) -> int:
        """Evaluate all points, in an adaptive grid round after round; see ``Job.compute``."""
        with timing("read"):
            evaluator = self.evaluator(store)
        while True:
            evaluator.order = numbers = world.broadcast(planned(store)[:, 0] if world.rank == 0 else None)
            how = timing, order.queue, order.label
            if missing := work_units.compute(store, evaluator, world, *how, rows=len(numbers)):
                return missing
            with timing("refine" if world.rank == 0 else "idle"):
                more = world.broadcast(plan_round(store, order.label) if world.rank == 0 else None)
            if not more:
                return 0

    def _add_order(self, work: zarr.Group, nx: int, ny: int) -> None:
        """Plan the first round: the grid, in an adaptive one its coarse points, and the paths; the end of a unit."""
        points, first = adaptive_grid.coarse_to_fine(nx, ny)
        path = np.arange(nx * ny, work["rows"].shape[0])
        if self.adaptive:
            first += -(first + len(path)) % work["rows"].chunks[0]
            points = points[:first]
        order = np.full((work["rows"].shape[0], 2), -1, np.int32)
        order[: len(points) + len(path)] = _of_round(np.append(points, path), 0)
        create_arrays(work, [WORK_ORDER], {"order": order})

    def _attributes(self) -> dict:
        subsets = self.subsets.items()
        return {
            "title": "Loss surface on a plane",
            "summary": "loss(y, x) = L(theta_c + x d_x + y d_y): mean over the evaluation subset, no weight decay",
            "center": self.plane["center"],
            "grid": self.plane.get("grid", {"mode": "full"}),
            "batchnorm": f"{evaluation.BATCHNORM[self.policy]}; of each checkpoint for its true loss",
            "x_label": self.axes.labels[0],
            "y_label": self.axes.labels[1],
            "variance_share": self.axes.variance_share.tolist(),
            "direction_norm": np.linalg.norm(self.axes.vectors, axis=1).tolist(),
            **self.axes.notes,
            "samples": {name: len(subset) for name, subset in subsets},
            "subset_digest": {name: subset.digest for name, subset in subsets},
            "subset_stratified": {name: subset.stratified for name, subset in subsets},
        }

    @property
    def schema(self) -> list[Array]:
        """All arrays of the store but those of ``work``."""
        units = evaluation.metrics(self.problems)
        moves = self.policy == "interpolate"
        own = arrays(units, tuple(self.subsets), self.adaptive, moves, self.axes.labels)
        return own + self.others.schema(units)

    @property
    def statistics(self) -> dict[str, Any]:
        """What ``restrict`` takes of BatchNorm."""
        if self.policy == "frozen":
            return {}
        also = {"reference": self.problems["train"]} if self.policy == "recompute" else {"moving": self.moving()}
        return {"batchnorm": self.policy, **also}

    def _known(self) -> dict[str, np.ndarray | list]:
        """Return what is known before anything is evaluated, by array."""
        (x, y), (own, *others) = self.grid, self.paths
        known = {"x": x, "y": y, "split": list(self.problems), "iteration": self.trajectory.iterations}
        known |= {f"subset_{name}": subset.index for name, subset in self.subsets.items()}
        known |= {f"path_{k}": own.coefficients[:, number] for number, k in enumerate("xy")}
        known |= {"path_residual": own.residual, **self.others.data(others)}
        if self.policy == "interpolate":
            known["clipped_variances"] = self._clipped(x, y)
        return known

    def _clipped(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Count the running variances that are below zero at each grid point (y, x)."""
        mask = variance_mask(self.trajectory)
        center, (along_x, along_y) = self.origin[1][mask], self.moving()[:, mask]
        return np.array([[int((center + a * along_x + b * along_y < 0).sum()) for a in x] for b in y])

    @staticmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Sort the evaluations into (split, y, x) and (split, iteration) arrays; return counts for the log."""
        evaluated = Evaluated(store)
        for name, array in evaluated.arrays().items():
            store[name][...] = array
        splits = store["split"][:].tolist()
        counts: dict[str, Any] = {"points": len(evaluated.numbers)}
        nonfinite = (~np.isfinite(evaluated.losses)).sum(axis=1).tolist()
        counts["nonfinite_points"] = dict(zip(splits, nonfinite, strict=True))
        store.update(nonfinite_points=counts["nonfinite_points"])
        if evaluated.spec["mode"] == "adaptive":
            errors = evaluated.stated_errors
            store["error"][...], store["logarithmic"][...] = errors, [known.scale.log for known in evaluated.known]
            store.update(rounds=int(planned(store)[-1, 1]) + 1)
            counts |= {"grid_points": evaluated.points, "error": dict(zip(splits, errors, strict=True))}
        if "other_evaluations" in store.attrs:
            counts["evaluations_of_other_runs"] = store.attrs["other_evaluations"]
        return counts


class Evaluator:
    """Evaluates the rows of a landscape store, which ``order`` (row,) gives the numbers of."""

    def __init__(self, job: Landscape, store: Store):
        own = [(job.trajectory, row) for row in range(len(job.trajectory))]
        self.problems, self.checkpoints = job.problems, own + job.others.evaluated
        center, buffers = job.origin
        choices = evaluation.evaluated_by(store.attrs) | job.statistics
        self.planes = [p.restrict(center, job.axes.vectors, buffers, **choices) for p in job.problems.values()]
        paths = ["path", *(["other"] if job.others.evaluated else [])]
        projected = [np.stack([store[f"{path}_{k}"][:] for k in "xy"], axis=1) for path in paths]
        self.points = np.concatenate([grid_points(store["x"][:], store["y"][:]), *projected])
        self.order = planned(store)[:, 0]

    def __call__(self, unit: range) -> np.ndarray:
        """Return the metrics of all splits at the points of a unit, one row each."""
        first_checkpoint, numbers = len(self.points), self.order[unit.start : unit.stop]
        on_plane = self.points[numbers[numbers < first_checkpoint]]
        blocks = [np.hstack([plane.metrics(on_plane) for plane in self.planes])] if len(on_plane) else []
        blocks += [self.checkpoint(n - first_checkpoint)[None] for n in numbers if n >= first_checkpoint]
        return np.concatenate(blocks)

    def checkpoint(self, number: int) -> np.ndarray:
        """Return the metrics of all splits at a checkpoint itself, the run's own or another run's."""
        trajectory, row = self.checkpoints[number]
        theta, buffers = trajectory.parameters(row), trajectory.buffers(row)
        return np.concatenate([problem.metrics(theta, buffers) for problem in self.problems.values()])


def planned(store: Store) -> np.ndarray:
    """Return number and round of each row that is planned, shape (row, 2)."""
    order = store[ORDER][:]
    return order[order[:, 0] >= 0]


def _of_round(numbers: np.ndarray, number: int) -> np.ndarray:
    return np.stack([numbers, np.full(len(numbers), number)], axis=1)


def plan_round(store: Store, label: str) -> bool:
    """Plan the next round of an adaptive grid from the results of all rounds before; return whether there is one."""
    spec, order = store.attrs["grid"], planned(store)
    if spec["mode"] == "full":
        return False
    evaluated, number = Evaluated(store), int(order[-1, 1])
    told = f"error <= {max(evaluated.errors):.2g} of the range" if number else "error not known yet"
    print(f"{label}: round {number + 1}, {len(evaluated.numbers)} of {evaluated.points} points, {told}", flush=True)
    good = evaluated.checked and adaptive_grid.unclear(evaluated.known) <= adaptive_grid.BORDER
    rough = evaluated.rough
    if (good and not rough.any()) or len(evaluated.numbers) == evaluated.points:
        return False
    points = adaptive_grid.next_round(evaluated.known, store[work_units.ARRAY].chunks[0], rough)
    order = np.concatenate([order, _of_round(points, number + 1)])
    store[ORDER][...] = np.pad(order, ((0, store[ORDER].shape[0] - len(order)), (0, 0)), constant_values=-1)
    return True


class Evaluated:
    """What a store, finished or not, has of its grid and its path.

    ``numbers`` (point,) are the grid points in the order of evaluation, ``values`` (split, metric, point) theirs,
    ``path`` (split, metric, 2, checkpoint) those of the projected paths and of the checkpoints, other runs' after the
    ``iterations`` of the run's own; NaN where they are not there yet.
    """

    def __init__(self, store: Store):
        self.spec, self.shape = store.attrs["grid"], (store["y"].shape[0], store["x"].shape[0])
        self.points, splits = self.shape[0] * self.shape[1], store["split"].shape[0]
        order = planned(store)
        done = work_units.written(store, len(order))
        numbers, rounds = order[done].T
        names = [column.split("/")[1] for column in store[work_units.ARRAY].attrs["columns"][:-1]]
        self.names = names[: len(names) // splits]
        rows = work_units.results(store, len(order))[done].reshape(len(numbers), splits, len(self.names))
        rows, on_grid = rows.transpose(1, 2, 0), numbers < self.points
        self.numbers, self.values = numbers[on_grid], rows[:, :, on_grid]
        sizes = np.bincount(rounds[on_grid])[:0:-1]  # the last one first, without the first lattice
        self.rounds = sizes[: adaptive_grid.STATED].tolist()
        self.iterations = store["iteration"].shape[0]
        path = np.full((splits, len(self.names), store[work_units.ARRAY].shape[0] - self.points), np.nan)
        path[:, :, numbers[~on_grid] - self.points] = rows[:, :, ~on_grid]
        self.path = path.reshape(*path.shape[:2], 2, -1)

    @property
    def losses(self) -> np.ndarray:
        """The losses at the grid points (split, point)."""
        return self.values[:, 0]

    @cached_property
    def known(self) -> list[adaptive_grid.KnownLosses]:
        """The losses of each split on scales that are chosen as figures do: from the surface and the projected path."""
        projected = self.path[:, 0, 0, : self.iterations]
        choices = self.spec.get("scale", "auto"), self.spec.get("maximum")
        scales = [adaptive_grid.Scale.of(some, *choices) for some in np.hstack([self.losses, projected])]
        pairs = zip(self.losses, scales, strict=True)
        return [adaptive_grid.KnownLosses(self.shape, self.numbers, *pair) for pair in pairs]

    @cached_property
    def checks(self) -> list[tuple[list[float], str]]:
        """The largest errors of each split's losses in the last rounds, the last one first, and the kernel."""
        if len(self.numbers) == self.points or not self.rounds:
            return [([0.0], adaptive_grid.KERNELS[0])] * len(self.losses)
        checks = [known.check(self.rounds) for known in self.known]
        return [([adaptive_grid.SAFETY * missed for missed in rounds], kernel) for rounds, kernel in checks]

    @property
    def errors(self) -> list[float]:
        """The largest error of each split's losses, by the rounds that must be good."""
        return [max(rounds[: adaptive_grid.GOOD]) for rounds, _ in self.checks]

    @property
    def checked(self) -> bool:
        """Whether the last rounds were good."""
        return len(self.rounds) >= adaptive_grid.GOOD and max(self.errors) <= self.spec["tolerance"]

    @property
    def rough(self) -> np.ndarray:
        """Where points are wanted because the surface is rough (point,): beside steps at once, else when rounds are
        good; zero elsewhere."""
        most = np.max([known.roughness for known in self.known], axis=0)
        return np.where(most > (self.spec["tolerance"] if self.checked else adaptive_grid.ROUGH), most, 0.0)

    @property
    def stated_errors(self) -> list[float]:
        """The error of each split's losses that a finished surface states."""
        beside = [float(known.roughness.max()) for known in self.known]
        parts = zip(self.errors, self.checks, beside, strict=True)
        return [max(error, rough, min(max(rounds), self.spec["tolerance"])) for error, (rounds, _), rough in parts]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays (split, y, x) and (split, iteration) of all metrics, interpolated where not evaluated."""
        evaluated = np.isin(np.arange(self.points), self.numbers).reshape(self.shape)
        arrays = {"evaluated": evaluated}
        for k, name in enumerate(self.names):
            whole = [adaptive_grid.Known(self.shape, self.numbers, values) for values in self.values[:, k]]
            parts = zip(self.known if name == "loss" else whole, self.checks, strict=True)
            arrays[name] = np.stack([known.surface(kernel) for known, (_, kernel) in parts])
            for kind, path in zip(("projected", "true"), self.path[:, k].transpose(1, 0, 2), strict=True):
                arrays[f"path_{kind}_{name}"] = path[:, : self.iterations]
                if path.shape[1] > self.iterations:
                    arrays[f"other_{kind}_{name}"] = path[:, self.iterations :]
        return arrays


def preview(store: Store) -> "xr.Dataset":
    """Return the dataset that the store will be, from what is evaluated so far; the rest is interpolated.

    Raises:
        LossAtlasError: no point of the grid is evaluated yet.
    """
    evaluated = Evaluated(store)
    if not len(evaluated.numbers):
        raise LossAtlasError(f"{store.path}: no point of the grid is evaluated yet")
    import xarray as xr

    dataset = xr.open_zarr(store.group.store, chunks=None, consolidated=False).load()
    for name, array in evaluated.arrays().items():
        dataset[name].values[...] = array
    return dataset
