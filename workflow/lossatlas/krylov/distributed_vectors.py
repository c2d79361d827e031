"""A symmetric matrix, and arithmetic with vectors, of which each process holds a part."""

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.krylov.collective import Collective
from lossatlas.krylov.operator import PartialOperator, SymmetricOperator


class DistributedVectors:
    """Products with a matrix N x N by all processes of a team; a vector of N entries is this one's part of it, (n,).

    With a team of more than one process the matrix is a ``PartialOperator``.
    """

    def __init__(self, operator: SymmetricOperator, team: Collective):
        self.operator, self.team, self.size = operator, team, operator.size
        self.own = team.part(operator.size)
        self.leaves = team.leaves_of_part(operator.size)

    def product(self, parts: np.ndarray) -> np.ndarray:
        """Return H v for vectors (k, n), float64."""
        vectors = self.team.whole(parts, self.size)
        if self.team.size == 1:
            return self.operator.matmat(vectors)
        return self.team.share(cast(PartialOperator, self.operator).partial(vectors, self.team.leaves))

    def sum(self, term: Callable[[slice], ArrayLike]) -> np.ndarray:
        """Return the sum over all entries of vectors; ``term`` returns that over some of this process's."""
        return self.team.total([np.array(term(leaf), np.float64) for leaf in self.leaves])

    def norms(self, vectors: np.ndarray) -> np.ndarray:
        """Return the Euclidean norms of vectors (k, n), shape (k,)."""
        return np.sqrt(self.sum(lambda leaf: [part @ part for part in vectors[:, leaf]]))

    def combine(self, coefficients: np.ndarray, basis: np.ndarray) -> np.ndarray:
        """Return linear combinations (k, n) of the rows of ``basis`` (j, n) by ``coefficients`` (k, j)."""
        # Leaf by leaf, for the rounding of a matrix product depends on its shape.
        return np.concatenate([coefficients @ basis[:, leaf] for leaf in self.leaves], axis=1)

    def orthogonalize(self, vectors: np.ndarray, bases: list[np.ndarray]) -> np.ndarray:
        """Return float64 vectors (k, n) minus their parts in the span of the orthonormal rows of their bases (CGS2)."""
        rest = vectors.astype(np.float64)
        for _ in range(2):
            self._subtract(rest, bases)
        return rest

    def _subtract(self, rest: np.ndarray, bases: list[np.ndarray]) -> None:
        """Take one pass of Gram-Schmidt off ``rest`` in place: one sum over processes for all vectors."""
        dtype = bases[0].dtype

        def overlaps(leaf: slice) -> list[np.ndarray]:
            return [basis[:, leaf] @ vector[leaf].astype(dtype) for basis, vector in zip(bases, rest, strict=True)]

        coefficients = self.sum(overlaps).astype(dtype)
        for row, basis, vector in zip(coefficients, bases, rest, strict=True):
            vector -= self.combine(row[None], basis)[0]
