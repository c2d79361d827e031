"""What every kind of direction returns."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class RawDirections:
    """Directions before normalisation.

    ``vectors`` has shape (direction, N), float64; ``labels`` name them on axes; ``values`` are per-direction
    numbers such as ``explained_variance_ratio``; ``notes`` describe how they were made; ``arrays`` holds more by name,
    as (dimensions, values, long name).
    ``buffers`` (direction, buffer) are the differences of running statistics that go with differences of checkpoints.
    """

    vectors: np.ndarray
    labels: list[str]
    values: dict[str, np.ndarray] = field(default_factory=dict)
    notes: dict = field(default_factory=dict)
    arrays: dict[str, tuple] = field(default_factory=dict)
    buffers: np.ndarray | None = None
