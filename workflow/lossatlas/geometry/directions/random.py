"""Random Gaussian directions."""

import numpy as np

from lossatlas import rng
from lossatlas.geometry.directions.unnormalized import RawDirections


def random(size: int, count: int, seed: int, first: int = 0) -> RawDirections:
    """Return ``count`` vectors of ``size`` independent standard normal entries, keyed by (seed, number)."""
    numbers = range(first, first + count)
    vectors = np.stack([rng.generator(seed, "random direction", k).standard_normal(size) for k in numbers])
    return RawDirections(vectors, [f"random {k + 1}" for k in numbers])
