"""Make principal components of the path, by MPI ranks that share its columns, beside those of a random walk."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.direction_sets import PrincipalComponents

if __name__ == "__main__":
    command_line.run_job(PrincipalComponents, __doc__, *command_line.MPI, "trajectory")
