"""Products with the curvature of a network's mean loss, exact over all samples, in blocks of vectors.

The product with the Hessian is the directional derivative of the gradient (Pearlmutter 1994). For each shape of a
piece of samples, one graph of theta -> derivative along v is traced once, and split into the part that does
not depend on v (``primal``) and the part that does (``tangent``). At one theta the primal part runs once per
piece; every product then runs only the tangent part. This is the strategy ``split``; see ``strategies`` for the others.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossatlas.backends.torch.hvp.strategies import PRODUCT_STRATEGIES, Piece, arrange, choose_products, usable, way
from lossatlas.backends.torch.protocols import Samples
from lossatlas.krylov.tree_sum import Branch
from lossatlas.problem.hessian import HessianBase, joined

PART = 2**16
"""Entries of a product that are converted at once."""


class TorchHessian(HessianBase):
    """The Hessian of one ``TorchProblem``. Images are held in two layouts, of which ``memory_gb`` counts neither.

    Networks that cannot be differentiated forward have the strategy ``rebuild`` in place of ``split``.
    """

    problem: Samples
    block = 10

    def _prepare(self, theta: np.ndarray, buffers: np.ndarray, memory_gb: float, strategy: str) -> None:
        self.dtype = np.dtype(str(self.network.theta.dtype).removeprefix("torch."))
        self.network.load(theta=theta, buffers=buffers)
        self.theta, self.buffers = self.network.theta.clone(), self.network.vector(buffers)
        at = self.theta, self.buffers
        if strategy == "auto":
            strategy = choose_products(self.problem, self.matrix, *at, 1, memory_gb, "auto").strategy
        self.strategy = usable(self.problem, self.matrix, strategy or PRODUCT_STRATEGIES[0])
        self._way = way(self.strategy, self.matrix, *at)
        self._memory_gb, self._width = memory_gb, 0
        self._kept: dict[int, Any] = {}

    def _block(self, vectors: np.ndarray, leaves: range) -> list[Branch]:
        if len(vectors) != self._width:  # pieces and graphs are others
            self._kept, self._width = {}, 0
            self._plan = arrange(self.problem, self._way, len(vectors), self._memory_gb)
            self._room, self._width = self._plan.room, len(vectors)
        cut = range(0, len(vectors), self._plan.width)
        return joined([self._over_pieces(self._plan.pieces, vectors[i : i + self._plan.width], leaves) for i in cut])

    def _on_device(self, vectors: np.ndarray) -> Tensor:
        return self.network.vector(vectors)

    def _on_host(self, total: Tensor) -> np.ndarray:
        return total.cpu().numpy()

    def _sum(self, pieces: list[tuple[int, Piece]], vectors: Tensor) -> Tensor:
        total = torch.empty(vectors.shape, dtype=torch.float64, device=vectors.device)
        for place, (number, piece) in enumerate(pieces):
            _accumulate(total, self._product(number, piece, vectors), len(piece[0]) / self.samples, place == 0)
        return total

    def _product(self, number: int, piece: Piece, v: Tensor) -> Tensor:
        if number in self._kept:
            return self._way.product(piece, self._kept[number], v)
        need, kept = self._way.need(piece, len(v)).kept, self._way.keep(piece, len(v))
        if need <= self._room:
            self._kept[number] = kept
            self._room -= need
        return self._way.product(piece, kept, v)

    def _loss_of(self, chunk: Piece) -> tuple[float, bool]:
        value, gradient = self.problem.chunk_gradient(self.theta, self.buffers, chunk)
        return float(value), bool(torch.isfinite(value) and torch.isfinite(gradient).all())


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
