"""Train a run and record its trajectory."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.training import Training

if __name__ == "__main__":
    parser = command_line.device_arguments(__doc__)
    command_line.add_needs(parser)
    command_line.run_job(Training, parser)
