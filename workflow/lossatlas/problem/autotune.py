"""Which way of computing is used: candidates are measured, the fastest first compared with a plain one, and taken."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from lossatlas.errors import LossAtlasError
from lossatlas.problem.agreement import ProductAgreement
from lossatlas.problem.protocol import Choice

PRODUCTS_MARGIN = 0.8
"""A later strategy of products is chosen when it takes less than this share of the time of an earlier one; less is
noise."""

SLOW = 0.05
"""Seconds beyond which one run tells enough: what a first one takes besides is then a small share."""


class Disagreement(LossAtlasError):
    """A strategy does not give what the plain one does."""


class Candidate(NamedTuple):
    """A strategy that fits: its bytes, the seconds of a product, None if not measured, and what computes by it."""

    name: str
    peak: int
    seconds: float | None
    way: Any = None


def ranked(seconds: dict[str, float], margin: float) -> list[str]:
    """Return names with the best first; one that comes earlier and is a little slower than a later one is better."""
    best, *others = seconds
    for name in others:
        best = name if seconds[name] < margin * seconds[best] else best
    return [best, *(name for name in seconds if name != best)]


def ranked_candidates(candidates: list[Candidate]) -> list[Candidate]:
    """Return measured candidates, the best first."""
    by_name = {one.name: one for one in candidates}
    seconds = {one.name: one.seconds for one in candidates if one.seconds is not None}
    return [by_name[name] for name in ranked(seconds, PRODUCTS_MARGIN)]


def first_that_agrees(
    candidates: list[Candidate], compare: Callable[[Candidate], ProductAgreement | None], memory_gb: float
) -> tuple[Choice, list[Disagreement]]:
    """Return the choice of the first candidate that agrees, and what was wrong with those before it.

    Args:
        compare: returns how well a candidate agrees, None where there is nothing to compare with; or raises
            ``Disagreement``.

    Raises:
        Disagreement: none agrees; the last one's.
    """
    dropped: list[Disagreement] = []
    for number, one in enumerate(candidates):
        try:
            agreement = compare(one)
        except Disagreement as error:
            dropped.append(error)
            continue
        told = _told(candidates[number:], memory_gb)
        return Choice(one.name, told, one.peak, agreement.attributes if agreement else None), dropped
    raise dropped[-1]


def _told(candidates: list[Candidate], memory_gb: float) -> str:
    """Return a line about the first candidate: its time and that of the others, its memory."""
    best, *others = candidates
    memory = f"about {best.peak / 2**30:.2g} of {memory_gb:.3g} GB"
    if best.seconds is None:
        return f"{best.name}, {memory}"
    slower = ", ".join(f"{one.name} {one.seconds:.2g}" for one in others)
    return f"{best.name} ({best.seconds:.2g} s each{f'; {slower}' if slower else ''}), {memory}"


def shortest(run: Callable[[], Any], repetitions: int, wait: Callable[[], None]) -> tuple[float, Any]:
    """Return the shortest time of a function that has run once before, unless that was slow, and its last result.

    Args:
        wait: waits for the device, before each look at the clock.
    """
    first, best = True, float("inf")
    for _ in range(repetitions + 1):
        wait()
        started = time.perf_counter()
        result = run()
        wait()
        taken = time.perf_counter() - started
        if not first or taken > SLOW:
            best = min(best, taken)
        if taken > SLOW:
            break
        first = False
    return best, result
