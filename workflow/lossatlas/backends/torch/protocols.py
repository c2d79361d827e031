"""What products and planes see of a problem, each no more than it needs."""

from typing import Any, Protocol

import numpy as np
from torch import Tensor

from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.problem.hessian import Differentiable, Piece


class Samples(Differentiable, Protocol):
    """Samples on the device, in chunks; products go through them in pieces."""

    batchnorm: str

    def pieces(self, count: int, most: int | None = None) -> list[Piece]:
        """Return the chunks as products with ``count`` vectors at once take them, cut further to ``most`` samples."""

    def some(self, count: int) -> Piece:
        """Return up to ``count`` samples, spread evenly over all."""


class Evaluator(Protocol):
    """What the metrics of samples are made from."""

    network: FlatNetwork
    chunks: list[Piece]

    @property
    def largest_activation(self) -> int:
        """Bytes per sample of the largest tensor that goes into or comes out of any layer."""

    def cut(self, most: int) -> list[Piece]:
        """Return all samples in pieces of one size, up to ``most`` or the chunks' size, whichever is more."""

    def evaluate(self, chunks: list[Piece], first: int = 0) -> Tensor:
        """Return the sums of chunks that begin with sample ``first``, at the network's parameters and buffers."""

    def sums(self, outputs: Any, targets: Tensor, first: int = 0) -> Tensor:
        """Return the metrics of samples from ``first`` on, each times their number, float64 and on the device."""

    def means(self, sums: Tensor) -> np.ndarray:
        """Return the metrics of all samples from ``sums`` added up over the chunks."""


class Statistics(Protocol):
    """Samples from which BatchNorm's statistics are estimated."""

    def statistics(self, buffers: np.ndarray) -> np.ndarray:
        """Return the flat buffers with the statistics at the network's present parameters."""
