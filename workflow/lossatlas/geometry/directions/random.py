"""Random Gaussian directions."""

import numpy as np

from lossatlas import rng
from lossatlas.geometry.directions.unnormalized import RawDirections, Source


def make(spec: dict, source: Source) -> RawDirections:
    """Return ``count`` vectors of independent standard normal entries, keyed by (``seed``, number)."""
    return random(source.trajectory.layout.size, spec["count"], spec["seed"])


def random(size: int, count: int, seed: int, first: int = 0) -> RawDirections:
    """Return ``count`` vectors of ``size`` independent standard normal entries, keyed by (seed, number)."""
    numbers = range(first, first + count)
    vectors = [rng.generator(seed, "random direction", k).standard_normal(size) for k in numbers]
    return RawDirections(np.stack(vectors), [f"random {k + 1}" for k in numbers])
