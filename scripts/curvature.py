"""Compute the extreme Hessian eigenvalues on a grid over a plane, by MPI ranks that share one queue."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.curvature_map import CurvatureMap

if __name__ == "__main__":
    command_line.run_job(CurvatureMap, __doc__, *command_line.NETWORK, "x", "y")
