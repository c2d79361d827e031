"""Rows of the benchmark: ours and the peer timed in turn, medians, and whether their results agree."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass
class Row:
    """One comparison. ``ratio`` is peer over ours, or ours over peer where ``better`` is lower."""

    what: str
    ours_s: float
    peer_s: float
    ratio: float
    target: float
    better: str
    agreement: str
    passed: bool


def interleaved(
    ours: Callable[[], object], peer: Callable[[], object], rounds: int, warm_up: bool = True
) -> tuple[float, float]:
    """Return the median seconds of both, timed in turn after one warm-up each, unless they are warm already."""
    if warm_up:
        ours(), peer()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for run, seconds in zip((ours, peer), times, strict=True):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def row(what: str, ours_s: float, peer_s: float, target: float, better: str, agreement: str, agrees: bool) -> Row:
    """Judge one comparison; a row whose results do not agree fails."""
    ratio = peer_s / ours_s if better == "higher" else ours_s / peer_s
    reached = ratio >= target if better == "higher" else ratio <= target
    return Row(what, ours_s, peer_s, round(ratio, 3), target, better, agreement, bool(reached and agrees))


def report(rows: list[Row], path: Path) -> bool:
    """Print the table, write it as JSON, and return whether every row passed."""
    print(f"{'what':<58}{'ours s':>10}{'peer s':>10}{'ratio':>8}{'target':>9}  agreement")
    for r in rows:
        sign = ">=" if r.better == "higher" else "<="
        verdict = f"  {r.agreement}" + ("" if r.passed else "  MISSED")
        print(f"{r.what:<58}{r.ours_s:>10.4f}{r.peer_s:>10.4f}{r.ratio:>8.2f}{sign:>4}{r.target:>5.2f}{verdict}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    return all(r.passed for r in rows)
