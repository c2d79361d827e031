"""Follow Hessian eigenvectors along training, by MPI ranks that share one queue."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.tracking import Tracking

if __name__ == "__main__":
    command_line.run_job(Tracking, __doc__, *command_line.NETWORK, "save-minutes", "data-ranks")
