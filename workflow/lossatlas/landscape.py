"""Driver: the loss on a plane (GradVis Algorithms 1 and 3), with the path, by ranks that share one queue.

All evaluations lie on one axis ``point``: the grid row by row, then each checkpoint projected onto the plane,
then each checkpoint itself; those of other runs come after the run's own. A unit of work is one chunk of that axis.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr

from lossatlas import units
from lossatlas.data import Subset
from lossatlas.directions.build import Axes
from lossatlas.paths import Others, Path, join, project_path
from lossatlas.problem import Problem
from lossatlas.store import Store, add_array
from lossatlas.trajectory import Trajectory

MAX_CHUNKS = 2000
UNITS = {"loss": "mean per sample", "accuracy": "share of samples"}


def grid(path: Path, spec: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates (x, y) of the grid: the path's extent plus a border, or the fixed range.

    An extent of zero borrows the other axis's; with neither, the range is [-1, 1].
    """
    low, high = path.coefficients.min(axis=0), path.coefficients.max(axis=0)
    extent = high - low
    extent = np.where(extent > 1e-9 * extent.max(), extent, extent.max())
    axes = []
    for k, name in enumerate(("x", "y")):
        interval = spec.get("range", {}).get(name)
        if interval is None:
            middle, half = (low[k] + high[k]) / 2, (0.5 + spec["border"]) * extent[k]
            interval = (middle - half, middle + half) if half > 0 else (-1.0, 1.0)
        axes.append(np.linspace(*interval, spec["points"][k]))
    return axes[0], axes[1]


def points_per_chunk(spec: dict, points: int) -> int:
    """Return how many points a rank claims at once."""
    return spec.get("points_per_chunk", max(4, -(-points // MAX_CHUNKS)))


@dataclass
class Plane:
    """Everything that a landscape store is built from."""

    spec: dict
    axes: Axes
    trajectory: Trajectory
    problems: dict[str, Problem]
    subsets: dict[str, Subset]
    others: Others = field(default_factory=Others)

    def build(self, group: zarr.Group) -> None:
        """Create all arrays of the store: coordinates and path at once, results to be filled in."""
        row = self.trajectory.row_of(self.spec["center"], "plane.center")
        center = self.trajectory.parameters(row).astype(np.float64)
        self.others.check(self.trajectory)
        path = project_path(self.trajectory, center, self.axes.vectors)
        other_paths = self.others.project(center, self.axes.vectors)
        x, y = grid(join([path, *other_paths]), self.spec)
        group.attrs.update(self._attributes())
        self._add_coordinates(group, x, y)
        self._add_path(group, path)
        self._add_results(group, len(x), len(y))
        units_of = {name: UNITS[name] for name in metric_names(self.problems)}
        self.others.build(group, other_paths, units_of, len(self.problems))
        rows = len(x) * len(y) + 2 * (len(self.trajectory) + len(self.others.evaluated))
        summary = "One row per evaluation, in the order grid (row by row), projected paths, checkpoints."
        columns = [f"{split}/{name}" for split in self.problems for name in metric_names(self.problems)]
        units.add_rows(group, summary, rows, columns, points_per_chunk(self.spec, rows))

    def _attributes(self) -> dict:
        subsets = self.subsets.items()
        return {
            "title": "Loss surface on a plane",
            "summary": "loss(y, x) = L(theta_c + x d_x + y d_y): mean over the evaluation subset, no weight decay",
            "center": self.spec["center"],
            "batchnorm": "frozen: running statistics of theta_c on the plane, of each checkpoint for its true loss",
            "x_label": self.axes.labels[0],
            "y_label": self.axes.labels[1],
            "variance_share": self.axes.variance_share.tolist(),
            "direction_norm": np.linalg.norm(self.axes.vectors, axis=1).tolist(),
            **self.axes.notes,
            "samples": {name: len(subset) for name, subset in subsets},
            "subset_digest": {name: subset.digest for name, subset in subsets},
            "subset_stratified": {name: subset.stratified for name, subset in subsets},
        }

    def _add_coordinates(self, group: zarr.Group, x: np.ndarray, y: np.ndarray) -> None:
        for name, values, label in (("x", x, self.axes.labels[0]), ("y", y, self.axes.labels[1])):
            add_array(group, name, (name,), data=values, long_name=label, units="multiples of the direction")
        add_array(group, "split", ("split",), data=list(self.problems), long_name="evaluation subset")
        add_array(group, "iteration", ("iteration",), data=self.trajectory.iterations, long_name="iteration")
        for name, subset in self.subsets.items():
            text = f"samples of the {name} set that were evaluated"
            add_array(group, f"subset_{name}", (f"sample_{name}",), data=subset.index, long_name=text)

    def _add_path(self, group: zarr.Group, path: Path) -> None:
        for k, name in enumerate(("x", "y")):
            text = f"projection of the path on {name}"
            add_array(group, f"path_{name}", ("iteration",), data=path.coefficients[:, k], long_name=text)
        text = "distance of the checkpoint from the plane"
        add_array(group, "path_residual", ("iteration",), data=path.residual, long_name=text, units="Euclidean norm")

    def _add_results(self, group: zarr.Group, nx: int, ny: int) -> None:
        splits, iterations = len(self.problems), len(self.trajectory)
        for name in metric_names(self.problems):
            units_of = UNITS[name]
            add_array(group, name, ("split", "y", "x"), shape=(splits, ny, nx), long_name=name, units=units_of)
            for kind, text in (("true", "of the checkpoint itself"), ("projected", "at the checkpoint's projection")):
                add_array(
                    group,
                    f"path_{kind}_{name}",
                    ("split", "iteration"),
                    shape=(splits, iterations),
                    long_name=f"{kind} {name}",
                    description=f"{name} {text}",
                    units=units_of,
                )


def metric_names(problems: dict[str, Problem]) -> tuple[str, ...]:
    """Return the metrics that all splits offer."""
    return next(iter(problems.values())).metric_names


CHOICES = ("strategy", "precision")
"""Keys of a plane's spec, and of its store's attributes, that say how its points are evaluated."""


def choices_of(values: dict) -> dict[str, Any]:
    """Return what ``restrict`` takes of a plane's spec or of its store's attributes; what is missing has a default."""
    return {key: values[key] for key in CHOICES if key in values}


def with_strategy(plane: Plane, label: str | None = None) -> Callable[[zarr.Group], None]:
    """Return the plane's ``build``, which also chooses how points are evaluated and says so in the store.

    The choice depends on the clock, and strategies differ by rounding. So it is made once, by who creates the store.

    Args:
        label: name of the job, put before what is printed; without one nothing is.
    """

    def build(group: zarr.Group) -> None:
        plane.build(group)
        row = plane.trajectory.row_of(plane.spec["center"], "plane.center")
        at = plane.trajectory.parameters(row), plane.axes.vectors, plane.trajectory.buffers(row)
        ends = [group[name][:][[0, -1]] for name in ("x", "y") if name in group]
        points = np.array([np.mean(ends, axis=1), *itertools.product(*ends)])
        count, problem = group[units.ARRAY].shape[0], next(iter(plane.problems.values()))
        chosen = problem.choose_evaluation(*at, points, count, **choices_of(plane.spec))
        if label:
            print(f"{label}: points are evaluated by strategy {chosen.told}", flush=True)
        precision = plane.spec.get("precision", "full")
        group.attrs.update(strategy=chosen.strategy, strategy_note=chosen.told, precision=precision)
        if chosen.error is not None:
            group.attrs.update(precision_error=chosen.error, precision_error_points=points.tolist())

    return build


class Evaluator:
    """Evaluates the points of a landscape store, by number."""

    def __init__(
        self,
        store: Store,
        axes: Axes,
        trajectory: Trajectory,
        problems: dict[str, Problem],
        others: Others | None = None,
    ):
        self.problems, evaluated = problems, others.evaluated if others else []
        self.checkpoints = [*((trajectory, row) for row in range(len(trajectory))), *evaluated]
        row = trajectory.row_of(store.attrs["center"], "plane.center")
        center, buffers = trajectory.parameters(row), trajectory.buffers(row)
        choices = choices_of(store.attrs)
        self.planes = [p.restrict(center, axes.vectors, buffers, **choices) for p in problems.values()]
        x, y = store["x"][:], store["y"][:]
        grid_points = np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1)
        projected = np.stack([store["path_x"][:], store["path_y"][:]], axis=1)
        self.points = np.concatenate([grid_points, projected])
        if evaluated:
            elsewhere = np.stack([store["other_x"][:], store["other_y"][:]], axis=1)
            self.points = np.concatenate([self.points, elsewhere])

    def __call__(self, unit: range) -> np.ndarray:
        """Return the metrics of all splits at the points of a unit, one row each."""
        first_checkpoint = len(self.points)
        on_plane = self.points[unit.start : min(unit.stop, first_checkpoint)]
        found = [np.hstack([plane.metrics(on_plane) for plane in self.planes])] if len(on_plane) else []
        found += [self.checkpoint(n - first_checkpoint)[None] for n in unit if n >= first_checkpoint]
        return np.concatenate(found)

    def checkpoint(self, number: int) -> np.ndarray:
        """Return the metrics of all splits at a checkpoint itself, the run's own or another run's."""
        trajectory, row = self.checkpoints[number]
        theta, buffers = trajectory.parameters(row), trajectory.buffers(row)
        return np.concatenate([problem.metrics(theta, buffers) for problem in self.problems.values()])


def finish(store: Store, attempt: dict[str, Any]) -> dict:
    """Sort the finished points into (split, y, x) and (split, iteration) arrays; return counts for the log."""
    values = units.results(store)
    splits, ny, nx = store["split"].shape[0], store["y"].shape[0], store["x"].shape[0]
    iterations, n = store["iteration"].shape[0], nx * ny
    names = [column.split("/")[1] for column in store[units.ARRAY].attrs["columns"][:-1]]
    names = names[: len(names) // splits]
    values = values.reshape(len(values), splits, len(names))
    for k, name in enumerate(names):
        column = values[:, :, k].T
        store[name][...] = column[:, :n].reshape(splits, ny, nx)
        for kind, found in zip(("projected", "true"), np.split(column[:, n:], 2, axis=1), strict=True):
            store[f"path_{kind}_{name}"][...] = found[:, :iterations]
            if found.shape[1] > iterations:
                store[f"other_{kind}_{name}"][...] = found[:, iterations:]
    counts = (~np.isfinite(values[:n, :, 0])).sum(axis=0).tolist()
    nonfinite = dict(zip(store["split"][:].tolist(), counts, strict=True))
    store.update(nonfinite_points=nonfinite)
    store.finish(attempt)
    elsewhere = {"evaluations_of_other_runs": store.attrs["other_evaluations"]} if "other_run" in store.group else {}
    return {"points": n, "nonfinite_points": nonfinite, **elsewhere}
