"""The mean loss of a Keras model over fixed samples, evaluated on the flat parameter vector."""

import math

import numpy as np
import tensorflow as tf

from lossatlas.backends.tensorflow.batchnorm import batchnorms, reestimated, statistics
from lossatlas.backends.tensorflow.build import Loss, sample_losses
from lossatlas.backends.tensorflow.checks import probe, to_tensors
from lossatlas.backends.tensorflow.graphs import Graphs
from lossatlas.backends.tensorflow.hessian import KerasHessian, Point
from lossatlas.backends.tensorflow.network import FlatNetwork, to_numpy
from lossatlas.backends.tensorflow.points import compare
from lossatlas.backends.tensorflow.products import CurvatureMatrix
from lossatlas.backends.tensorflow.subspace_loss import (
    POINT_STRATEGIES,
    PRECISIONS,
    Interpolated,
    Recomputed,
    Restriction,
)
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError
from lossatlas.problem import Choice, Evaluation, with_standard_error
from lossatlas.problem.base import ProblemBase
from lossatlas.problem.hessian import Piece
from lossatlas.problem.noise import sketches
from lossatlas.problem.protocol import Place


class KerasProblem(ProblemBase):
    """The problem on TensorFlow."""

    MATRIX, HESSIAN, RECOMPUTED, INTERPOLATED = CurvatureMatrix, KerasHessian, Recomputed, Interpolated

    def _take(self, loss: Loss, split: Split, batch_size: int, batchnorm: str) -> None:
        self.loss, network = loss, self.network
        inputs, targets = to_tensors(split, network)
        self.classes = probe(network, loss, inputs, targets, self.own)
        if self.classes:  # targets that are ignored count neither as hits nor as misses
            self._share = float(tf.reduce_mean(tf.cast(self._counted(targets), tf.float64)))
            self.classes = self._share > 0
        one = network.given(inputs[:1])
        self.class_count = int(network.model(one, training=False).shape[-1]) if self.classes else None
        self.metric_names = ("loss", *(["accuracy"] if self.classes else []), *self.own, "loss_standard_error")
        self.batchnorm = batchnorm if self.has_batchnorm else "frozen"
        places = range(0, len(inputs), batch_size)
        self.chunks = [(inputs[i : i + batch_size], targets[i : i + batch_size]) for i in places]
        self._inputs = inputs
        self.sums, self._statistics = Graphs(self._measure), Graphs(self._reestimate)

    def metrics(self, theta: np.ndarray, buffers: np.ndarray) -> np.ndarray:
        """Return the metrics at theta, in the order of ``metric_names``."""
        return self.evaluate(self.network.vector(theta), self.network.vector(buffers))

    def evaluate(self, theta: tf.Tensor, buffers: tf.Tensor) -> np.ndarray:
        """Return the metrics at theta: each chunk's mean weighted by its size, summed in float64."""
        columns, first = 0 if self.signs is None else self.signs.shape[1], 0
        total = np.zeros(len(self.metric_names) + 1 + columns)
        for inputs, targets in self.chunks:
            signs = [] if self.signs is None else [self.signs[first : first + len(inputs)]]
            total += to_numpy(self.sums(theta, buffers, inputs, targets, *signs)) * len(inputs)
            first += len(inputs)
        means, signed = np.split(total / self.samples, [len(total) - columns])
        found = with_standard_error(means, self.samples)
        if not columns:
            return found
        balance = to_numpy(self.signs).mean(axis=0)
        return np.concatenate([found, sketches(signed, found[0], balance, self.samples)])

    def _signs(self, signs: np.ndarray) -> tf.Tensor:
        return tf.constant(signs)

    @property
    def has_batchnorm(self) -> bool:
        """Whether the network has BatchNorm that is trained."""
        return bool(batchnorms(self.network.model))

    def _restrict(self, place: Place, strategy: str, precision: str, batchnorm: str) -> Restriction:
        known = strategy in ("", "auto", *POINT_STRATEGIES) and precision in PRECISIONS
        if batchnorm == "frozen" and not known:
            raise LossAtlasError(
                f"planes: strategy {strategy!r}, precision {precision!r}; TensorFlow evaluates points by strategy "
                "'graph' in precision 'full'"
            )
        return Restriction(self, place)

    def choose_evaluation(
        self,
        center: np.ndarray,
        directions: np.ndarray,
        buffers: np.ndarray,
        points: np.ndarray,
        count: int,
        strategy: str = "auto",
        precision: str = "full",
    ) -> Evaluation:
        """Return how points are evaluated: by the one strategy that there is.

        Raises:
            LossAtlasError: it does not agree with the model called eagerly.
        """
        agreement = compare(self._restrict(Place(center, directions, buffers), strategy, precision, "frozen"), points)
        return Evaluation("graph", f"graph (as called eagerly to {agreement.difference:.0e})", None, agreement)

    def gradient(self, theta: np.ndarray, buffers: np.ndarray) -> np.ndarray:
        """Return the gradient of the mean loss at theta, shape (N,), float64."""
        total = np.zeros(self.layout.size)
        theta, buffers = self.network.vector(theta), self.network.vector(buffers)
        for chunk in self.chunks:
            gradient = self.chunk_gradient(theta, buffers, chunk)[1]
            total += np.multiply(gradient, len(chunk[0]) / self.samples, dtype=np.float64)
        return total

    def chunk_gradient(self, theta: tf.Tensor, buffers: tf.Tensor, chunk: Piece) -> tuple[np.ndarray, np.ndarray]:
        """Return loss and gradient of one chunk's mean."""
        value, gradient = self.matrix().gradient(theta, buffers, *chunk)
        return to_numpy(value), to_numpy(gradient)

    def choose_strategy(
        self,
        theta: np.ndarray,
        buffers: np.ndarray,
        width: int,
        operator: str = "hessian",
        parameters: tuple[str, ...] = ("*",),
        memory_gb: float = 2.0,
        strategy: str = "auto",
        count: int | None = None,
    ) -> Choice:
        """Return how products are to be computed; vectors come one by one, whatever ``width`` and ``count``."""
        theta, buffers = self.network.vector(theta), self.network.vector(buffers)
        return Point(self, self.matrix(operator, parameters), theta, buffers).choose(memory_gb, strategy)

    def pieces(self, most: int | None = None) -> list[Piece]:
        """Return the chunks, cut further into pieces of at most ``most`` samples."""
        if most is None:
            return self.chunks
        pieces = []
        for inputs, targets in self.chunks:
            size = -(-len(inputs) // -(-len(inputs) // most))
            pieces += [(inputs[i : i + size], targets[i : i + size]) for i in range(0, len(inputs), size)]
        return pieces

    def recomputed(self, theta: np.ndarray, buffers: np.ndarray) -> np.ndarray:
        """Return the flat buffers with the statistics of BatchNorm at theta, from all samples at once."""
        return to_numpy(self.statistics(self.network.vector(theta), self.network.vector(buffers)))

    def statistics(self, theta: tf.Tensor, buffers: tf.Tensor) -> tf.Tensor:
        """Return the buffers with the statistics of BatchNorm at theta, from all samples at once."""
        return self._statistics(theta, buffers, self._inputs)

    def _reestimate(self, theta: tf.Tensor, buffers: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
        return reestimated(self.network, self.network.parts(theta), buffers, inputs)

    def _counted(self, targets: tf.Tensor) -> tf.Tensor:
        """Return which targets are classes that can be hit."""
        ignored = getattr(self.loss, "ignored", None)
        return (targets >= 0) & (targets != (-1 if ignored is None else ignored))

    def _measure(
        self, theta: tf.Tensor, buffers: tf.Tensor, inputs: tf.Tensor, targets: tf.Tensor, *signs: tf.Tensor
    ) -> tf.Tensor:
        """Return the metrics of one chunk, in place of the standard error mean and mean square, float64.

        Given the ``signs`` of the samples there are the means of losses times signs besides.
        """
        with statistics(self.network.model, self.batchnorm):
            outputs = self.network.outputs(self.network.parts(theta), buffers, inputs)
        values = [tf.cast(self.loss(outputs, targets), tf.float64)]
        if self.classes:
            hits = (tf.argmax(outputs, -1, output_type=targets.dtype) == targets) & self._counted(targets)
            values.append(tf.reduce_mean(tf.cast(hits, tf.float64)) / self._share)
        values += [tf.cast(metric(outputs, targets), tf.float64) for metric in self.own.values()]
        each = tf.cast(sample_losses(self.loss, outputs, targets), tf.float64)
        found = tf.stack([*values, tf.reduce_mean(each), tf.reduce_mean(tf.square(each))])
        return tf.concat([found, *(tf.linalg.matvec(one, each, True) / len(inputs) for one in signs)], 0)


def least_product_bytes(network: FlatNetwork, loss: Loss, train: Split, spec: dict) -> int:
    """Return the bytes that Hessian products need at least: with one sample at once, or one chunk that stays whole.

    Args:
        spec: the keys ``PRODUCT_CHOICES`` of ``lossatlas.problem.protocol``, with ``batch_size`` and ``batchnorm``.
    """
    chunk = spec["batch_size"] if spec["batchnorm"] == "batch" else 1
    few = train.of(slice(max(4, chunk)))  # four, by which the loss is checked
    problem = KerasProblem(network, loss, few, chunk, spec["batchnorm"])
    matrix = problem.matrix(spec.get("operator", "hessian"), tuple(spec.get("parameters", ["*"])))
    at = network.vector(network.parameters()), network.vector(network.buffers())
    return min(one.peak for one in Point(problem, matrix, *at).candidates(math.inf, spec["strategy"]))
