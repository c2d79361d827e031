"""Run on several MPI ranks: claim units from queues and print who claimed what, as JSON on rank 0, a line a queue.

mpiexec -n 3 python claim.py RANKS QUEUES [FILE]

QUEUES is JSON, pairs (kind, units). With FILE rank 0 computes its first unit, without a single call into MPI, until
another rank, which found no more to claim, has made the file.
"""

import json
import sys
import time
from pathlib import Path

from lossatlas.drivers import command_line
from lossatlas.parallel import World, work_queue

LIMIT = 120.0


def claim(world: World, kind: str, units: int, done: Path | None) -> None:
    queue, claimed = work_queue(world, units, kind), []
    world.barrier()
    while (unit := queue.claim()) is not None:
        claimed.append(unit)
        limit = time.monotonic() + LIMIT
        while done and world.rank == 0 and not done.exists():
            if time.monotonic() > limit:
                raise TimeoutError("the other ranks wait for rank 0")
    if done:
        done.touch()
    world.barrier()
    queue.close()
    everyone = world.gather(claimed)
    if world.rank == 0:
        print(json.dumps(everyone), flush=True)


def main(world: World) -> None:
    for kind, units in json.loads(sys.argv[2]):
        claim(world, kind, units, Path(sys.argv[3]) if sys.argv[3:] else None)


if __name__ == "__main__":
    command_line.run(main, ranks=int(sys.argv[1]))
