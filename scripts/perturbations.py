"""Sample and predict how the loss changes under Gaussian perturbations, by MPI ranks that share one queue."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.perturbations import Perturbations

if __name__ == "__main__":
    command_line.run_job(Perturbations, __doc__, *command_line.NETWORK)
