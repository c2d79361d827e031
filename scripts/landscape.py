"""Evaluate the loss on a plane and along the path, by MPI ranks that share one queue."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.landscape import Landscape

if __name__ == "__main__":
    command_line.run_job(Landscape, __doc__, *command_line.NETWORK, "x", "y")
