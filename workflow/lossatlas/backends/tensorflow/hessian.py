"""Products with the curvature of a network's mean loss, exact over all samples."""

import math
import time

import numpy as np
import tensorflow as tf

from lossatlas.backends.tensorflow.agreement import Reference
from lossatlas.backends.tensorflow.memory import peak_bytes
from lossatlas.backends.tensorflow.network import to_numpy
from lossatlas.backends.tensorflow.products import PRODUCT_STRATEGIES, CurvatureMatrix
from lossatlas.backends.tensorflow.protocols import Differentiable, Samples
from lossatlas.errors import LossAtlasError
from lossatlas.krylov.tree_sum import LEAVES, Branch
from lossatlas.problem import Choice
from lossatlas.problem.agreement import ProductAgreement
from lossatlas.problem.autotune import Candidate, first_that_agrees, ranked_candidates
from lossatlas.problem.hessian import HessianBase, Piece

INSIDE = 1.5
"""Bytes that a product takes for each byte of its tensors, with what operations use inside themselves."""

SPARE = 32 * 2**20
"""Bytes of what products need once, however small they are: graphs and the buffers of libraries."""


class KerasHessian(HessianBase):
    """The Hessian of one ``KerasProblem`` at theta (or its relatives, see ``products``).

    Args:
        operator: ``hessian``, ``ggn`` or ``residual``.
        parameters: patterns of the names of the parameters that the matrix is restricted to; N is their number.
        memory_gb: what products may take; samples are cut into pieces that fit. Nothing is kept between products but
            the graphs.
        strategy: one of ``products.PRODUCT_STRATEGIES``, or ``auto``: the faster one, measured here.
        leaves: which leaves of the samples this process looks at; the others are other ranks' (``krylov.tree_sum``).

    Raises:
        LossAtlasError: the memory does not suffice for one sample, or an operation has no second derivative.
        NonFiniteError: the loss or its gradient is NaN or infinite at theta; the message names the chunk.
    """

    def __init__(
        self,
        problem: Differentiable,
        theta: np.ndarray,
        buffers: np.ndarray,
        operator: str = "hessian",
        parameters: tuple[str, ...] = ("*",),
        memory_gb: float = 2.0,
        strategy: str = "nested",
        leaves: range = range(LEAVES),
    ):
        self.network, self.matrix = problem.network, problem.matrix(operator, parameters)
        super().__init__(problem, self.matrix.chosen, np.dtype(self.network.device.dtype))
        self.theta, self.buffers = self.network.vector(theta), self.network.vector(buffers)
        at = self.theta, self.buffers
        if strategy == "auto":
            strategy = choose_products(problem, self.matrix, *at, memory_gb, strategy).strategy
        self.strategy = strategy
        self._pieces, self.peak = arrange(problem, self.matrix, *at, memory_gb, strategy)
        self._check(leaves)

    def _block(self, vectors: np.ndarray, leaves: range) -> list[Branch]:
        return self._over_pieces(self._pieces, vectors, leaves)

    def _on_device(self, vectors: np.ndarray) -> tf.Tensor:
        return self.network.vector(vectors[0])

    def _on_host(self, total: np.ndarray) -> np.ndarray:
        return total

    def _sum(self, pieces: list[tuple[int, Piece]], vectors: tf.Tensor) -> np.ndarray:
        total = np.zeros((1, self.size))
        for _, piece in pieces:
            product = self.matrix.product(self.strategy, self.theta, self.buffers, piece, vectors)
            total[0] += np.multiply(to_numpy(product), len(piece[0]) / self.samples, dtype=np.float64)
        return total

    def _loss_of(self, chunk: Piece) -> tuple[float, bool]:
        value, gradient = self.problem.chunk_gradient(self.theta, self.buffers, chunk)
        return float(value), bool(np.isfinite(value) and np.isfinite(gradient).all())


def arrange(
    problem: Samples, matrix: CurvatureMatrix, theta: tf.Tensor, buffers: tf.Tensor, memory_gb: float, strategy: str
) -> tuple[list[Piece], int]:
    """Cut the samples into pieces so small that a product stays within the memory; return them and the peak in bytes.

    Raises:
        LossAtlasError: not even one sample fits, or one chunk where chunks must stay whole.
    """
    if strategy not in PRODUCT_STRATEGIES:
        raise LossAtlasError(f"strategy: {strategy!r} is not one of auto, {', '.join(PRODUCT_STRATEGIES)}")
    budget, vectors = memory_gb * 2**30, 8 * (LEAVES.bit_length() + 3) * matrix.chosen.size
    pieces = problem.pieces()
    while True:
        size = max(len(inputs) for inputs, _ in pieces)
        largest = next(piece for piece in pieces if len(piece[0]) == size)
        graph = matrix.graph(strategy, theta, buffers, largest)
        peak = int(INSIDE * peak_bytes(graph)) + vectors + SPARE
        if peak <= budget:
            return pieces, peak
        if size == 1 or problem.batchnorm == "batch":
            raise LossAtlasError(
                f"memory_gb: {memory_gb:.3g} is too little for Hessian products; {strategy} needs about "
                f"{peak / 2**30:.2g} for {size} sample(s)"
            )
        pieces = problem.pieces(max(1, min(size - 1, int(0.9 * size * budget / peak))))


def least_bytes_of(problem: Samples, matrix: CurvatureMatrix, theta: tf.Tensor, buffers: tf.Tensor, asked: str) -> int:
    """Return the bytes that products need with the chunks as they are, of all strategies for ``auto``.

    Raises:
        LossAtlasError: no strategy can be used.
    """
    peaks, errors = [], []
    for name in PRODUCT_STRATEGIES if asked == "auto" else (asked,):
        try:
            peaks.append(arrange(problem, matrix, theta, buffers, math.inf, name)[1])
        except LossAtlasError as error:
            errors.append(error)
    if not peaks:
        raise errors[0]
    return min(peaks)


def choose_products(
    problem: Samples, matrix: CurvatureMatrix, theta: tf.Tensor, buffers: tf.Tensor, memory_gb: float, asked: str
) -> Choice:
    """Return the strategy ``asked``, or for ``auto`` the faster one that the network allows, once it agrees.

    Raises:
        LossAtlasError: no strategy can be used, or none agrees with double backward.
    """
    at = theta, buffers
    candidates = _candidates(problem, matrix, *at, memory_gb, PRODUCT_STRATEGIES if asked == "auto" else (asked,))
    first = candidates[0]
    reference = Reference(matrix, *at, _parts(problem, first.way[0], first.peak, memory_gb))

    def compare(one: Candidate) -> ProductAgreement | None:
        return reference.compare(one.name, one.way[0])

    choice, dropped = first_that_agrees(candidates, compare, memory_gb)
    agrees = f"as double backward to {choice.agreement['difference']:.0e}" if choice.agreement else "not finite here"
    notes = "".join(f"; {error}, so it is left out" for error in dropped)
    return choice._replace(told=f"{choice.told}, {agrees}{notes}")


def _candidates(
    problem: Samples,
    matrix: CurvatureMatrix,
    theta: tf.Tensor,
    buffers: tf.Tensor,
    memory_gb: float,
    names: tuple[str, ...],
) -> list[Candidate]:
    """Return the strategies that can be used with their pieces of samples, the best first; several are measured.

    Raises:
        LossAtlasError: there is none; why the first one cannot be.
    """
    vector = tf.zeros(matrix.chosen.size, theta.dtype)
    candidates, errors = [], []
    for name in names:
        try:
            pieces, peak = arrange(problem, matrix, theta, buffers, memory_gb, name)
            seconds = None
            if len(names) > 1:
                seconds = _seconds(matrix, name, theta, buffers, pieces[0], vector)
                seconds *= problem.samples / len(pieces[0][0])
            candidates.append(Candidate(name, peak, seconds, pieces))
        except LossAtlasError as error:
            errors.append(error)
    if not candidates:
        raise errors[0]
    return ranked_candidates(candidates) if len(names) > 1 else candidates


def _parts(problem: Samples, piece: Piece, peak: int, memory_gb: float) -> int:
    """Return into how many parts a piece is cut where tapes keep twice what a graph does, to stay in the memory."""
    if problem.batchnorm == "batch":
        return 1
    return min(len(piece[0]), int(np.ceil(2 * peak / (memory_gb * 2**30))))


def _seconds(
    matrix: CurvatureMatrix, strategy: str, theta: tf.Tensor, buffers: tf.Tensor, piece: Piece, vector: tf.Tensor
) -> float:
    """Return the shortest time of three products on one piece, after one that traces."""
    times = []
    for _ in range(4):
        started = time.perf_counter()
        to_numpy(matrix.product(strategy, theta, buffers, piece, vector))
        times.append(time.perf_counter() - started)
    return min(times[1:])
