"""Put this folder on PYTHONPATH: the workflow's scripts work on a loss in closed form, in place of PyTorch.

Nothing else about them changes: command lines, ranks, stores and signals are the real ones, and a job takes a second.
With REAL_NETWORK in the environment PyTorch stays, and only the events are there.
"""

import os
import sys
from importlib.util import spec_from_file_location
from pathlib import Path

import events

FOLDER = Path(__file__).parent


class ClosedForm:
    """Finds the module of this folder where PyTorch's backend is asked for."""

    @staticmethod
    def find_spec(name, _path=None, _target=None):
        return spec_from_file_location(name, FOLDER / "backend.py") if name == "lossatlas.backends.torch" else None


if "REAL_NETWORK" not in os.environ:
    sys.meta_path.insert(0, ClosedForm)
events.listen()
