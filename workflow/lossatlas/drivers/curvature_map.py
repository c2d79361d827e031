"""Driver: the extreme Hessian eigenvalues on a grid over a plane, by ranks that share one queue.

Li et al. 2018, section 6 ("Are we really seeing convexity?"): where |lambda_min / lambda_max| is close to 0 the surface
is as convex as it looks on the plane. A unit of work is one grid point, or a few on large grids.
"""

import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import zarr

from lossatlas.drivers.base import Evaluate
from lossatlas.drivers.evaluation import BATCHNORM, MAX_CHUNKS
from lossatlas.drivers.hessian import HessianJob, remembered
from lossatlas.drivers.inputs import identities, open_others, read_problem
from lossatlas.drivers.plane import OnPlane, grid_coordinates, grid_points, open_axes
from lossatlas.errors import LossAtlasError, NonFiniteError
from lossatlas.geometry.directions.direction_set import Axes
from lossatlas.geometry.projection import Others
from lossatlas.geometry.segments import variance_mask
from lossatlas.io.arrays import Array, create_arrays, unit_store_size
from lossatlas.io.store import Store
from lossatlas.io.trajectory import Trajectory
from lossatlas.krylov import eigenpairs
from lossatlas.krylov.eigenpairs import check_count
from lossatlas.parallel import World, work_units
from lossatlas.problem import batchnorm_note, choices_of

COLUMNS = {
    "loss": "loss at the grid point",
    "gradient_norm": "Euclidean norm of the gradient",
    "largest": "largest eigenvalue lambda_max",
    "smallest": "smallest eigenvalue lambda_min",
    "ratio": "|lambda_min / lambda_max|; inf where only lambda_max is 0",
    "largest_residual": "residual ||Hy - lambda y|| of the largest eigenpair",
    "smallest_residual": "residual ||Hy - lambda y|| of the smallest eigenpair",
    "largest_converged": "whether the largest eigenpair has converged (1) or not (0)",
    "smallest_converged": "whether the smallest eigenpair has converged (1) or not (0)",
    "products": "Hessian products used",
}
"""Arrays (y, x) of a store, in the order of the columns of a unit."""

HELD = "; at each point derivatives hold them fixed"
NOTES = {"frozen": "frozen: running statistics of theta_c"}
NOTES |= {policy: BATCHNORM[policy] + HELD for policy in ("recompute", "interpolate")}
"""What BatchNorm normalises by, by the policy of the plane."""


def arrays(labels: Sequence[str] = ("x", "y")) -> list[Array]:
    """Return the arrays of a store, whose axes have these labels."""
    axes = [Array(k, (k,), text, "multiples of the direction") for k, text in zip("xy", labels, strict=True)]
    return axes + [Array(name, ("y", "x"), text, fill_value=np.nan) for name, text in COLUMNS.items()]


def points_per_chunk(points: int) -> int:
    """Return how many points a rank claims at once: one, more where a store would hold too many chunks."""
    return -(-points // MAX_CHUNKS)


def planned_size(choices: dict) -> tuple[int, int]:
    """Return how many files the store of a plane's ``curvature`` has, and bytes before compression."""
    nx, ny = choices["points"]
    sizes = {"x": nx, "y": ny, "row": nx * ny}
    return unit_store_size(arrays(), sizes, len(COLUMNS) + 1, points_per_chunk(nx * ny))


@dataclass
class CurvatureMap(OnPlane, HessianJob):
    """Extreme eigenvalues on the plane ``spec["plane"]``; ``spec["curvature"]`` says which points and how."""

    axes: Axes
    trajectory: Trajectory
    others: Others = field(default_factory=Others)

    kind: ClassVar[str] = "curvature"

    @classmethod
    def read(cls, args: Namespace, world: World) -> Self:
        """Open the axes, the paths and the samples, and rebuild the network on the training samples alone."""
        trajectory, others = Trajectory(args.trajectory), Others(open_others(args), losses=False)
        axes = open_axes(args, trajectory)
        problem, subset, device = read_problem(args, world, trajectory, args.spec["curvature"])
        about: dict[str, Any] = {"device": device, "remembered": remembered(args, device)}
        inputs = identities(trajectory, {"train": subset}, others.runs, axes)
        return cls(args.spec, problem, subset, axes, trajectory, others, inputs=inputs, **about)

    @property
    def products(self) -> int:
        """How many products are computed at most."""
        return math.prod(self.choices["points"]) * self.choices["max_products"]

    def first_point(self) -> tuple[np.ndarray, np.ndarray]:
        """Return theta and buffers of the first checkpoint."""
        return self.trajectory.parameters(0), self.trajectory.buffers(0)

    def evaluator(self, store: Store) -> Evaluate:
        """Return the function that searches the eigenpairs at the points of a unit, one row each."""
        begun, points = self.as_begun(store), grid_points(store["x"][:], store["y"][:])
        return lambda unit: np.stack([begun.point(points[number]) for number in unit])

    def build(self, group: zarr.Group) -> None:
        """Create all arrays of the store.

        Raises:
            LossAtlasError: fewer than two parameters match, so that there are no two ends; or running statistics are
                to move along axes that are no differences of checkpoints.
        """
        spec, plane = self.choices, self.plane
        if self.policy == "interpolate":
            self.moving()
        check_count(self.matrix["parameters"], 2)
        x, y = grid_coordinates(self.shown, {**plane, "points": spec["points"]})
        group.attrs.update(
            {
                "title": "Extreme Hessian eigenvalues on a plane",
                "summary": "The largest and smallest eigenvalue and the gradient at theta_c + x d_x + y d_y; NaN where "
                "the loss or a derivative is NaN or infinite.",
                "center": plane["center"],
                "batchnorm": batchnorm_note(spec, NOTES[self.policy]),
                "plane_batchnorm": self.policy,
                "x_label": self.axes.labels[0],
                "y_label": self.axes.labels[1],
                **self.axes.notes,
                "tolerance": spec["tolerance"],
                "max_products": spec["max_products"],
                **self.matrix,
            }
        )
        create_arrays(group, arrays(self.axes.labels), {"x": x, "y": y})
        points = len(x) * len(y)
        summary = "One row per grid point, row by row."
        work_units.add_rows(group, summary, points, list(COLUMNS), points_per_chunk(points))

    @staticmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Sort the finished points into (y, x) arrays; return counts for the log."""
        values = work_units.results(store)
        for column, name in zip(values.T, COLUMNS, strict=True):
            store[name][...] = column.reshape(store[name].shape)
        columns = dict(zip(COLUMNS, values.T, strict=True))
        nonfinite = ~np.isfinite(columns["largest"])
        unconverged = ~nonfinite & ((columns["largest_converged"] == 0) | (columns["smallest_converged"] == 0))
        counts = {"nonfinite_points": int(nonfinite.sum()), "unconverged_points": int(unconverged.sum())}
        store.update(**counts)
        return {"points": len(values), **counts}

    def point(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the columns of one point of the plane; no eigenvalues where something is NaN or infinite."""
        theta = self.origin[0].astype(np.float64) + coefficients @ self.axes.vectors
        buffers = self.buffers_at(theta, coefficients)
        loss = self.problem.metrics(theta, buffers)[0]
        slope = np.linalg.norm(self.problem.gradient(theta, buffers))
        try:
            return np.array([loss, slope, *self._extremes(theta, buffers)])
        except NonFiniteError:
            return np.array([loss, slope, *np.full(len(COLUMNS) - 2, np.nan)])
        except LossAtlasError as error:
            x, y = coefficients
            raise LossAtlasError(f"curvature: x = {x:.6g}, y = {y:.6g}: {error}") from error

    def buffers_at(self, theta: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """Return the running statistics at a point, by the policy of the plane."""
        buffers = self.origin[1]
        if self.policy == "recompute":
            return self.problem.recomputed(theta, buffers)
        if self.policy == "interpolate":
            moved = buffers + coefficients @ self.moving()
            return np.where(variance_mask(self.trajectory) & (moved < 0), 0.0, moved)
        return buffers

    def _extremes(self, theta: np.ndarray, buffers: np.ndarray) -> list[float]:
        spec = self.choices
        operator = self.problem.linearize(theta, buffers, **choices_of(spec))
        pairs = eigenpairs(operator, 1, 1, spec["tolerance"], spec["max_products"], spec["seed"])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.abs(pairs.values[1] / pairs.values[0])
        return [*pairs.values, ratio, *pairs.residuals, *pairs.converged, pairs.products]
