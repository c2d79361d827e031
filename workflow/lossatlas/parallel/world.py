"""The ranks of a job. MPI is loaded only when a script asks for a world."""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lossatlas.errors import LossAtlasError

MESSAGE_BYTES = 2**30
"""Of one message; MPI counts with 31 bits."""


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
        request = self.comm.Ibarrier()
        since: float | None = None
        while not request.Test():
            if (limit := patience()) is not None:
                since = since or time.monotonic()
                if time.monotonic() - since > limit:
                    return False
            time.sleep(0.002)
        return True

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's ``value`` on every rank."""
        return value if self.comm is None else self.comm.bcast(value, root=0)

    def broadcast_array(self, array: np.ndarray | None) -> np.ndarray:
        """Return rank 0's ``array``, of any size, on every rank; the others give None."""
        if self.comm is None:
            assert array is not None
            return array
        shape, dtype = self.broadcast(array if array is None else (array.shape, array.dtype))
        held = np.empty(shape, dtype) if array is None else np.ascontiguousarray(array)
        flat = held.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, MESSAGE_BYTES):
            self.comm.Bcast(flat[start : start + MESSAGE_BYTES], root=0)
        return held

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
