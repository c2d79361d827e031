"""The loss at points of an affine subspace of parameters; points are made and evaluated on the device, one by one."""

import numpy as np
import tensorflow as tf

from lossatlas.backends.tensorflow.graphs import Graphs
from lossatlas.backends.tensorflow.network import to_numpy
from lossatlas.backends.tensorflow.protocols import Evaluator, Statistics
from lossatlas.problem.protocol import Place

POINT_STRATEGIES, PRECISIONS = ("graph",), ("full",)
"""How points can be evaluated."""


class Restriction:
    """Frozen buffers hold at every point."""

    def __init__(self, problem: Evaluator, place: Place):
        self.problem, self.vector = problem, problem.network.vector
        self.center, self.directions, self.buffers = map(self.vector, place)
        self._place = Graphs(_moved)

    def metrics(self, points: np.ndarray) -> np.ndarray:
        """Return the metrics (point, metric) at center + points @ directions; ``points`` has shape (point, k)."""
        return np.stack([self._at(np.asarray(point)) for point in points])

    def _at(self, coefficients: np.ndarray) -> np.ndarray:
        return self.problem.evaluate(*self.at(coefficients))

    def at(self, coefficients: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
        """Return theta and buffers at a point."""
        theta = self._place(self.center, self.directions, self.vector(coefficients))
        return theta, self.buffers_at(theta, coefficients)

    def exactly(self, coefficients: np.ndarray) -> np.ndarray:
        """Return theta at a point, computed in float64."""
        directions = to_numpy(self.directions).astype(np.float64)
        return to_numpy(self.center) + np.asarray(coefficients, np.float64) @ directions

    def buffers_at(self, theta: tf.Tensor, coefficients: np.ndarray) -> tf.Tensor:
        """Return the buffers at a point."""
        return self.buffers


class Recomputed(Restriction):
    """BatchNorm's statistics are estimated anew at each point, from the samples of ``reference``."""

    def __init__(self, problem: Evaluator, place: Place, reference: Statistics):
        super().__init__(problem, place)
        self.reference = reference

    def buffers_at(self, theta: tf.Tensor, coefficients: np.ndarray) -> tf.Tensor:
        """Return the buffers with the statistics at theta."""
        return self.reference.statistics(theta, self.buffers)


class Interpolated(Restriction):
    """Buffers move along with the parameters, on ``moving`` (k, buffer); variances below zero are set to zero."""

    def __init__(self, problem: Evaluator, place: Place, moving: np.ndarray):
        super().__init__(problem, place)
        self.start, self.moving = np.asarray(place.buffers, np.float64), moving
        self.variances = problem.network.variances()

    def buffers_at(self, theta: tf.Tensor, coefficients: np.ndarray) -> tf.Tensor:
        """Return the buffers at a point."""
        buffers = self.start + coefficients @ self.moving
        return self.vector(np.where(self.variances & (buffers < 0), 0.0, buffers))


def _moved(center: tf.Tensor, directions: tf.Tensor, coefficients: tf.Tensor) -> tf.Tensor:
    for coefficient, direction in zip(tf.unstack(coefficients), tf.unstack(directions), strict=True):
        center = center + coefficient * direction
    return center
