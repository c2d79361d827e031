"""Turn existing checkpoints into a trajectory."""

import lossatlas.parallel.listen  # noqa: F401

from pathlib import Path

from lossatlas.drivers import command_line
from lossatlas.drivers.checkpoint_import import CheckpointImport

if __name__ == "__main__":
    parser = command_line.arguments(__doc__)
    command_line.add_needs(parser)
    parser.add_argument("--files", type=Path, nargs="+", required=True, help="checkpoints in order")
    command_line.run_job(CheckpointImport, parser)
