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
from dataclasses import dataclass

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


def complete(
    shape: tuple[int, int], numbers: np.ndarray, values: np.ndarray, scale: Scale | None, kernel: str = KERNELS[0]
) -> np.ndarray:
    """Return a surface (ny, nx) that has ``values`` at the points ``numbers`` and is interpolated at the others.

    Where the nearest known value is NaN or inf the surface is NaN.

    Args:
        shape: (ny, nx).
        scale: of losses. Without, values are taken as they are and the interpolant stays within their range, as
            shares of samples must.
    """
    surface = np.full(shape[0] * shape[1], np.nan)
    known, rest = positions(*shape[::-1])[numbers], np.setdiff1d(np.arange(surface.size), numbers)
    finite = np.isfinite(values)
    if len(rest) and finite.any():
        at, among = positions(*shape[::-1])[rest], values[finite]
        if scale is None:
            estimates = np.clip(interpolate(known[finite], among, at, "linear"), among.min(), among.max())
        else:
            heights = scale.heights(among)
            estimates = interpolate(known[finite], heights, at, kernel)
            if not finite.all():  # beyond the border of NaN and inf interpolants go anywhere
                estimates = np.clip(estimates, heights.min(), heights.max())
            estimates = scale.losses(estimates)
        surface[rest] = np.where(nonfinite(known, values, at), np.nan, estimates)
    surface[numbers] = values
    return surface.reshape(shape)


def check(
    shape: tuple[int, int], numbers: np.ndarray, losses: np.ndarray, scale: Scale, rounds: Sequence[int]
) -> tuple[list[float], str]:
    """Return what the points before each of the last rounds missed at most, and the kernel that missed least at last.

    Args:
        rounds: how many points each of them has, the last one first.
    """
    missed, end = [], len(numbers)
    for size in rounds:
        missed.append(_missed(shape, numbers[:end], losses[:end], scale, size))
        end -= size
    return [share for share, _ in missed], missed[0][1]


def _missed(shape: tuple[int, int], numbers: np.ndarray, losses: np.ndarray, scale: Scale, last: int) -> tuple:
    """Return what the points before the ``last`` ones miss there, as a share of the range; NaN and inf do not count."""
    by_kernel = []
    for kernel in KERNELS:
        before = complete(shape, numbers[:-last], losses[:-last], scale, kernel).ravel()[numbers[-last:]]
        gaps = scale.apart(scale.heights(before), scale.heights(losses[-last:]))
        by_kernel.append((float(np.max(gaps[np.isfinite(gaps)], initial=0.0)), kernel))
    return min(by_kernel, key=lambda pair: pair[0])


def roughness(shape: tuple[int, int], numbers: np.ndarray, losses: np.ndarray, scale: Scale) -> np.ndarray:
    """Return how rough the surface is around each point that is not evaluated (point,), as a share of the range.

    It is the largest miss among the ``BESIDE`` nearest evaluated points, when each is interpolated from its own
    neighbours. On a smooth surface this is more than interpolation misses between them, for the neighbours are further
    away; beside a step or an edge it is large however many points there are, until no point is left between.
    """
    everywhere, finite, rough = positions(*shape[::-1]), np.isfinite(losses), np.zeros(shape[0] * shape[1])
    at, rest = everywhere[numbers[finite]], np.setdiff1d(np.arange(rough.size), numbers)
    if len(at) > AROUND and len(rest):
        heights = scale.heights(losses[finite])
        missed = np.min([scale.apart(_from_neighbours(at, heights, kernel), heights) for kernel in KERNELS], axis=0)
        rough[rest] = missed[_nearest(at, everywhere[rest], BESIDE)[1]].max(axis=1)
    return rough


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


def next_round(
    shape: tuple[int, int],
    numbers: np.ndarray,
    losses: np.ndarray,
    scales: Sequence[Scale],
    multiple: int,
    rough: np.ndarray,
) -> np.ndarray:
    """Return the numbers of the points to evaluate next.

    Args:
        shape: (ny, nx).
        numbers: those of the points that are evaluated (point,).
        losses: there, (split, point).
        scales: of each split.
        multiple: the count is a multiple of this, unless it is all the rest.
        rough: how rough the surface is around each point (point,), zero where that does not matter.
    """
    everywhere, nx, ny = positions(*shape[::-1]), shape[1], shape[0]
    count = -(-max(LEAST, len(numbers) // SHARE) // multiple) * multiple
    if count >= nx * ny - len(numbers):
        return np.setdiff1d(np.arange(nx * ny), numbers)
    known = everywhere[numbers]
    doubts = [_doubt(known, values, scale, everywhere) for values, scale in zip(losses, scales, strict=True)]
    doubt, border = (np.max(part, axis=0) for part in zip(*doubts, strict=True))
    far = count // APART
    chooser = _Chooser(everywhere, numbers)
    if border.any():
        chooser.choose(border, 2 * far)
    chooser.choose(np.ones(nx * ny), far, spread=np.inf)
    chooser.choose(rough, min(int(np.count_nonzero(rough)), (count - len(chooser.chosen)) * 3 // 4))
    return chooser.choose(doubt, count - len(chooser.chosen))


def unclear(shape: tuple[int, int], numbers: np.ndarray, losses: np.ndarray, scales: Sequence[Scale]) -> float:
    """Return the share of all points whose distances to finite values and to NaN or inf differ by less than twofold."""
    everywhere = positions(*shape[::-1])
    pairs = [pair for pair in zip(losses, scales, strict=True) if not np.isfinite(pair[0]).all()]
    return max(((_doubt(everywhere[numbers], *pair, everywhere)[1] > 0).mean() for pair in pairs), default=0.0)


def _doubt(known: np.ndarray, values: np.ndarray, scale: Scale, everywhere: np.ndarray) -> tuple:
    """Return how doubtful the height of each point is, and how doubtful whether it is finite."""
    finite, none = np.isfinite(values), np.zeros(len(everywhere))
    if not finite.any():
        return none, none
    heights = scale.heights(values[finite])
    quintic, plates = (interpolate(known[finite], heights, everywhere, kernel) for kernel in KERNELS)
    doubt = scale.apart(quintic, plates)
    if finite.all():
        return doubt, none
    near = [_nearest(known[which], everywhere)[0] for which in (finite, ~finite)]
    nearer, further = np.minimum(*near), np.maximum(*near)
    border = np.where((quintic < scale.high) & (2 * nearer > further), nearer, 0.0)
    return np.where(near[0] <= near[1], doubt, 0.0), border


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
