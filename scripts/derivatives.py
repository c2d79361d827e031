"""Compute Hessian eigenvectors, or negative gradients, at a checkpoint as a set of directions."""

import lossatlas.parallel.listen  # noqa: F401

from pathlib import Path

from lossatlas.drivers import command_line
from lossatlas.drivers.direction_sets import Derivatives

if __name__ == "__main__":
    parser = command_line.device_arguments(__doc__)
    parser.add_argument("--trajectory", type=Path, required=True)
    command_line.run_job(Derivatives, parser)
