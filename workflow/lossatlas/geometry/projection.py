"""Paths on a plane: the run's own, and those of other runs with the same network."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr

from lossatlas.errors import LossAtlasError
from lossatlas.io.store import add_array
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

    def project(self, center: np.ndarray, vectors: np.ndarray) -> list[Path]:
        """Project every run's path, see ``project_path``."""
        return [project_path(run, center, vectors) for run in self.runs.values()]

    def build(self, group: zarr.Group, paths: list[Path], metrics: dict[str, str], splits: int) -> None:
        """Create the arrays of a landscape store: positions at once, ``metrics`` (name -> units) to be filled in."""
        if not self.runs:
            return
        path, dims = join(paths), ("other_checkpoint",)
        names = [name for name, run in self.runs.items() for _ in range(len(run))]
        iterations = np.concatenate([run.iterations for run in self.runs.values()])
        add_array(group, "other_run", dims, data=names, long_name="run of the other checkpoint")
        add_array(group, "other_iteration", dims, data=iterations, long_name="iteration of the other run")
        for k, name in enumerate(("x", "y")):
            text = f"projection of the other run's path on {name}"
            add_array(group, f"other_{name}", dims, data=path.coefficients[:, k], long_name=text)
        text = "distance of the other checkpoint from the plane"
        add_array(group, "other_residual", dims, data=path.residual, long_name=text, units="Euclidean norm")
        for name, units_of in metrics.items() if self.losses else ():
            for kind, text in (("true", "of the checkpoint itself"), ("projected", "at the checkpoint's projection")):
                about: Any = {"long_name": f"{kind} {name}", "description": f"{name} {text}", "units": units_of}
                shape, along = (splits, len(names)), ("split", *dims)
                add_array(group, f"other_{kind}_{name}", along, shape=shape, **about)
        group.attrs["other_evaluations"] = 2 * len(self.evaluated) * splits
