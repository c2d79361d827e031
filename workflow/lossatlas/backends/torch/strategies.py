"""Ways to compute products with a curvature matrix: what each keeps between products, what it needs, which is best.

``split`` keeps the values of the traced graph that do not depend on the vectors, and runs the rest for each block of
vectors. ``retained`` keeps the graph of the gradient, and runs a second backward pass for each vector. ``rebuild``
keeps nothing. They differ by rounding. Which is fastest depends on network, device and memory, so it is measured.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossatlas.backends.torch.products import Curvature
from lossatlas.errors import LossAtlasError
from lossatlas.team import LEAVES

STRATEGIES = ("split", "retained", "rebuild")

TANGENT, BACKWARD = 2.0, 3.0
"""Bytes that a run of the tangent graph takes for each byte of its tensors, and a second backward pass for each byte
that autograd saved: with what operations use inside themselves, and what the allocator has not given back. Measured on
CPUs were up to 1.7 and 2.7 for ResNet-20; for LeNet ``SPARE`` comes to it."""

SPARE = 16 * 2**20
"""Bytes of what products need once, however small they are: traced graphs and the buffers of libraries."""

MARGIN = 0.8
"""A later strategy is chosen when it takes less than this share of the time of an earlier one; less is noise."""

Piece = tuple[Tensor, Tensor]


class Need(NamedTuple):
    """Bytes that a strategy keeps for one piece, and those that it works with beside them."""

    kept: int
    working: int


class Split:
    """Traced graphs: the primal one runs once per piece, the tangent one for each block of vectors."""

    name = "split"

    def __init__(self, curvature: Curvature, theta: Tensor, buffers: Tensor):
        self.curvature, self.theta, self.buffers = curvature, theta, buffers
        self.free = curvature.free(theta)
        self._prepared: tuple = (None, None, ())

    def need(self, piece: Piece, width: int) -> Need:
        """Return the memory for one piece and ``width`` vectors at once; its own values may not be kept."""
        kept, beside = self.curvature.sizes(self.theta, self.buffers, piece, width)
        return Need(kept, kept + int(TANGENT * beside))

    @torch.no_grad()
    def keep(self, piece: Piece, width: int) -> tuple:
        """Return what products with ``width`` vectors have in common."""
        primal, _, _ = self.curvature.graphs(self.theta, self.buffers, piece, width)
        return primal(self.free, self.theta, self.buffers, *piece)

    @torch.no_grad()
    def product(self, piece: Piece, kept: tuple, vectors: Tensor) -> Tensor:
        """Return the product with each row of ``vectors`` (width, N)."""
        _, along, tangent = self.curvature.graphs(self.theta, self.buffers, piece, len(vectors))
        if self._prepared[0] is not along or self._prepared[1] is not vectors:  # the same for most pieces
            self._prepared = (along, vectors, along(vectors))
        return tangent(*kept, *self._prepared[2])


class Retained:
    """Second backward passes through a gradient whose graph is kept."""

    name = "retained"

    def __init__(self, curvature: Curvature, theta: Tensor, buffers: Tensor):
        self.curvature, self.theta, self.buffers = curvature, theta, buffers

    def need(self, piece: Piece, width: int) -> Need:
        """Return the memory for one piece, whose graph may not be kept; vectors come one by one."""
        saved = self.curvature.saved(self.theta, self.buffers, piece)
        return Need(saved, int(BACKWARD * saved))

    def keep(self, piece: Piece, width: int) -> Callable[[Tensor], Tensor]:
        """Return the product as a function of one vector."""
        return self.curvature.twice(self.theta, self.buffers, piece)

    def product(self, piece: Piece, kept: Callable, vectors: Tensor) -> Tensor:
        """Return the product with each row of ``vectors`` (width, N)."""
        return torch.stack([kept(vector) for vector in vectors])


class Rebuild(Retained):
    """Forward pass and two backward passes for each vector, the plainest way."""

    name = "rebuild"

    def need(self, piece: Piece, width: int) -> Need:
        """Return the memory for one piece; vectors come one by one."""
        return super().need(piece, width)._replace(kept=0)

    def keep(self, piece: Piece, width: int) -> None:
        """Keep nothing."""

    def product(self, piece: Piece, kept: None, vectors: Tensor) -> Tensor:
        """Return the product with each row of ``vectors`` (width, N)."""
        return torch.stack([self.curvature.twice(self.theta, self.buffers, piece)(vector) for vector in vectors])


_CLASSES = dict(zip(STRATEGIES, (Split, Retained, Rebuild), strict=True))


def way(name: str, curvature: Curvature, theta: Tensor, buffers: Tensor) -> Split | Retained:
    """Return a strategy at a point by name.

    Raises:
        LossAtlasError: there is no such strategy.
    """
    if name not in _CLASSES:
        raise LossAtlasError(f"strategy: {name!r} is not one of auto, {', '.join(STRATEGIES)}")
    return _CLASSES[name](curvature, theta, buffers)


class Arrangement(NamedTuple):
    """How products with some vectors at once go through the samples, piece by piece.

    ``room`` is what may be kept, ``total`` what there is to keep, ``working`` what is needed beside; in bytes.
    """

    pieces: list[Piece]
    room: int
    total: int
    working: int

    @property
    def share_kept(self) -> float:
        """The share of pieces of which something is kept."""
        return min(1.0, self.room / self.total) if self.total else 1.0

    @property
    def peak(self) -> int:
        """Bytes that products take at most: what is kept and what they work with."""
        return self.working + min(self.room, self.total)


def arrange(problem, strategy: Split | Retained, width: int, memory_gb: float) -> Arrangement:
    """Cut the samples into pieces so small that a product stays within the memory.

    Args:
        problem: the ``TorchProblem``.
        width: vectors at once.

    Raises:
        LossAtlasError: not even one sample fits, or one chunk where chunks must stay whole.
    """
    budget, at_once = memory_gb * 2**30, width if isinstance(strategy, Split) else 1
    sums = 8 * (LEAVES.bit_length() + 1)  # those that wait in the tree of sums, and the result
    vectors = width * strategy.curvature.chosen.size * (sums + 2 * strategy.theta.element_size())
    pieces = problem.pieces(at_once)
    while True:
        size = max(len(inputs) for inputs, _ in pieces)
        largest = next(piece for piece in pieces if len(piece[0]) == size)
        need = strategy.need(largest, width)
        working = need.working + vectors + SPARE
        if working <= budget:
            return Arrangement(pieces, int(budget - working), need.kept * problem.samples // size, working)
        if size == 1 or problem.batchnorm == "batch":
            raise LossAtlasError(
                f"memory_gb: {memory_gb:.3g} is too little for Hessian products; {strategy.name} needs about "
                f"{working / 2**30:.2g} for {size} sample(s) and {width} vector(s) at once"
            )
        pieces = problem.pieces(at_once, max(1, min(size - 1, int(0.9 * size * budget / working))))


class Choice(NamedTuple):
    """A strategy and why: ``told`` in words, ``peak`` in bytes."""

    strategy: str
    told: str
    peak: int


def choose(
    problem, curvature: Curvature, theta: Tensor, buffers: Tensor, width: int, memory_gb: float, asked: str
) -> Choice:
    """Return the strategy ``asked``, or for ``auto`` the fastest for ``width`` vectors at once among those that fit.

    Raises:
        LossAtlasError: none fits, or there is no such strategy.
    """
    if asked != "auto":
        strategy = way(problem.strategy(curvature, asked), curvature, theta, buffers)
        peak = arrange(problem, strategy, width, memory_gb).peak
        return Choice(strategy.name, f"{strategy.name}, {_memory(peak, memory_gb)}", peak)
    vectors = torch.zeros(width, curvature.chosen.size, dtype=theta.dtype, device=theta.device)
    found, errors = {}, []
    for name in dict.fromkeys((problem.strategy(curvature, "split"), *STRATEGIES[1:])):
        strategy = way(name, curvature, theta, buffers)
        try:
            arrangement = arrange(problem, strategy, width, memory_gb)
        except LossAtlasError as error:
            errors.append(error)
            continue
        piece = arrangement.pieces[0]
        each = seconds(strategy, piece, vectors, arrangement.share_kept) * problem.samples / len(piece[0])
        found[name] = each, arrangement.peak
    if not found:
        raise errors[-1]
    best = next(iter(found))
    for name, (each, _) in found.items():
        best = name if each < MARGIN * found[best][0] else best
    others = ", ".join(f"{name} {each:.2g}" for name, (each, _) in found.items() if name != best)
    each, peak = found[best]
    told = f"{best} ({each:.2g} s each{f'; {others}' if others else ''}), {_memory(peak, memory_gb)}"
    return Choice(best, told, peak)


def _memory(peak: int, memory_gb: float) -> str:
    return f"about {peak / 2**30:.2g} of {memory_gb:.3g} GB"


def seconds(strategy: Split | Retained, piece: Piece, vectors: Tensor, share_kept: float) -> float:
    """Return the time of the product with one of ``vectors`` (width, N), on one piece, when this share is kept."""
    # The others take vectors one by one, as long for each.
    timed = vectors if isinstance(strategy, Split) else vectors[:1]
    prepare, kept = _shortest(lambda: strategy.keep(piece, len(timed)), 1)
    multiply, _ = _shortest(lambda: strategy.product(piece, kept, timed), 3)
    # What is not kept is made again for each block.
    return multiply / len(timed) + (1 - share_kept) * prepare / len(vectors)


def _shortest(run: Callable[[], Any], repetitions: int) -> tuple[float, Any]:
    """Return the shortest time of a function that has run once before, and its last result."""
    result, best = run(), float("inf")
    for _ in range(repetitions):
        wait()
        started = time.perf_counter()
        result = run()
        wait()
        best = min(best, time.perf_counter() - started)
    return best, result


def wait() -> None:
    """Wait for the GPU, if there is one in use."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
