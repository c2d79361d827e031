"""What a notebook has at hand (state dicts, tensors by name, modules) as flat vectors."""

from typing import Any

import numpy as np
from torch import nn

from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.errors import LossAtlasError
from lossatlas.problem.checks import as_vector


def read_weights(network: FlatNetwork, checkpoint: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return parameters and buffers of a module or a state dict, which the network then holds.

    Raises:
        LossAtlasError: names or shapes differ from the network's.
    """
    frozen = network.frozen()
    tensors = checkpoint.state_dict() if isinstance(checkpoint, nn.Module) else checkpoint
    try:
        network.module.load_state_dict(tensors)
    except (RuntimeError, TypeError, AttributeError) as error:
        told = " ".join(str(error).split())
        raise LossAtlasError(f"{where}: not a checkpoint of this model: {told}") from error
    if not np.array_equal(network.frozen(), frozen):
        raise LossAtlasError(f"{where}: it differs from the model in parameters that do not require a gradient")
    return network.parameters(), network.buffers()


def as_direction(network: FlatNetwork, given: Any, where: str) -> np.ndarray:
    """Return a flat direction (N,) from a vector, a dict of tensors by parameter name, or a module.

    Raises:
        LossAtlasError: its size, names or shapes differ from the network's parameters.
    """
    if isinstance(given, nn.Module):
        other = FlatNetwork(given, network.device)
        if other.layout != network.layout:
            raise LossAtlasError(f"{where}: a module with other parameters than the model's")
        return (other.theta - network.theta).double().cpu().numpy()
    return as_vector(network.layout, given, where)
