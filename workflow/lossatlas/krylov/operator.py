"""The one thing that Krylov methods need: products with a symmetric matrix."""

from typing import Protocol

import numpy as np

from lossatlas.krylov.tree_sum import Branch


class SymmetricOperator(Protocol):
    """A symmetric N x N matrix H that is known only by its products.

    ``dtype`` is the precision of the products, ``size`` is N.
    """

    size: int
    dtype: np.dtype

    def matmat(self, vectors: np.ndarray) -> np.ndarray:
        """Return H v for every row v of ``vectors``, shape (k, N), as float64 (k, N)."""


class PartialOperator(SymmetricOperator, Protocol):
    """A matrix that is a sum over samples, of which each process computes the terms of some leaves."""

    def partial(self, vectors: np.ndarray, leaves: range) -> list[Branch]:
        """Return the products (k, N) over the samples of these leaves, float64, as ``tree_sum.fold`` returns them."""
