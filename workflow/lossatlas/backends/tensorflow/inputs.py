"""What a notebook has at hand (weights, arrays by name, models) as flat vectors."""

from typing import Any

import keras
import numpy as np

from lossatlas.backends.tensorflow.network import FlatNetwork
from lossatlas.errors import LossAtlasError
from lossatlas.problem.checks import as_vector


def read_weights(network: FlatNetwork, checkpoint: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return parameters and buffers of a model like the network's, or of its weights as ``get_weights`` returns them.

    Raises:
        LossAtlasError: numbers or shapes differ from the network's.
    """
    weights = checkpoint.get_weights() if isinstance(checkpoint, keras.Model) else checkpoint
    needed = [tuple(variable.shape) for variable in network.model.weights]
    given = [np.shape(one) for one in weights] if isinstance(weights, list | tuple) else type(weights).__name__
    if given != needed:
        raise LossAtlasError(f"{where}: not weights of this model: shapes {given}, needed are {needed}")
    parameters, buffers, frozen = network.arranged(weights)
    if not np.array_equal(frozen, network.frozen()):
        raise LossAtlasError(f"{where}: it differs from the model in variables that are not trained")
    return parameters, buffers


def as_direction(network: FlatNetwork, given: Any, where: str) -> np.ndarray:
    """Return a flat direction (N,) from a vector, a dict of arrays by parameter name, or a model.

    Raises:
        LossAtlasError: its size, names or shapes differ from the network's parameters.
    """
    if isinstance(given, keras.Model):
        return read_weights(network, given, where)[0].astype(np.float64) - network.parameters()
    return as_vector(network.layout, given, where)
