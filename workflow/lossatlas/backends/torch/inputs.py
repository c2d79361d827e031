"""What a notebook has at hand (state dicts, tensors by name, modules) as flat vectors."""

from typing import Any

import numpy as np
from torch import nn

from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.data import as_array
from lossatlas.errors import LossAtlasError


def load_weights(network: FlatNetwork, checkpoint: Any, where: str) -> None:
    """Write a module's or a state dict's parameters and buffers into the network.

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


def as_direction(network: FlatNetwork, given: Any, where: str) -> np.ndarray:
    """Return a flat direction (N,) from a vector, a dict of tensors by parameter name, or a module.

    Raises:
        LossAtlasError: its size, names or shapes differ from the network's parameters.
    """
    size = network.layout.size
    if isinstance(given, nn.Module):
        other = FlatNetwork(given, network.device)
        if other.layout != network.layout:
            raise LossAtlasError(f"{where}: a module with other parameters than the model's")
        return (other.theta - network.theta).double().cpu().numpy()
    if isinstance(given, dict):
        return _by_name(network, given, where)
    try:
        vector = as_array(given).astype(np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise LossAtlasError(f"{where}: neither a vector, a dict of tensors nor a module ({error})") from error
    if not np.isfinite(vector).all():
        raise LossAtlasError(f"{where}: it holds NaN or inf")
    if vector.size != size:
        raise LossAtlasError(f"{where}: {vector.size} numbers, the model has {size} parameters")
    return vector


def _by_name(network: FlatNetwork, given: dict, where: str) -> np.ndarray:
    vector, slots = np.zeros(network.layout.size), {slot.name: slot for slot in network.layout}
    for name, tensor in given.items():
        if name not in slots:
            raise LossAtlasError(f"{where}: no trained parameter {name!r}; parameters: {', '.join(slots)}")
        if tuple(tensor.shape) != slots[name].shape:
            raise LossAtlasError(f"{where}: {name!r} has shape {tuple(tensor.shape)}, not {slots[name].shape}")
        vector[slots[name].slice] = as_array(tensor).reshape(-1)
    return vector
