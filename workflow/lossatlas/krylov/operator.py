"""The one thing that Krylov methods need: products with a symmetric matrix."""

from typing import Protocol

import numpy as np


class SymmetricOperator(Protocol):
    """A symmetric N x N matrix H that is known only by its products.

    ``dtype`` is the precision of the products, ``size`` is N.
    """

    size: int
    dtype: np.dtype

    def matmat(self, vectors: np.ndarray) -> np.ndarray:
        """Return H v for every row v of ``vectors``, shape (k, N), as float64 (k, N)."""
