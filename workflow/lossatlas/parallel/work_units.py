"""Units of work: rows of one array, a chunk at a time, shared by ranks, each chunk written by who computed it."""

from collections.abc import Callable

import numpy as np
import zarr

from lossatlas.io.store import Store, add_array
from lossatlas.parallel import Timing, WorkQueue, World, signals, work_queue
from lossatlas.parallel.process_group import ALONE, Team
from lossatlas.parallel.progress import Progress

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


def count(store: Store, rows: int | None = None) -> int:
    """Return how many units there are, finished or not, among the first ``rows`` (by default all)."""
    work = store[ARRAY]
    return -(-(work.shape[0] if rows is None else rows) // work.chunks[0])


def unfinished(store: Store, rows: int | None = None) -> list[int]:
    """Return the units whose chunk is not written yet, among the first ``rows`` (by default all)."""
    work = store[ARRAY]
    return np.flatnonzero(work[: rows : work.chunks[0], -1] == 0).tolist()


def results(store: Store, rows: int | None = None) -> np.ndarray:
    """Return the first ``rows`` (by default all), shape (row, column), without the last column."""
    return store[ARRAY][:rows, :-1]


def written(store: Store, rows: int | None = None) -> np.ndarray:
    """Return which of the first ``rows`` (by default all) lie in a chunk that is written, shape (row,), bool."""
    return store[ARRAY][:rows, -1] != 0


PATIENCE = 20.0
"""Seconds that a rank that was told to stop waits for the others, one of which may be dead."""


def compute(
    store: Store,
    evaluate: Callable[[range], np.ndarray],
    world: World,
    timing: Timing,
    queue: str,
    label: str,
    teams: tuple[Team, World | None] | None = None,
    rows: int | None = None,
) -> int:
    """Compute all unfinished units; every rank takes part and writes what it computed.

    When any rank is told to stop (SIGTERM, SIGUSR1), all end after their current unit.

    Args:
        evaluate: returns the columns of the rows of one unit; a pure function of the rows' numbers. It may raise
            ``interrupt.Dropped`` when the job is told to stop.
        queue: ``counter`` or ``static``.
        teams: this rank's team, whose ranks compute each unit together, and the world of the teams' first ranks
            (see ``form_teams``); by default each rank is a team.
        rows: compute the first ``rows`` only, which must be the end of a unit; by default all.

    Returns:
        How many units are still missing, the same on all ranks; 0 unless they were told to stop.

    Raises:
        Interrupted: this rank was told to stop and the others did not come.
    """
    pending = world.broadcast(unfinished(store, rows) if world.rank == 0 else None)
    units = count(store, rows)
    found = units - len(pending)
    progress = None
    if world.rank == 0:
        progress = Progress(label, units, found, unit="chunks")
        progress.begin()
    team, leaders = teams or (ALONE, world)
    line = work_queue(leaders, len(pending), queue) if leaders else None
    timing.ranks_per_unit = team.size
    with signals.deferred():
        while (number := _next(line, team, timing)) is not None:
            if not _compute_one(store[ARRAY], pending[number], evaluate, team, timing):
                break
            if progress and line:
                progress.update(found + line.claimed())
        (stopped,) = team.any(signals.requested())
        timing.move("compute", "communication", team.seconds)
        if stopped and line:
            line.drain()
        with timing("idle"):
            meet(world)
    if line:
        line.close()
    missing = world.broadcast(len(unfinished(store, rows)) if world.rank == 0 else None)
    if progress:
        progress.close(units - missing)
    return missing


def _compute_one(work: zarr.Array, unit: int, evaluate: Callable, team: Team, timing: Timing) -> bool:
    """Compute and write one unit; return whether it was not dropped."""
    start = unit * work.chunks[0]
    with timing("compute"):
        try:
            values = evaluate(range(start, min(start + work.chunks[0], work.shape[0])))
        except signals.Dropped:
            return False
    if team.rank == 0:
        with timing("write"):
            work[start : start + len(values)] = np.column_stack([values, np.ones(len(values))])
    timing.units += 1
    return True


def meet(world: World) -> None:
    """Wait for the other ranks, for some time only after this one was told to stop: they may still save states.

    Raises:
        Interrupted: it was told, and they did not come.
    """
    if not world.meet(lambda: PATIENCE if signals.requested() else None):
        raise signals.Interrupted(
            f"rank {world.rank} was stopped by {signals.requested()}, and others did not come within "
            f"{PATIENCE:.0f} s; run the same command again to go on"
        )


def _next(line: WorkQueue | None, team: Team, timing: Timing) -> int | None:
    """Return the team's next unit; None when there are no more, or one of its ranks was told to stop."""
    with timing("idle"):
        (stopped,) = team.any(signals.requested())
    if stopped:
        return None
    with timing("communication"):
        return team.everyone(line.claim() if line else None)[0]
