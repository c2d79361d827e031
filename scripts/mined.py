"""Mine directions by descent, by MPI ranks that share them."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.mined_directions import Mined

if __name__ == "__main__":
    parser = command_line.rank_arguments(__doc__)
    command_line.add_trajectories(parser)
    parser.add_argument("--device", required=True)
    parser.add_argument("--save-minutes", type=float, required=True, help="from one save of a direction to the next")
    command_line.run_job(Mined, parser)
