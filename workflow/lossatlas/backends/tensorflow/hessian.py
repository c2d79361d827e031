"""Products with the curvature of a network's mean loss, exact over all samples."""

import time
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from lossatlas.backends.tensorflow.agreement import Reference
from lossatlas.backends.tensorflow.memory import peak_bytes
from lossatlas.backends.tensorflow.network import to_numpy
from lossatlas.backends.tensorflow.products import PRODUCT_STRATEGIES, CurvatureMatrix
from lossatlas.backends.tensorflow.protocols import Samples
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
    """The Hessian of one ``KerasProblem``; nothing is kept between products but the graphs."""

    problem: Samples

    def _prepare(self, theta: np.ndarray, buffers: np.ndarray, memory_gb: float, strategy: str) -> None:
        self.theta, self.buffers = self.network.vector(theta), self.network.vector(buffers)
        self.dtype = np.dtype(self.network.device.dtype)
        at = Point(self.problem, self.matrix, self.theta, self.buffers)
        self.strategy = at.choose(memory_gb).strategy if strategy == "auto" else strategy or PRODUCT_STRATEGIES[0]
        self._pieces, self.peak = at.arrange(memory_gb, self.strategy)

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


@dataclass(frozen=True)
class Point:
    """A curvature matrix of some samples at theta, and how its products can be computed there."""

    problem: Samples
    matrix: CurvatureMatrix
    theta: tf.Tensor
    buffers: tf.Tensor

    def arrange(self, memory_gb: float, strategy: str) -> tuple[list[Piece], int]:
        """Cut the samples into pieces so small that a product stays within the memory; return them and its peak.

        Raises:
            LossAtlasError: not even one sample fits, or one chunk where chunks must stay whole.
        """
        if strategy not in PRODUCT_STRATEGIES:
            raise LossAtlasError(f"strategy: {strategy!r} is not one of auto, {', '.join(PRODUCT_STRATEGIES)}")
        budget, vectors = memory_gb * 2**30, 8 * (LEAVES.bit_length() + 3) * self.matrix.chosen.size
        pieces = self.problem.pieces()
        while True:
            size = max(len(inputs) for inputs, _ in pieces)
            largest = next(piece for piece in pieces if len(piece[0]) == size)
            graph = self.matrix.graph(strategy, self.theta, self.buffers, largest)
            peak = int(INSIDE * peak_bytes(graph)) + vectors + SPARE
            if peak <= budget:
                return pieces, peak
            if size == 1 or self.problem.batchnorm == "batch":
                raise LossAtlasError(
                    f"memory_gb: {memory_gb:.3g} is too little for Hessian products; {strategy} needs about "
                    f"{peak / 2**30:.2g} for {size} sample(s)"
                )
            pieces = self.problem.pieces(max(1, min(size - 1, int(0.9 * size * budget / peak))))

    def candidates(self, memory_gb: float, asked: str, timed: bool = False) -> list[Candidate]:
        """Return the strategy ``asked``, or for ``auto`` all that can be used, with their pieces of samples.

        Raises:
            LossAtlasError: there is none; why the first one cannot be.
        """
        found, errors = [], []
        for name in PRODUCT_STRATEGIES if asked == "auto" else (asked,):
            try:
                pieces, peak = self.arrange(memory_gb, name)
                found.append(Candidate(name, peak, self._seconds(name, pieces[0]) if timed else None, pieces))
            except LossAtlasError as error:
                errors.append(error)
        if not found:
            raise errors[0]
        return found

    def choose(self, memory_gb: float, asked: str = "auto") -> Choice:
        """Return the strategy ``asked``, or for ``auto`` the faster one that the network allows, once it agrees.

        Raises:
            LossAtlasError: no strategy can be used, or none agrees with double backward.
        """
        candidates = self.candidates(memory_gb, asked, timed=asked == "auto")
        candidates = ranked_candidates(candidates) if asked == "auto" else candidates
        first = candidates[0]
        # Tapes keep twice what a graph does.
        parts = 1 if self.problem.batchnorm == "batch" else int(np.ceil(2 * first.peak / (memory_gb * 2**30)))
        reference = Reference(self.matrix, self.theta, self.buffers, parts)

        def compare(one: Candidate) -> ProductAgreement | None:
            return reference.compare(one.name, one.way[0])

        choice, dropped = first_that_agrees(candidates, compare, memory_gb)
        agrees = (
            f"as double backward to {choice.agreement['difference']:.0e}" if choice.agreement else "not finite here"
        )
        notes = "".join(f"; {error}, so it is left out" for error in dropped)
        return choice._replace(told=f"{choice.told}, {agrees}{notes}")

    def _seconds(self, strategy: str, piece: Piece) -> float:
        """Return the shortest time of three products over all samples, from that on one piece; a first one traces."""
        vector, times = tf.zeros(self.matrix.chosen.size, self.theta.dtype), []
        for _ in range(4):
            started = time.perf_counter()
            to_numpy(self.matrix.product(strategy, self.theta, self.buffers, piece, vector))
            times.append(time.perf_counter() - started)
        return min(times[1:]) * self.problem.samples / len(piece[0])
