"""Units of work: rows of one array, a chunk at a time, shared by ranks, each chunk written by who computed it."""

from collections.abc import Callable

import numpy as np
import zarr

from lossatlas import interrupt
from lossatlas.parallel import Timing, World, work_queue
from lossatlas.progress import Progress
from lossatlas.store import Store, add_array

ARRAY = "work/rows"
DONE = "done"
"""Last column of the array; 1 in every written chunk, which therefore never looks empty."""


def add_rows(group: zarr.Group, summary: str, rows: int, columns: list[str], rows_per_unit: int) -> None:
    """Create the array of results in an empty store; one unit is one chunk of ``rows_per_unit`` rows."""
    work = group.create_group("work")
    work.attrs["summary"] = summary
    names = [*columns, DONE]
    chunks = (rows_per_unit, len(names))
    add_array(work, "rows", ("row", "column"), shape=(rows, len(names)), chunks=chunks, columns=names)


def unfinished(store: Store) -> list[int]:
    """Return the units whose chunk is not written yet."""
    work = store[ARRAY]
    return np.flatnonzero(work[:: work.chunks[0], -1] == 0).tolist()


def results(store: Store) -> np.ndarray:
    """Return all rows, shape (row, column), without the last column."""
    return store[ARRAY][:, :-1]


PATIENCE = 20.0
"""Seconds that a rank that was told to stop waits for the others, one of which may be dead."""


def compute(
    store: Store, evaluate: Callable[[range], np.ndarray], world: World, timing: Timing, queue: str, label: str
) -> int:
    """Compute all unfinished units; every rank takes part and writes what it computed.

    When any rank is told to stop (SIGTERM, SIGUSR1), all end after their current unit.

    Args:
        evaluate: returns the columns of the rows of one unit; a pure function of the rows' numbers. It may raise
            ``interrupt.Dropped`` when the job is told to stop.
        queue: ``counter`` or ``static``.

    Returns:
        How many units are still missing, the same on all ranks; 0 unless they were told to stop.

    Raises:
        Interrupted: this rank was told to stop and the others did not come.
    """
    work = store[ARRAY]
    total, per_unit = work.shape[0], work.chunks[0]
    units = -(-total // per_unit)
    pending = world.broadcast(unfinished(store) if world.rank == 0 else None)
    found = units - len(pending)
    progress = None
    if world.rank == 0:
        print(f"{label}: {found} of {units} chunks found finished", flush=True)
        progress = Progress(label, units, found, unit="chunks")
    line = work_queue(world, len(pending), queue)
    with interrupt.deferred():
        while not interrupt.requested():
            with timing("communication"):
                number = line.claim()
            if number is None:
                break
            start = pending[number] * per_unit
            with timing("compute"):
                try:
                    values = evaluate(range(start, min(start + per_unit, total)))
                except interrupt.Dropped:
                    break
                values = np.column_stack([values, np.ones(len(values))])
            with timing("write"):
                work[start : start + len(values)] = values
            timing.units += 1
            if progress:
                progress.update(found + line.claimed())
        if interrupt.requested():
            line.drain()
        with timing("idle"):
            if not world.meet(lambda: PATIENCE if interrupt.requested() else None):
                raise interrupt.Interrupted(
                    f"rank {world.rank} was stopped by {interrupt.requested()}, and others did not come within "
                    f"{PATIENCE:.0f} s; run the same command again to go on"
                )
    line.close()
    missing = world.broadcast(len(unfinished(store)) if world.rank == 0 else None)
    if progress:
        progress.close(units - missing)
    return missing
