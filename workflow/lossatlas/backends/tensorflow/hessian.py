"""Products with the curvature of a network's mean loss, exact over all samples: a ``SymmetricOperator``."""

import math
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lossatlas.backends.tensorflow.agreement import Disagreement, Reference
from lossatlas.backends.tensorflow.memory import peak_bytes
from lossatlas.backends.tensorflow.network import to_numpy
from lossatlas.backends.tensorflow.products import STRATEGIES, Curvature
from lossatlas.errors import LossAtlasError, NonFiniteError
from lossatlas.krylov.tree_sum import LEAVES, Branch, fold, leaf

Piece = tuple[tf.Tensor, tf.Tensor]

INSIDE = 1.5
"""Bytes that a product takes for each byte of its tensors, with what operations use inside themselves."""

SPARE = 32 * 2**20
"""Bytes of what products need once, however small they are: graphs and the buffers of libraries."""

MARGIN = 0.8
"""``forward`` is chosen when it takes less than this share of the time of ``nested``; less is noise."""


class KerasHessian:
    """The Hessian of one ``KerasProblem`` at theta (or its relatives, see ``products``).

    Args:
        operator: ``hessian``, ``ggn`` or ``residual``.
        parameters: patterns of the names of the parameters that the matrix is restricted to; N is their number.
        memory_gb: what products may take; samples are cut into pieces that fit. Nothing is kept between products but
            the graphs.
        strategy: one of ``products.STRATEGIES``, or ``auto``: the faster one, measured here.
        leaves: which leaves of the samples this process looks at; the others are other ranks' (see ``team``).

    Raises:
        LossAtlasError: the memory does not suffice for one sample, or an operation has no second derivative.
        NonFiniteError: the loss or its gradient is NaN or infinite at theta; the message names the chunk.
    """

    def __init__(
        self,
        problem,
        theta: np.ndarray,
        buffers: np.ndarray,
        operator: str = "hessian",
        parameters: tuple[str, ...] = ("*",),
        memory_gb: float = 2.0,
        strategy: str = "nested",
        leaves: range = range(LEAVES),
    ):
        self.problem, self.network = problem, problem.network
        self.curvature = problem.curvature(operator, parameters)
        self.layout, self.samples = self.curvature.chosen, problem.samples
        self.size, self.products = self.layout.size, 0
        self.dtype = np.dtype(self.network.device.dtype)
        self.theta, self.buffers = self.network.vector(theta), self.network.vector(buffers)
        at = self.theta, self.buffers
        if strategy == "auto":
            strategy = choose(problem, self.curvature, *at, memory_gb, strategy).strategy
        self.strategy = strategy
        self._pieces, self.peak = arrange(problem, self.curvature, *at, memory_gb, strategy)
        self._check(leaves)

    def matvec(self, vector: np.ndarray) -> np.ndarray:
        """Return H v, float64, for ``vector`` of shape (N,)."""
        return self.matmat(vector[None])[0]

    def matmat(self, vectors: np.ndarray) -> np.ndarray:
        """Return H v for every row of ``vectors`` (k, N), float64; pieces weigh by their number of samples."""
        return self.partial(vectors, range(LEAVES))[0][1]

    def partial(self, vectors: np.ndarray, leaves: range) -> list[Branch]:
        """Return the products over the samples of some leaves only, (k, N) float64 for every branch that they are."""
        vectors = np.asarray(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.size:
            raise LossAtlasError(f"Hessian product: vectors of shape {vectors.shape}, expected (k, {self.size})")
        self.products += len(vectors)
        rows = [self._row(self.network.vector(vector), leaves) for vector in vectors]
        branches = zip(*rows, strict=True)
        return [(parts[0][0], np.stack([self._filled(total) for _, total in parts])) for parts in branches]

    def _filled(self, total: np.ndarray | None) -> np.ndarray:
        return np.zeros(self.size) if total is None else total

    def _row(self, v: tf.Tensor, leaves: range) -> list[Branch]:
        """Return the sums over some leaves of the product with one vector."""
        pieces = self._pieces
        return fold((range(n, n + 1), self._sum(pieces[leaf(len(pieces), n)], v)) for n in leaves)

    def _sum(self, pieces: list[Piece], v: tf.Tensor) -> np.ndarray | None:
        """Return the sum over pieces, None if there are none."""
        if not pieces:
            return None
        total = np.zeros(self.size)
        for piece in pieces:
            product = self.curvature.product(self.strategy, self.theta, self.buffers, piece, v)
            total += np.multiply(to_numpy(product), len(piece[0]) / self.samples, dtype=np.float64)
        return total

    def _check(self, leaves: range) -> None:
        """Refuse a point where loss or gradient is not finite."""
        chunks = list(enumerate(self.problem.chunks))
        for number, chunk in (found for n in leaves for found in chunks[leaf(len(chunks), n)]):
            value, gradient = self.problem.chunk_gradient(self.theta, self.buffers, chunk)
            if not (np.isfinite(value) and np.isfinite(gradient).all()):
                raise NonFiniteError(
                    f"Hessian: loss {float(value)} or its gradient is not finite in chunk {number} "
                    f"of {len(self.problem.chunks)}"
                )


class Choice(NamedTuple):
    """A strategy and why: ``told`` in words, ``peak`` in bytes; how well it agreed with double backward."""

    strategy: str
    told: str
    peak: int
    agreement: dict | None = None


def arrange(
    problem, curvature: Curvature, theta: tf.Tensor, buffers: tf.Tensor, memory_gb: float, strategy: str
) -> tuple[list[Piece], int]:
    """Cut the samples into pieces so small that a product stays within the memory; return them and the peak in bytes.

    Raises:
        LossAtlasError: not even one sample fits, or one chunk where chunks must stay whole.
    """
    if strategy not in STRATEGIES:
        raise LossAtlasError(f"strategy: {strategy!r} is not one of auto, {', '.join(STRATEGIES)}")
    budget, vectors = memory_gb * 2**30, 8 * (LEAVES.bit_length() + 3) * curvature.chosen.size
    pieces = problem.pieces()
    while True:
        size = max(len(inputs) for inputs, _ in pieces)
        largest = next(piece for piece in pieces if len(piece[0]) == size)
        graph = curvature.graph(strategy, theta, buffers, largest)
        peak = int(INSIDE * peak_bytes(graph)) + vectors + SPARE
        if peak <= budget:
            return pieces, peak
        if size == 1 or problem.batchnorm == "batch":
            raise LossAtlasError(
                f"memory_gb: {memory_gb:.3g} is too little for Hessian products; {strategy} needs about "
                f"{peak / 2**30:.2g} for {size} sample(s)"
            )
        pieces = problem.pieces(max(1, min(size - 1, int(0.9 * size * budget / peak))))


def least_of(problem, curvature: Curvature, theta: tf.Tensor, buffers: tf.Tensor, asked: str) -> int:
    """Return the bytes that products need with the chunks as they are, of all strategies for ``auto``.

    Raises:
        LossAtlasError: no strategy can be used.
    """
    found, errors = [], []
    for name in STRATEGIES if asked == "auto" else (asked,):
        try:
            found.append(arrange(problem, curvature, theta, buffers, math.inf, name)[1])
        except LossAtlasError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return min(found)


class Way(NamedTuple):
    """A strategy that can be used: its pieces of samples, peak in bytes, and seconds of a product over all samples."""

    pieces: list[Piece]
    peak: int
    seconds: float


def choose(problem, curvature: Curvature, theta: tf.Tensor, buffers: tf.Tensor, memory_gb: float, asked: str) -> Choice:
    """Return the strategy ``asked``, or for ``auto`` the faster one that the network allows, once it agrees.

    Raises:
        LossAtlasError: no strategy can be used, or none agrees with double backward.
    """
    at = theta, buffers
    ways, errors = _ways(problem, curvature, *at, memory_gb, STRATEGIES if asked == "auto" else (asked,))
    left, reference = [], None
    while ways:
        best = _fastest(ways)
        pieces, peak, each = ways.pop(best)
        reference = reference or Reference(curvature, *at, _parts(problem, pieces[0], peak, memory_gb))
        try:
            agreement = reference.compare(best, pieces[0])
        except Disagreement as error:
            errors.append(error)
            left.append(f"; {error}, so it is left out")
            continue
        others = "".join(f"; {name} {way.seconds:.2g}" for name, way in ways.items())
        time = f" ({each:.2g} s each{others})" if asked == "auto" else ""
        agrees = f"as double backward to {agreement['difference']:.0e}" if agreement else "not finite here"
        return Choice(best, f"{best}{time}, {_memory(peak, memory_gb)}, {agrees}{''.join(left)}", peak, agreement)
    raise errors[0]


def _ways(
    problem, curvature: Curvature, theta: tf.Tensor, buffers: tf.Tensor, memory_gb: float, names: tuple[str, ...]
) -> tuple[dict[str, Way], list[LossAtlasError]]:
    """Return the strategies that can be used, and why others cannot."""
    vector = tf.zeros(curvature.chosen.size, theta.dtype)
    found, errors = {}, []
    for name in names:
        try:
            pieces, peak = arrange(problem, curvature, theta, buffers, memory_gb, name)
            each = 0.0
            if len(names) > 1:
                each = _seconds(curvature, name, theta, buffers, pieces[0], vector)
            found[name] = Way(pieces, peak, each * problem.samples / len(pieces[0][0]))
        except LossAtlasError as error:
            errors.append(error)
    return found, errors


def _fastest(ways: dict[str, Way]) -> str:
    best = next(iter(ways))
    for name, way in ways.items():
        best = name if way.seconds < MARGIN * ways[best].seconds else best
    return best


def _parts(problem, piece: Piece, peak: int, memory_gb: float) -> int:
    """Return into how many parts a piece is cut where tapes keep twice what a graph does, to stay in the memory."""
    if problem.batchnorm == "batch":
        return 1
    return min(len(piece[0]), int(np.ceil(2 * peak / (memory_gb * 2**30))))


def _memory(peak: int, memory_gb: float) -> str:
    return f"about {peak / 2**30:.2g} of {memory_gb:.3g} GB"


def _seconds(
    curvature: Curvature, strategy: str, theta: tf.Tensor, buffers: tf.Tensor, piece: Piece, vector: tf.Tensor
) -> float:
    """Return the shortest time of three products on one piece, after one that traces."""
    times = []
    for _ in range(4):
        started = time.perf_counter()
        to_numpy(curvature.product(strategy, theta, buffers, piece, vector))
        times.append(time.perf_counter() - started)
    return min(times[1:])
