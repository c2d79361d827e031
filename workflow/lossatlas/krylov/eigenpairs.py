"""Extremal eigenpairs at both ends by thick-restart Lanczos (Wu and Simon 2000)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lossatlas import rng
from lossatlas.errors import LossAtlasError, NonFiniteError
from lossatlas.krylov.collective import ALONE, Collective
from lossatlas.krylov.distributed_vectors import DistributedVectors
from lossatlas.krylov.lanczos import measured_noise
from lossatlas.krylov.operator import SymmetricOperator

MISSED = 0.01
"""Probability of a missed eigenvalue at which a warm started search stops looking."""


@dataclass
class Eigenpairs:
    """Eigenvalues in descending order, unit vectors (pair, N), true residuals ||Hy - lambda y||, and a flag.

    ``converged[i]`` says whether the residual is below tolerance times ||H||.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    products: int


def eigenpairs(
    operator: SymmetricOperator,
    largest: int,
    smallest: int = 0,
    tolerance: float = 1e-4,
    max_products: int = 1000,
    seed: int = 0,
    start: np.ndarray | None = None,
    team: Collective = ALONE,
) -> Eigenpairs:
    """Return the ``largest`` and ``smallest`` algebraic eigenpairs.

    The basis holds at most 2 (largest + smallest) + 20 vectors; when it is full it is compressed to the wanted
    Ritz vectors and a few neighbours. Signs make the entry of largest magnitude positive.

    One starting vector shows one eigenvector of a multiple eigenvalue, so the search looks again: it goes on from
    a fresh random vector orthogonal to the pairs found, until a look changes nothing.

    Args:
        start: a vector (N,) rich in the wanted eigenvectors, such as the sum of those of a matrix near by; left out
            it is random. With it the basis need not be filled: the search ends when the pairs have converged, and a
            look when the probability that it missed an eigenvalue is below ``MISSED``.
        team: processes that search together; each holds a part of the basis, and all return the same pairs.

    Raises:
        LossAtlasError: more pairs than parameters, or no pair at all.
        NonFiniteError: a product is NaN or infinite.
    """
    wanted, looks = largest + smallest, 0
    check_count(operator.size, wanted)
    first = _random_vector(operator.size, seed, looks) if start is None else start
    shared, before = DistributedVectors(operator, team), np.zeros(0)
    space = _Space(shared, first, min(operator.size, 2 * wanted + 20))

    def enough() -> bool:
        warm = start is not None and space.settled(largest, smallest, tolerance)
        return warm and (looks == 0 or space.missed(largest, smallest) < MISSED)

    while True:
        space.fill(max_products, enough)
        values, vectors, bounds = space.ritz()
        chosen = _ends(len(values), largest, smallest)
        scale = np.abs(values).max()
        settled = space.exhausted or (bounds[chosen] <= 0.5 * tolerance * scale).all()
        same = len(before) == wanted and np.abs(values[chosen] - before).max() <= tolerance * scale
        if (settled and same) or space.products >= max_products or space.filled == shared.size:
            break
        if settled:
            looks, before = looks + 1, values[chosen]
            space.restart(values, vectors, chosen)
            space.renew(_random_vector(operator.size, seed, looks))
        else:
            space.restart(values, vectors, _ends(len(values), largest, smallest, extra=wanted // 2 + 4))
    y = shared.combine(vectors[:, chosen].T, space.basis[: space.filled])
    y /= shared.norms(y)[:, None]
    return verified(shared, y, tolerance * scale, space.products)


def _random_vector(size: int, seed: int, look: int) -> np.ndarray:
    return rng.generator(seed, "eigenpairs start", look).standard_normal(size)


def check_count(size: int, pairs: int) -> None:
    """Refuse impossible numbers of pairs."""
    if not (isinstance(pairs, int | np.integer) and 1 <= pairs <= size):
        raise LossAtlasError(f"eigenpairs: {pairs} asked for; must lie between 1 and the number of parameters, {size}")


def _ends(count: int, largest: int, smallest: int, extra: int = 0) -> np.ndarray:
    """Return indices of both ends of ``count`` ascending values, in descending order."""
    high = min(count, largest + extra if largest else 0)
    low = min(count - high, smallest + extra if smallest else 0)
    return np.concatenate([np.arange(count - 1, count - 1 - high, -1), np.arange(low - 1, -1, -1)])


def verified(shared: DistributedVectors, y: np.ndarray, limit: float, used: int) -> Eigenpairs:
    """Measure the residuals with one more product each."""
    products = shared.product(y)
    values = shared.sum(lambda leaf: np.sum(y[:, leaf] * products[:, leaf], axis=1))
    residuals = shared.norms(products - values[:, None] * y)
    whole = shared.team.whole(y, shared.size)
    signs = np.sign(whole[np.arange(len(y)), np.abs(whole).argmax(axis=1)])
    return Eigenpairs(values, whole * signs[:, None], residuals, residuals <= limit, used + len(y))


class _Space:
    """An orthonormal basis Q (rows), the projection Q H Q^T, and the vector that comes next, each this process's part.

    Args:
        first: the first vector, (N,).
    """

    def __init__(self, shared: DistributedVectors, first: np.ndarray, capacity: int):
        self.shared = shared
        self.basis = np.empty((capacity, shared.own.stop - shared.own.start))
        self.projection = np.zeros((capacity, capacity))
        first = first / np.linalg.norm(first)
        self.next = first[shared.own]
        self.filled = self.products = 0
        self.rest_norm, self.exhausted = 0.0, False
        self.noise = measured_noise(shared, first)

    def fill(self, max_products: int, enough: Callable[[], bool]) -> None:
        """Extend the basis to its capacity, or until nothing is left or ``enough``, asked after each product."""
        while self.filled < len(self.basis) and not self.exhausted and self.products < max_products:
            j = self.filled
            self.basis[j] = self.next
            product = self.shared.product(self.next[None])[0]
            known = self.basis[: j + 1]
            *coefficients, square = self.shared.sum(_overlaps(known, product))
            if not np.isfinite(square):
                raise NonFiniteError(f"eigenpairs: product {self.products + 1} holds NaN or inf")
            self.products += 1
            self.filled += 1
            self.projection[j, : j + 1] = self.projection[: j + 1, j] = coefficients
            rest, self.rest_norm = self._without(known, product)
            if self.rest_norm <= 10 * self.noise * np.sqrt(square) or self.filled == self.shared.size:
                self.exhausted, self.rest_norm = True, 0.0
            else:
                self.next = rest / self.rest_norm
            if enough():
                break

    def settled(self, largest: int, smallest: int, tolerance: float) -> bool:
        """Return whether the wanted pairs have converged."""
        values, _, bounds = self.ritz()
        wanted = _ends(len(values), largest, smallest)
        enough = len(wanted) == largest + smallest
        return enough and bool((bounds[wanted] <= 0.5 * tolerance * np.abs(values).max()).all())

    def missed(self, largest: int, smallest: int) -> float:
        """Return a bound of the probability that a look passed over an eigenvalue beyond the wanted ones.

        After m Lanczos steps from a random start the largest Ritz value falls short of the largest eigenvalue b of a
        matrix with eigenvalues in [a, b] by more than e (b - a) with a probability of at most
        1.648 sqrt(N) exp(-sqrt(e) (2m - 1)) (Kuczynski and Wozniakowski 1992). Here b would be a wanted value.
        """
        values, steps = self.ritz()[0], self.filled - largest - smallest
        if steps < 1:
            return 1.0
        inner, chance = values[smallest : len(values) - largest], 0.0
        for wanted in [values[-largest]] * bool(largest) + [values[smallest - 1]] * bool(smallest):
            near, far = sorted(abs(wanted - inner[[0, -1]]))
            share = near / far if far > 0 else 0.0
            chance += 1.648 * np.sqrt(self.shared.size) * np.exp(-np.sqrt(share) * (2 * steps - 1))
        return float(chance)

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ascending Ritz values, their coordinates (filled, filled) and residual bounds."""
        values, vectors = np.linalg.eigh(self.projection[: self.filled, : self.filled])
        return values, vectors, self.rest_norm * np.abs(vectors[-1])

    def restart(self, values: np.ndarray, vectors: np.ndarray, keep: np.ndarray) -> None:
        """Compress the basis to the Ritz vectors ``keep``."""
        self.basis[: len(keep)] = self.shared.combine(vectors[:, keep].T, self.basis[: self.filled])
        self.projection[:] = 0.0
        self.projection[np.arange(len(keep)), np.arange(len(keep))] = values[keep]
        self.filled = len(keep)

    def renew(self, vector: np.ndarray) -> None:
        """Go on from a vector (N,) outside the space."""
        rest, length = self._without(self.basis[: self.filled], vector[self.shared.own])
        self.next, self.exhausted = rest / length, False

    def _without(self, basis: np.ndarray, vector: np.ndarray) -> tuple[np.ndarray, float]:
        """Return what is left of a vector outside the span of ``basis``, and its norm."""
        rest = self.shared.orthogonalize(vector[None], [basis])
        return rest[0], float(self.shared.norms(rest)[0])


def _overlaps(basis: np.ndarray, vector: np.ndarray) -> Callable[[slice], np.ndarray]:
    """Return the term of the inner products of a vector with the rows of ``basis``, and with itself."""
    return lambda leaf: np.append(basis[:, leaf] @ vector[leaf], vector[leaf] @ vector[leaf])
