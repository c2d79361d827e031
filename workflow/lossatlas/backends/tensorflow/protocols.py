"""What products and planes see of a problem, each no more than it needs."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import tensorflow as tf

from lossatlas.backends.tensorflow.graphs import Graphs
from lossatlas.backends.tensorflow.network import FlatNetwork
from lossatlas.problem.hessian import Differentiable, Piece


class Samples(Differentiable, Protocol):
    """Samples on the device, in chunks; products go through them in pieces."""

    batchnorm: str

    def pieces(self, most: int | None = None) -> list[Piece]:
        """Return the chunks, cut further into pieces of at most ``most`` samples."""


class Evaluator(Protocol):
    """What evaluates points: as a traced graph, and what that is made from."""

    network: FlatNetwork
    chunks: list[Piece]
    batchnorm: str
    metric_names: tuple[str, ...]
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    sums: Graphs
    """Returns the metrics of one chunk from theta, buffers, inputs and targets, float64."""

    def evaluate(self, theta: tf.Tensor, buffers: tf.Tensor) -> np.ndarray:
        """Return the metrics at theta."""


class Statistics(Protocol):
    """Samples from which BatchNorm's statistics are estimated."""

    def statistics(self, theta: tf.Tensor, buffers: tf.Tensor) -> tf.Tensor:
        """Return the buffers with the statistics at theta."""
