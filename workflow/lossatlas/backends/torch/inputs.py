"""What a notebook has at hand (tensors, loaders, state dicts, modules) as flat vectors and arrays."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.errors import LossAtlasError
from lossatlas.problem.checks import as_vector


def collect(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (inputs, targets) of a pair of arrays or tensors, of a ``Dataset``, or of an iterable of batches.

    Raises:
        LossAtlasError: it is none of these, or inputs and targets differ in length.
    """
    if isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(part, "shape") for part in data):
        inputs, targets = (_array(part) for part in data)
    else:
        batches = DataLoader(data, batch_size=256) if isinstance(data, Dataset) else data
        try:
            pairs = [(_array(inputs), _array(targets)) for inputs, targets in batches]
        except (TypeError, ValueError) as error:
            raise LossAtlasError(
                f"data: expected a pair (inputs, targets) or batches of such pairs, got {type(data).__name__} ({error})"
            ) from error
        if not pairs:
            raise LossAtlasError("data: there is no batch")
        inputs, targets = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise LossAtlasError(f"data: {len(inputs)} inputs and {len(targets)} targets")
    return inputs, targets


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
    if isinstance(given, dict):
        return as_vector(network.layout, {name: _array(values) for name, values in given.items()}, where)
    return as_vector(network.layout, given.detach().cpu() if isinstance(given, torch.Tensor) else given, where)


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
