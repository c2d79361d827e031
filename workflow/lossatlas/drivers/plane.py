"""What jobs on a plane share: its axes and centre, the paths that it shows, its grid."""

from argparse import Namespace
from functools import cached_property
from typing import Any

import numpy as np

from lossatlas.errors import LossAtlasError
from lossatlas.geometry.directions import orthogonalize, read_axes
from lossatlas.geometry.directions.direction_set import Axes
from lossatlas.geometry.projection import Others, Path, join, project_path
from lossatlas.io.trajectory import Trajectory


class OnPlane:
    """A job on the plane ``spec["plane"]``; ``others`` are the runs whose paths it shows besides its own."""

    spec: dict
    axes: Axes
    trajectory: Trajectory
    others: Others

    @property
    def plane(self) -> dict[str, Any]:
        """The plane's own part of the spec."""
        return self.spec["plane"]

    @property
    def policy(self) -> str:
        """What BatchNorm normalises by."""
        return self.plane.get("batchnorm", "frozen")

    @cached_property
    def origin(self) -> tuple[np.ndarray, np.ndarray]:
        """Theta, as it was recorded, and buffers of the checkpoint that the axes begin at."""
        row = self.trajectory.row_of(self.plane["center"], "plane.center")
        return self.trajectory.parameters(row), self.trajectory.buffers(row)

    @cached_property
    def paths(self) -> list[Path]:
        """The run's own path projected onto the plane, and those of the other runs.

        Raises:
            LossAtlasError: another run has another network.
        """
        self.others.check(self.trajectory)
        center = self.origin[0].astype(np.float64)
        return [project_path(run, center, self.axes.vectors) for run in (self.trajectory, *self.others.runs.values())]

    @property
    def shown(self) -> Path:
        """All that the range of the plane includes: the paths, and a trained curve that lies in it."""
        paths, curve = join(self.paths), self.axes.connection
        return join([paths, Path(curve, np.zeros(len(curve)))])

    def moving(self) -> np.ndarray:
        """Return the differences of running statistics that go with the axes, (2, buffer).

        Raises:
            LossAtlasError: the axes are no differences of checkpoints.
        """
        if self.axes.buffers is None:
            raise LossAtlasError(
                "plane.batchnorm: 'interpolate' needs differences of checkpoints as axes, of which the running "
                "statistics are known; choose 'frozen' or 'recompute'"
            )
        return self.axes.buffers


def open_axes(args: Namespace, trajectory: Trajectory) -> Axes:
    """Open the axes that a command line names, y made orthogonal to x where the plane asks for it."""
    axes = read_axes([args.x, args.y])
    return orthogonalize(axes, trajectory) if args.spec["plane"]["orthogonalize"] else axes


def grid_coordinates(path: Path, spec: dict) -> tuple[np.ndarray, np.ndarray]:
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
        axes.append(np.linspace(interval[0], interval[1], spec["points"][k]))
    return axes[0], axes[1]


def grid_points(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return all points of a grid row by row, shape (point, 2)."""
    return np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1)
