"""Products with the curvature of a network's mean loss, exact over all samples, in blocks of vectors.

The product with the Hessian is the directional derivative of the gradient (Pearlmutter 1994). For each shape of a
piece of samples, one graph of theta -> derivative along v is traced once, and split into the part that does
not depend on v (``primal``) and the part that does (``tangent``). At one theta the primal part runs once per
piece; every product then runs only the tangent part. This is the strategy ``split``; see ``strategies`` for the others.
"""

import numpy as np
import torch
from torch import Tensor

from lossatlas.backends.torch.hvp.strategies import arrange, choose, way
from lossatlas.errors import LossAtlasError, NonFiniteError
from lossatlas.krylov.tree_sum import LEAVES, Branch, fold, leaf

BLOCK = 10
"""Vectors per product; more are cut into blocks, fewer run as a block of their own size."""

PART = 2**16
"""Entries of a product that are converted at once."""


class TorchHessian:
    """The Hessian of one ``TorchProblem`` at theta (or its relatives, see ``products``), a ``SymmetricOperator``.

    Args:
        operator: ``hessian``, ``ggn`` or ``residual``.
        parameters: patterns of the names of the parameters that the matrix is restricted to; N is their number.
        memory_gb: what products may take: all that is kept between them, and what one works with. Not counted are
            the interpreter, the network, the samples (images in two layouts), and the vectors and results outside.
        strategy: one of ``strategies.STRATEGIES``, or ``auto``: the fastest of them for single vectors, measured here.
            Networks that cannot be differentiated forward have ``rebuild`` in place of ``split``.
        leaves: which leaves of the samples this process looks at; the others are other ranks' (see ``team``).

    Raises:
        LossAtlasError: the memory does not suffice for one sample.
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
        strategy: str = "split",
        leaves: range = range(LEAVES),
    ):
        self.problem, self.network = problem, problem.network
        self.curvature = problem.curvature(operator, parameters)
        self.layout, self.samples = self.curvature.chosen, problem.samples
        self.size = self.layout.size
        self.dtype = np.dtype(str(self.network.theta.dtype).removeprefix("torch."))
        self.products = 0
        self.network.load(theta=theta, buffers=buffers)
        self.theta, self.buffers = self.network.theta.clone(), self.network.vector(buffers)
        if strategy == "auto":
            strategy = choose(problem, self.curvature, self.theta, self.buffers, 1, memory_gb, "auto").strategy
        self.strategy = problem.strategy(self.curvature, strategy)
        self._way = way(self.strategy, self.curvature, self.theta, self.buffers)
        self._memory_gb, self._width = memory_gb, 0
        self._kept: dict[int, object] = {}
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
        blocks = [self._block(vectors[i : i + BLOCK], leaves) for i in range(0, len(vectors), BLOCK)]
        return _joined(blocks)

    def _block(self, vectors: np.ndarray, leaves: range) -> list[Branch]:
        if len(vectors) != self._width:  # pieces and graphs are others
            self._kept, self._width = {}, 0
            self._plan = arrange(self.problem, self._way, len(vectors), self._memory_gb)
            self._room, self._width = self._plan.room, len(vectors)
        cut = range(0, len(vectors), self._plan.width)
        return _joined([self._at_once(vectors[i : i + self._plan.width], leaves) for i in cut])

    def _at_once(self, vectors: np.ndarray, leaves: range) -> list[Branch]:
        v, pieces = self.network.vector(vectors), list(enumerate(self._plan.pieces))
        # One leaf after the other, so that few sums are alive at once.
        sums = fold((range(n, n + 1), self._sum(pieces[leaf(len(pieces), n)], v)) for n in leaves)
        return [(r, np.zeros(v.shape) if total is None else total.cpu().numpy()) for r, total in sums]

    def _sum(self, pieces: list[tuple[int, tuple]], v: Tensor) -> Tensor | None:
        """Return the sum over numbered pieces, None if there are none."""
        if not pieces:
            return None
        total = torch.empty(v.shape, dtype=torch.float64, device=v.device)
        for place, (number, piece) in enumerate(pieces):
            _accumulate(total, self._product(number, piece, v), len(piece[0]) / self.samples, place == 0)
        return total

    def _product(self, number: int, piece: tuple[Tensor, Tensor], v: Tensor) -> Tensor:
        if number in self._kept:
            return self._way.product(piece, self._kept[number], v)
        need, kept = self._way.need(piece, len(v)).kept, self._way.keep(piece, len(v))
        if need <= self._room:
            self._kept[number] = kept
            self._room -= need
        return self._way.product(piece, kept, v)

    def _check(self, leaves: range) -> None:
        """Refuse a point where loss or gradient is not finite."""
        chunks = list(enumerate(self.problem.chunks))
        for number, chunk in (found for n in leaves for found in chunks[leaf(len(chunks), n)]):
            value, gradient = self.problem.chunk_gradient(self.theta, self.buffers, chunk)
            if not (torch.isfinite(value) and torch.isfinite(gradient).all()):
                raise NonFiniteError(
                    f"Hessian: loss {float(value)} or its gradient is not finite in chunk {number} "
                    f"of {len(self.problem.chunks)}"
                )


def _accumulate(total: Tensor, found: Tensor, weight: float, first: bool) -> None:
    """Add weight * found (k, N) to a sum (k, N) in float64, or begin it.

    In parts that stay in the caches: converted as a whole, products would pass through memory twice more.
    """
    entries = PART if total.device.type == "cpu" else max(1, total.numel())
    for sums, part in zip(total.view(-1).split(entries), found.reshape(-1).split(entries), strict=True):
        if first:
            sums.copy_(part).mul_(weight)
        else:
            sums.add_(part, alpha=weight)


def _joined(blocks: list[list[Branch]]) -> list[Branch]:
    """Return the branches of consecutive blocks of vectors as those of all vectors."""
    if len(blocks) == 1:
        return blocks[0]
    return [(parts[0][0], np.concatenate([sums for _, sums in parts])) for parts in zip(*blocks, strict=True)]
