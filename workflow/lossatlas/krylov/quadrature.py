"""Stochastic Lanczos quadrature: densities, distribution, moments and trace, with error bars.

Notation of GradVis (Chatzimichailidis et al. 2019), eqs. 3-8 and Algorithm 2: probe i gives nodes l_ij and
weights w_ij; the density is phi(t) = mean_i sum_j w_ij N(t; l_ij, sigma^2).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from lossatlas.errors import LossAtlasError
from lossatlas.krylov.christoffel import christoffel, panels, quadrature_error
from lossatlas.krylov.collective import ALONE, Collective
from lossatlas.krylov.lanczos import Checkpoint, Tridiagonal, lanczos
from lossatlas.krylov.operator import SymmetricOperator
from lossatlas.krylov.outliers import NOISE, deflated, outliers

CONFIDENCE = 0.95

TOLERANCE = 0.05
"""Relative Wasserstein-1 error up to which steps and probes are said to suffice, unless another is given."""


@dataclass(frozen=True)
class Estimate:
    """A mean over probes, its standard error, and a two-sided 95 % interval."""

    value: np.ndarray
    standard_error: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass
class Spectrum:
    """Gauss quadratures of all probes of one matrix: ``nodes`` and ``weights`` (probe, node), ``size`` = N.

    After breakdown a probe has fewer nodes; the rest are NaN with weight zero. ``bounds`` are the nodes' residual
    bounds (probe, node): ``accuracy`` needs them, and without them intervals that hold what few steps leave open are
    wider. Estimates use the ``shares``.
    """

    nodes: np.ndarray
    weights: np.ndarray
    size: int
    bounds: np.ndarray | None = None

    @classmethod
    def of(cls, runs: list[Tridiagonal], size: int) -> Self:
        """Collect the quadratures of Lanczos runs."""
        steps = max(run.steps for run in runs)
        nodes, bounds = np.full((2, len(runs), steps), np.nan)
        weights = np.zeros((len(runs), steps))
        for i, run in enumerate(runs):
            nodes[i, : run.steps], weights[i, : run.steps], bounds[i, : run.steps] = run.ritz()
        return cls(nodes, weights, size, bounds)

    @classmethod
    def read(cls, nodes: np.ndarray, weights: np.ndarray, bounds: np.ndarray, size: int) -> Self:
        """Take what a store holds of one matrix, NaN where there is nothing; probes that were left out are dropped."""
        used = np.isfinite(nodes).any(axis=-1)
        return cls(nodes[used], np.nan_to_num(weights[used]), size, bounds[used])

    @cached_property
    def isolated(self) -> np.ndarray:
        """Which nodes are eigenvalues that every probe has found, so that their weight is known (``outliers``)."""
        return outliers(self.nodes, self.weights)

    @cached_property
    def shares(self) -> np.ndarray:
        """The weights, of which those of ``isolated`` eigenvalues are exactly 1 / N (probe, node)."""
        return deflated(self.weights, self.isolated, self.size)

    @cached_property
    def outliers(self) -> np.ndarray:
        """The isolated eigenvalues, ascending, as often as they were found (outlier,)."""
        return self.nodes[self.isolated].reshape(len(self.nodes), -1).mean(axis=0)

    def _half_line(self, left: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the most of each node's weight that lies left of a point.

        By the Chebyshev-Markov-Stieltjes inequalities the share on a side is that of the nodes but for rho
        (``christoffel``), and but for the weight of the nearest node on either side; isolated eigenvalues stand for
        themselves.

        Args:
            left: which nodes do, a point for each row, (point, probe, node).
            at: the points, (point,).
        """
        least, most = left.astype(float), left.astype(float)
        for i, bulk in enumerate(self._bulk):
            moves = np.minimum(1.0, self._open(i, at)[:, None] / self._divisors(i, bulk))
            count, rows = left[:, i, bulk].sum(axis=1), np.arange(len(at))
            for array, nearest, sign in ((least, count - 1, -1), (most, count, 1)):
                there = (nearest >= 0) & (nearest < len(bulk))
                array[rows[there], i, bulk[nearest[there]]] += sign * moves[rows[there], nearest[there]]
        return least, most

    def _rising(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return what bounds a function that rises from below and above, as ``_half_line`` for all points together.

        A node's weight may move as far as to the next node, past a point no more of it than rho there.
        """
        least = function(self.nodes)
        most = least.copy()
        for i, bulk in enumerate(self._bulk):
            if not bulk.size:
                continue
            bounds = np.zeros(bulk.size) if self.bounds is None else self.bounds[i, bulk]
            ends, within = panels(self.nodes[i, bulk], bounds)
            rises, open_share, weights = (
                np.diff(function(ends)),
                self._open(i, within),
                self._divisors(i, bulk)[:, None],
            )
            least[i, bulk] -= (rises[:-1] * np.minimum(1.0, open_share[:-1] / weights)).sum(axis=1)
            most[i, bulk] += (rises[1:] * np.minimum(1.0, open_share[1:] / weights)).sum(axis=1)
        return least, most

    @cached_property
    def _bulk(self) -> list[np.ndarray]:
        """Indices of the nodes of each probe that are not isolated."""
        return [np.flatnonzero(known) for known in np.isfinite(self.nodes) & ~self.isolated]

    def _divisors(self, probe: int, nodes: np.ndarray) -> np.ndarray:
        """Return the shares of some nodes, of which none is 0."""
        return np.maximum(self.shares[probe, nodes], 1e-300)

    def _open(self, probe: int, at: np.ndarray) -> np.ndarray:
        """Return rho of a probe at some points; without residual bounds it may be anything.

        No node is known better than the products are, even where its residual bound says so.
        """
        if self.bounds is None:
            return np.ones(np.shape(at))
        nodes, shares, bounds = (
            one[probe, np.isfinite(self.nodes[probe])] for one in (self.nodes, self.shares, self.bounds)
        )
        return christoffel(at, nodes, shares, np.maximum(bounds, NOISE * np.abs(nodes).max()))

    def integrate(self, function: np.ndarray) -> np.ndarray:
        """Return sum_j w_ij f_ij per probe; ``function`` is given at the nodes, (..., probe, node)."""
        return np.nansum(self.shares * function, axis=-1)

    def estimate(
        self, function: np.ndarray, least: np.ndarray | None = None, most: np.ndarray | None = None
    ) -> Estimate:
        """Return the mean over all eigenvalues of a function that is given at the nodes, (..., probe, node).

        Where the quadrature is inexact, the interval runs from the lower end for ``least``, which bounds the function
        from below, to the upper end for ``most``.
        """
        value, error, reach = self._moments(function)
        low = value - reach if least is None else np.subtract(*self._moments(least)[::2])
        high = value + reach if most is None else np.add(*self._moments(most)[::2])
        return Estimate(value, error, low, high)

    def _moments(self, function: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a function's mean over the eigenvalues, its standard error, and how far the 95 % interval reaches."""
        value = np.moveaxis(self.integrate(function), -1, 0).mean(axis=0)
        random, known = self._random(), np.where(np.isfinite(self.nodes), function, 0.0)
        squares = (known - np.einsum("...pj,pj->...", known, random)[..., None, None]) ** 2
        second = np.einsum("...pj,pj->...", squares, random)
        fourth = np.einsum("...pj,pj->...", np.square(squares, out=squares), random)
        return value, *self._spread(second, fourth)

    def _random(self) -> np.ndarray:
        """Return the part of the shares that varies from probe to probe, scaled to a sum of 1 (0 if there is none)."""
        random = np.where(self.isolated, 0.0, self.shares)
        return random / (random.sum() or 1.0)

    def _spread(self, second: np.ndarray, fourth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return standard error and reach of a function's mean from its central moments over the random shares.

        Not the spread over probes is used, which says little where they are few: a random unit vector v gives v'f(H)v
        the variance 2 / (N + 2) times that of f over the eigenvalues, of which the quadratures know far more. How well
        they know it is the number of degrees of freedom of Student's t: 2 / (squared relative error of that variance),
        and at least one for each probe, as where a single eigenvalue decides. Isolated eigenvalues are not random, and
        do not count. (Rademacher probes vary less, the larger the diagonal is: for them both are upper bounds.)
        """
        from scipy.stats import t  # as slow to load as all the rest together

        probes, isolated = len(self.nodes), np.count_nonzero(self.isolated) / len(self.nodes)
        size = self.size - isolated
        error = size / self.size * np.sqrt(2 * second / (size + 2) / probes)
        excess = np.maximum(fourth - second**2, 1e-12 * second**2)
        freedom = probes * np.maximum(1.0, size * second**2 / np.where(excess > 0, excess, 1.0))
        return error, t.ppf(0.5 + CONFIDENCE / 2, freedom) * error

    def moment(self, power: int) -> Estimate:
        """Return the estimate of trace(H^power) / N."""
        return self.estimate(self.nodes**power)

    def trace(self) -> Estimate:
        """Return the estimate of trace(H)."""
        return self.estimate(self.size * self.nodes)

    def width(self) -> float:
        """Return an automatic kernel width: 1 % of the span of all nodes."""
        span = np.nanmax(self.nodes) - np.nanmin(self.nodes)
        return max(0.01 * span, 1e-12 * max(1.0, np.nanmax(np.abs(self.nodes))))

    def density(self, at: np.ndarray, sigma: float | None = None, isolated: bool = True) -> Estimate:
        """Return phi(t) at the points ``at``.

        Args:
            at: (point,).
            sigma: the kernel's standard deviation; left out it is ``width()``.
            isolated: whether the ``outliers`` are in it, too.
        """
        from scipy.stats import norm

        kernels = norm.pdf(np.asarray(at)[:, None, None], self.nodes, sigma or self.width())
        return self.estimate(kernels if isolated else np.where(self.isolated, 0.0, kernels))

    def distribution(self, at: np.ndarray) -> Estimate:
        """Return the share of eigenvalues <= t with bounds that hold for spread and quadrature together.

        Each probe's share is known between the Chebyshev-Markov-Stieltjes bounds. The interval runs from the 95 % end
        of the lower bounds to that of the upper ones.
        """
        at = np.asarray(at, dtype=float)
        left = self.nodes <= at[:, None, None]
        return self._clipped(self.estimate(left, *self._half_line(left, at)), 1.0)

    def effective_dimension(self, alpha: float) -> Estimate:
        """Return the estimate of sum_i l_i / (l_i + alpha) over the positive eigenvalues l_i (MacKay 1992, eq. 4.9).

        It counts directions that the loss determines better than a prior of precision ``alpha`` > 0 does. The interval
        holds what few steps leave unresolved near 0, too.
        """

        def share(at: np.ndarray) -> np.ndarray:
            with np.errstate(divide="ignore"):  # alpha / 0 where nothing is positive
                return self.size / (1 + alpha / np.maximum(at, 0.0))

        return self._clipped(self.estimate(share(self.nodes), *self._rising(share)), self.size)

    def accuracy(self) -> "Accuracy":
        """Return how far the density may be from that of the matrix, as Wasserstein-1 distances.

        ``steps`` is what more Lanczos steps could still change, a bound for each probe (``quadrature_error``), of which
        the mean is given. ``probes`` is what more probes could change: how far the 95 % interval of the share of
        eigenvalues <= t reaches, integrated over t. Their sum holds in 95 % of the draws.
        """
        if self.bounds is None:
            raise ValueError("accuracy needs the residual bounds of the nodes")
        known = np.isfinite(self.nodes)
        parts = zip(self.nodes, self.shares, self.bounds, known, strict=True)
        bounds = [quadrature_error(n[k], w[k], b[k]) for n, w, b, k in parts]
        order = np.argsort(self.nodes[known])
        ends, share = self.nodes[known][order], np.cumsum(self._random()[known][order])[:-1]
        second = np.maximum(share * (1 - share), 0.0)  # central moments of one that is 1 up to t and 0 beyond
        _, reach = self._spread(second, second * (1 - 3 * second))
        return Accuracy(float(np.mean(bounds)), float(reach @ np.diff(ends)), float(np.abs(ends).max()))

    def count(self, epsilon: float) -> dict[str, Estimate]:
        """Return how many eigenvalues lie below -epsilon, within, and above epsilon, with intervals.

        Raises:
            LossAtlasError: epsilon is negative.
        """
        if not epsilon >= 0:
            raise LossAtlasError(f"count: epsilon = {epsilon} must be 0 or more")
        left = np.stack([self.nodes < -epsilon, self.nodes <= epsilon])
        least, most = self._half_line(left, np.array([-epsilon, epsilon]))
        shares = {
            "below": (left[0], least[0], most[0]),
            "within": (left[1] & ~left[0], np.maximum(least[1] - most[0], 0.0), most[1] - least[0]),
            "above": (~left[1], 1 - most[1], 1 - least[1]),
        }
        return {
            name: self._clipped(self.estimate(*(self.size * one for one in three)), self.size)
            for name, three in shares.items()
        }

    @staticmethod
    def _clipped(found: Estimate, most: float) -> Estimate:
        """Return the estimate with an interval inside what is possible."""
        return replace(found, low=np.clip(found.low, 0, most), high=np.clip(found.high, 0, most))


@dataclass(frozen=True)
class Accuracy:
    """Wasserstein-1 errors of a density due to few Lanczos steps and few probes, and the largest magnitude of a node.

    All three have the eigenvalues' unit. In 95 % of the draws the density is no farther off than both errors together.
    """

    steps: float
    probes: float
    scale: float

    @classmethod
    def worst(cls, steps: np.ndarray, probes: np.ndarray, scale: np.ndarray) -> "Accuracy":
        """Return the accuracy of the matrix where it is worst, from one number of each kind for every matrix."""
        at = int(np.argmax(np.maximum(steps, probes) / np.where(scale > 0, scale, 1.0)))
        return cls(float(steps[at]), float(probes[at]), float(scale[at]))

    def probes_suffice(self, tolerance: float) -> bool:
        """Return whether the error due to probes is at most half of ``tolerance`` times the largest magnitude."""
        return self.probes <= 0.5 * tolerance * self.scale

    def statement(self, tolerance: float = TOLERANCE) -> str:
        """Return in words whether the density is within a relative ``tolerance``, and what to raise if not."""
        scale = self.scale or 1.0
        errors = {"steps": self.steps, "probes": self.probes}
        lacking = [name for name, error in errors.items() if error > 0.5 * tolerance * scale]
        verdict = "raise " + " and ".join(lacking) if lacking else "steps and probes suffice for it"
        return (
            f"Wasserstein-1 error of the density, of the largest |eigenvalue|: steps {self.steps / scale:.1e}, probes "
            f"{self.probes / scale:.1e} (half of {tolerance:g} allowed each): {verdict}"
        )


BLOCK = 10
"""Probes that share one product; more gain nothing."""

ADAPTIVE_BLOCK = 4
"""Probes between two looks at whether they suffice."""


def quadrature_runs(
    operator: SymmetricOperator,
    probes: Callable[[range], np.ndarray],
    numbers: range,
    steps: int,
    tolerance: float | None = None,
    state: Checkpoint | None = None,
    team: Collective = ALONE,
) -> list[Tridiagonal]:
    """Run Lanczos from the probes of these numbers, a block at a time.

    With a ``tolerance`` on the relative Wasserstein-1 error, probes are added by few and each stops by itself; then
    ``numbers`` and ``steps`` are what may be used at most.

    Args:
        probes: returns the unit probes of some numbers, (k, N).
        state: where the runs save themselves and resume.
        team: processes that compute every run together.
    """
    runs: list[Tridiagonal] = []
    block = ADAPTIVE_BLOCK if tolerance else BLOCK
    for start in range(numbers.start, numbers.stop, block):
        chosen = range(start, min(start + block, numbers.stop))
        part = state.part(start) if state is not None else None
        runs += lanczos(operator, probes(chosen), steps, tolerance=tolerance, state=part, team=team)
        if tolerance and Spectrum.of(runs, operator.size).accuracy().probes_suffice(tolerance):
            break
    return runs
