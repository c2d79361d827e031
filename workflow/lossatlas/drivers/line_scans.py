"""Driver: the loss on straight lines through parameter space, by ranks that share one queue.

f(alpha) = L(theta_c + alpha d) along one or several directions, or f(alpha) = L(theta_from + alpha (theta_to -
theta_from)) between two checkpoints and beyond (Goodfellow et al. 2015; Li et al. 2018). All evaluations lie on one
axis, curve by curve; a unit of work is one chunk of it.
"""

from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import zarr

from lossatlas.data import Subset
from lossatlas.drivers import base, evaluation
from lossatlas.drivers.base import Job, Plan
from lossatlas.drivers.inputs import identities, open_others, read_problems, read_subsets
from lossatlas.geometry.directions import read_directions
from lossatlas.geometry.directions.direction_set import Axes, angles
from lossatlas.geometry.families import FAMILIES, shape
from lossatlas.geometry.segments import Line
from lossatlas.io.arrays import Array, create_arrays, unit_store_size
from lossatlas.io.store import Store
from lossatlas.io.trajectory import Trajectory
from lossatlas.parallel import World, work_units
from lossatlas.problem import Problem
from lossatlas.problem.protocol import Place

Evaluate = Callable[[np.ndarray], np.ndarray]
"""From numbers of points on a curve to metrics (point, metric)."""

ALONG = "share of the steps away from 0 at which the loss increases (1: monotonic increase, GMI)"
BETWEEN = "share of the steps from 0 to 1 at which the loss decreases (1: monotonic linear interpolation, MLI)"


NOTES = {
    "frozen": "frozen: running statistics of theta_c",
    "recompute": evaluation.BATCHNORM["recompute"].replace("plane", "curve"),
}
"""What stores say of BatchNorm."""


class Course(ABC):
    """Where curves run: positions ``alpha`` (point,), ``labels`` of the curves, and what a store says about them.

    ``data`` holds more about them, as ``schema`` says. ``ends`` are the positions between which barrier and
    monotonicity are meant, None along directions. ``batchnorm`` says what BatchNorm normalises by.
    """

    alpha: np.ndarray
    labels: list[str]
    ends: tuple[float, float] | None
    attributes: dict[str, Any]
    schema: tuple[Array, ...]
    data: dict[str, np.ndarray]
    batchnorm: str

    @abstractmethod
    def place(self, curve: int) -> Place:
        """Return where a curve runs, with the running statistics at its position 0."""

    @property
    def moves(self) -> bool:
        """Whether running statistics change from point to point."""
        return self.batchnorm == "recompute"

    def on(self, problem: Problem, curve: int, reference: Problem, choices: dict) -> Evaluate:
        """Return the function that evaluates a problem at points of one curve.

        Running statistics that are recomputed are those of the samples of ``reference``. ``choices`` say how points
        are evaluated where running statistics are the same all along.
        """
        choices = {"batchnorm": "recompute", "reference": reference} if self.batchnorm == "recompute" else choices
        restriction = problem.restrict(*self.place(curve), **choices)
        return lambda numbers: restriction.metrics(self.alpha[numbers, None])


def positions(interval: tuple[float, float], points: int, exact: tuple[float, ...]) -> np.ndarray:
    """Return equally spaced positions, with those of ``exact`` put in where they are not among them."""
    alpha = np.linspace(*interval, points)
    close = 1e-6 * (alpha[1] - alpha[0])
    for value in exact:
        nearest = np.abs(alpha - value).argmin()
        if abs(alpha[nearest] - value) < close:
            alpha[nearest] = value
        else:
            alpha = np.insert(alpha, np.searchsorted(alpha, value), value)
    return alpha


class Along(Course):
    """Curves through one checkpoint along directions, with its running statistics or recomputed ones.

    Args:
        spec: keys ``center``, ``batchnorm``, ``range`` and ``points``.
        axes: the directions, one curve each.
    """

    ends = None
    schema = (
        Array("direction_norm", ("curve",), "Euclidean norm of the direction"),
        Array("variance_share", ("curve",), "share of the path's variance along the direction"),
        Array("angle", ("curve", "other_curve"), "angles between the directions in degrees"),
    )

    def __init__(self, spec: dict, axes: Axes, trajectory: Trajectory):
        row = trajectory.row_of(spec["center"], "curve.center")
        self.center, self.buffers = trajectory.parameters(row).astype(np.float64), trajectory.buffers(row)
        self.vectors, self.labels, self.batchnorm = axes.vectors, axes.labels, spec["batchnorm"]
        self.alpha = positions(spec["range"], spec["points"], (0.0,))
        self.attributes = {
            "center": f"iteration {trajectory.iterations[row]}",
            "batchnorm": NOTES[self.batchnorm],
        }
        norms = np.linalg.norm(axes.vectors, axis=1)
        self.data = {"direction_norm": norms, "variance_share": axes.variance_share, "angle": angles(axes.vectors)}

    def place(self, curve: int) -> Place:
        """Return where a curve runs, with the running statistics of the checkpoint."""
        return Place(self.center, self.vectors[curve : curve + 1], self.buffers)


class Between(Course):
    """The curve through two checkpoints; running statistics move along, stay those of the first, or are recomputed.

    Args:
        spec: keys ``from``, ``to``, ``batchnorm``, ``range`` and ``points``.
        others: trajectories of the other runs by name.
        where: config key of the curve, for messages.
    """

    ends = (0.0, 1.0)
    schema = tuple(replace(array, dims=("alpha",)) for array in Line.schema if array.name != Line.axis)

    def __init__(self, spec: dict, trajectory: Trajectory, others: dict[str, Trajectory], where: str):
        self.alpha = positions(spec["range"], spec["points"], (0.0, 1.0))
        self.batchnorm = spec["batchnorm"]
        buffers = "interpolate" if self.batchnorm == "interpolate" else "frozen"
        self.line = line = Line({**spec, "buffers": buffers}, trajectory, others, where, self.alpha)
        self.labels = [f"{line.start.name} to {line.end.name}"]
        self.attributes = line.attributes
        if self.batchnorm == "recompute":
            self.attributes["batchnorm"] = NOTES["recompute"]
        self.data = {array.name: line.data[array.name] for array in self.schema}

    @property
    def _interpolates(self) -> bool:
        return self.line.interpolated and self.line.start.buffers.size > 0

    @property
    def moves(self) -> bool:
        """Whether running statistics change from point to point."""
        return super().moves or self._interpolates

    def place(self, curve: int) -> Place:
        """Return where the curve runs, with the running statistics of the first checkpoint."""
        start = self.line.start
        return Place(start.theta, (self.line.end.theta - start.theta)[None], start.buffers)

    def on(self, problem: Problem, curve: int, reference: Problem, choices: dict) -> Evaluate:
        """Return the function that evaluates a problem at points of the curve; see ``Course``."""
        if self._interpolates:
            at = self.line.parameters, self.line.buffers
            return lambda numbers: np.stack([problem.metrics(*(part(n) for part in at)) for n in numbers])
        return super().on(problem, curve, reference, choices)


ERROR = "loss_standard_error"
STATIONARY = "whether the loss is above or below that of both neighbours (1) or not (0)"
TURNING = "whether the loss turns by more than its noise (1) or not (0), see geometry.families"
FEATURES = {
    "stationary_points": "number of points whose loss is above or below that of both neighbours",
    "turning_points": "number of stationary points above noise",
    "family": "number in the attribute 'families' of the name that Li et al. 2024 give to curves of this shape",
    "barrier": "highest loss between the barrier's ends minus the larger loss at the two ends",
    "barrier_above_chord": "largest height of the loss above the straight line through its values at these ends",
    "barrier_from": "lower end of the barrier: 0 between checkpoints, else the lowest point at alpha <= 0",
    "barrier_to": "upper end of the barrier: 1 between checkpoints, else the lowest point at alpha >= 0",
    "monotonicity": "",
    "minimum": "smallest finite loss",
    "minimum_position": "where it lies",
}
"""Arrays (curve, split) that are computed from the losses when all are there."""


def arrays(course: Course | type[Along] | type[Between], metrics: dict[str, str]) -> list[Array]:
    """Return the arrays of a store of curves; ``metrics`` are name -> units."""
    text = "position: 0 = from, 1 = to" if course.ends else "multiples of the direction"
    chosen = [Array("alpha", ("alpha",), text), Array("curve", ("curve",), "curve", dtype=str)]
    chosen += [Array("split", ("split",), "evaluation subset", dtype=str), *course.schema]
    points, features = ("curve", "split", "alpha"), FEATURES | {"monotonicity": BETWEEN if course.ends else ALONG}
    chosen += [Array(name, points, name, units) for name, units in metrics.items()]
    chosen += [
        Array(name, points, text, dtype="int8") for name, text in (("stationary", STATIONARY), ("turning", TURNING))
    ]
    return chosen + [Array(name, points[:2], text, fill_value=np.nan) for name, text in features.items()]


def planned_size(curve: dict, directions: int, splits: int) -> tuple[int, int]:
    """Return how many files a store of curves has, and bytes before compression, both at most.

    Args:
        directions: how many there are to walk along; 0 between two checkpoints.
    """
    curves, alpha = directions or 1, curve["points"] + 2  # 0 and 1 may be put in
    sizes = {"alpha": alpha, "curve": curves, "other_curve": curves, "split": splits, "row": curves * alpha}
    metrics, per_unit = evaluation.UNITS, evaluation.points_per_chunk(curve, sizes["row"])
    schema = arrays(Along if directions else Between, metrics)
    return unit_store_size(schema, sizes, len(metrics) * splits + 1, per_unit)


@dataclass
class LineScan(Job):
    """The loss along a course of one or several curves; ``spec["curve"]`` says how its points are evaluated.

    ``random_guess`` is the loss of guessing classes at random, None where there are none.
    """

    course: Course
    problems: dict[str, Problem]
    subsets: dict[str, Subset]
    random_guess: float | None = None

    kind: ClassVar[str] = "curves"

    @classmethod
    def read(cls, args: Namespace, world: World) -> Self:
        """Open directions or ends, and samples, and rebuild the network on these."""
        spec, trajectory, others = args.spec, Trajectory(args.trajectory), open_others(args)
        subsets = read_subsets(spec, world)
        problems, device = read_problems(args, world, trajectory, subsets, spec["evaluation"]["batch_size"])
        course: Course
        if args.x:
            axes = read_directions(args.x)
            course, inputs = Along(spec["curve"], axes, trajectory), identities(trajectory, subsets, axes=axes)
        else:
            course = Between(spec["curve"], trajectory, others, f"curves.{args.output.stem}")
            inputs = identities(trajectory, subsets, others)
        guess = random_guess(spec["loss"], subsets["train"].samples.targets, problems["train"].class_count)
        return cls(spec, course, problems, subsets, guess, inputs=inputs, device=device)

    @property
    def rows(self) -> int:
        """How many points there are on all curves."""
        return len(self.course.labels) * len(self.course.alpha)

    def plan(self) -> Plan:
        """Choose how points are evaluated: measured on the first curve, at its ends and its middle."""
        if self.course.moves:
            return evaluation.one_by_one(self.spec["curve"], "curve")
        alpha = self.course.alpha
        points = alpha[[0, len(alpha) // 2, -1], None]
        return evaluation.choose(self.problems, self.course.place(0), points, self.rows, self.spec["curve"])

    def evaluator(self, store: Store) -> base.Evaluate:
        """Return the function that evaluates the points of a unit, one row each."""
        how = self.problems["train"], evaluation.evaluated_by(store.attrs)

        @lru_cache(1)  # units come in order, so that the last curve is most often the next one
        def on(curve: int) -> list[Evaluate]:
            return [self.course.on(problem, curve, *how) for problem in self.problems.values()]

        def evaluate(unit: range) -> np.ndarray:
            curves, numbers = np.divmod(np.arange(unit.start, unit.stop), len(self.course.alpha))
            parts = [(on(curve), numbers[curves == curve]) for curve in np.unique(curves).tolist()]
            return np.concatenate([np.hstack([at(some) for at in splits]) for splits, some in parts])

        return evaluate

    def build(self, group: zarr.Group) -> None:
        """Create all arrays of the store: coordinates at once, results to be filled in."""
        course, subsets = self.course, self.subsets.items()
        group.attrs.update(
            {
                "title": "Loss along straight lines",
                "summary": "loss(curve, split, alpha) = L(theta + alpha d): mean over the evaluation subset, no weight "
                "decay; d leads from one checkpoint to another where there are 'from' and 'to'",
                **course.attributes,
                "ends": list(course.ends or ()),
                "families": list(FAMILIES),
                "random_guess": self.random_guess,
                "samples": {name: len(subset) for name, subset in subsets},
                "subset_digest": {name: subset.digest for name, subset in subsets},
                "subset_stratified": {name: subset.stratified for name, subset in subsets},
            }
        )
        units = evaluation.metrics(self.problems)
        known: dict[str, np.ndarray | list] = {
            "alpha": course.alpha,
            "curve": course.labels,
            "split": list(self.problems),
        }
        create_arrays(group, arrays(course, units), known | course.data)
        columns = [f"{split}/{name}" for split in self.problems for name in units]
        per_unit = evaluation.points_per_chunk(self.spec["curve"], self.rows)
        work_units.add_rows(group, "One row per point, curve by curve.", self.rows, columns, per_unit)

    @staticmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Sort the points into (curve, split, alpha) arrays and characterise them; return counts for the log."""
        alpha, splits = store["alpha"][:], store["split"][:].tolist()
        names = [column.split("/")[1] for column in store[work_units.ARRAY].attrs["columns"][:-1]]
        names = names[: len(names) // len(splits)]
        values = work_units.results(store).reshape(-1, len(alpha), len(splits), len(names)).transpose(3, 0, 2, 1)
        for name, metric in zip(names, values, strict=True):
            store[name][...] = metric
        loss, ends = values[0], tuple(store.attrs["ends"]) or None
        error = values[names.index(ERROR)] if ERROR in names else np.zeros_like(loss)
        numbers = [
            [features(alpha, *one, ends) for one in zip(*curve, strict=True)] for curve in zip(loss, error, strict=True)
        ]
        for name in ("stationary", "turning", *FEATURES):
            store[name][...] = np.array([[one[name] for one in curve] for curve in numbers])
        counts = (~np.isfinite(loss)).sum(axis=(0, 2)).tolist()
        nonfinite = dict(zip(splits, counts, strict=True))
        means = dict(zip(splits, store["stationary_points"][:].mean(axis=0).tolist(), strict=True))
        store.update(nonfinite_points=nonfinite, mean_stationary_points=means)
        return {"curves": len(loss), "points": len(alpha), "nonfinite_points": nonfinite}


def features(
    alpha: np.ndarray, loss: np.ndarray, error: np.ndarray, ends: tuple[float, float] | None
) -> dict[str, Any]:
    """Return the numbers of ``FEATURES`` of one curve, and the masks ``stationary`` and ``turning`` (point,).

    Stationary points are those of Li et al. 2024, (y_t - y_t+1)(y_t - y_t-1) > 0, the ends of the curve left out. The
    barrier is what must be climbed to get from one end to the other, measured from the higher of the two: 0 on a curve
    that only falls. Above the chord it is that of Entezari et al. 2022, which for ends of equal loss is the same.
    A barrier that holds NaN is NaN.

    Args:
        alpha: ascending, shape (point,), with 0 and, if given, the ``ends`` among them.
        loss: shape (point,); NaN and inf are allowed.
        error: standard error of the loss, shape (point,).
        ends: None means the lowest points on both sides of 0.
    """
    form = shape(alpha, loss, error)
    with np.errstate(invalid="ignore"):
        rises = np.diff(loss)
        stationary = np.zeros(len(loss), bool)
        stationary[1:-1] = rises[:-1] * rises[1:] < 0
        first, last = (int(np.flatnonzero(alpha == end)[0]) for end in ends) if ends else _lowest(alpha, loss)
        path, over = loss[first : last + 1], alpha[first : last + 1] - alpha[first]
        slope = (path[-1] - path[0]) / (over[-1] or 1.0)
        if ends:
            steps = -rises[first:last]
        else:
            steps = np.where(alpha[:-1] < 0, -rises, rises)
        lowest = np.where(np.isfinite(loss), loss, np.inf).argmin()
        known = np.isfinite(loss[lowest])
        return {
            "stationary": stationary,
            "stationary_points": int(stationary.sum()),
            "turning": form.turns,
            "turning_points": int(form.turns.sum()),
            "family": FAMILIES.index(form.family),
            "barrier": path.max() - max(path[0], path[-1]),
            "barrier_above_chord": (path - (path[0] + slope * over)).max(),
            "barrier_from": alpha[first],
            "barrier_to": alpha[last],
            "monotonicity": (steps > 0).mean(),
            "minimum": loss[lowest] if known else np.nan,
            "minimum_position": alpha[lowest] if known else np.nan,
        }


def _lowest(alpha: np.ndarray, loss: np.ndarray) -> tuple[int, int]:
    """Return where the smallest losses left and right of 0 lie, the centre included and preferred."""
    center, height = int(np.flatnonzero(alpha == 0)[0]), np.where(np.isnan(loss), np.inf, loss)
    left, right = height[: center + 1][::-1].argmin(), height[center:].argmin()
    return center - int(left), center + int(right)


def random_guess(loss: dict, targets: np.ndarray, classes: int | None = None) -> float | None:
    """Return log C, the cross-entropy of a uniform guess among C classes; None for other losses.

    Args:
        classes: how many the model tells apart; left out, how many there are among the ``targets``.
    """
    if loss.get("name") not in ("cross-entropy", "next-token") or not np.issubdtype(targets.dtype, np.integer):
        return None
    return float(np.log(classes or np.unique(targets).size))
