"""Mine directions by descent, by MPI ranks that share them."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.mined_directions import Mined

if __name__ == "__main__":
    command_line.run_job(Mined, __doc__, *command_line.MPI, "device", "trajectory", "other", "save-minutes")
