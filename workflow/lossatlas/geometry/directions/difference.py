"""Differences of checkpoints, of one run or of two."""

import numpy as np

from lossatlas.errors import LossAtlasError
from lossatlas.geometry.directions.unnormalized import RawDirections, Source


def make(spec: dict, source: Source) -> RawDirections:
    """Return theta_end - theta_center for each end, and the same of the buffers.

    Args:
        spec: key ``to``: entries {``iteration``, and ``run`` where it is another run}.

    Raises:
        LossAtlasError: another run has another network, or an iteration was not recorded.
    """
    trajectory = source.trajectory
    origin = trajectory.parameters(source.center).astype(np.float64)
    statistics = trajectory.buffers(source.center).astype(np.float64)
    vectors, buffers, labels = [], [], []
    for i, end in enumerate(spec["to"]):
        there = source.others[end["run"]] if "run" in end else trajectory
        if there.layout != trajectory.layout:
            raise LossAtlasError(f"directions.to.{i}: run {end['run']!r} has another network than this run")
        row = there.row_of(end["iteration"], f"directions.to.{i}.iteration")
        vectors.append(there.parameters(row).astype(np.float64) - origin)
        buffers.append(there.buffers(row).astype(np.float64) - statistics)
        run = f" of {end['run']}" if "run" in end else ""
        labels.append(f"to iteration {there.iterations[row]}{run}")
    return RawDirections(np.stack(vectors), labels, buffers=np.stack(buffers))
