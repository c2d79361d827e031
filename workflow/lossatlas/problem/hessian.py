"""Products with a matrix that is a mean over samples: what backends share, above all the order of every sum."""

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np

from lossatlas.errors import LossAtlasError, NonFiniteError
from lossatlas.krylov.tree_sum import LEAVES, Branch, fold, leaf

Piece = tuple[Any, Any]
"""Inputs and targets of some samples, tensors on the device."""


class Differentiable(Protocol):
    """A loss over samples, cut into chunks, with the matrices of its second derivatives; tensors are the backend's."""

    network: Any
    samples: int
    chunks: list[Piece]

    def matrix(self, operator: str, parameters: tuple[str, ...]) -> Any:
        """Return the matrix, whose traced graphs serve every theta."""

    def chunk_gradient(self, theta: Any, buffers: Any, chunk: Piece) -> tuple[Any, Any]:
        """Return loss and gradient of one chunk's mean."""


class HessianBase(ABC):
    """The Hessian of a problem at one point (or one of its relatives), a ``krylov.PartialOperator``.

    A backend says how it computes the sum over some pieces of the samples (``_sum``), and which pieces there are
    (``_block``). Pieces weigh by their number of samples.

    Args:
        problem: whose samples the matrix is a mean over.
        operator: ``hessian``, ``ggn`` or ``residual``.
        parameters: patterns of the names of the parameters that the matrix is restricted to; N is their number.
        memory_gb: what products may take, all that is kept between them and what one works with; samples are cut into
            pieces that fit. Not counted are the interpreter, the network, the samples, and the vectors and results
            outside.
        strategy: one of the backend's ``PRODUCT_STRATEGIES``; left out the first, or ``auto``: the fastest of them for
            single vectors, measured here.
        leaves: which leaves of the samples this process looks at; the others are other ranks' (``krylov.tree_sum``).

    Raises:
        LossAtlasError: the memory does not suffice for one sample, or an operation has no second derivative.
        NonFiniteError: the loss or its gradient is NaN or infinite at theta; the message names the chunk.
    """

    theta: Any
    buffers: Any
    dtype: np.dtype
    strategy: str
    block = 1
    """Vectors per product; more are cut into blocks, fewer run as a block of their own size."""

    def __init__(
        self,
        problem: Differentiable,
        theta: np.ndarray,
        buffers: np.ndarray,
        operator: str = "hessian",
        parameters: tuple[str, ...] = ("*",),
        memory_gb: float = 2.0,
        strategy: str = "",
        leaves: range = range(LEAVES),
    ):
        self.problem, self.samples, self.network = problem, problem.samples, problem.network
        self.matrix = problem.matrix(operator, parameters)
        self.layout, self.size, self.products = self.matrix.chosen, self.matrix.chosen.size, 0
        self._prepare(theta, buffers, memory_gb, strategy)
        self._check(leaves)

    @abstractmethod
    def _prepare(self, theta: np.ndarray, buffers: np.ndarray, memory_gb: float, strategy: str) -> None:
        """Go to a point, and get ready for products; sets ``theta``, ``buffers``, ``dtype`` and ``strategy``."""

    def matvec(self, vector: np.ndarray) -> np.ndarray:
        """Return H v, float64, for ``vector`` of shape (N,)."""
        return self.matmat(vector[None])[0]

    def matmat(self, vectors: np.ndarray) -> np.ndarray:
        """Return H v for every row of ``vectors`` (k, N), float64."""
        return self.partial(vectors, range(LEAVES))[0][1]

    def partial(self, vectors: np.ndarray, leaves: range) -> list[Branch]:
        """Return the products over the samples of some leaves only, (k, N) float64 for every branch that they are.

        Raises:
            LossAtlasError: ``vectors`` has another shape.
        """
        vectors = np.asarray(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.size:
            raise LossAtlasError(f"Hessian product: vectors of shape {vectors.shape}, expected (k, {self.size})")
        self.products += len(vectors)
        return joined([self._block(vectors[i : i + self.block], leaves) for i in range(0, len(vectors), self.block)])

    @abstractmethod
    def _block(self, vectors: np.ndarray, leaves: range) -> list[Branch]:
        """Return the products of one block of vectors over the samples of some leaves."""

    def _over_pieces(self, pieces: list[Piece], vectors: np.ndarray, leaves: range) -> list[Branch]:
        """Return the products of vectors that go through the pieces at once."""
        numbered, on_device = list(enumerate(pieces)), self._on_device(vectors)
        # One leaf after the other, so that few sums are alive at once.
        of_leaves = ((range(n, n + 1), numbered[leaf(len(numbered), n)]) for n in leaves)
        sums = fold((number, self._sum(few, on_device) if few else None) for number, few in of_leaves)
        return [(r, np.zeros(vectors.shape) if total is None else self._on_host(total)) for r, total in sums]

    @abstractmethod
    def _on_device(self, vectors: np.ndarray) -> Any:
        """Return vectors (k, N) as ``_sum`` takes them."""

    @abstractmethod
    def _sum(self, pieces: list[tuple[int, Piece]], vectors: Any) -> Any:
        """Return the sum of products over numbered pieces, at least one, (k, N) float64; sums are added in place."""

    @abstractmethod
    def _on_host(self, total: Any) -> np.ndarray:
        """Return a sum as NumPy's."""

    def _check(self, leaves: range) -> None:
        """Refuse a point where loss or gradient is not finite.

        Raises:
            NonFiniteError: the message names the chunk.
        """
        chunks = list(enumerate(self.problem.chunks))
        for number, chunk in (numbered for n in leaves for numbered in chunks[leaf(len(chunks), n)]):
            value, finite = self._loss_of(chunk)
            if not finite:
                raise NonFiniteError(
                    f"Hessian: loss {value} or its gradient is not finite in chunk {number} of {len(chunks)}"
                )

    @abstractmethod
    def _loss_of(self, chunk: Piece) -> tuple[float, bool]:
        """Return the loss of a chunk, and whether it and its gradient are finite."""


def joined(blocks: list[list[Branch]]) -> list[Branch]:
    """Return the branches of consecutive blocks of vectors as those of all vectors."""
    if len(blocks) == 1:
        return blocks[0]
    return [(parts[0][0], np.concatenate([sums for _, sums in parts])) for parts in zip(*blocks, strict=True)]
