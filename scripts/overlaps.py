"""Compute cosines of directions with each other and with Gaussian vectors."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.overlaps import Overlaps

if __name__ == "__main__":
    command_line.run_job(Overlaps, __doc__, x=command_line.CURVES)
