"""Grids from coarse to fine: which points to evaluate next, and the surface between those that are evaluated.

Points are numbered row by row, as ``loss[y, x].ravel()`` lies in memory. An adaptive grid is evaluated in rounds.
The first is a coarse lattice. From all points so far two interpolants are made, quintic splines and thin plates;
the next round takes the points where they differ most, and some that are far from all others. The round is thus also a
check: what an interpolant missed at its points, before it knew them, tells how good it is, and the better one (quintic
for smooth surfaces, plates for rough ones) makes the surface. Two good rounds in a row are the last ones, unless some
evaluated point is missed by its own neighbours, as it is beside a step or an edge: around it all points are evaluated.
What lies between all points and is narrower than their spacing stays unseen.

Nothing here is random, and nothing is carried along: a round is a function of the results of the rounds before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

KERNELS = ("quintic", "thin_plate_spline")
LOG_FROM = 30.0
"""A surface whose largest loss exceeds its smallest by this factor has a logarithmic scale, unless told otherwise."""
SAFETY, GOOD, STATED = 2.0, 2, 3
"""The error of a round is this factor times what was missed at its points. So many good rounds in a row end a surface.

Its stated error is the largest of the last three rounds, or the tolerance if that is less: a round is few points; and
not less than points that neighbour an unevaluated one are missed by their own neighbours. A spike between all points
stays unseen: on a random plane of ResNet-20 without shortcuts, on a logarithmic scale, one of 4 % was seen beside a
stated 0.7 %.
"""
START_LEVEL = 3
"""The first round is a lattice of 2^3 + 1 points along each axis."""
LEAST, SHARE = 16, 8
"""Points of a later round: at least so many, and an eighth as many as are evaluated."""
APART = 4
"""One point of so many in a round is far from all others; twice as many go to the border of NaN and inf."""
BORDER = 0.03
"""Share of all points that may be neither clearly finite nor clearly NaN or inf when a surface is finished."""
ROUGH = 0.2
"""Share of the range from which on neighbours that miss a point show a step or an edge, wherever it is seen."""
AROUND, BESIDE = 20, 4
"""Neighbours from which a point is interpolated to see how rough the surface is, and those that an unevaluated one has.
"""
DENSE = 2000
"""Up to so many points each interpolant takes all into account, beyond that the ``NEIGHBOURS`` nearest ones."""
NEIGHBOURS = 100


def levels(n: int) -> np.ndarray:
    """Return at which bisection of 0 ... n - 1 each index is met, shape (n,); both ends at 0, the middle at 1."""
    met, intervals = np.zeros(n, int), [(0, n - 1, 1)]
    for low, high, level in intervals:
        if high - low > 1:
            middle = (low + high) // 2
            met[middle] = level
            intervals += [(low, middle, level + 1), (middle, high, level + 1)]
    return met


def coarse_to_fine(nx: int, ny: int) -> tuple[np.ndarray, int]:
    """Return the numbers of all points, those of coarse lattices first, and how many the first round has at least."""
    level = np.maximum(levels(ny)[:, None], levels(nx)).ravel()
    return np.argsort(level, kind="stable"), int((level <= START_LEVEL).sum())


def positions(nx: int, ny: int) -> np.ndarray:
    """Return all points in the unit square, shape (point, 2)."""
    x, y = np.linspace(0, 1, nx), np.linspace(0, 1, ny)
    return np.stack([np.tile(x, ny), np.repeat(y, nx)], axis=1)


@dataclass(frozen=True)
class Scale:
    """How losses become the heights that are interpolated and whose error counts.

    Heights are losses or, on a logarithmic scale, their log10. Errors are shares of ``range``, that of all heights up
    to the maximum. Above the maximum heights grow as a logarithm only: they need no accuracy, and cliffs without end
    would disturb the surface below.
    """

    log: bool
    low: float
    high: float

    @classmethod
    def of(cls, losses: np.ndarray, scale: str = "auto", maximum: float | None = None) -> "Scale":
        """Choose from all losses that are known; ``scale`` is ``auto``, ``linear`` or ``log``."""
        finite = losses[np.isfinite(losses)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        high = high if maximum is None else min(high, maximum)
        low = min(low, high)
        if scale == "log" or (scale == "auto" and low > 0 and high / low > LOG_FROM):
            low = low if low > 0 else max(high * 1e-12, 1e-300)
            return cls(True, *np.log10([low, max(high, 1e-300)]))
        return cls(False, low, high)

    @property
    def range(self) -> float:
        """The range of heights, that errors are shares of."""
        return self.high - self.low or 1.0

    def heights(self, losses: np.ndarray) -> np.ndarray:
        """Return heights; NaN and inf become NaN."""
        losses = np.where(np.isfinite(losses), losses, np.nan)
        heights = np.log10(np.maximum(losses, 10**self.low)) if self.log else losses
        above = np.maximum(heights - self.high, 0) / self.range
        return np.where(above > 0, self.high + self.range * np.log1p(above), heights)

    def losses(self, heights: np.ndarray) -> np.ndarray:
        """Return the losses of heights."""
        above = np.clip((heights - self.high) / self.range, 0, 500)
        heights = np.where(above > 0, self.high + self.range * np.expm1(above), heights)
        return 10 ** np.minimum(heights, 300) if self.log else heights

    def apart(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return how far heights differ as drawn, up to the maximum, as a share of the range."""
        return np.abs(np.minimum(some, self.high) - np.minimum(others, self.high)) / self.range


def interpolate(at: np.ndarray, values: np.ndarray, everywhere: np.ndarray, kernel: str) -> np.ndarray:
    """Return values (n,) at ``everywhere`` (n, 2) by radial basis functions from ``values`` (k,) at ``at`` (k, 2).

    Args:
        kernel: ``quintic``, ``thin_plate_spline`` or ``linear``. Too few points, or points on too few lines, for its
            polynomial part leave ``linear``, which takes any.
    """
    from scipy.interpolate import RBFInterpolator  # half a second, which only adaptive grids need

    neighbors = NEIGHBOURS if len(at) > DENSE else None
    few = min(len(np.unique(column)) for column in at.T) < 3
    try:
        interpolant = RBFInterpolator(at, values, kernel="linear" if few else kernel, neighbors=neighbors)
        return interpolant(everywhere)
    except (np.linalg.LinAlgError, ValueError):
        return RBFInterpolator(at, values, kernel="linear", neighbors=neighbors)(everywhere)


def _nearest(at: np.ndarray, everywhere: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return for every point (n, 2) the distances to the ``count`` nearest of ``at`` (k, 2), and their numbers."""
    from scipy.spatial import cKDTree

    return cKDTree(at).query(everywhere, count)


def nonfinite(at: np.ndarray, values: np.ndarray, everywhere: np.ndarray) -> np.ndarray:
    """Return where the nearest of the known values is NaN or inf, shape (n,), bool."""
    return ~np.isfinite(values[_nearest(at, everywhere)[1]])


@dataclass(frozen=True)
class Known:
    """What is known of a surface of ``shape`` (ny, nx): ``values`` (point,) at the points ``numbers``.

    Interpolants of values as they are stay within their range, as shares of samples must.
    """

    shape: tuple[int, int]
    numbers: np.ndarray
    values: np.ndarray

    @property
    def everywhere(self) -> np.ndarray:
        """All points in the unit square, (point, 2)."""
        return positions(*self.shape[::-1])

    @property
    def rest(self) -> np.ndarray:
        """The numbers of the points that are not known."""
        return np.setdiff1d(np.arange(self.shape[0] * self.shape[1]), self.numbers)

    def surface(self, kernel: str = KERNELS[0]) -> np.ndarray:
        """Return the surface (ny, nx), interpolated where it is not known; NaN where the nearest value is none."""
        surface = np.full(self.shape[0] * self.shape[1], np.nan)
        known, rest, finite = self.everywhere[self.numbers], self.rest, np.isfinite(self.values)
        if len(rest) and finite.any():
            at = self.everywhere[rest]
            between = self._between(known[finite], self.values[finite], at, kernel)
            surface[rest] = np.where(nonfinite(known, self.values, at), np.nan, between)
        surface[self.numbers] = self.values
        return surface.reshape(self.shape)

    def _between(self, known: np.ndarray, values: np.ndarray, at: np.ndarray, kernel: str) -> np.ndarray:
        return np.clip(interpolate(known, values, at, "linear"), values.min(), values.max())


@dataclass(frozen=True)
class KnownLosses(Known):
    """What is known of the losses of one split, on a ``scale``."""

    scale: Scale

    def _between(self, known: np.ndarray, values: np.ndarray, at: np.ndarray, kernel: str) -> np.ndarray:
        heights = self.scale.heights(values)
        estimates = interpolate(known, heights, at, kernel)
        if len(values) < len(self.values):  # beyond the border of NaN and inf interpolants go anywhere
            estimates = np.clip(estimates, heights.min(), heights.max())
        return self.scale.losses(estimates)

    def check(self, rounds: Sequence[int]) -> tuple[list[float], str]:
        """Return what the points before each of the last rounds missed at most, and the kernel that missed least.

        Args:
            rounds: how many points each of them has, the last one first.
        """
        missed, end = [], len(self.numbers)
        for size in rounds:
            missed.append(self._missed(end, size))
            end -= size
        return [share for share, _ in missed], missed[0][1]

    def _missed(self, end: int, last: int) -> tuple[float, str]:
        """Return what points miss at the ``last`` ones up to ``end``, of the range, by the kernel that misses least.

        NaN and inf do not count.
        """
        by_kernel, before, tried = [], slice(end - last), slice(end - last, end)
        for kernel in KERNELS:
            known = replace(self, numbers=self.numbers[before], values=self.values[before])
            found = known.surface(kernel).ravel()[self.numbers[tried]]
            gaps = self.scale.apart(self.scale.heights(found), self.scale.heights(self.values[tried]))
            by_kernel.append((float(np.max(gaps[np.isfinite(gaps)], initial=0.0)), kernel))
        return min(by_kernel, key=lambda pair: pair[0])

    @cached_property
    def roughness(self) -> np.ndarray:
        """How rough the surface is around each point that is not evaluated (point,), as a share of the range.

        It is the largest miss among the ``BESIDE`` nearest evaluated points, when each is interpolated from its own
        neighbours. On a smooth surface this is more than interpolation misses between them, for the neighbours are
        further away; beside a step or an edge it is large however many points there are, until no point is left
        between.
        """
        everywhere, finite, rest = self.everywhere, np.isfinite(self.values), self.rest
        at, rough = everywhere[self.numbers[finite]], np.zeros(len(everywhere))
        if len(at) > AROUND and len(rest):
            heights, apart = self.scale.heights(self.values[finite]), self.scale.apart
            missed = np.min([apart(_from_neighbours(at, heights, kernel), heights) for kernel in KERNELS], axis=0)
            rough[rest] = missed[_nearest(at, everywhere[rest], BESIDE)[1]].max(axis=1)
        return rough

    @cached_property
    def doubt(self) -> tuple[np.ndarray, np.ndarray]:
        """How doubtful the height of each point is (point,), and how doubtful whether it is finite."""
        known, everywhere, finite = self.everywhere[self.numbers], self.everywhere, np.isfinite(self.values)
        none = np.zeros(len(everywhere))
        if not finite.any():
            return none, none
        heights = self.scale.heights(self.values[finite])
        quintic, plates = (interpolate(known[finite], heights, everywhere, kernel) for kernel in KERNELS)
        doubt = self.scale.apart(quintic, plates)
        if finite.all():
            return doubt, none
        near = [_nearest(known[which], everywhere)[0] for which in (finite, ~finite)]
        nearer, further = np.minimum(*near), np.maximum(*near)
        border = np.where((quintic < self.scale.high) & (2 * nearer > further), nearer, 0.0)
        return np.where(near[0] <= near[1], doubt, 0.0), border


def _from_neighbours(at: np.ndarray, values: np.ndarray, kernel: str) -> np.ndarray:
    """Return what the ``AROUND`` nearest other points make of each point, by radial basis functions, (point,)."""
    distances, near = _nearest(at, at, AROUND + 1)
    offsets = (at[near[:, 1:]] - at[:, None]) / distances[:, -1:, None]
    x, y, one = offsets[..., 0], offsets[..., 1], np.ones(near[:, 1:].shape)
    quintic = kernel == "quintic"
    terms = np.stack([one, x, y, x * x, x * y, y * y] if quintic else [one, x, y], axis=-1)

    def radial(r: np.ndarray) -> np.ndarray:
        return -(r**5) if quintic else r**2 * np.log(np.where(r > 0, r, 1.0))

    size, order = AROUND + terms.shape[-1], slice(AROUND, None)
    system, here = np.zeros((len(at), size, size)), np.zeros((len(at), size, 1))
    system[:, :AROUND, :AROUND] = radial(np.linalg.norm(offsets[:, :, None] - offsets[:, None], axis=-1))
    system[:, :AROUND, order], system[:, order, :AROUND] = terms, terms.transpose(0, 2, 1)
    here[:, :AROUND, 0], here[:, AROUND] = radial(np.linalg.norm(offsets, axis=-1)), 1.0
    try:
        weights = np.linalg.solve(system, here)
    except np.linalg.LinAlgError:  # neighbours on too few lines for all terms
        weights = np.linalg.pinv(system, rcond=1e-12, hermitian=True) @ here
    return (weights[:, :AROUND, 0] * values[near[:, 1:]]).sum(axis=1)


def next_round(splits: Sequence[KnownLosses], multiple: int, rough: np.ndarray) -> np.ndarray:
    """Return the numbers of the points to evaluate next.

    Args:
        splits: what is known of each, at the same points.
        multiple: the count is a multiple of this, unless it is all the rest.
        rough: how rough the surface is around each point (point,), zero where that does not matter.
    """
    numbers, everywhere, rest = splits[0].numbers, splits[0].everywhere, splits[0].rest
    count = -(-max(LEAST, len(numbers) // SHARE) // multiple) * multiple
    if count >= len(rest):
        return rest
    doubt, border = (np.max(part, axis=0) for part in zip(*(known.doubt for known in splits), strict=True))
    far = count // APART
    chooser = _Chooser(everywhere, numbers)
    if border.any():
        chooser.choose(border, 2 * far)
    chooser.choose(np.ones(len(everywhere)), far, spread=np.inf)
    chooser.choose(rough, min(int(np.count_nonzero(rough)), (count - len(chooser.chosen)) * 3 // 4))
    return chooser.choose(doubt, count - len(chooser.chosen))


def unclear(splits: Sequence[KnownLosses]) -> float:
    """Return the share of all points whose distances to finite values and to NaN or inf differ by less than twofold."""
    return max(((one.doubt[1] > 0).mean() for one in splits if not np.isfinite(one.values).all()), default=0.0)


class _Chooser:
    """Chooses points of high score, one after the other, that are not close to those evaluated or chosen."""

    def __init__(self, everywhere: np.ndarray, numbers: np.ndarray):
        self.everywhere, self.chosen = everywhere, np.zeros(0, int)
        self.spread = 1 / np.sqrt(len(numbers))
        self.distance = _nearest(everywhere[numbers], everywhere)[0]

    def choose(self, score: np.ndarray, count: int, spread: float | None = None) -> np.ndarray:
        """Choose ``count`` more points; return all that are chosen. Beyond ``spread`` distance does not matter."""
        for _ in range(count):
            # Where no score is left, the farthest is next.
            value = score * np.minimum(self.distance, self.spread if spread is None else spread)
            best = int(np.argmax(value if value.max() > 0 else self.distance))
            self.chosen = np.append(self.chosen, best)
            self.distance = np.minimum(self.distance, np.linalg.norm(self.everywhere - self.everywhere[best], axis=1))
        return self.chosen
