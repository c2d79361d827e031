"""How points of a plane are to be evaluated: the strategies are timed and compared once, when a store is begun."""

import time
from typing import NamedTuple

import numpy as np

from lossatlas.backends.torch.restriction import STRATEGIES, Eager, Staged, restrict
from lossatlas.backends.torch.strategies import wait
from lossatlas.errors import LossAtlasError

MARGIN = 0.95
"""A strategy is chosen when it takes less than this share of the time of a plainer one; less is noise."""

WORTH_TRACING, WORTH_COMPILING = 10.0, 300.0
"""Seconds that all points must take otherwise, for tracing takes seconds and compiling tens of seconds."""

AGREEMENT = {"full": 1e-4, "bfloat16": 0.2}
"""Relative difference of losses beyond which a strategy is wrong, whatever the reason; rounding is far below."""

POINTS = 4
"""Points that are timed together, as many as a unit has as a rule."""

Place = tuple[np.ndarray, np.ndarray, np.ndarray]


class Evaluation(NamedTuple):
    """A strategy and why: ``told`` in words; ``error``, the largest difference of a loss from the network's own
    precision at the points that were tried, None in that precision itself."""

    strategy: str
    told: str
    error: float | None


def choose_evaluation(problem, place: Place, points: np.ndarray, count: int, asked: str, precision: str) -> Evaluation:
    """Return the strategy ``asked``, or one that can be in its stead, or for ``auto`` the fastest.

    Args:
        problem: the ``TorchProblem``.
        place: center, directions and buffers.
        points: some points (point, k) at which losses are compared.
        count: how many points there will be.

    Raises:
        LossAtlasError: there is no such strategy, or the network cannot be evaluated in that precision.
    """
    plain = Eager(problem, *place)
    expected = plain.metrics(points)[:, 0]
    if asked != "auto":
        made = _agreeing(problem, place, points, expected, asked, precision)
        return Evaluation(made.strategy, made.strategy, _error(made, points, expected))
    ways = {"eager": plain} if precision == "full" else {}
    each = seconds(ways, points)
    if ways and each["eager"] * count < WORTH_TRACING:
        return Evaluation("eager", f"eager ({each['eager']:.2g} s per point; there are few)", None)
    made = _agreeing(problem, place, points, expected, "first-layer", precision)
    ways[made.strategy] = made
    if made.strategy == "first-layer":
        ways["folded"] = _agreeing(problem, place, points, expected, "folded", precision)
    if one_point_is_small(problem) and made.strategy != "eager":
        vmapped = _agreeing(problem, place, points, expected, "vmapped", precision)
        ways[vmapped.strategy] = vmapped
    each = seconds(ways, points)
    if min(each.values()) * count > WORTH_COMPILING and made.strategy != "eager":
        compiled = _agreeing(problem, place, points, expected, "compiled", precision)
        if compiled.strategy == "compiled":
            ways["compiled"] = compiled
            each = seconds(ways, points)
    best, *others = (name for name in STRATEGIES if name in each)
    for name in others:
        best = name if each[name] < MARGIN * each[best] else best
    told = ", ".join(f"{name} {each[name]:.2g}" for name in sorted(each, key=each.get))
    return Evaluation(best, f"{best} (s per point: {told})", _error(ways[best], points, expected))


def one_point_is_small(problem) -> bool:
    """Return whether a single point may leave the device idle."""
    return problem.network.theta.device.type == "cuda"


def _agreeing(
    problem, place: Place, points: np.ndarray, expected: np.ndarray, strategy: str, precision: str
) -> Eager | Staged:
    """Return the loss by a strategy if it agrees with the plain one, which it may not for a network that is no
    function of its parameters, buffers and samples alone; else the plain one."""
    made = restrict(problem, *place, strategy, precision)
    found = made.metrics(points)[:, 0]
    both = np.isfinite(expected) & np.isfinite(found)
    gap = np.abs(found[both] - expected[both]) / np.maximum(np.abs(expected[both]), np.finfo(np.float32).tiny)
    worst = float(gap.max(initial=0.0))
    if worst <= AGREEMENT[precision]:
        return made
    if precision != "full":
        raise LossAtlasError(f"precision: in {precision!r} the loss is off by {worst:.1%}; use 'full'")
    print(f"grid points: strategy 'eager' instead of {strategy!r} (its loss is off by {worst:.1e})", flush=True)
    return Eager(problem, *place)


def _error(made: Eager | Staged, points: np.ndarray, expected: np.ndarray) -> float | None:
    """Return the largest finite difference of a loss, None in the network's own precision."""
    if made.precision == "full":
        return None
    with np.errstate(invalid="ignore"):  # inf - inf
        gap = np.abs(made.metrics(points)[:, 0] - expected)
    return float(gap[np.isfinite(gap)].max(initial=0.0))


def seconds(ways: dict[str, Eager | Staged], points: np.ndarray, rounds: int = 5) -> dict[str, float]:
    """Return the time of one point over all samples, from the shortest of interleaved runs on one chunk."""
    timed = np.resize(points, (POINTS, points.shape[1]))
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            best[name] = min(best[name], _seconds(way, timed))
    return best


def _seconds(way: Eager | Staged, points: np.ndarray) -> float:
    if isinstance(way, Eager):
        return _time(lambda: way.on_piece(0, points), len(points)) * len(way.problem.chunks)
    weights, pieces = way.weights(points), len(way.pieces)
    each = _time(lambda: way.on_pieces([0], points, weights), len(points)) * pieces
    each += _time(lambda: way.weights(points), len(points))
    if way.share_kept < 1:
        each += (1 - way.share_kept) * _time(lambda: way.make(0), len(points)) * pieces
    return each


def _time(run, count: int) -> float:
    wait()
    started = time.perf_counter()
    run()
    wait()
    return (time.perf_counter() - started) / count
