"""Make principal components of the path, by MPI ranks that share its columns, beside those of a random walk."""

import lossatlas.parallel.listen  # noqa: F401

from pathlib import Path

from lossatlas.drivers import command_line
from lossatlas.drivers.direction_sets import PrincipalComponents

if __name__ == "__main__":
    parser = command_line.rank_arguments(__doc__)
    parser.add_argument("--trajectory", type=Path, required=True)
    command_line.run_job(PrincipalComponents, parser)
