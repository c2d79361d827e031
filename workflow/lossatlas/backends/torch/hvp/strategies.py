"""Ways to compute products with a curvature matrix: what each keeps between products, what it needs, which is best.

``split`` keeps the values of the traced graph that do not depend on the vectors, and runs the rest for each block of
vectors. ``retained`` keeps the graph of the gradient, and runs a second backward pass for each vector. ``rebuild``
keeps nothing. They differ by rounding. Which is fastest depends on network, device and memory, so it is measured.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossatlas.backends.torch.hvp.agreement import FEW, Referee, fault
from lossatlas.backends.torch.hvp.products import CurvatureMatrix
from lossatlas.backends.torch.protocols import Samples
from lossatlas.errors import LossAtlasError
from lossatlas.krylov.tree_sum import LEAVES, fold, leaf
from lossatlas.problem import Choice
from lossatlas.problem.agreement import ProductAgreement
from lossatlas.problem.autotune import Candidate, Disagreement, first_that_agrees, ranked_candidates, shortest
from lossatlas.problem.hessian import Piece

PRODUCT_STRATEGIES = ("split", "retained", "rebuild")

GRAPHS, PASSES = 1.3, 1.6
"""Bytes that traced graphs and backward passes take for each byte of their tensors at the peak: with what operations
use inside themselves, and what the allocator has not given back. Measured on CPUs."""

SPARE = 16 * 2**20
"""Bytes of what products need once, however small they are: traced graphs and the buffers of libraries."""


class Need(NamedTuple):
    """Bytes that a strategy keeps for one piece, and those that it works with beside them."""

    kept: int
    working: int


class Split:
    """Traced graphs: the primal one runs once per piece, the tangent one for each block of vectors."""

    name = "split"

    def __init__(self, matrix: CurvatureMatrix, theta: Tensor, buffers: Tensor):
        self.matrix, self.theta, self.buffers = matrix, theta, buffers
        self.free = matrix.free(theta)
        self._prepared: tuple = (None, None, ())

    def need(self, piece: Piece, width: int) -> Need:
        """Return the memory for one piece and ``width`` vectors at once; its own values may not be kept."""
        kept, beside = self.matrix.sizes(self.theta, self.buffers, piece, width)
        return Need(kept, kept + int(GRAPHS * beside))

    @torch.no_grad()
    def keep(self, piece: Piece, width: int) -> Any:
        """Return what products with ``width`` vectors have in common."""
        primal, _, _ = self.matrix.graphs(self.theta, self.buffers, piece, width)
        return primal(self.free, self.theta, self.buffers, *piece)

    @torch.no_grad()
    def product(self, piece: Piece, kept: Any, vectors: Tensor) -> Tensor:
        """Return the product with each row of ``vectors`` (width, N)."""
        _, along, tangent = self.matrix.graphs(self.theta, self.buffers, piece, len(vectors))
        if self._prepared[0] is not along or self._prepared[1] is not vectors:  # the same for most pieces
            self._prepared = (along, vectors, along(vectors))
        return tangent(*kept, *self._prepared[2])


class Retained:
    """Second backward passes through a gradient whose graph is kept."""

    name = "retained"

    def __init__(self, matrix: CurvatureMatrix, theta: Tensor, buffers: Tensor):
        self.matrix, self.theta, self.buffers = matrix, theta, buffers

    def need(self, piece: Piece, width: int) -> Need:
        """Return the memory for one piece, whose graph may not be kept; vectors come one by one."""
        kept, beside = self.matrix.saved(self.theta, self.buffers, piece)
        return Need(kept, kept + int(PASSES * beside))

    def keep(self, piece: Piece, width: int) -> Any:
        """Return the product as a function of one vector."""
        return self.matrix.twice(self.theta, self.buffers, piece)

    def product(self, piece: Piece, kept: Any, vectors: Tensor) -> Tensor:
        """Return the product with each row of ``vectors`` (width, N)."""
        return _rows(kept, vectors)


class Rebuild(Retained):
    """Forward pass and two backward passes for each vector, the plainest way."""

    name = "rebuild"

    def need(self, piece: Piece, width: int) -> Need:
        """Return the memory for one piece; vectors come one by one."""
        return super().need(piece, width)._replace(kept=0)

    def keep(self, piece: Piece, width: int) -> Any:
        """Keep nothing."""

    def product(self, piece: Piece, kept: Any, vectors: Tensor) -> Tensor:
        """Return the product with each row of ``vectors`` (width, N)."""
        return _rows(lambda vector: self.matrix.twice(self.theta, self.buffers, piece)(vector), vectors)


def _rows(function: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
    products = torch.empty_like(vectors)
    for row, vector in zip(products, vectors, strict=True):
        row.copy_(function(vector))
    return products


_CLASSES: dict[str, type[Split] | type[Retained]] = dict(
    zip(PRODUCT_STRATEGIES, (Split, Retained, Rebuild), strict=True)
)


def way(name: str, matrix: CurvatureMatrix, theta: Tensor, buffers: Tensor) -> Split | Retained:
    """Return a strategy at a point by name.

    Raises:
        LossAtlasError: there is no such strategy.
    """
    if name not in _CLASSES:
        raise LossAtlasError(f"strategy: {name!r} is not one of auto, {', '.join(PRODUCT_STRATEGIES)}")
    return _CLASSES[name](matrix, theta, buffers)


def usable(problem: Samples, matrix: CurvatureMatrix, asked: str) -> str:
    """Return the strategy ``asked``, or ``rebuild`` where the network cannot be traced forward; says so once.

    Raises:
        LossAtlasError: network or loss has no second derivative.
    """
    if not matrix.checked:
        _check_second_derivative(problem, matrix)
        matrix.checked = True
    if asked != "split":
        return asked
    if matrix.traceable is None:
        matrix.traceable = _is_traceable(problem, matrix)
    return "split" if matrix.traceable else "rebuild"


def _check_second_derivative(problem: Samples, matrix: CurvatureMatrix) -> None:
    whole = problem.batchnorm == "batch"
    few = tuple(part if whole else part[:2] for part in problem.pieces(1)[0])
    theta, buffers = _point_of(matrix)
    try:
        matrix.twice(theta, buffers, few)(torch.zeros_like(matrix.free(theta)))
    except RuntimeError as error:
        if "not implemented" not in str(error):
            raise
        raise LossAtlasError(
            f"Hessian products: network or loss has no second derivative ({str(error).splitlines()[0]})"
        ) from error


def _is_traceable(problem: Samples, matrix: CurvatureMatrix) -> bool:
    try:
        matrix.graphs(*_point_of(matrix), problem.pieces(1)[0], 1)
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        print(f"Hessian products: second backward passes; network or loss has no forward derivative ({first})")
        return False
    return True


def _point_of(matrix: CurvatureMatrix) -> tuple[Tensor, Tensor]:
    """Return the network's present parameters and buffers."""
    return matrix.network.theta.clone(), matrix.network.vector(matrix.network.buffers())


class Arrangement(NamedTuple):
    """How products go through the samples, piece by piece, with ``width`` vectors at once.

    ``room`` is what may be kept, ``total`` what there is to keep, ``working`` what is needed beside while a piece of
    which nothing is kept is multiplied, and ``peak`` what products take at most; in bytes.
    """

    pieces: list[Piece]
    width: int
    room: int
    total: int
    working: int
    peak: int

    @property
    def share_kept(self) -> float:
        """The share of pieces of which something is kept."""
        return min(1.0, self.room / self.total) if self.total else 1.0

    @property
    def samples_at_once(self) -> int:
        """The largest number of samples of a piece."""
        return max(len(inputs) for inputs, _ in self.pieces)


def arrange(problem: Samples, strategy: Split | Retained, width: int, memory_gb: float) -> Arrangement:
    """Cut a block of vectors and the samples so that a product stays within the memory.

    Vectors are cut only where samples would otherwise have to be cut by more than half.

    Args:
        width: vectors of a block, of which a part may be multiplied at once.

    Raises:
        LossAtlasError: one vector and one sample do not fit, or one chunk where chunks must stay whole.
    """
    plans = []
    for at_once in (n for n in range(width, 0, -1) if width % n == 0):
        plan, wanted = _cut(problem, strategy, at_once, memory_gb)
        if plan is not None:
            plans.append(plan)
            if 2 * plan.samples_at_once >= wanted:
                return plan
    if plans:
        return max(plans, key=lambda plan: plan.samples_at_once * plan.width)
    least = least_bytes(problem, strategy)
    samples = "each chunk of samples" if problem.batchnorm == "batch" else "1 sample"
    raise LossAtlasError(
        f"memory_gb: {memory_gb:.3g} is too little for Hessian products; {strategy.name} needs about "
        f"{least / 2**30:.2g} for {samples} and 1 vector at once"
    )


def least_bytes(problem: Samples, strategy: Split | Retained) -> int:
    """Return the bytes that products need with as few vectors and samples at once as possible, for many samples."""
    return _working(strategy, problem.pieces(1, 1), 1, sums_alive(LEAVES))


def least_bytes_of(
    problem: Samples, matrix: CurvatureMatrix, theta: Tensor, buffers: Tensor, asked: str, enough: float
) -> int:
    """Return the bytes that products need at least, of all strategies for ``auto``; ``enough`` ends the search.

    What needs no trace is tried first.
    """
    least = []
    for name in ("rebuild", "split") if asked == "auto" else (asked,):
        least.append(least_bytes(problem, way(usable(problem, matrix, name), matrix, theta, buffers)))
        if least[-1] <= enough:
            break
    return min(least)


def _cut(problem: Samples, strategy: Split | Retained, width: int, memory_gb: float) -> tuple[Arrangement | None, int]:
    """Return how products with all these vectors at once stay within the memory if they can, and the size wanted."""
    budget, at_once = memory_gb * 2**30, width if isinstance(strategy, Split) else 1
    pieces, wanted = problem.pieces(at_once), 0
    while True:
        size = max(len(inputs) for inputs, _ in pieces)
        wanted, working = wanted or size, _working(strategy, pieces, width, sums_alive(len(pieces)))
        if working <= budget:
            each = [strategy.need(piece, width).kept for piece in pieces]
            room, total = int(budget - working), sum(each)
            if total <= room + max(each):  # then there is no piece of which nothing is kept
                return Arrangement(pieces, width, total, total, working, working - max(each) + total), wanted
            return Arrangement(pieces, width, room, total, working, working + room), wanted
        smaller = problem.pieces(at_once, max(1, min(size - 1, int(0.9 * size * budget / working))))
        if problem.batchnorm == "batch" or max(len(inputs) for inputs, _ in smaller) >= size:
            return None, wanted
        pieces = smaller


def _working(strategy: Split | Retained, pieces: list[Piece], width: int, sums: int) -> int:
    """Return the bytes that products work with: those of the largest piece, sums, vectors and results."""
    largest = max(pieces, key=lambda piece: len(piece[0]))
    vectors = width * strategy.matrix.chosen.size * (8 * sums + 2 * strategy.theta.element_size())
    return strategy.need(largest, width).working + vectors + SPARE


def sums_alive(pieces: int) -> int:
    """Return how many sums over leaves are alive at once while products go through pieces, see ``tree_sum.fold``."""
    alive, most = [], 0
    for number in range(LEAVES):
        filled = leaf(pieces, number)
        alive.append((range(number, number + 1), 0 if filled.stop > filled.start else None))
        most = max(most, sum(total is not None for _, total in alive))
        alive = fold(alive)
    return most


def choose_products(
    problem: Samples,
    matrix: CurvatureMatrix,
    theta: Tensor,
    buffers: Tensor,
    width: int,
    memory_gb: float,
    asked: str,
    count: int | None = None,
) -> Choice:
    """Return the strategy ``asked``, or for ``auto`` the fastest for ``width`` vectors at once among those that fit.

    Where its products are not those of double backward a plainer one is returned, see ``agreement``.

    Args:
        count: products that are ahead, if that is known; for few ones nothing is traced.

    Raises:
        LossAtlasError: none fits, none is right, or there is no such strategy.
    """
    at = matrix, theta, buffers
    referee = Referee(problem, *at)
    most = _samples_to_try(*at, problem.some(FEW))
    if asked == "auto":
        # Where double backward is wrong only traced forward derivatives are right, however few products there are.
        ahead = count if referee.trusted == "backward" else None
        to_try = candidates(problem, *at, width, memory_gb, ahead, most)
    else:
        strategy = way(usable(problem, matrix, asked), *at)
        plan = arrange(problem, strategy, width, memory_gb)
        to_try = [Candidate(strategy.name, plan.peak, None, (strategy, plan))]

    def compare(one: Candidate) -> ProductAgreement:
        strategy, plan = one.way
        agreement = referee.compare(strategy, _piece_to_check(strategy, plan, memory_gb, most), plan.width)
        if (wrong := fault(agreement, theta.dtype)) is not None:
            print(f"Hessian products: not by strategy {one.name!r}, which {wrong}", flush=True)
            raise Disagreement(wrong)
        return agreement

    try:
        return first_that_agrees(to_try, compare, memory_gb)[0]
    except Disagreement as last:
        if asked not in ("auto", PRODUCT_STRATEGIES[-1]):
            return choose_products(problem, *at, width, memory_gb, PRODUCT_STRATEGIES[-1], count)
        raise LossAtlasError(f"Hessian: no way of multiplying is right; the last one {last}") from last


LONG_ENOUGH = 0.25
"""Seconds of a product that suffice to time a strategy, and to check it; more samples would tell nothing else."""


def _samples_to_try(matrix: CurvatureMatrix, theta: Tensor, buffers: Tensor, few: Piece) -> int:
    """Return how many samples a product must have to take long enough, from the time of double backward on a few."""
    plain, vector = Rebuild(matrix, theta, buffers), torch.zeros_like(matrix.free(theta))[None]
    taken, _ = shortest(lambda: plain.product(few, plain.keep(few, 1), vector), 1, wait)
    return max(FEW, int(LONG_ENOUGH * len(few[0]) / taken))


def _piece_to_try(strategy: Split | Retained, plan: Arrangement, most: int) -> Piece:
    """Return samples that a strategy goes through at once, up to ``most`` where that needs no trace of its own."""
    piece = plan.pieces[0]
    if isinstance(strategy, Split) and not strategy.matrix.serves_all_sizes(piece):
        return piece
    return tuple(part[:most] for part in piece)


def _piece_to_check(strategy: Split | Retained, plan: Arrangement, memory_gb: float, most: int) -> Piece:
    """Return ``_piece_to_try``, and no more samples than double backward has room for beside them."""
    piece, plain = _piece_to_try(strategy, plan, most), Rebuild(strategy.matrix, strategy.theta, strategy.buffers)
    while len(piece[0]) > 1 and plain.need(piece, 1).working > memory_gb * 2**30:
        piece = tuple(part[: len(piece[0]) // 2] for part in piece)
    return piece


def candidates(
    problem: Samples,
    matrix: CurvatureMatrix,
    theta: Tensor,
    buffers: Tensor,
    width: int,
    memory_gb: float,
    count: int | None,
    most: int,
) -> list[Candidate]:
    """Return the strategies that fit, the best first; each with the measured seconds of a product.

    Args:
        most: samples on which they are measured, about.

    Raises:
        LossAtlasError: none fits.
    """
    vectors = torch.zeros(width, matrix.chosen.size, dtype=theta.dtype, device=theta.device)
    measured: list[Candidate] = []
    errors = []
    for asked in ("retained", "rebuild", "split"):
        split = asked == "split"
        name = _traced_if_worthwhile(problem, matrix, theta, buffers, measured, count) if split else asked
        if name is None or name in [one.name for one in measured]:
            continue
        strategy = way(name, matrix, theta, buffers)
        try:
            plan = arrange(problem, strategy, width, memory_gb)
        except LossAtlasError as error:
            errors.append(error)
            continue
        piece = _piece_to_try(strategy, plan, most)
        each = seconds(strategy, piece, vectors[: plan.width], plan.share_kept)
        measured.append(Candidate(name, plan.peak, each * problem.samples / len(piece[0]), (strategy, plan)))
    if not measured:
        raise errors[-1]
    return ranked_candidates(sorted(measured, key=lambda one: PRODUCT_STRATEGIES.index(one.name)))


TRACED = 0.02
"""Seconds that tracing takes for each operation of a gradient, about: 12 s for MobileNet-V2, 3 s for VGG-11."""

READY, SHARE = 10, 0.03
"""Products as long as which tracing may take, or the share of all products that are ahead if that is more."""


def _traced_if_worthwhile(
    problem: Samples,
    matrix: CurvatureMatrix,
    theta: Tensor,
    buffers: Tensor,
    measured: list[Candidate],
    count: int | None,
) -> str | None:
    """Return what becomes of ``split``; None if tracing takes more time than it can save for ``count`` products."""
    if count is not None and measured:
        worth = min(0.5 * count, max(READY, SHARE * count)) * min(one.seconds or 0.0 for one in measured)
        if TRACED * matrix.operations(theta, buffers, problem.chunks[0]) > worth:
            return None
    return usable(problem, matrix, "split")


def seconds(strategy: Split | Retained, piece: Piece, vectors: Tensor, share_kept: float) -> float:
    """Return the time of the product with one of ``vectors`` (width, N), on one piece, when this share is kept."""
    # The others take vectors one by one, as long for each.
    timed = vectors if isinstance(strategy, Split) else vectors[:1]
    prepare, kept = shortest(lambda: strategy.keep(piece, len(timed)), 1, wait)
    multiply, _ = shortest(lambda: strategy.product(piece, kept, timed), 3, wait)
    # What is not kept is made again for each block.
    return multiply / len(timed) + (1 - share_kept) * prepare / len(vectors)


def wait() -> None:
    """Wait for the GPU, if there is one in use."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
