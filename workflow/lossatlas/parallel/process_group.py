"""Ranks that compute one unit together: each holds a part of every vector, and works on a share of the samples.

This is GradVis's Algorithm 4 (data parallel). Several teams that share units are the mix of it and Algorithm 5 that
GradVis leaves to future work; teams of one rank are Algorithm 5.

No sum depends on the number of ranks, not by a bit (see ``krylov.tree_sum``): a rank has consecutive leaves of the tree
of every sum, and sends one sum for each branch that they make up.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from lossatlas.errors import LossAtlasError
from lossatlas.krylov.tree_sum import LEAVES, Branch, fold, leaf
from lossatlas.parallel import World

MESSAGE_BYTES = 2**26
"""About how much a rank sends at once; more goes in several messages."""


class Team:
    """The ranks of one team; without a communicator it is a process on its own. All ranks call all methods together.

    ``leaves`` are those that this rank sums; ``seconds`` is the time spent waiting for others and on messages.
    """

    def __init__(self, comm: Any = None):
        self._comm, self.seconds = comm, 0.0
        self.rank: int = 0 if comm is None else comm.rank
        self.size: int = 1 if comm is None else comm.size
        self.leaves = self._leaves(self.rank)

    def _leaves(self, rank: int) -> range:
        return range(LEAVES * rank // self.size, LEAVES * (rank + 1) // self.size)

    def part(self, total: int, rank: int | None = None) -> slice:
        """Return which entries of a vector of ``total`` entries a rank holds, by default this one."""
        leaves = self._leaves(self.rank if rank is None else rank)
        return slice(leaf(total, leaves.start).start, leaf(total, leaves.stop - 1).stop)

    def leaves_of_part(self, total: int) -> list[slice]:
        """Return where the leaves of this rank's part of a vector lie in the part."""
        first = self.part(total).start
        places = (leaf(total, number) for number in self.leaves)
        return [slice(place.start - first, place.stop - first) for place in places]

    def total(self, terms: list[np.ndarray]) -> np.ndarray:
        """Return the sum over all leaves on every rank, from one array for each of this rank's leaves."""
        return self.sum(fold([(range(n, n + 1), term) for n, term in zip(self.leaves, terms, strict=True)]))

    def sum(self, branches: list[Branch]) -> np.ndarray:
        """Return the sum over all leaves on every rank, from this rank's, as ``fold`` returns them."""
        if self.size > 1:
            with self._talking():
                everyone = self._comm.allgather(branches)
            branches = fold([branch for ranks in everyone for branch in ranks])
        return branches[0][1]

    def whole(self, parts: np.ndarray, total: int) -> np.ndarray:
        """Return vectors (k, total) of which each rank holds its part (k, n)."""
        if self.size == 1:
            return parts
        with self._talking():
            rows = [np.concatenate(self._comm.allgather(parts[r]), axis=1) for r in self._messages(len(parts), total)]
        return np.concatenate(rows)

    def share(self, branches: list[Branch]) -> np.ndarray:
        """Return this rank's part (k, n) of the sum over all leaves of vectors (k, total) that each rank has summed.

        Args:
            branches: the sums over this rank's leaves, as ``fold`` returns them.
        """
        if self.size == 1:
            return branches[0][1]
        count, total = branches[0][1].shape
        rows = []
        with self._talking():
            for r in self._messages(count, total):
                cut = [
                    [(leaves, sums[r, self.part(total, to)]) for leaves, sums in branches] for to in range(self.size)
                ]
                everyone = self._comm.alltoall(cut)
                rows.append(fold([branch for ranks in everyone for branch in ranks])[0][1])
        return np.concatenate(rows)

    def any(self, *facts: object) -> tuple[bool, ...]:
        """Return for each fact whether it holds on some rank."""
        mine = tuple(map(bool, facts))
        if self.size == 1:
            return mine
        with self._talking():
            return tuple(map(any, zip(*self._comm.allgather(mine), strict=True)))

    def everyone(self, value: Any) -> list:
        """Return the values of all ranks."""
        if self.size == 1:
            return [value]
        with self._talking():
            return self._comm.allgather(value)

    @staticmethod
    def _messages(count: int, total: int) -> Iterator[slice]:
        rows = max(1, MESSAGE_BYTES // (8 * total))
        return (slice(start, start + rows) for start in range(0, count, rows))

    @contextmanager
    def _talking(self) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds += time.monotonic() - start


ALONE = Team()


def ranks_per_unit(asked: str | int, ranks: int, units: int) -> int:
    """Return how many ranks a team has; ``auto`` is as few as give every rank something to do.

    Raises:
        LossAtlasError: the ranks cannot be dealt into such teams.
    """
    possible = [size for size in range(1, min(ranks, LEAVES) + 1) if ranks % size == 0]
    if asked == "auto":
        return next((size for size in possible if ranks // size <= units), possible[-1])
    if int(asked) not in possible:
        raise LossAtlasError(
            f"mpi.data_ranks: {asked} does not fit {ranks} rank(s); possible: {', '.join(map(str, possible))}, or auto"
        )
    return int(asked)


def form_teams(world: World, size: int) -> tuple[Team, World | None]:
    """Return this rank's team of ``size`` neighbouring ranks, and the world of all first ranks, None on the others."""
    if size == 1:
        return Team(), world
    comm = world.comm.Split(world.rank // size, world.rank)
    first = world.rank % size == 0
    leaders = world.comm.Split(int(not first), world.rank)
    return Team(comm), World(leaders.rank, leaders.size, world.local_rank, leaders) if first else None
