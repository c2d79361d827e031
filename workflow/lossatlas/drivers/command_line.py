"""What every script shares: one-line errors, ranks that fail together, arguments that every rule passes."""

import argparse
import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lossatlas.drivers.base import Job, Order
from lossatlas.errors import NO_ROOM, LossAtlasError
from lossatlas.io import owner
from lossatlas.io import store as stores
from lossatlas.io.store import Store
from lossatlas.parallel import Timing, World, signals


def axis(text: str) -> tuple[Path, int | None]:
    """Parse ``STORE:NUMBER``, counted from 1, into the path and an index from 0; ``STORE:all`` has no index."""
    path, number = text.rsplit(":", 1)
    return Path(path), None if number == "all" else int(number) - 1


def _named_path(text: str) -> tuple[str, Path]:
    name, path = text.split("=", 1)
    return name, Path(path)


_AXIS, _LIST = {"type": axis, "metavar": "STORE:NUMBER"}, {"action": "append", "default": []}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "output": {"type": Path, "help": "the store to make (becomes a link)"},
    "run-dir": {"type": Path, "help": "results/<run>"},
    "spec": {"type": json.loads, "help": "what determines the result, as JSON"},
    "label": {"help": "name of the job in messages"},
    "fresh": {"action": "store_true", "default": False, "help": "set an existing store aside and compute anew"},
    "timing": {"type": Path, "help": "timing record to write, JSON"},
    "ranks": {"type": int, "help": "ranks that MPI's world must have"},
    "threads": {"type": int, "help": "threads of each rank"},
    "device": {"help": "auto, cpu or cuda"},
    "queue": {"choices": ["counter", "static"], "help": "how ranks share units"},
    "trajectory": {"type": Path, "help": "that of the run itself"},
    "other": {"type": _named_path, "metavar": "RUN=PATH", "help": "trajectory of another run", **_LIST},
    "save-minutes": {"type": float, "help": "from one save of a long unit to the next"},
    "data-ranks": {"help": "ranks that compute a unit together, or auto"},
    "x": {"help": "direction of the x axis, counted from 1", **_AXIS},
    "y": {"help": "direction of the y axis, counted from 1", **_AXIS},
    "needs": {"type": json.loads, "default": {}, "help": "what later jobs need memory for, see readiness.check_memory"},
    "files": {"type": Path, "nargs": "+", "help": "checkpoints in order"},
}
"""What scripts are told that make stores, by name; those without a default must be given."""

STORE, MPI = ("output", "run-dir", "spec", "label", "fresh"), ("timing", "ranks", "threads")
NETWORK = (*MPI, "device", "queue", "trajectory", "other")
"""Of all scripts that make stores; of those that MPI starts; of those among these that run a network."""

CURVES = {"help": "directions, counted from 1, or all of a store; a curve each", **_AXIS, **_LIST}
"""The argument ``x`` of curves."""


def run_job(kind: type[Job], description: str | None, *names: str, **others: dict[str, Any]) -> None:
    """Parse the command line and make the store of a job; all ranks of a job that has several do.

    Args:
        names: of ``ARGUMENTS`` besides ``STORE``.
        others: arguments of this script alone, as ``ARGUMENTS`` has them.
    """
    parser = argparse.ArgumentParser(description=description)
    for name, how in {**{name: ARGUMENTS[name] for name in (*STORE, *names)}, **others}.items():
        parser.add_argument(f"--{name}", required="default" not in how, **how)
    args = parser.parse_args()
    run(lambda world: _make(kind, args, world), getattr(args, "ranks", None), args.label)


def _make(kind: type[Job], args: argparse.Namespace, world: World) -> None:
    timing, order = Timing(), Order.of(args)
    with timing("read"):
        job = kind.read(args, world)
    store = job.prepare(order, world, timing)
    missing = 0 if store.finished else job.compute(store, order, world, timing)
    _conclude(job, store, order, world, timing, missing)


def _conclude(job: Job, store: Store, order: Order, world: World, timing: Timing, missing: int) -> None:
    """After all units: finish and link the store, write the timing record. Every rank takes part.

    Args:
        missing: how many units are not computed, because the job was told to stop.

    Raises:
        SystemExit: units are missing; the status makes the job resume.
    """
    records = world.gather({**timing.record(world.rank), "peak_memory_bytes": peak_memory()}) or []
    if world.rank == 0:
        wall = timing.wall()
        if store.finished:
            print(f"{order.label}: found finished, nothing to compute", flush=True)
        elif not missing and Store(store.path).finished:
            print(f"{order.label}: another attempt at this store has finished it", flush=True)
        elif not missing:
            figures = job.finish(store, _attempt(job, order, records, wall))
            print(
                f"{order.label}: " + ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in figures.items()),
                flush=True,
            )
        if order.timing:
            for record in records:
                print(
                    f"{order.label}: rank {record['rank']} did {record['units']} chunks; seconds: {record['seconds']}"
                )
            content = {"label": order.label, "wall_seconds": wall, "device": job.device, "ranks": records}
            owner.write(order.timing, json.dumps(content, indent=1).encode())
        if missing:
            why = f"stopped by {signals.requested() or 'another rank'}, {missing} chunks missing"
            print(f"{order.label}: {why}; run the same command again to go on", flush=True)
        else:
            stores.publish(order.output, order.run_dir)
    if missing:
        sys.exit(signals.STATUS)


def _attempt(job: Job, order: Order, records: list[dict], wall: float) -> dict[str, Any]:
    """Return what a store records of the attempt that finished it."""
    together, units = records[0]["ranks_per_unit"], sum(record["units"] for record in records)
    attempt = {"ranks": len(records), "ranks_per_unit": together, "threads": order.threads, "device": job.device}
    attempt |= {"wall_seconds": wall, **({"chunks": units // together} if units else {}), **job.effort}
    return attempt | {"peak_memory_bytes": [record["peak_memory_bytes"] for record in records]}


def peak_memory() -> int:
    """Return the most memory that this process had in use so far (resident set), in bytes; a GPU's is not counted."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def run(main: Callable[[World], Any], ranks: int | None = None, label: str = "") -> None:
    """Run a script's ``main`` and turn errors into an exit status; with MPI one rank's failure ends all.

    Args:
        ranks: the size that MPI's world must have; None for a script on its own.
        label: name of the job, put before errors.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    world, where = World(), f"{label}: " if label else ""
    signals.listen(lambda text: _tell(world, f"{where}{text}", signals.STATUS))
    try:
        if ranks is not None:
            from lossatlas.parallel import world as mpi_world

            world = mpi_world(ranks)
            _name_ranks_in_warnings(world)
        main(world)
    except signals.Interrupted as error:
        _fail(world, f"{where}{error}", signals.STATUS)
    except LossAtlasError as error:
        if os.environ.get("LOSSATLAS_TRACEBACK"):
            traceback.print_exc()
        _fail(world, f"{where}error: {error}", 2)
    except Exception as error:
        if full := _disk_is_full(error):
            _fail(world, f"{where}error: {full}", 2)
        _fail(world, f"rank {world.rank} of {world.size} failed:\n{traceback.format_exc()}", 1)
    finally:
        signals.ignore()  # what is left is the end of the interpreter, which could answer with another status


def _name_ranks_in_warnings(world: World) -> None:
    """Let every warning say which rank gave it."""
    plain = warnings.formatwarning
    if world.size > 1:
        warnings.formatwarning = lambda *what, **how: f"rank {world.rank}: {plain(*what, **how)}"


def _disk_is_full(error: BaseException | None) -> str | None:
    """Return one line when an error, or one that led to it, says that the disk has no room; None else."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            file = f"{error.filename}: " if error.filename else ""
            return f"{file}no room on the disk ({error.strerror}); make room and run the same command again"
        error = error.__cause__ or error.__context__
    return None


def _fail(world: World, text: str, status: int) -> None:
    _tell(world, text, status)
    sys.exit(status)


def _tell(world: World, text: str, status: int) -> None:
    """Say why the job ends, and end the other ranks."""
    signals.say(text)
    if world.size > 1:
        time.sleep(0.5)  # launchers drop what they have not yet passed on when a rank aborts
    world.abort(status)
