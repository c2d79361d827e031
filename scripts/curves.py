"""Evaluate the loss along directions or between two checkpoints, by MPI ranks that share one queue."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.line_scans import LineScan

if __name__ == "__main__":
    command_line.run_job(LineScan, __doc__, *command_line.NETWORK, x=command_line.CURVES)
