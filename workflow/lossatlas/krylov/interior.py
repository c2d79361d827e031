"""Eigenpairs nearest a given value, by Jacobi-Davidson (Sleijpen and van der Vorst 1996) without factorisations.

A vector u with residual r = (H - near) u is corrected by t from MINRES for (H - near) t = -r: MINRES makes
||(H - near)(u + t)|| the least that a polynomial in H of its degree, 1 at ``near``, can make of it. So this is a
polynomial filter centred at ``near``, and the one that fits the spectrum (Stathopoulos 2007); it holds six vectors.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from lossatlas import rng
from lossatlas.errors import LossAtlasError, NonFiniteError
from lossatlas.krylov.collective import ALONE, Collective
from lossatlas.krylov.distributed_vectors import DistributedVectors
from lossatlas.krylov.eigenpairs import Eigenpairs, check_count, eigenpairs, verified
from lossatlas.krylov.lanczos import NOISE_MARGIN, measured_noise
from lossatlas.krylov.operator import SymmetricOperator

_REDUCTION = 0.5
"""Share of a residual that a correction leaves. Halving one after the other keeps the pairs alike when products run
out; on uniform, gapped, clustered and network-like spectra it took no more products than a tenth."""

_ISOLATED = 0.1
"""Residual, relative to the distance from ``near``, below which a pair is corrected towards its own eigenvalue."""

_OUTLIER = 0.05
"""Residual of a pair far away, relative to its distance, below which corrections leave it out. Without, MINRES, which
does not reorthogonalise, finds outliers again and again: 1.6 x the products on network-like spectra."""

_SHARE = 0.01
"""Share of a random vector, relative to 1 / sqrt(N), that it holds of an eigenvector; less by a chance of 0.8 %."""

_ALIKE = 1.5
"""Ratio of norms ||(H - near) v|| up to which vectors are taken apart by Rayleigh-Ritz."""


@dataclass
class NearestPairs(Eigenpairs):
    """Eigenpairs, the nearest to ``near`` first; ``norm`` is ||H|| as far as it was seen.

    ``isolated[i]`` is false where the residual of pair i reaches the value of another pair found: the vector is then
    one of a space that several eigenvectors span. ``none_nearer`` says whether the search has seen that no further
    pair lies nearer to ``near`` by more than the tolerance times ||H||; among those that lie as near, which one is
    found is open.
    """

    isolated: np.ndarray
    none_nearer: bool
    norm: float


def nearest_eigenpairs(
    operator: SymmetricOperator,
    near: float,
    count: int,
    tolerance: float = 1e-4,
    max_products: int = 1000,
    seed: int = 0,
    team: Collective = ALONE,
) -> NearestPairs:
    """Return the ``count`` eigenpairs whose eigenvalues lie nearest to ``near``.

    The search ends when the residuals are below tolerance times ||H||, and either all values lie within that of
    ``near``, or a fresh random vector, filtered, shows no eigenvector nearer than these.

    Within a residual of each value lies an eigenvalue. Where they are denser than that, as around zero in Hessians of
    networks, the vectors are directions of that curvature, but no single eigenvector is told from its neighbours.

    At most 4 count + 44 vectors are held in the products' precision, and a few in float64 during a correction.

    Args:
        team: processes that search together; each holds a part of the vectors, and all return the same pairs.

    Raises:
        LossAtlasError: more pairs than parameters, no pair at all, or fewer than 2 products for each.
        NonFiniteError: a product is NaN or infinite.
    """
    check_count(operator.size, count)
    if max_products < 2 * count:
        raise LossAtlasError(f"max_products: {max_products} is less than twice the number of pairs, {count}")
    budget = max_products - count  # residuals are measured at the end
    space = _Space(DistributedVectors(operator, team), near, count, seed, budget)
    if space.beyond:
        return _of_end(space, count, tolerance, max_products, seed)
    space.begin(count, budget)
    none_nearer = False
    while True:
        pairs, limit = space.extract(), 0.9 * tolerance * space.norm
        unsettled = np.flatnonzero(pairs.residuals[:count] > limit)
        farthest = np.abs(pairs.values[:count]).max()
        none_nearer |= space.filled == operator.size or (not unsettled.size and farthest <= limit)
        if none_nearer or space.products + 3 > budget:
            break
        if unsettled.size:
            space.improve(pairs, unsettled[pairs.residuals[unsettled].argmax()], limit, budget)
        else:
            none_nearer = space.look(pairs, count, farthest - limit, budget)
    vectors = space.shared.combine(pairs.coordinates[:, :count].T, space.basis[: space.filled])
    found = verified(space.shared, vectors, tolerance * space.norm, space.products)
    order = np.argsort(np.abs(found.values - near), kind="stable")  # the search itself orders by ||(H - near) v||
    for name in ("values", "vectors", "residuals", "converged"):
        setattr(found, name, getattr(found, name)[order])
    others = pairs.values[count : count + 1] + near
    none_nearer |= bool((found.residuals + np.abs(found.values - near)).max() <= tolerance * space.norm)
    return _result(found, others, bool(none_nearer), space.norm)


def _of_end(space: "_Space", count: int, tolerance: float, max_products: int, seed: int) -> NearestPairs:
    """Return the pairs of the end of the spectrum beyond which ``near`` lies."""
    ends, left, shared = (count, 0) if space.beyond > 0 else (0, count), max_products - space.products, space.shared
    found = eigenpairs(shared.operator, *ends, tolerance, max(left, count), seed, team=shared.team)
    for name in ("values", "vectors", "residuals", "converged") if space.beyond < 0 else ():
        setattr(found, name, getattr(found, name)[::-1])
    found.products += space.products
    return _result(found, np.zeros(0), bool(found.converged.all()), space.norm)


def _result(found: Eigenpairs, others: np.ndarray, none_nearer: bool, norm: float) -> NearestPairs:
    """Add what is known of pairs as neighbours of each other, and of those with the values ``others``."""
    count, values = len(found.values), np.append(found.values, others)
    apart = np.abs(found.values[:, None] - values) + np.where(np.eye(count, len(values)), np.inf, 0.0)
    isolated = apart.min(axis=1, initial=np.inf) > found.residuals
    return NearestPairs(**vars(found), isolated=isolated, none_nearer=none_nearer, norm=norm)


@dataclass
class _Pairs:
    """Approximate pairs, nearest first: ``values`` minus ``near``, residuals, and ``coordinates`` (filled, pair)."""

    values: np.ndarray
    residuals: np.ndarray
    coordinates: np.ndarray

    def outliers(self) -> np.ndarray:
        """Return the numbers of well known pairs far away."""
        far = np.abs(self.values)
        return np.flatnonzero((self.residuals <= _OUTLIER * far) & (far > 0.1 * far.max()))


class _Space:
    """An orthonormal basis V (rows), its images Z = (H - near) V, and the matrices V Z^T and Z Z^T.

    Of V and Z each process holds its part of the columns.

    A Krylov space of a random vector begins it, which shows outliers. ``beyond`` is 1 or -1 where ``near`` lies well
    beyond the largest or the smallest eigenvalue.

    Args:
        budget: products that it may take.
    """

    def __init__(self, shared: DistributedVectors, near: float, count: int, seed: int, budget: int) -> None:
        self.shared, self.near, self.seed = shared, near, seed
        self.kept, capacity = count + count // 2 + 5, min(shared.size, 2 * count + 22)
        shape = capacity, shared.own.stop - shared.own.start
        self.basis, self.images = (np.empty(shape, shared.operator.dtype) for _ in range(2))
        self.once, self.twice = np.zeros((capacity, capacity)), np.zeros((capacity, capacity))
        self.filled = self.products = self.drawn = 0
        probe = self._random()
        self.noise = measured_noise(shared, probe / np.linalg.norm(probe))
        self.add(probe[shared.own])
        spare = count - 1 if capacity < shared.size else 0  # for ``begin``
        while self.filled < min(capacity, budget) - spare:
            self.add(self.images[self.filled - 1].astype(np.float64))
        low, high = np.linalg.eigvalsh(self.once[: self.filled, : self.filled])[[0, -1]]
        self.norm = float(max(abs(low + near), abs(high + near)))
        margin = 0.1 * (high - low) if capacity < shared.size else np.inf
        self.beyond = int(high < -margin) - int(low > margin)

    def begin(self, count: int, budget: int) -> None:
        """Add filtered random vectors, so that there is one for each of ``count`` pairs."""
        for known in range(1, count if self.filled < self.shared.size else 1):
            pairs = self.extract()
            distance = float(np.hypot(pairs.values[known - 1], pairs.residuals[known - 1]))
            if self.look(pairs, known, distance, min(budget - (count - 1 - known), self.products + len(self.basis))):
                self.add(self._random()[self.shared.own])

    def _random(self) -> np.ndarray:
        self.drawn += 1
        return rng.generator(self.seed, "nearest eigenpairs", self.drawn).standard_normal(self.shared.size)

    def add(self, vector: np.ndarray) -> None:
        """Add what of a vector (n,) lies outside the basis, or of a random one if that is noise."""
        n, noise = self.filled, NOISE_MARGIN * self.noise * self._norm(vector)
        rest = self._outside(vector, self.basis[:n])
        while (length := self._norm(rest)) <= noise:
            rest, noise = self._outside(self._random()[self.shared.own], self.basis[:n]), 0.0
        self.basis[n] = rest / length
        self.images[n] = image = self._image(self.basis[n].astype(np.float64))
        self.filled += 1
        for matrix, rows in ((self.once, self.basis[: n + 1]), (self.twice, self.images[: n + 1])):
            overlaps = self.shared.sum(partial(_overlaps, rows, image))
            matrix[n, : n + 1] = matrix[: n + 1, n] = overlaps

    def _norm(self, vector: np.ndarray) -> float:
        return float(self.shared.norms(vector[None])[0])

    def _dot(self, one: np.ndarray, other: np.ndarray) -> float:
        return float(self.shared.sum(partial(_overlaps, one[None], other))[0])

    def _outside(self, vector: np.ndarray, basis: np.ndarray) -> np.ndarray:
        return self.shared.orthogonalize(vector[None], [basis])[0]

    def _image(self, vector: np.ndarray) -> np.ndarray:
        """Return (H - near) v."""
        self.products += 1
        image = self.shared.product(vector[None])[0] - self.near * vector
        if not np.isfinite(self._norm(image)):
            raise NonFiniteError(f"eigenpairs: product {self.products} holds NaN or inf")
        return image

    def extract(self) -> _Pairs:
        """Return the orthonormal vectors v of the basis that minimise ||(H - near) v||, one after the other.

        Rayleigh-Ritz alone would take a mixture of eigenvectors above and below ``near`` for one at ``near``. Here it
        takes apart only vectors whose norms are alike, such as those of two eigenvalues equally far on either side; no
        norm grows by more than ``_ALIKE`` thereby.
        """
        once, twice = (matrix[: self.filled, : self.filled] for matrix in (self.once, self.twice))
        squares, vectors = np.linalg.eigh(twice)
        norms, start = np.sqrt(np.maximum(squares, 0.0)), 0
        noise = self.noise * norms[-1]
        for end in range(1, len(norms) + 1):
            if end < len(norms) and norms[end] <= max(_ALIKE * norms[start], 1.01 * norms[end - 1], noise):
                continue
            group = vectors[:, start:end]
            vectors[:, start:end] = group @ np.linalg.eigh(group.T @ once @ group)[1]
            start = end
        values = np.einsum("ij,ik,kj->j", vectors, once, vectors)
        squares = np.maximum(np.einsum("ij,ik,kj->j", vectors, twice, vectors), values**2)
        order = np.argsort(squares, kind="stable")
        return _Pairs(values[order], np.sqrt(squares - values**2)[order], vectors[:, order])

    def improve(self, pairs: _Pairs, number: int, limit: float, budget: int) -> None:
        """Add a correction of a pair to the basis."""
        value, known = pairs.values[number], self._known(pairs, number + 1)
        shift = value if pairs.residuals[number] < _ISOLATED * abs(value) else 0.0
        vector, image = (self._combine(pairs.coordinates[:, [number]].T, each)[0] for each in (self.basis, self.images))
        rest, steps = self._outside(image, known), budget - self.products - 1
        vector = self._corrected(vector, rest, known, shift, _REDUCTION * self._norm(rest), 0.7 * limit, steps)
        self._make_room(pairs)
        self.add(vector)

    def look(self, pairs: _Pairs, count: int, distance: float, budget: int) -> bool:
        """Add a random vector filtered until its norm ||(H - near) v|| / ||v|| is at most ``distance``.

        The filter leaves out the first ``count`` pairs. An eigenvector nearer than ``distance`` besides holds a share
        of the vector that is hardly ever below ``_SHARE`` of the mean one, and that the filter keeps.

        Returns:
            Whether the vector fell below that before it came so near: there is no such eigenvector.
        """
        known = self._known(pairs, count)
        vector = self._outside(self._random()[self.shared.own], known)
        vector /= self._norm(vector)
        least, steps = _SHARE / np.sqrt(self.shared.size), budget - self.products - 2
        if steps > 0:
            rest = self._outside(self._image(vector), known)
            vector = self._corrected(vector, rest, known, 0.0, 0.0, distance, steps, least)
        length = self._norm(vector)
        if length > least:
            self._make_room(pairs)
            self.add(vector)
        return length <= least

    def _known(self, pairs: _Pairs, count: int) -> np.ndarray:
        """Return the vectors of the first ``count`` pairs and of outliers, which corrections leave out."""
        outliers = pairs.outliers()
        return self._combine(pairs.coordinates[:, [*range(count), *outliers[outliers >= count]]].T, self.basis)

    def _make_room(self, pairs: _Pairs) -> None:
        """Compress a full basis to the nearest pairs and outliers."""
        if self.filled < len(self.basis):
            return
        n, outliers, room = self.filled, pairs.outliers(), len(self.basis) - self.kept - 4
        coordinates = pairs.coordinates[:, [*range(self.kept), *outliers[outliers >= self.kept][-room:]]]
        kept = coordinates.shape[1]
        for rows in (self.basis, self.images):
            rows[:kept] = self._combine(coordinates.T, rows)
        for matrix in (self.once, self.twice):
            matrix[:kept, :kept] = coordinates.T @ matrix[:n, :n] @ coordinates
        self.filled = kept

    def _combine(self, coefficients: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return self.shared.combine(coefficients, rows[: self.filled])

    def _corrected(
        self,
        vector: np.ndarray,
        rest: np.ndarray,
        known: np.ndarray,
        shift: float,
        enough: float,
        limit: float,
        steps: int,
        least: float = 0.0,
    ) -> np.ndarray:
        """Return u + t, P (H - near - shift) P t = -rest, by MINRES (Paige and Saunders 1975); P removes ``known``.

        It ends when the norm of what is left of ``rest`` is ``enough``, or relative to that of u + t ``limit``, or when
        that of u + t is ``least``.
        """
        first = left = self._norm(rest)
        before, direction, older = (np.zeros_like(rest) for _ in range(3))
        current, beta, cosine, sine, delta, epsilon = -rest / (first or 1.0), 0.0, -1.0, 0.0, 0.0, 0.0
        for _ in range(steps if first > 0 else 0):
            image = self._image(current) - shift * current
            alpha = self._dot(current, image)
            image = self._outside(image - alpha * current - beta * before, known)
            beta = self._norm(image)
            upper, diagonal, above = cosine * delta + sine * alpha, sine * delta - cosine * alpha, epsilon
            epsilon, delta, length = sine * beta, -cosine * beta, float(np.hypot(diagonal, beta))
            if length <= self.noise * self.norm:
                break
            cosine, sine = diagonal / length, beta / length
            direction, older = (current - upper * direction - above * older) / length, direction
            vector = vector + cosine * left * direction
            left *= sine
            length = self._norm(vector)
            if left <= max(enough, limit * length) or length <= least or beta == 0.0:
                break
            before, current = current, image / beta
        return vector


def _overlaps(rows: np.ndarray, vector: np.ndarray, leaf: slice) -> np.ndarray:
    return rows[:, leaf] @ vector[leaf]
