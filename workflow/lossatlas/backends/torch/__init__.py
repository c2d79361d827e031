"""PyTorch: flat networks, problems and training."""

from lossatlas.backends.torch.build import build_loss, build_module
from lossatlas.backends.torch.checkpoints import read_checkpoint
from lossatlas.backends.torch.device import Device, set_up
from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.backends.torch.problem import TorchProblem, problems
from lossatlas.backends.torch.trainer import TorchTrainer

__all__ = [
    "Device",
    "FlatNetwork",
    "TorchProblem",
    "TorchTrainer",
    "build_loss",
    "build_module",
    "problems",
    "read_checkpoint",
    "set_up",
]
