"""Turn existing checkpoints into a trajectory."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas.drivers import command_line
from lossatlas.drivers.checkpoint_import import CheckpointImport

if __name__ == "__main__":
    command_line.run_job(CheckpointImport, __doc__, "needs", "files")
