"""Stochastic Lanczos quadrature: densities, distribution, moments and trace, with error bars.

Notation of GradVis (Chatzimichailidis et al. 2019), eqs. 3-8 and Algorithm 2: probe i gives nodes l_ij and
weights w_ij; the density is phi(t) = mean_i sum_j w_ij N(t; l_ij, sigma^2).
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from lossatlas.krylov.lanczos import Tridiagonal

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over probes, its standard error, and a two-sided 95 % interval."""

    value: np.ndarray
    standard_error: np.ndarray
    low: np.ndarray
    high: np.ndarray


def estimate(per_probe: np.ndarray) -> Estimate:
    """Average over the first axis; Student's t accounts for few probes. One probe has an infinite interval."""
    probes, value = len(per_probe), per_probe.mean(axis=0)
    if probes == 1:
        endless = np.full_like(value, np.inf)
        return Estimate(value, endless, -endless, endless)
    error = per_probe.std(axis=0, ddof=1) / np.sqrt(probes)
    reach = t.ppf(0.5 + CONFIDENCE / 2, probes - 1) * error
    return Estimate(value, error, value - reach, value + reach)


@dataclass
class Spectrum:
    """Gauss quadratures of all probes of one matrix: ``nodes`` and ``weights`` (probe, node), ``size`` = N.

    After breakdown a probe has fewer nodes; the rest are NaN with weight zero.
    """

    nodes: np.ndarray
    weights: np.ndarray
    size: int

    @classmethod
    def of(cls, runs: list[Tridiagonal], size: int) -> "Spectrum":
        """Collect the quadratures of Lanczos runs."""
        steps = max(run.steps for run in runs)
        nodes, weights = np.full((len(runs), steps), np.nan), np.zeros((len(runs), steps))
        for i, run in enumerate(runs):
            nodes[i, : run.steps], weights[i, : run.steps], _ = run.ritz()
        return cls(nodes, weights, size)

    def integrate(self, function: np.ndarray) -> np.ndarray:
        """Return sum_j w_ij f_ij per probe; ``function`` is given at the nodes, (..., probe, node)."""
        return np.nansum(self.weights * function, axis=-1)

    def moment(self, power: int) -> Estimate:
        """Return the estimate of trace(H^power) / N."""
        return estimate(self.integrate(self.nodes**power))

    def trace(self) -> Estimate:
        """Return the estimate of trace(H)."""
        return estimate(self.size * self.integrate(self.nodes))

    def width(self) -> float:
        """Return an automatic kernel width: 1 % of the span of all nodes."""
        span = np.nanmax(self.nodes) - np.nanmin(self.nodes)
        return max(0.01 * span, 1e-12 * max(1.0, np.nanmax(np.abs(self.nodes))))

    def density(self, at: np.ndarray, sigma: float | None = None) -> Estimate:
        """Return phi(t) at the points ``at``; ``sigma`` is the kernel's standard deviation."""
        sigma = sigma or self.width()
        kernels = norm.pdf(np.asarray(at)[:, None, None], self.nodes, sigma)
        return estimate(self.integrate(kernels).T)

    def distribution(self, at: np.ndarray) -> Estimate:
        """Return the share of eigenvalues <= t with bounds that hold for spread and quadrature together.

        Each probe's share is known between the Chebyshev-Markov-Stieltjes bounds: for consecutive nodes
        l_j <= t < l_{j+1} it lies between sum_{i<j} w_i and sum_{i<=j+1} w_i. The interval runs from the
        95 % end of the lower bounds to that of the upper ones.
        """
        at = np.asarray(at, dtype=float)
        middle, lower, upper = (np.empty((len(self.nodes), len(at))) for _ in range(3))
        for i, (nodes, weights) in enumerate(zip(self.nodes, self.weights, strict=True)):
            known = np.isfinite(nodes)
            cumulative = np.concatenate([[0.0], np.cumsum(weights[known])])
            left = np.searchsorted(nodes[known], at, side="right")
            middle[i] = cumulative[left]
            lower[i] = cumulative[np.maximum(left - 1, 0)]
            upper[i] = cumulative[np.minimum(left + 1, known.sum())]
        value, low, high = estimate(middle), estimate(lower), estimate(upper)
        return Estimate(value.value, value.standard_error, np.clip(low.low, 0, 1), np.clip(high.high, 0, 1))

    def count(self, epsilon: float) -> dict[str, Estimate]:
        """Return how many eigenvalues lie below -epsilon, within, and above epsilon, with intervals."""
        below, upto = self.distribution(np.array([-epsilon, epsilon])), self.size
        ends = [Estimate(*(upto * np.asarray(x)[k] for x in _fields(below))) for k in range(2)]
        above = Estimate(upto - ends[1].value, ends[1].standard_error, upto - ends[1].high, upto - ends[1].low)
        middle = Estimate(
            ends[1].value - ends[0].value,
            np.hypot(ends[0].standard_error, ends[1].standard_error),
            np.maximum(0.0, ends[1].low - ends[0].high),
            np.minimum(upto, ends[1].high - ends[0].low),
        )
        return {"below": ends[0], "within": middle, "above": above}


def _fields(estimated: Estimate) -> tuple:
    return estimated.value, estimated.standard_error, estimated.low, estimated.high
