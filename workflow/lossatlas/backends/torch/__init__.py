"""PyTorch: flat networks, problems and training."""

from lossatlas.backends.torch.build import as_loss, as_metrics, build_loss, build_module
from lossatlas.backends.torch.checkpoints import read_checkpoint, read_pretrained
from lossatlas.backends.torch.device import Device, device_of, own_modes, set_up
from lossatlas.backends.torch.hvp.strategies import PRODUCT_STRATEGIES
from lossatlas.backends.torch.inputs import as_direction, read_weights
from lossatlas.backends.torch.losses import is_cross_entropy, mean_over_samples
from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.backends.torch.problem import TorchProblem, least_product_bytes
from lossatlas.backends.torch.subspace.subspace_loss import POINT_STRATEGIES, PRECISIONS
from lossatlas.backends.torch.trainer import TorchTrainer

Problem, Trainer = TorchProblem, TorchTrainer
