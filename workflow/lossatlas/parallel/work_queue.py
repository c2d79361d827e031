"""The queue of units that the ranks of a job share."""

from collections.abc import Iterator
from typing import Any, Protocol

from lossatlas.parallel.world import World


class WorkQueue(Protocol):
    """Hands out 0, 1, ..., n - 1, each to one rank. All ranks create and close it together."""

    def claim(self) -> int | None:
        """Return the next unit for this rank, None when there are no more."""

    def claimed(self) -> int:
        """Return about how many units have been handed out to all ranks together."""

    def drain(self) -> None:
        """Hand out no more units, to any rank where ranks share one counter, to this one in any case."""

    def close(self) -> None:
        """Free what is shared."""


class StaticQueue:
    """Block-cyclic shares: rank r takes r, r + size, r + 2 size, ... Needs no communication."""

    def __init__(self, world: World, n: int):
        self._units: Iterator[int] = iter(range(world.rank, n, world.size))
        self._n, self._size, self._taken = n, world.size, 0

    def claim(self) -> int | None:
        unit = next(self._units, None)
        self._taken += unit is not None
        return unit

    def claimed(self) -> int:
        return min(self._n, self._taken * self._size)

    def drain(self) -> None:
        self._units = iter(())

    def close(self) -> None:
        pass


class CounterQueue:
    """A shared counter in rank 0's memory, advanced by one-sided MPI (Fetch_and_op under Lock_all).

    Rank r's first unit is r, whoever comes first; the counter hands out the rest. The memory comes from
    ``Win.Allocate``: with ``Win.Create`` the other ranks waited for seconds until rank 0, busy computing, came back
    into MPI.
    """

    def __init__(self, world: World, n: int):
        import numpy as np
        from mpi4py import MPI

        self._mpi, self._np, self._n, self._claimed = MPI, np, n, 0
        self._own = iter(range(world.rank, min(n, world.size), world.size))
        size = MPI.INT64_T.Get_size() if world.rank == 0 else 0
        self._window = MPI.Win.Allocate(size, disp_unit=8, comm=world.comm)
        if world.rank == 0:
            self._window.Lock(0)
            counter: Any = self._window.tomemory()
            np.frombuffer(counter, dtype=np.int64)[0] = world.size
            self._window.Unlock(0)
        world.barrier()
        self._window.Lock_all()

    def claim(self) -> int | None:
        own = next(self._own, None)
        if own is not None:
            self._claimed = max(self._claimed, own + 1)
            return own
        before = self._advance(1)
        self._claimed = min(before + 1, self._n)
        return before if before < self._n else None

    def _advance(self, by: int) -> int:
        step, before = self._np.full(1, by, self._np.int64), self._np.zeros(1, self._np.int64)
        self._window.Fetch_and_op(step, before, 0)
        self._window.Flush(0)
        return int(before[0])

    def claimed(self) -> int:
        return self._claimed

    def drain(self) -> None:
        self._own = iter(())
        self._advance(self._n)

    def close(self) -> None:
        self._window.Unlock_all()
        self._window.Free()


def work_queue(world: World, n: int, kind: str = "counter") -> WorkQueue:
    """Return the queue over ``n`` units: ``counter`` or ``static``."""
    return StaticQueue(world, n) if kind == "static" or world.size == 1 else CounterQueue(world, n)
