"""Compute Hessian spectra along training or on a line between two checkpoints, by MPI ranks that share one queue."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.spectra import Spectra

if __name__ == "__main__":
    command_line.run_job(Spectra, __doc__, *command_line.NETWORK, "save-minutes", "data-ranks")
