"""Numbers and families of curves by shape (Li et al. 2024, section 2): v-basin, v-side, w-basin, w-peak, vvv-basin.

A curve rises or falls from one point to another when its loss differs by more than noise: by so many standard errors
of the difference that curves that are flat but for noise show a swing in one case of twenty at most. Losses of a curve
are over the same samples, so that differences are paired: what two points have in common cancels in the standard error
too. How many standard errors these are follows from the noise itself: where it is smooth along the curve, its many
pairs of points are few independent ones.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from lossatlas import rng
from lossatlas.problem.noise import standard_error

FAMILIES = ("other", "flat", "v-basin", "v-side", "w-basin", "w-peak", "vvv-basin")
"""Names of the families; stores hold their numbers. What fits none is ``other``, without a swing it is ``flat``."""

LEVEL = 0.05
"""Probability that a flat curve with noise shows any stationary point, at most."""


DRAWS, SIMULATED = 500, 300
"""Gaussian curves from which the threshold follows, and up to how many points they are drawn."""


@dataclass(frozen=True)
class Shape:
    """The ``family`` of a curve by name, and which points are ``turns``, stationary above noise, bool (point,)."""

    family: str
    turns: np.ndarray


def shape(
    alpha: np.ndarray, loss: np.ndarray, noise: np.ndarray, freedom: float = np.inf, center: float = 0.0
) -> Shape:
    """Return the family of a curve and its stationary points above noise. Points that are NaN or inf are left out.

    One minimum is a v-basin when the perturbed model lies at it, within noise, else a v-side, as is a curve that only
    falls or rises. Two minima are a w-peak when the maximum between them is the stationary point nearest to the model,
    else a w-basin; a maximum at the model with fewer minima is a w-peak whose arms, one or both, have not ended. Three
    minima are a vvv-basin.

    Args:
        alpha: positions in ascending order, shape (point,), ``center`` among them.
        loss: shape (point,).
        noise: (point, column), the root mean square of whose differences is the standard error of the losses'
            difference (``problem.noise``); zeros where there is no noise. NaN counts as 0.
        freedom: how many independent columns the standard errors were estimated from.
        center: where the perturbed model lies.
    """
    finite = np.flatnonzero(np.isfinite(loss))
    turns, model = np.zeros(len(loss), bool), np.flatnonzero(finite == np.flatnonzero(alpha == center)[0])
    if len(finite) < 3:
        return Shape("other", turns)
    height, noise = loss[finite], np.nan_to_num(noise[finite], posinf=0.0, neginf=0.0)
    above = _Noise(height, noise, _quantile(noise, freedom))
    kept = _significant(height, above)
    turns[finite[kept[1:-1]]] = True
    if not len(model):
        return Shape("other", turns)
    return Shape(_family(alpha[finite], height, kept, int(model[0]), above), turns)


def _quantile(noise: np.ndarray, freedom: float) -> float:
    """Return how many standard errors no difference of two points exceeds, but for a share ``LEVEL`` of flat curves.

    Bonferroni over all pairs or, if less, the largest difference of each of ``DRAWS`` Gaussian curves with the noise's
    covariance; either for Student's t of ``freedom``.
    """
    from scipy.special import ndtr, ndtri, stdtrit  # slow to load

    count = len(noise)
    quantile = ndtri(1 - LEVEL / (count * (count - 1)))
    if count <= SIMULATED and noise.any():
        normal = rng.generator(0, "noise of curves").standard_normal((noise.shape[1], DRAWS))
        curves, largest = noise @ normal / np.sqrt(noise.shape[1]), np.zeros(DRAWS)
        for k in range(1, count):
            errors = standard_error(noise[:k], noise[k])
            known = errors > 0
            ratios = np.abs(curves[:k][known] - curves[k]) / errors[known, None]
            largest = np.maximum(largest, ratios.max(axis=0, initial=0.0))
        quantile = min(quantile, np.quantile(largest, 1 - LEVEL))
    return float(stdtrit(min(freedom, 1e9), ndtr(quantile)))


class _Noise:
    """By how much losses differ in units of what noise may make of them."""

    def __init__(self, height: np.ndarray, noise: np.ndarray, quantile: float):
        self.height, self.noise, self.quantile = height, noise, quantile

    def ratio(self, one: int, other: int) -> float:
        """Return |difference| / threshold; above 1 it is more than noise."""
        apart = abs(self.height[one] - self.height[other])
        allowed = self.quantile * standard_error(self.noise[one], self.noise[other])
        return float(apart / allowed) if allowed > 0 else np.inf * apart if apart else 0.0


def _significant(height: np.ndarray, above: _Noise) -> list[int]:
    """Return the ends of the curve and, between them, minima and maxima in turn, each apart by more than noise.

    The smallest swing goes first, with both its ends (as persistence does); at the edge of the curve with one.
    """
    kept = _extrema(height)
    while len(kept) > 1:
        ratios = [above.ratio(*pair) for pair in pairwise(kept)]
        least = int(np.argmin(ratios))
        if ratios[least] > 1:
            break
        if least == 0:
            del kept[0]
        elif least == len(kept) - 2:
            del kept[-1]
        else:
            del kept[least : least + 2]
        kept = _turning(height, kept)
    return kept


def _extrema(height: np.ndarray) -> list[int]:
    """Return both ends and where the loss turns; of a level stretch its middle."""
    starts = np.array([0, *np.flatnonzero(np.diff(height)) + 1, len(height)])
    middles = (starts[:-1] + starts[1:] - 1) // 2
    return _turning(height, [0, *middles[1:-1].tolist(), len(height) - 1])


def _turning(height: np.ndarray, points: list[int]) -> list[int]:
    """Return the first and the last of some points, and those at which the loss turns from one to the next."""
    triples = zip(points, points[1:], points[2:], strict=False)
    turning = [b for a, b, c in triples if (height[b] - height[a]) * (height[c] - height[b]) < 0]
    return [*points[:1], *turning, *points[1:][-1:]]


def _family(alpha: np.ndarray, height: np.ndarray, kept: list[int], model: int, above: _Noise) -> str:
    """Name a curve from its ends and stationary points ``kept``; ``model`` is the point of the perturbed model."""
    if len(kept) < 2:
        return "flat"
    inner = kept[1:-1]
    if not inner:
        return "v-side"
    minima = inner[int(height[kept[0]] < height[inner[0]]) :: 2]
    peaks, at = len(inner) - len(minima), inner[np.abs(alpha[inner] - alpha[model]).argmin()]
    with_model = above.ratio(model, at) <= 1
    if len(inner) == 1 and minima:
        return "v-basin" if with_model else "v-side"
    if peaks == 1 and len(minima) < 2:
        return "w-peak" if with_model and at not in minima else "other"
    if (len(minima), peaks) == (2, 1):
        return "w-basin" if at in minima else "w-peak"
    return "vvv-basin" if (len(minima), peaks) == (3, 2) else "other"


def features(
    alpha: np.ndarray, loss: np.ndarray, noise: np.ndarray, ends: tuple[float, float] | None
) -> dict[str, Any]:
    """Return the numbers of one curve by name, and the masks ``stationary`` and ``turning`` (point,).

    Stationary points are those of Li et al. 2024, (y_t - y_t+1)(y_t - y_t-1) > 0, the ends of the curve left out. The
    barrier is what must be climbed to get from one end to the other, measured from the higher of the two: 0 on a curve
    that only falls. Above the chord it is that of Entezari et al. 2022, which for ends of equal loss is the same.
    A barrier that holds NaN is NaN.

    Args:
        alpha: ascending, shape (point,), with 0 and, if given, the ``ends`` among them.
        loss: shape (point,); NaN and inf are allowed.
        noise: sketches of the losses, shape (point, column); no column where there are no standard errors.
        ends: None means the lowest points on both sides of 0.
    """
    form = shape(alpha, loss, noise, noise.shape[1]) if noise.shape[1] else shape(alpha, loss, np.zeros((len(loss), 1)))
    with np.errstate(invalid="ignore"):
        rises = np.diff(loss)
        stationary = np.zeros(len(loss), bool)
        stationary[1:-1] = rises[:-1] * rises[1:] < 0
        first, last = (int(np.flatnonzero(alpha == end)[0]) for end in ends) if ends else _lowest(alpha, loss)
        path, over = loss[first : last + 1], alpha[first : last + 1] - alpha[first]
        slope = (path[-1] - path[0]) / (over[-1] or 1.0)
        if ends:
            steps = -rises[first:last]
        else:
            steps = np.where(alpha[:-1] < 0, -rises, rises)
        lowest = np.where(np.isfinite(loss), loss, np.inf).argmin()
        known = np.isfinite(loss[lowest])
        return {
            "stationary": stationary,
            "stationary_points": int(stationary.sum()),
            "turning": form.turns,
            "turning_points": int(form.turns.sum()),
            "family": FAMILIES.index(form.family),
            "barrier": path.max() - max(path[0], path[-1]),
            "barrier_above_chord": (path - (path[0] + slope * over)).max(),
            "barrier_from": alpha[first],
            "barrier_to": alpha[last],
            "monotonicity": (steps > 0).mean(),
            "minimum": loss[lowest] if known else np.nan,
            "minimum_position": alpha[lowest] if known else np.nan,
        }


def _lowest(alpha: np.ndarray, loss: np.ndarray) -> tuple[int, int]:
    """Return where the smallest losses left and right of 0 lie, the centre included and preferred."""
    center, height = int(np.flatnonzero(alpha == 0)[0]), np.where(np.isnan(loss), np.inf, loss)
    left, right = height[: center + 1][::-1].argmin(), height[center:].argmin()
    return center - int(left), center + int(right)
