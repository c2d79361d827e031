"""One set of weights in both frameworks: flat vectors of a built-in network, from PyTorch's layout to Keras's and back.

Parameters come in the same order in both. Kernels of convolutions are (out, in, height, width) in PyTorch and (height,
width, in, out) in Keras, those of dense layers (out, in) and (in, out). Buffers, the moving means and variances of
BatchNorm, need no conversion. Knows no framework.
"""

import numpy as np

from lossatlas.io.layout import ParameterLayout

_TO_KERAS = {4: (2, 3, 1, 0), 2: (1, 0)}
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}


def to_keras(vector: np.ndarray, layout: ParameterLayout) -> np.ndarray:
    """Return parameters or a direction (N,) in the order of the Keras twin; ``layout`` is that of the torch module."""
    return _converted(vector, layout, _TO_KERAS)


def to_torch(vector: np.ndarray, layout: ParameterLayout) -> np.ndarray:
    """Return parameters or a direction (N,) in the order of the torch module; ``layout`` is that of its Keras twin."""
    return _converted(vector, layout, _TO_TORCH)


def _converted(vector: np.ndarray, layout: ParameterLayout, axes: dict[int, tuple[int, ...]]) -> np.ndarray:
    parts = []
    for slot in layout:
        part = np.asarray(vector)[slot.slice].reshape(slot.shape)
        parts.append(part.transpose(axes.get(part.ndim, tuple(range(part.ndim)))).reshape(-1))
    return np.concatenate(parts)
