"""Passes over a trajectory's columns: in blocks, by threads and ranks, with one result whatever their numbers.

Columns are cut into the leaves of ``parallel.process_group``. One thread of one rank does a leaf, with BLAS on that
thread alone, and leaves are added along one tree.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from threadpoolctl import threadpool_limits

from lossatlas.io.trajectory import Trajectory
from lossatlas.krylov.tree_sum import Branch, fold, leaf
from lossatlas.parallel.process_group import ALONE, Team


def column_sum(
    trajectory: Trajectory,
    term: Callable[[slice, np.ndarray], np.ndarray],
    threads: int = 1,
    team: Team = ALONE,
    dtype: DTypeLike = np.float64,
) -> np.ndarray:
    """Return the sum over all columns of theta of ``term(columns, block)``, in float64 and on every rank.

    A block (rows, columns) holds all checkpoints in ``dtype``; ``term`` may change it, and returns a new array.
    """

    def of_leaf(number: int) -> Branch:
        total = None
        for columns, block in trajectory.column_blocks(leaf(trajectory.layout.size, number), dtype=dtype):
            found = term(columns, block)
            total = found.astype(np.float64) if total is None else np.add(total, found, out=total)
        return range(number, number + 1), total

    branches: list[Branch] = []
    for branch in _threaded(of_leaf, team.leaves, threads):
        branches = fold([*branches, branch])
    return team.sum(branches)


def map_columns(
    trajectory: Trajectory,
    term: Callable[[slice, np.ndarray], np.ndarray],
    count: int,
    threads: int = 1,
    team: Team = ALONE,
    dtype: DTypeLike = np.float64,
) -> np.ndarray:
    """Return the float64 vectors (count, N) whose columns are ``term(columns, block)``, on every rank."""
    part = team.part(trajectory.layout.size)
    vectors = np.empty((count, part.stop - part.start))

    def of_leaf(number: int) -> None:
        for columns, block in trajectory.column_blocks(leaf(trajectory.layout.size, number), dtype=dtype):
            vectors[:, columns.start - part.start : columns.stop - part.start] = term(columns, block)

    for _ in _threaded(of_leaf, team.leaves, threads):
        pass
    return team.whole(vectors, trajectory.layout.size)


def _threaded(work: Callable[[int], Any], numbers: Iterable[int], threads: int) -> Iterator[Any]:
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, numbers)
