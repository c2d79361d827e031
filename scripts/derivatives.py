"""Compute Hessian eigenvectors, or negative gradients, at a checkpoint as a set of directions."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.direction_sets import Derivatives

if __name__ == "__main__":
    command_line.run_job(Derivatives, __doc__, "threads", "device", "trajectory", "other")
