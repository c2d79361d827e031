"""Paths on a plane: the run's own, and those of other runs with the same network."""

import itertools
from dataclasses import dataclass, field

import numpy as np

from lossatlas.errors import LossAtlasError
from lossatlas.io.arrays import Array
from lossatlas.io.trajectory import Trajectory


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


def join(paths: list[Path]) -> Path:
    """Return several paths as one, one after the other."""
    return Path(np.concatenate([p.coefficients for p in paths]), np.concatenate([p.residual for p in paths]))


@dataclass
class Others:
    """Other runs whose checkpoints a plane shows, all on one axis ``other_checkpoint``, run after run.

    ``losses`` says whether the checkpoints and their projections are evaluated.
    """

    runs: dict[str, Trajectory] = field(default_factory=dict)
    losses: bool = True

    @property
    def evaluated(self) -> list[tuple[Trajectory, int]]:
        """The checkpoints that are evaluated: (trajectory, row)."""
        return [(run, row) for run in self.runs.values() for row in range(len(run))] if self.losses else []

    def check(self, trajectory: Trajectory) -> None:
        """Check that the other runs have the network of this one.

        Raises:
            LossAtlasError: a run has other parameters or buffers, or other values of those that are not trained.
        """
        for name, other in self.runs.items():
            if other.layout != trajectory.layout or other.store.attrs["buffers"] != trajectory.store.attrs["buffers"]:
                raise LossAtlasError(f"plane.paths: run {name!r} has another network than this run")
            if not np.array_equal(other.frozen, trajectory.frozen):
                raise LossAtlasError(f"plane.paths: run {name!r} has other values of parameters that are not trained")

    def schema(self, metrics: dict[str, str]) -> list[Array]:
        """Return the arrays of a landscape store that show these runs; ``metrics`` are name -> units."""
        return other_arrays(metrics if self.losses else {}) if self.runs else []

    def data(self, paths: list[Path]) -> dict[str, np.ndarray | list]:
        """Return what is known of their projected ``paths`` at once, by array."""
        if not self.runs:
            return {}
        path = join(paths)
        return {
            "other_run": [name for name, run in self.runs.items() for _ in range(len(run))],
            "other_iteration": np.concatenate([run.iterations for run in self.runs.values()]),
            "other_x": path.coefficients[:, 0],
            "other_y": path.coefficients[:, 1],
            "other_residual": path.residual,
        }


_ALONG = ("other_checkpoint",)
_CHECKPOINTS = (
    Array("other_run", _ALONG, "run of the other checkpoint", dtype=str),
    Array("other_iteration", _ALONG, "iteration of the other run", dtype="int64"),
    Array("other_x", _ALONG, "projection of the other run's path on x"),
    Array("other_y", _ALONG, "projection of the other run's path on y"),
    Array("other_residual", _ALONG, "distance of the other checkpoint from the plane", "Euclidean norm"),
)
"""Where the checkpoints of other runs are."""


def other_arrays(metrics: dict[str, str]) -> list[Array]:
    """Return the arrays that show other runs, evaluated by ``metrics``, name -> units."""
    values = (path_arrays("other", *_ALONG, *metric) for metric in metrics.items())
    return [*_CHECKPOINTS, *itertools.chain(*values)]


def path_arrays(who: str, along: str, name: str, units: str) -> list[Array]:
    """Return the arrays of a metric at checkpoints and at their projections; ``who`` begins their names."""
    return [
        Array(f"{who}_{kind}_{name}", ("split", along), f"{kind} {name}", units, f"{name} {text}")
        for kind, text in (("true", "of the checkpoint itself"), ("projected", "at the checkpoint's projection"))
    ]
