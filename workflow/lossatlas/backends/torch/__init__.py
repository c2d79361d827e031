"""PyTorch: flat networks, problems and training."""

from lossatlas.backends.torch.build import as_loss, as_metrics, build_loss, build_module
from lossatlas.backends.torch.checkpoints import read_checkpoint, read_pretrained
from lossatlas.backends.torch.device import Device, device_of, own_modes, set_up
from lossatlas.backends.torch.hvp.strategies import PRODUCT_STRATEGIES
from lossatlas.backends.torch.inputs import as_direction, collect, load_weights
from lossatlas.backends.torch.losses import is_cross_entropy, mean_over_samples
from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.backends.torch.problem import TorchProblem, least_product_bytes
from lossatlas.backends.torch.subspace.subspace_loss import POINT_STRATEGIES, PRECISIONS
from lossatlas.backends.torch.trainer import TorchTrainer, training_steps

Problem, Trainer = TorchProblem, TorchTrainer

__all__ = [
    "POINT_STRATEGIES",
    "PRECISIONS",
    "PRODUCT_STRATEGIES",
    "Device",
    "FlatNetwork",
    "Problem",
    "TorchProblem",
    "TorchTrainer",
    "Trainer",
    "as_direction",
    "as_loss",
    "as_metrics",
    "build_loss",
    "build_module",
    "collect",
    "device_of",
    "is_cross_entropy",
    "least_product_bytes",
    "load_weights",
    "mean_over_samples",
    "own_modes",
    "read_checkpoint",
    "read_pretrained",
    "set_up",
    "training_steps",
]
