"""What directions are made from, and what every kind of them returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lossatlas.io.arrays import Array
from lossatlas.io.trajectory import Trajectory
from lossatlas.parallel.process_group import ALONE, Team


@dataclass(frozen=True)
class Source:
    """What directions that need no network are made from.

    ``center`` is the row of theta_c, ``others`` are the trajectories of other runs by name; ``threads`` of each rank of
    the ``team`` share what they can.
    """

    trajectory: Trajectory
    center: int
    others: Mapping[str, Trajectory] = field(default_factory=dict)
    threads: int = 1
    team: Team = ALONE


@dataclass
class RawDirections:
    """Directions before normalisation.

    ``vectors`` has shape (direction, N), float64; ``labels`` name them on axes; ``values`` are per-direction
    numbers such as ``explained_variance_ratio``; ``notes`` describe how they were made; ``arrays`` holds what their
    store has besides. ``buffers`` (direction, buffer) are the differences of running statistics that go with
    differences of checkpoints.
    """

    vectors: np.ndarray
    labels: list[str]
    values: dict[str, np.ndarray] = field(default_factory=dict)
    notes: dict = field(default_factory=dict)
    arrays: dict[Array, np.ndarray] = field(default_factory=dict)
    buffers: np.ndarray | None = None
