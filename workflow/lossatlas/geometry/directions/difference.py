"""Differences of checkpoints, of one run or of two."""

import numpy as np

from lossatlas.errors import LossAtlasError
from lossatlas.geometry.directions.unnormalized import RawDirections
from lossatlas.io.trajectory import Trajectory


def difference(trajectory: Trajectory, center: int, ends: list[dict], others: dict[str, Trajectory]) -> RawDirections:
    """Return theta_end - theta_center for each entry of the config's ``to``, and the same of the buffers.

    Args:
        center: row of theta_center in ``trajectory``.
        ends: entries {``iteration``, and ``run`` where it is another run}.
        others: trajectories of the other runs by name.

    Raises:
        LossAtlasError: another run has another network, or an iteration was not recorded.
    """
    origin = trajectory.parameters(center).astype(np.float64)
    statistics = trajectory.buffers(center).astype(np.float64)
    vectors, buffers, labels = [], [], []
    for i, end in enumerate(ends):
        there = others[end["run"]] if "run" in end else trajectory
        if there.layout != trajectory.layout:
            raise LossAtlasError(f"directions.to.{i}: run {end['run']!r} has another network than this run")
        row = there.row_of(end["iteration"], f"directions.to.{i}.iteration")
        vectors.append(there.parameters(row).astype(np.float64) - origin)
        buffers.append(there.buffers(row).astype(np.float64) - statistics)
        run = f" of {end['run']}" if "run" in end else ""
        labels.append(f"to iteration {there.iterations[row]}{run}")
    return RawDirections(np.stack(vectors), labels, buffers=np.stack(buffers))
