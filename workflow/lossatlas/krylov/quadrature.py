"""Stochastic Lanczos quadrature: densities, distribution, moments and trace, with error bars.

Notation of GradVis (Chatzimichailidis et al. 2019), eqs. 3-8 and Algorithm 2: probe i gives nodes l_ij and
weights w_ij; the density is phi(t) = mean_i sum_j w_ij N(t; l_ij, sigma^2).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lossatlas.krylov.collective import ALONE, Collective
from lossatlas.krylov.lanczos import Checkpoint, Tridiagonal, lanczos, quadrature_error
from lossatlas.krylov.operator import SymmetricOperator

CONFIDENCE = 0.95

TOLERANCE = 0.05
"""Relative Wasserstein-1 error up to which steps and probes are said to suffice, unless another is given."""


TOO_NARROW = (
    "isolated eigenvalues dominate the spread over probes: 95 % intervals of the trace cover 77 to 88 %, and the error "
    "due to probes is exceeded in 22 to 60 % of draws"
)
"""What is said where ``Spectrum.dominated``, as measured."""


@dataclass(frozen=True)
class Estimate:
    """A mean over probes, its standard error, and a two-sided 95 % interval (normal data; see ``TOO_NARROW``)."""

    value: np.ndarray
    standard_error: np.ndarray
    low: np.ndarray
    high: np.ndarray


def estimate(per_probe: np.ndarray) -> Estimate:
    """Average over the first axis; Student's t accounts for few probes. One probe has an infinite interval."""
    from scipy.stats import t  # as slow to load as all the rest together

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

    After breakdown a probe has fewer nodes; the rest are NaN with weight zero. ``bounds`` are the nodes' residual
    bounds (probe, node), which only ``accuracy`` needs.
    """

    nodes: np.ndarray
    weights: np.ndarray
    size: int
    bounds: np.ndarray | None = None

    @classmethod
    def of(cls, runs: list[Tridiagonal], size: int) -> "Spectrum":
        """Collect the quadratures of Lanczos runs."""
        steps = max(run.steps for run in runs)
        nodes, bounds = np.full((2, len(runs), steps), np.nan)
        weights = np.zeros((len(runs), steps))
        for i, run in enumerate(runs):
            nodes[i, : run.steps], weights[i, : run.steps], bounds[i, : run.steps] = run.ritz()
        return cls(nodes, weights, size, bounds)

    @classmethod
    def read(cls, nodes: np.ndarray, weights: np.ndarray, bounds: np.ndarray, size: int) -> "Spectrum":
        """Take what a store holds of one matrix, NaN where there is nothing; probes that were left out are dropped."""
        used = np.isfinite(nodes).any(axis=-1)
        return cls(nodes[used], np.nan_to_num(weights[used]), size, bounds[used])

    def integrate(self, function: np.ndarray) -> np.ndarray:
        """Return sum_j w_ij f_ij per probe; ``function`` is given at the nodes, (..., probe, node)."""
        return np.nansum(self.weights * function, axis=-1)

    def moment(self, power: int) -> Estimate:
        """Return the estimate of trace(H^power) / N."""
        return estimate(self.integrate(self.nodes**power))

    def trace(self) -> Estimate:
        """Return the estimate of trace(H); where ``dominated`` its interval is too narrow."""
        return estimate(self.size * self.integrate(self.nodes))

    def width(self) -> float:
        """Return an automatic kernel width: 1 % of the span of all nodes."""
        span = np.nanmax(self.nodes) - np.nanmin(self.nodes)
        return max(0.01 * span, 1e-12 * max(1.0, np.nanmax(np.abs(self.nodes))))

    def density(self, at: np.ndarray, sigma: float | None = None) -> Estimate:
        """Return phi(t) at the points ``at``; ``sigma`` is the kernel's standard deviation."""
        from scipy.stats import norm

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
        for i, (nodes, weights) in enumerate(self._pairs()):
            known, cumulative = np.isfinite(nodes), _cumulative(nodes, weights)
            left = np.searchsorted(nodes[known], at, side="right")
            middle[i] = cumulative[left]
            lower[i] = cumulative[np.maximum(left - 1, 0)]
            upper[i] = cumulative[np.minimum(left + 1, known.sum())]
        value, low, high = estimate(middle), estimate(lower), estimate(upper)
        return Estimate(value.value, value.standard_error, np.clip(low.low, 0, 1), np.clip(high.high, 0, 1))

    def effective_dimension(self, alpha: float) -> Estimate:
        """Return the estimate of sum_i l_i / (l_i + alpha) over the positive eigenvalues l_i (MacKay 1992, eq. 4.9).

        It counts directions that the loss determines better than a prior of precision ``alpha`` > 0 does. The interval
        holds the spread over probes alone. Near 0 few steps leave the function unresolved, and that error, which is
        not in it, may be much larger: it covered the truth in 0 to 24 % of the draws that were measured.
        """
        positive = np.maximum(self.nodes, 0.0)
        return estimate(self.size * self.integrate(positive / (positive + alpha)))

    def accuracy(self) -> "Accuracy":
        """Return how far the density may be from that of the matrix, as Wasserstein-1 distances.

        ``steps`` is what more Lanczos steps could still change, a bound for each probe (``quadrature_error``), of which
        the mean is given. ``probes`` is what more probes could change: the standard error of the share of eigenvalues
        <= t, integrated over t. Where ``dominated`` it was exceeded in 22 to 60 % of the draws that were measured.
        """
        if self.bounds is None:
            raise ValueError("accuracy needs the residual bounds of the nodes")
        known, ends = np.isfinite(self.nodes), np.unique(self.nodes[np.isfinite(self.nodes)])
        parts = zip(self.nodes, self.weights, self.bounds, known, strict=True)
        bounds = [quadrature_error(n[k], w[k], b[k]) for n, w, b, k in parts]
        shares = [_cumulative(n, w)[np.searchsorted(n[np.isfinite(n)], ends, side="right")] for n, w in self._pairs()]
        spread = estimate(np.stack(shares)).standard_error[:-1]
        sampling = float(spread @ np.diff(ends)) if len(ends) > 1 else 0.0
        return Accuracy(float(np.mean(bounds)), sampling, float(np.abs(ends).max()), self.dominated())

    def dominated(self) -> bool:
        """Return whether isolated eigenvalues make up more than half of the trace's variance over random probes.

        That is proportional to the sum of squares of all eigenvalues about their mean. A probe's weight on a single one
        is chi-squared with one degree of freedom, far from normal, so that intervals are too narrow. Isolated are nodes
        to which a probe has converged (residual bound below a thousandth of the gap to the next node), with a gap of
        at least a hundredth of the largest magnitude.
        """
        if self.bounds is None or len(self.nodes) < 2:
            return False
        gaps = np.abs(np.diff(self.nodes, axis=1, prepend=-np.inf, append=np.inf))
        gap = np.fmin(gaps[:, :-1], np.where(np.isnan(gaps[:, 1:]), np.inf, gaps[:, 1:]))
        apart = (self.bounds <= 1e-3 * gap) & (gap >= 1e-2 * np.nanmax(np.abs(self.nodes)))
        single, rest = np.where(apart, 1 / self.size, 0.0), np.where(apart, 0.0, self.weights)
        middle = np.nansum((single + rest) * self.nodes, axis=1).mean()
        of_isolated, of_rest = (np.nansum(w * (self.nodes - middle) ** 2, axis=1).mean() for w in (single, rest))
        return bool(of_isolated > of_rest)

    def _pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return zip(self.nodes, self.weights, strict=True)

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


@dataclass(frozen=True)
class Accuracy:
    """Wasserstein-1 errors of a density due to few Lanczos steps and few probes, and the largest magnitude of a node.

    All three have the eigenvalues' unit. With one probe, what more probes would change is unknown (infinite).
    ``dominated`` says whether isolated eigenvalues make intervals too narrow, see ``Spectrum``.
    """

    steps: float
    probes: float
    scale: float
    dominated: bool = False

    @classmethod
    def worst(cls, steps: np.ndarray, probes: np.ndarray, scale: np.ndarray, dominated: bool = False) -> "Accuracy":
        """Return the accuracy of the matrix where it is worst, from one number of each kind for every matrix."""
        at = int(np.argmax(np.maximum(steps, probes) / np.where(scale > 0, scale, 1.0)))
        return cls(float(steps[at]), float(probes[at]), float(scale[at]), dominated)

    def probes_suffice(self, tolerance: float) -> bool:
        """Return whether the error due to probes is at most half of ``tolerance`` times the largest magnitude."""
        return self.probes <= 0.5 * tolerance * self.scale

    def suffices(self, tolerance: float) -> bool:
        """Return whether both errors are at most half of ``tolerance`` times the largest magnitude."""
        return self.probes_suffice(tolerance) and self.steps <= 0.5 * tolerance * self.scale

    def statement(self, tolerance: float = TOLERANCE) -> str:
        """Return in words whether steps and probes suffice for a relative ``tolerance``, and what to raise if not."""
        scale = self.scale or 1.0
        errors = {"steps": self.steps, "probes": self.probes}
        lacking = [name for name, error in errors.items() if error > 0.5 * tolerance * scale]
        verdict = "raise " + " and ".join(lacking) if lacking else "steps and probes suffice"
        if self.dominated:
            verdict = f"{TOO_NARROW}; {verdict if lacking else 'steps suffice, more probes tell whether these do'}"
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


def _cumulative(nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return 0 and the running sums of the weights of a probe's nodes."""
    return np.concatenate([[0.0], np.cumsum(weights[np.isfinite(nodes)])])


def _fields(estimated: Estimate) -> tuple:
    return estimated.value, estimated.standard_error, estimated.low, estimated.high
