"""Train a run and record its trajectory."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.training import Training

if __name__ == "__main__":
    command_line.run_job(Training, __doc__, "threads", "device", "needs")
