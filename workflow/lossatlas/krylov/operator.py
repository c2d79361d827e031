"""The one thing that Krylov methods need: products with a symmetric matrix."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from lossatlas.errors import LossAtlasError
from lossatlas.krylov.probes import probe_vectors
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


def check_deterministic(linearize: Callable[[], SymmetricOperator]) -> None:
    """Make the operator twice and refuse one whose product with the same vector differs by more than rounding.

    Raises:
        LossAtlasError: the two products differ.
    """
    one, two = (operator.matmat(probe_vectors(operator.size, range(1), 0)) for operator in (linearize(), linearize()))
    if np.abs(one - two).max() > 1e-5 * np.abs(one).max():
        raise LossAtlasError(
            "Hessian: one product evaluated twice gave two results; the model or loss draws random numbers "
            "in evaluation mode (dropout or augmentation left on?)"
        )
