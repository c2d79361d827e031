"""Compute cosines of directions with each other and with Gaussian vectors."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.overlaps import Overlaps

if __name__ == "__main__":
    parser = command_line.arguments(__doc__)
    told = "directions, counted from 1, or all of a store"
    parser.add_argument(
        "--x", action="append", type=command_line.axis, required=True, metavar="STORE:NUMBER", help=told
    )
    command_line.run_job(Overlaps, parser)
