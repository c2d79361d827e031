"""Make a set of directions: random, differences of checkpoints, or from a file."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.direction_sets import Directions

if __name__ == "__main__":
    command_line.run_job(Directions, __doc__, "trajectory", "other")
