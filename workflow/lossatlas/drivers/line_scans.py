"""Driver: the loss on straight lines through parameter space, by ranks that share one queue.

f(alpha) = L(theta_c + alpha d) along one or several directions, or f(alpha) = L(theta_from + alpha (theta_to -
theta_from)) between two checkpoints and beyond (Goodfellow et al. 2015; Li et al. 2018). All evaluations lie on one
axis, curve by curve; a unit of work is one chunk of it.
"""

from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import zarr

from lossatlas.data import Subset
from lossatlas.drivers import base, evaluation, second_order
from lossatlas.drivers.base import Job, Plan
from lossatlas.drivers.hessian import remembered
from lossatlas.drivers.inputs import identities, open_others, read_problems, read_subsets
from lossatlas.geometry.directions import read_directions
from lossatlas.geometry.directions.connection import KINDS, arc_length, shares
from lossatlas.geometry.directions.direction_set import Axes, angles
from lossatlas.geometry.families import FAMILIES, features
from lossatlas.geometry.segments import Line
from lossatlas.io.arrays import Array, create_arrays, unit_store_size
from lossatlas.io.store import Store, open_finished
from lossatlas.io.trajectory import Trajectory
from lossatlas.parallel import World, work_units
from lossatlas.problem import Problem
from lossatlas.problem.noise import standard_error
from lossatlas.problem.protocol import Place
from lossatlas.problem.readiness import Remembered
from lossatlas.problem.units import Group

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

    def coordinates(self, curve: int, numbers: Any) -> np.ndarray:
        """Return where some points of a curve are along the directions of its place, shape (point, direction)."""
        return self.alpha[numbers, None]

    def on(self, problem: Problem, curve: int, reference: Problem, choices: dict) -> Evaluate:
        """Return the function that evaluates a problem at points of one curve.

        Running statistics that are recomputed are those of the samples of ``reference``. ``choices`` say how points
        are evaluated where running statistics are the same all along.
        """
        choices = {"batchnorm": "recompute", "reference": reference} if self.batchnorm == "recompute" else choices
        restriction = problem.restrict(*self.place(curve), **choices)
        return lambda numbers: restriction.metrics(self.coordinates(curve, numbers))


def positions(interval: tuple[float, float], points: int, exact: tuple[float, ...]) -> np.ndarray:
    """Return equally spaced positions, with those of ``exact`` put in where they are not among them."""
    alpha = np.linspace(*interval, points)
    close = 1e-6 * (alpha[1] - alpha[0])
    for value in exact:
        nearest = np.abs(alpha - value).argmin()
        if abs(alpha[nearest] - value) < close and alpha[nearest] not in exact:
            alpha[nearest] = value
        elif alpha[nearest] != value:
            alpha = np.insert(alpha, np.searchsorted(alpha, value), value)
    return alpha


def _derived(spec: dict) -> list[float]:
    """Return the positions at which derivatives are asked for."""
    return spec.get("second_order", {}).get("at", [])


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
        self.alpha = positions(spec["range"], spec["points"], (0.0, *_derived(spec)))
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

    Where hidden units may change places, it leads to the second with these in the order of the first, and a second
    curve to the second as it is.

    Args:
        spec: keys ``from``, ``to``, ``batchnorm``, ``range`` and ``points``.
        others: trajectories of the other runs by name.
        where: config key of the curve, for messages.
        groups: hidden units that may change places, None to leave them where they are.
    """

    ends = (0.0, 1.0)
    schema = tuple(replace(array, dims=("curve", "alpha")) for array in Line.schema if array.name != Line.axis)

    def __init__(
        self,
        spec: dict,
        trajectory: Trajectory,
        others: dict[str, Trajectory],
        where: str,
        groups: Sequence[Group] | None = None,
    ):
        self.alpha = positions(spec["range"], spec["points"], (0.0, 1.0, *_derived(spec)))
        self.batchnorm = spec["batchnorm"]
        buffers = "interpolate" if self.batchnorm == "interpolate" else "frozen"
        line = Line({**spec, "buffers": buffers}, trajectory, others, where, self.alpha)
        self.lines, self.labels, self.attributes = [line], [f"{line.start.name} to {line.end.name}"], line.attributes
        if groups is not None:
            aligned = Line({**spec, "buffers": buffers}, trajectory, others, where, self.alpha, groups)
            self.lines, self.labels = [aligned, line], ["aligned", "as trained"]
            self.attributes = {**aligned.attributes, "length_as_trained": line.attributes["length"]}
        if self.batchnorm == "recompute":
            self.attributes["batchnorm"] = NOTES["recompute"]
        self.data = {array.name: np.stack([one.data[array.name] for one in self.lines]) for array in self.schema}

    @property
    def _interpolates(self) -> bool:
        return self.lines[0].interpolated and self.lines[0].start.buffers.size > 0

    @property
    def moves(self) -> bool:
        """Whether running statistics change from point to point."""
        return super().moves or self._interpolates

    def place(self, curve: int) -> Place:
        """Return where the curve runs, with the running statistics of the first checkpoint."""
        start, end = self.lines[curve].start, self.lines[curve].end
        return Place(start.theta, (end.theta - start.theta)[None], start.buffers)

    def on(self, problem: Problem, curve: int, reference: Problem, choices: dict) -> Evaluate:
        """Return the function that evaluates a problem at points of the curve; see ``Course``."""
        if self._interpolates:
            at = self.lines[curve].parameters, self.lines[curve].buffers
            return lambda numbers: np.stack([problem.metrics(*(part(n) for part in at)) for n in numbers])
        return super().on(problem, curve, reference, choices)


class Connected(Course):
    """A trained curve between two minima and the straight line between them, both in the plane of three points.

    Args:
        spec: keys ``batchnorm``, ``range`` and ``points``.
        axes: to the end and to the bend.
        attributes: of the store of these directions.
    """

    ends = (0.0, 1.0)
    schema = (Array("arc_length", ("curve", "alpha"), "length of the curve from 'from' on", "Euclidean norm"),)

    def __init__(self, spec: dict, axes: Axes, attributes: dict[str, Any], trajectory: Trajectory):
        row = trajectory.row_of(attributes["center"], "directions.center")
        self.beginning = Place(trajectory.parameters(row).astype(np.float64), axes.vectors, trajectory.buffers(row))
        self.alpha, self.batchnorm = positions(spec["range"], spec["points"], self.ends), spec["batchnorm"]
        bent, straight = shares(attributes["curve"], self.alpha), np.stack([self.alpha, 0 * self.alpha], axis=-1)
        self.labels, self._coordinates = [KINDS[attributes["curve"]], "straight line"], np.stack([bent, straight])
        self.attributes = {
            "from": f"iteration {trajectory.iterations[row]}",
            "to": axes.labels[0].removeprefix("to "),
            "connection": attributes["curve"],
            "batchnorm": NOTES[self.batchnorm].replace("theta_c", "'from'"),
        }
        length = float(np.linalg.norm(axes.vectors[0]))
        lengths = [arc_length(attributes["curve"], self.alpha, axes.vectors), self.alpha * length]
        self.attributes["length"], self.data = length, {"arc_length": np.stack(lengths)}

    def coordinates(self, curve: int, numbers: Any) -> np.ndarray:
        """Return where points are along the vectors to the end and to the bend, shape (point, 2)."""
        return self._coordinates[curve, numbers]

    def place(self, curve: int) -> Place:
        """Return the plane of the three points, with the running statistics of the beginning."""
        return self.beginning


ERROR, SKETCHES = "loss_standard_error", 50
"""Random sums of samples' losses at each point, from which standard errors of differences are estimated: to a tenth."""
DIFFERENCE = "standard error of the difference from the loss at 0, over the same samples"
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


OVER_CURVES = {
    "mean_stationary_points": "mean number of stationary points over the curves, [.] in Fig. 2 of Li et al. 2024",
    "mean_stationary_points_error": "standard error of that mean; NaN of one curve",
    "mean_monotonicity": "mean of 'monotonicity' over the curves",
    "mean_monotonicity_error": "standard error of that mean; NaN of one curve",
    "monotonic_curves": "number of curves all of whose steps are monotonic",
}
"""Arrays (split,) that are computed from those."""


def arrays(course: Course | type[Course], metrics: dict[str, str], derived: bool = True) -> list[Array]:
    """Return the arrays of a store of curves; ``metrics`` are name -> units, ``derived`` asks for derivatives."""
    text = "position: 0 = from, 1 = to" if course.ends else "multiples of the direction"
    chosen = [Array("alpha", ("alpha",), text), Array("curve", ("curve",), "curve", dtype=str)]
    chosen += [Array("split", ("split",), "evaluation subset", dtype=str), *course.schema]
    points, features = ("curve", "split", "alpha"), FEATURES | {"monotonicity": BETWEEN if course.ends else ALONG}
    chosen += [Array(name, points, name, units) for name, units in metrics.items()]
    chosen += [Array("difference_error", points, DIFFERENCE)] if ERROR in metrics else []
    chosen += second_order.SCHEMA if derived else ()
    chosen += [
        Array(name, points, text, dtype="int8") for name, text in (("stationary", STATIONARY), ("turning", TURNING))
    ]
    chosen += [Array(name, points[1:2], text, fill_value=np.nan) for name, text in OVER_CURVES.items()]
    return chosen + [Array(name, points[:2], text, fill_value=np.nan) for name, text in features.items()]


def planned_size(curve: dict, directions: int, splits: int) -> tuple[int, int]:
    """Return how many files a store of curves has, and bytes before compression, both at most.

    Args:
        directions: how many there are to walk along; 0 between two checkpoints.
    """
    ends = 2 if (curve.get("to") or {}).get("align") else 1
    curves, alpha = directions or ends, curve["points"] + 2 + len(_derived(curve))  # these may be put in
    sizes = {"alpha": alpha, "curve": curves, "other_curve": curves, "split": splits, "row": curves * alpha}
    metrics, per_unit = evaluation.UNITS, evaluation.points_per_chunk(curve, sizes["row"])
    derived = "second_order" in curve
    kind: type[Course] = Connected if "connection" in curve else Along if directions else Between
    schema, columns = arrays(kind, metrics, derived), len(metrics) + SKETCHES + 2 * derived
    return unit_store_size(schema, sizes, columns * splits + 1, per_unit)


@dataclass
class LineScan(Job):
    """The loss along a course of one or several curves; ``spec["curve"]`` says how its points are evaluated.

    ``random_guess`` is the loss of guessing classes at random, None where there are none; ``remembered`` are choices of
    other jobs of the run.
    """

    course: Course
    problems: dict[str, Problem]
    subsets: dict[str, Subset]
    random_guess: float | None = None
    remembered: Remembered | None = field(default=None, kw_only=True)

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
            inputs = identities(trajectory, subsets, axes=axes)
            if "connection" in spec["curve"]:
                attributes = open_finished(args.x[0][0]).attrs
                course = Connected(spec["curve"], axes, attributes, trajectory)
            else:
                course = Along(spec["curve"], axes, trajectory)
        else:
            groups = problems["train"].interchangeable() if spec["curve"]["to"].get("align") else None
            course = Between(spec["curve"], trajectory, others, f"curves.{args.output.stem}", groups)
            inputs = identities(trajectory, subsets, others)
        moves = course.moves and trajectory.buffers(0).size > 0
        second_order.check(spec["curve"], moves, f"curves.{args.output.stem}")
        guess = random_guess(spec["loss"], subsets["train"].samples.targets, problems["train"].class_count)
        about: dict[str, Any] = {"inputs": inputs, "device": device, "remembered": remembered(args, device)}
        return cls(spec, course, problems, subsets, guess, **about)

    @property
    def rows(self) -> int:
        """How many points there are on all curves."""
        return len(self.course.labels) * len(self.course.alpha)

    def plan(self) -> Plan:
        """Choose how points are evaluated: measured on the first curve, at its ends and its middle."""
        course, spec = self.course, self.spec["curve"]
        if course.moves:
            plan = evaluation.one_by_one(spec, "curve")
        else:
            points = course.coordinates(0, [0, len(course.alpha) // 2, -1])
            plan = evaluation.choose(self.problems, course.place(0), points, self.rows, spec)
        if self.derived:
            count = len(course.labels) * len(_derived(spec))
            first = next(iter(self.problems.values())), course.place(0), count
            plan.attributes["second_order"] = second_order.choose(*first, spec["second_order"], self.remembered)
        return plan

    @property
    def derived(self) -> bool:
        """Whether derivatives are taken at some points."""
        return "second_order" in self.spec["curve"]

    @property
    def sketched(self) -> bool:
        """Whether standard errors are known, and so those of differences."""
        return ERROR in evaluation.metrics(self.problems)

    def evaluator(self, store: Store) -> base.Evaluate:
        """Return the function that evaluates the points of a unit, one row each."""
        how = self.problems["train"], evaluation.evaluated_by(store.attrs)
        for problem in self.problems.values() if self.sketched else ():
            problem.sketch(SKETCHES)

        @lru_cache(1)  # units come in order, so that the last curve is most often the next one
        def on(curve: int) -> list[Evaluate]:
            splits = [self.course.on(problem, curve, *how) for problem in self.problems.values()]
            if not self.derived:
                return splits
            place, spec = self.course.place(curve), {**self.spec["curve"]["second_order"]}
            spec["strategy"] = store.attrs["second_order"]["strategy"]
            pairs = zip(splits, self.problems.values(), strict=True)
            return [self._with_derivatives(at, second_order.derivatives(p, place, spec)) for at, p in pairs]

        def evaluate(unit: range) -> np.ndarray:
            curves, numbers = np.divmod(np.arange(unit.start, unit.stop), len(self.course.alpha))
            parts = [(on(curve), numbers[curves == curve]) for curve in np.unique(curves).tolist()]
            return np.concatenate([np.hstack([at(some) for at in splits]) for splits, some in parts])

        return evaluate

    def _with_derivatives(self, evaluate: Evaluate, derivatives: Callable[[float], np.ndarray]) -> Evaluate:
        """Return the function that also has the derivatives, NaN where they are not asked for."""
        alpha, nowhere = self.course.alpha, np.full(len(second_order.SCHEMA), np.nan)
        asked = np.isin(alpha, _derived(self.spec["curve"]))

        def at(numbers: np.ndarray) -> np.ndarray:
            found = [derivatives(alpha[n]) if asked[n] else nowhere for n in numbers]
            return np.hstack([evaluate(numbers), np.stack(found)])

        return at

    def build(self, group: zarr.Group) -> None:
        """Create all arrays of the store: coordinates at once, results to be filled in."""
        course, subsets = self.course, self.subsets.items()
        group.attrs.update(
            {
                "title": "Loss along lines",
                "summary": "loss(curve, split, alpha) = L(theta + alpha d): mean over the evaluation subset, no weight "
                "decay; d leads from one checkpoint to another where there are 'from' and 'to'; a trained curve "
                "('connection') bends on the way",
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
        create_arrays(group, arrays(course, units, self.derived), known | course.data)
        names = [*units, *(f"sketch {k}" for k in range(SKETCHES) if self.sketched)]
        names += [array.name for array in second_order.SCHEMA if self.derived]
        columns = [f"{split}/{name}" for split in self.problems for name in names]
        per_unit = evaluation.points_per_chunk(self.spec["curve"], self.rows)
        work_units.add_rows(group, "One row per point, curve by curve.", self.rows, columns, per_unit)

    @staticmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Sort the points into (curve, split, alpha) arrays and characterise them; return counts for the log."""
        alpha, splits = store["alpha"][:], store["split"][:].tolist()
        names = [column.split("/")[1] for column in store[work_units.ARRAY].attrs["columns"][:-1]]
        names = names[: len(names) // len(splits)]
        values = work_units.results(store).reshape(-1, len(alpha), len(splits), len(names)).transpose(3, 0, 2, 1)
        sketched = [name.startswith("sketch ") for name in names]
        for name, metric, sketch in zip(names, values, sketched, strict=True):
            if not sketch:
                store[name][...] = metric
        loss, noise = values[0], np.moveaxis(values[sketched], 0, -1)
        if ERROR in names:
            center = int(np.flatnonzero(alpha == 0)[0])
            store["difference_error"][...] = standard_error(noise, noise[:, :, center, None])
        clipped = np.zeros((len(loss), 1, len(alpha)), bool)
        if "clipped_variances" in store.group:
            clipped |= store["clipped_variances"][:][:, None] > 0
        counted, ends = np.where(clipped, np.nan, loss), tuple(store.attrs["ends"]) or None
        numbers = [
            [features(alpha, counted[curve, split], noise[curve, split], ends) for split in range(len(splits))]
            for curve in range(len(loss))
        ]
        for name in ("stationary", "turning", *FEATURES):
            store[name][...] = np.array([[one[name] for one in curve] for curve in numbers])
        counts = (~np.isfinite(loss)).sum(axis=(0, 2)).tolist()
        nonfinite = dict(zip(splits, counts, strict=True))
        for name, over_curves in _over_curves(store).items():
            store[name][...] = over_curves
        store.update(nonfinite_points=nonfinite, clipped_points=int(clipped.sum()))
        return {"curves": len(loss), "points": len(alpha), "nonfinite_points": nonfinite}


def _over_curves(store: Store) -> dict[str, np.ndarray]:
    """Return the arrays of ``OVER_CURVES`` (split,)."""
    steps = store["monotonicity"][:]
    found = {"monotonic_curves": (steps == 1).sum(axis=0)}
    for name, values in (("stationary_points", store["stationary_points"][:]), ("monotonicity", steps)):
        several = len(values) > 1
        found[f"mean_{name}"] = values.mean(axis=0)
        found[f"mean_{name}_error"] = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if several else np.nan
    return found


def random_guess(loss: dict, targets: np.ndarray, classes: int | None = None) -> float | None:
    """Return log C, the cross-entropy of a uniform guess among C classes; None for other losses.

    Args:
        classes: how many the model tells apart; left out, how many there are among the ``targets``.
    """
    if loss.get("name") not in ("cross-entropy", "next-token") or not np.issubdtype(targets.dtype, np.integer):
        return None
    return float(np.log(classes or np.unique(targets).size))
