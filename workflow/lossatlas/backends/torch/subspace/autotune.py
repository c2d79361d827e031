"""How points of a plane are to be evaluated: the strategies are timed and compared once, when a store is begun."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lossatlas.backends.torch.hvp.strategies import wait
from lossatlas.backends.torch.protocols import Evaluator
from lossatlas.backends.torch.subspace.agreement import Reference
from lossatlas.backends.torch.subspace.subspace_loss import POINT_STRATEGIES, Eager, Staged, restrict
from lossatlas.errors import LossAtlasError
from lossatlas.problem import Evaluation
from lossatlas.problem.agreement import PointAgreement
from lossatlas.problem.autotune import ranked
from lossatlas.problem.protocol import Place

MARGIN = 0.95
"""A strategy is chosen when it takes less than this share of the time of a plainer one; less is noise."""

WORTH_TRACING, WORTH_COMPILING = 10.0, 300.0
"""Seconds that all points must take otherwise, for tracing takes seconds and compiling tens of seconds."""

LOWERED = 0.2
"""Relative difference of losses beyond which an evaluation in bfloat16 is of no use."""

POINTS = 4
"""Points that are timed together, as many as a unit has as a rule."""


class _Ways:
    """Ways to evaluate points at a place that agree with plain evaluation there, by strategy."""

    def __init__(self, problem: Evaluator, place: Place, points: np.ndarray, count: int, precision: str):
        self.problem, self.place, self.points, self.precision = problem, place, points, precision
        self.reference = Reference(problem, place, points, count)
        self.made: dict[str, Eager | Staged] = {}
        self.agreements: dict[str, PointAgreement] = {}
        self._expected: Any = Eager(problem, place).metrics(points)[:, 0] if precision != "full" else None

    def add(self, strategy: str) -> Eager | Staged:
        """Return evaluation by a strategy, or by a plainer one where that cannot be or does not agree; says so."""
        made = restrict(self.problem, self.place, strategy, self.precision)
        while isinstance(made, Staged) and made.strategy not in self.made:
            agreement = self.reference.compare(self._in_full(made))
            if not agreement.reason:
                self.agreements[made.strategy] = agreement
                break
            place = POINT_STRATEGIES.index(made.strategy)
            plainer = POINT_STRATEGIES[min(place, POINT_STRATEGIES.index("compiled")) - 1]
            said = f"grid points: strategy {plainer!r} instead of {made.strategy!r} ({agreement.reason})"
            print(said, flush=True)
            made = restrict(self.problem, self.place, plainer, self.precision)
        self.made.setdefault(made.strategy, made)
        if self.precision != "full":
            self._check_lowered(made)
        return made

    def _in_full(self, made: Staged) -> Staged:
        """Return the same in the network's own precision."""
        return made if made.precision == "full" else type(made)(self.problem, self.place, made.strategy)

    def _check_lowered(self, made: Eager | Staged) -> None:
        found, expected = made.metrics(self.points)[:, 0], self._expected
        both = np.isfinite(expected) & np.isfinite(found)
        gap = np.abs(found[both] - expected[both]) / np.maximum(np.abs(expected[both]), np.finfo(np.float32).tiny)
        if (worst := float(gap.max(initial=0.0))) > LOWERED:
            raise LossAtlasError(f"precision: in {self.precision!r} the loss is off by {worst:.1%}; use 'full'")

    def chosen(self, strategy: str, told: str) -> Evaluation:
        """Return the choice of a strategy."""
        error = None
        if self.precision != "full":
            with np.errstate(invalid="ignore"):  # inf - inf
                gap = np.abs(self.made[strategy].metrics(self.points)[:, 0] - self._expected)
            error = float(gap[np.isfinite(gap)].max(initial=0.0))
        return Evaluation(strategy, told, error, self.agreements.get(strategy))


def choose_evaluation(
    problem: Evaluator, place: Place, points: np.ndarray, count: int, asked: str, precision: str
) -> Evaluation:
    """Return the strategy ``asked``, or one in its stead, or for ``auto`` the fastest; see ``point_agreement``.

    Args:
        points: some points (point, k) at which ways are compared.
        count: how many points there will be.

    Raises:
        LossAtlasError: there is no such strategy, or the network cannot be evaluated in that precision.
    """
    ways = _Ways(problem, place, points, count, precision)
    if asked != "auto":
        strategy = ways.add(asked).strategy
        return ways.chosen(strategy, strategy)
    if precision == "full":
        each = seconds({"eager": ways.add("eager")}, points)
        if each["eager"] * count < WORTH_TRACING:
            return ways.chosen("eager", f"eager ({each['eager']:.2g} s per point; there are few)")
    first = ways.add("first-layer")
    if first.strategy == "first-layer":
        ways.add("folded")
    if one_point_is_small(problem) and first.strategy != "eager":
        ways.add("vmapped")
    each = seconds(ways.made, points)
    worth = min(each.values()) * count > WORTH_COMPILING and first.strategy != "eager"
    if worth and ways.add("compiled").strategy == "compiled":
        each = seconds(ways.made, points)
    best, *_ = ranked({name: each[name] for name in POINT_STRATEGIES if name in each}, MARGIN)
    told = ", ".join(f"{name} {each[name]:.2g}" for name in sorted(each, key=each.__getitem__))
    return ways.chosen(best, f"{best} (s per point: {told})")


def one_point_is_small(problem: Evaluator) -> bool:
    """Return whether a single point may leave the device idle."""
    return problem.network.theta.device.type == "cuda"


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


def _time(run: Callable[[], Any], count: int) -> float:
    wait()
    started = time.perf_counter()
    run()
    wait()
    return (time.perf_counter() - started) / count
