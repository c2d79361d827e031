"""Processes that compute together, as the methods of this package see them; by default it is one alone."""

from typing import Protocol

import numpy as np

from lossatlas.krylov.tree_sum import LEAVES, Branch, fold, leaf


class Collective(Protocol):
    """Processes that compute together; all call all methods together. Each holds a part of every vector of N entries.

    ``size`` is their number, and ``leaves`` are those of every sum that this process adds, see ``tree_sum``.
    """

    size: int
    leaves: range

    def part(self, total: int) -> slice:
        """Return which entries of a vector of ``total`` entries this process holds."""

    def leaves_of_part(self, total: int) -> list[slice]:
        """Return where the leaves of this process's part of a vector lie in the part."""

    def total(self, terms: list[np.ndarray]) -> np.ndarray:
        """Return the sum over all leaves on every process, from one array for each leaf of this one."""

    def whole(self, parts: np.ndarray, total: int) -> np.ndarray:
        """Return vectors (k, total) of which each process holds its part (k, n)."""

    def share(self, branches: list[Branch]) -> np.ndarray:
        """Return this process's part (k, n) of vectors (k, total), from all processes' sums over their leaves."""


class SingleProcess:
    """The ``Collective`` of one process."""

    size, leaves = 1, range(LEAVES)

    def part(self, total: int) -> slice:
        """Return where all entries lie."""
        return slice(0, total)

    def leaves_of_part(self, total: int) -> list[slice]:
        """Return where all leaves lie."""
        return [leaf(total, number) for number in self.leaves]

    def total(self, terms: list[np.ndarray]) -> np.ndarray:
        """Return the sum, along the tree; terms are added in place."""
        return fold([(range(number, number + 1), term) for number, term in enumerate(terms)])[0][1]

    def whole(self, parts: np.ndarray, total: int) -> np.ndarray:
        """Return the vectors, of which the part is the whole."""
        return parts

    def share(self, branches: list[Branch]) -> np.ndarray:
        """Return the sum over the one branch that there is."""
        return branches[0][1]


ALONE = SingleProcess()
