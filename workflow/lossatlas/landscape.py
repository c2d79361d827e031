"""Driver: the loss on a plane (GradVis Algorithms 1 and 3), with the path, by ranks that share one queue.

All evaluations lie on one axis ``point``: the grid row by row, then each checkpoint projected onto the plane,
then each checkpoint itself. A unit of work is one chunk of that axis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from lossatlas.data import Subset
from lossatlas.directions.build import Axes
from lossatlas.parallel import Timing, World, work_queue
from lossatlas.problem import Problem
from lossatlas.progress import Progress
from lossatlas.store import Store, add_array
from lossatlas.trajectory import Trajectory

MAX_CHUNKS = 2000
DONE = "evaluated"
"""Last column of the work array; 1 in every chunk that a rank has written, which therefore never looks empty."""


@dataclass
class Path:
    """The projected path: coefficients (iteration, 2) and residual norms (iteration,)."""

    coefficients: np.ndarray
    residual: np.ndarray


def project_path(trajectory: Trajectory, center: np.ndarray, vectors: np.ndarray) -> Path:
    """Project all checkpoints onto center + span(vectors) by least squares; vectors need not be orthogonal.

    The residual ||theta_i - P theta_i|| is summed from the difference itself, streamed over column blocks.
    """
    products = np.zeros((len(trajectory), len(vectors)))
    for columns, block in trajectory.column_blocks():
        products += (block - center[columns]) @ vectors[:, columns].T
    coefficients = np.linalg.solve(vectors @ vectors.T, products.T).T
    squares = np.zeros(len(trajectory))
    for columns, block in trajectory.column_blocks():
        rest = block - center[columns] - coefficients @ vectors[:, columns]
        squares += np.square(rest).sum(axis=1)
    return Path(coefficients, np.sqrt(squares))


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


def build(
    group: zarr.Group,
    spec: dict,
    axes: Axes,
    path: Path,
    trajectory: Trajectory,
    problems: dict[str, Problem],
    subsets: dict[str, Subset],
) -> None:
    """Create all arrays of a landscape store: coordinates and path at once, results to be filled in."""
    x, y = grid(path, spec)
    splits, n, iterations = list(problems), len(x) * len(y), len(trajectory)
    names = metric_names(problems)
    group.attrs.update(
        {
            "title": "Loss surface on a plane",
            "summary": "loss(y, x) = L(theta_c + x d_x + y d_y), mean over the evaluation subset, no weight decay",
            "center": spec["center"],
            "batchnorm": "frozen: running statistics of theta_c on the plane, of each checkpoint for the true loss",
            "x_label": axes.labels[0],
            "y_label": axes.labels[1],
            "variance_share": axes.variance_share.tolist(),
            "direction_norm": np.linalg.norm(axes.vectors, axis=1).tolist(),
            "samples": {s: len(subsets[s]) for s in splits},
            "subset_digest": {s: subsets[s].digest for s in splits},
            "subset_stratified": {s: subsets[s].stratified for s in splits},
        }
    )
    add_array(group, "x", ("x",), data=x, long_name=axes.labels[0], units="multiples of the direction")
    add_array(group, "y", ("y",), data=y, long_name=axes.labels[1], units="multiples of the direction")
    add_array(group, "split", ("split",), data=splits, long_name="evaluation subset")
    add_array(group, "iteration", ("iteration",), data=trajectory.iterations, long_name="iteration")
    for s in splits:
        add_array(group, f"subset_{s}", (f"sample_{s}",), data=subsets[s].index, long_name=f"samples of the {s} set that were evaluated")
    for name in names:
        units = {"loss": "nat", "accuracy": "share of samples"}[name]
        add_array(group, name, ("split", "y", "x"), shape=(len(splits), len(y), len(x)), long_name=name, units=units)
        for kind, text in (("true", "of the checkpoint itself"), ("projected", "at the checkpoint's projection onto the plane")):
            add_array(group, f"path_{kind}_{name}", ("split", "iteration"), shape=(len(splits), iterations), long_name=f"{kind} {name}", description=f"{name} {text}", units=units)
    for k, (name, text) in enumerate((("path_x", "x"), ("path_y", "y"))):
        add_array(group, name, ("iteration",), data=path.coefficients[:, k], long_name=f"projection of the path on {text}")
    add_array(group, "path_residual", ("iteration",), data=path.residual, long_name="distance of the checkpoint from the plane", units="Euclidean norm")
    work = group.create_group("work")
    work.attrs["summary"] = "One row per evaluation, in the order grid, projected path, checkpoints; one chunk per unit of work."
    total, columns = n + 2 * iterations, [*(f"{s}/{m}" for s in splits for m in names), DONE]
    chunk = points_per_chunk(spec, total)
    add_array(work, "metrics", ("point", "metric"), shape=(total, len(columns)), chunks=(chunk, len(columns)), columns=columns)


def metric_names(problems: dict[str, Problem]) -> tuple[str, ...]:
    """Return the metrics that all splits offer."""
    return next(iter(problems.values())).metric_names


def unfinished_units(store: Store) -> list[int]:
    """Return the units whose chunk is not yet written."""
    work = store["work/metrics"]
    return np.flatnonzero(work[:: work.chunks[0], -1] == 0).tolist()


class Evaluator:
    """Evaluates the points of a landscape store, by number."""

    def __init__(self, store: Store, axes: Axes, trajectory: Trajectory, problems: dict[str, Problem]):
        self.trajectory, self.problems = trajectory, problems
        row = trajectory.row_of(store.attrs["center"], "plane.center")
        center, buffers = trajectory.parameters(row), trajectory.buffers(row)
        self.planes = [p.restrict(center, axes.vectors, buffers) for p in problems.values()]
        x, y = store["x"][:], store["y"][:]
        grid_points = np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1)
        projected = np.stack([store["path_x"][:], store["path_y"][:]], axis=1)
        self.points = np.concatenate([grid_points, projected])

    def __call__(self, point: int) -> np.ndarray:
        """Return the metrics of all splits at one point, followed by 1 for ``DONE``."""
        if point < len(self.points):
            values = [plane.metrics(self.points[point]) for plane in self.planes]
        else:
            row = point - len(self.points)
            theta, buffers = self.trajectory.parameters(row), self.trajectory.buffers(row)
            values = [problem.metrics(theta, buffers) for problem in self.problems.values()]
        return np.concatenate([*values, [1.0]])


def evaluate(store: Store, evaluator: Callable[[int], np.ndarray], world: World, timing: Timing, queue: str, label: str) -> None:
    """Compute all unfinished units of the store; every rank takes part and writes what it computed."""
    work = store["work/metrics"]
    total, per_unit = work.shape[0], work.chunks[0]
    units = -(-total // per_unit)
    pending = world.broadcast(unfinished_units(store) if world.rank == 0 else None)
    if world.rank == 0:
        print(f"{label}: {units - len(pending)} of {units} chunks found finished", flush=True)
    found = units - len(pending)
    progress = Progress(label, units, found, unit="chunks") if world.rank == 0 else None
    line = work_queue(world, len(pending), queue)
    while True:
        with timing("communication"):
            number = line.claim()
        if number is None:
            break
        unit = pending[number]
        rows = range(unit * per_unit, min((unit + 1) * per_unit, total))
        with timing("compute"):
            values = np.stack([evaluator(point) for point in rows])
        with timing("write"):
            work[rows.start : rows.stop] = values
        timing.units += 1
        if progress:
            progress.update(found + line.claimed())
    with timing("idle"):
        world.barrier()
    line.close()
    if progress:
        progress.close()


def finish(store: Store, attempt: dict[str, Any]) -> dict:
    """Sort the finished points into (split, y, x) and (split, iteration) arrays; return counts for the log."""
    values = store["work/metrics"][:, :-1]
    splits, ny, nx = store["split"].shape[0], store["y"].shape[0], store["x"].shape[0]
    iterations, n = store["iteration"].shape[0], nx * ny
    names = [column.split("/")[1] for column in store["work/metrics"].attrs["columns"][:-1]]
    names = names[: len(names) // splits]
    values = values.reshape(len(values), splits, len(names))
    for k, name in enumerate(names):
        column = values[:, :, k].T
        store[name][...] = column[:, :n].reshape(splits, ny, nx)
        store[f"path_projected_{name}"][...] = column[:, n : n + iterations]
        store[f"path_true_{name}"][...] = column[:, n + iterations :]
    nonfinite = int((~np.isfinite(values[:n, :, 0])).any(axis=1).sum())
    store.update(nonfinite_points=nonfinite)
    store.finish(attempt)
    return {"points": n, "nonfinite_points": nonfinite}
