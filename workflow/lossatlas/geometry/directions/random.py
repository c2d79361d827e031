"""Random Gaussian directions."""

import numpy as np

from lossatlas import rng
from lossatlas.geometry.directions.unnormalized import RawDirections


def random(size: int, count: int, seed: int) -> RawDirections:
    """Return ``count`` vectors of ``size`` independent standard normal entries, keyed by (seed, number)."""
    vectors = np.stack([rng.generator(seed, "random direction", k).standard_normal(size) for k in range(count)])
    return RawDirections(vectors, [f"random {k + 1}" for k in range(count)])
