"""Run on several MPI ranks: claim units from a queue and print who claimed what, as JSON on rank 0.

mpiexec -n 3 python claim.py KIND UNITS SECONDS_THAT_RANK_0_COMPUTES
"""

import json
import sys
import time

from lossatlas import cli
from lossatlas.parallel import work_queue


def main(world) -> None:
    kind, units, busy = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    queue = work_queue(world, units, kind)
    claimed, times = [], []
    world.barrier()
    start = time.monotonic()
    while (unit := queue.claim()) is not None:
        claimed.append(unit)
        times.append(time.monotonic() - start)
        end = time.monotonic() + (busy if world.rank == 0 else 0.001)
        while time.monotonic() < end:  # compute, without a single call into MPI
            pass
    world.barrier()
    queue.close()
    everyone = world.gather({"claimed": claimed, "times": times})
    if world.rank == 0:
        print(json.dumps(everyone))


if __name__ == "__main__":
    cli.run(main, ranks=int(sys.argv[4]))
