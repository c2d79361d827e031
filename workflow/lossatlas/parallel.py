"""Ranks and the queue that they share. MPI is loaded only when a script asks for a world."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lossatlas.errors import LossAtlasError


@dataclass
class World:
    """The ranks of one job; ``comm`` is None for a process on its own."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    comm: Any = None

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.meet(lambda: None)

    def meet(self, patience: Callable[[], float | None]) -> bool:
        """Wait until all ranks are here, without using the processor; return whether they came.

        Args:
            patience: asked while waiting: for how many seconds more, None for as long as it takes.
        """
        if self.comm is None:
            return True
        request, since = self.comm.Ibarrier(), None
        while not request.Test():
            limit = patience()
            since = since or (time.monotonic() if limit is not None else None)
            if since is not None and time.monotonic() - since > limit:
                return False
            time.sleep(0.002)
        return True

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's ``value`` on every rank."""
        return value if self.comm is None else self.comm.bcast(value, root=0)

    def gather(self, value: Any) -> list | None:
        """Return every rank's ``value`` on rank 0, None elsewhere."""
        return [value] if self.comm is None else self.comm.gather(value, root=0)

    def abort(self, status: int) -> None:
        """End every rank of the job at once, so that none waits for one that failed."""
        if self.comm is not None and self.size > 1:
            self.comm.Abort(status)


def world(ranks: int) -> World:
    """Return MPI's world, which must hold exactly ``ranks`` ranks.

    Raises:
        LossAtlasError: the world has another size. That happens when the launcher and the MPI library do not
            understand each other: each rank then believes that it is alone, and all write one store.
    """
    remove_stale_segments()
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    if comm.size != ranks:
        raise LossAtlasError(
            f"mpi.ranks asks for {ranks} rank(s), but this MPI world has {comm.size}; the launcher must start "
            f"{ranks} rank(s) of one world (a world of 1 under srun or mpiexec means that launcher and MPI "
            "library do not match: try another --mpi=... or the library's own mpiexec)"
        )
    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    found = World(comm.rank, comm.size, local.rank, comm)
    places = found.gather(f"{comm.rank} = process {os.getpid()} on {MPI.Get_processor_name()}")
    if places and comm.size > 1:
        # Launchers name a dead process by its number only.
        print("ranks: " + ", ".join(places), flush=True)
    return found


def remove_stale_segments(folder: Path = Path("/dev/shm"), age: float = 5.0) -> None:
    """Remove what killed ranks left of MPICH's shared memory, before MPI starts.

    MPICH names its segments after the launcher's job number. A job that is killed and requeued by Slurm keeps its
    number; on the same node MPI_Init would then take the leftover for a living neighbour and wait for ever.
    A segment that is still being set up is younger than ``age`` seconds, one in use is mapped by a process.
    """
    stale = []
    for segment in folder.glob("mpich_shm_*"):
        with contextlib.suppress(OSError):
            found = segment.stat()
            if found.st_uid == os.geteuid() and time.time() - found.st_mtime > age:
                stale.append(segment)
    if not stale:
        return
    mapped = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            mapped |= {line.split()[5] for line in maps.read_text().splitlines() if "/mpich_shm_" in line}
    for segment in stale:
        if str(segment) not in mapped:
            segment.unlink(missing_ok=True)


def limit_threads(threads: int) -> None:
    """Hold NumPy's and SciPy's BLAS to a number of threads, in this process from now on.

    Left alone it takes every core: ranks would crowd each other, and sums would depend on the machine.
    """
    from threadpoolctl import threadpool_limits

    _limits.append(threadpool_limits(limits=threads, user_api="blas"))


_limits: list = []  # a limit lasts as long as its object


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
            np.frombuffer(self._window.tomemory(), dtype=np.int64)[0] = world.size
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


@dataclass
class Timing:
    """What one rank did: units, alone or with others, and seconds by activity. ``with timing("compute"): ...``"""

    units: int = 0
    ranks_per_unit: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        # What passed before the first line of ours: interpreter, imports, MPI's start.
        self.seconds["start-up"] = max(0.0, time.time() - _process_start())

    def __call__(self, activity: str) -> "_Stopwatch":
        return _Stopwatch(self, activity)

    def move(self, of: str, to: str, seconds: float) -> None:
        """Count some seconds of one activity as another."""
        if seconds:
            self.seconds[of] = self.seconds.get(of, 0.0) - seconds
            self.seconds[to] = self.seconds.get(to, 0.0) + seconds

    def wall(self) -> float:
        """Return the seconds since this rank's first line."""
        return time.monotonic() - self.started

    def record(self, rank: int) -> dict:
        """Return the rank's record; what no activity accounts for is ``other``."""
        wall = self.wall()
        spent = sum(s for name, s in self.seconds.items() if name != "start-up")
        seconds = {**self.seconds, "other": max(0.0, wall - spent)}
        seconds = {activity: round(spent, 4) for activity, spent in seconds.items()}
        return {"rank": rank, "units": self.units, "ranks_per_unit": self.ranks_per_unit, "seconds": seconds}


@dataclass
class _Stopwatch:
    timing: Timing
    activity: str
    start: float = 0.0

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        spent = time.monotonic() - self.start
        self.timing.seconds[self.activity] = self.timing.seconds.get(self.activity, 0.0) + spent


def _process_start() -> float:
    """Return the clock time at which this process began (Linux; elsewhere now)."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rsplit(")", 1)[1].split()[19])
        with open("/proc/stat") as file:
            boot = next(int(line.split()[1]) for line in file if line.startswith("btime"))
        return boot + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, ValueError):
        return time.time()
