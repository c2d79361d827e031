"""Random Gaussian directions."""

import numpy as np

from lossatlas import rng
from lossatlas.geometry.directions.unnormalized import RawDirections, Source


def make(spec: dict, source: Source) -> RawDirections:
    """Return ``count`` vectors of independent standard normal entries, keyed by (``seed``, number)."""
    size, numbers = source.trajectory.layout.size, range(spec["count"])
    vectors = [rng.generator(spec["seed"], "random direction", k).standard_normal(size) for k in numbers]
    return RawDirections(np.stack(vectors), [f"random {k + 1}" for k in numbers])
