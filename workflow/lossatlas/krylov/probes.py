"""Random probes: unit vectors keyed by (seed, number), common to all iterations of a run."""

import numpy as np

from lossatlas import rng
from lossatlas.errors import LossAtlasError

DISTRIBUTIONS = ("gaussian", "rademacher")


def probe_vectors(size: int, numbers: range, seed: int, distribution: str = "gaussian") -> np.ndarray:
    """Return unit probes, shape (len(numbers), size), float64.

    For both distributions the mean of v'Av over probes is trace(A) / size exactly.
    """
    if distribution not in DISTRIBUTIONS:
        raise LossAtlasError(f"probes: {distribution!r} is not one of {', '.join(DISTRIBUTIONS)}")
    vectors = np.empty((len(numbers), size))
    for row, number in zip(vectors, numbers, strict=True):
        stream = rng.generator(seed, f"{distribution} probe", number)
        row[:] = stream.standard_normal(size) if distribution == "gaussian" else stream.choice((-1.0, 1.0), size)
        row /= np.linalg.norm(row)
    return vectors
