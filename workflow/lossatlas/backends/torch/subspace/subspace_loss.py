"""The loss at many points of an affine subspace of parameters, each computed on its own and all alike.

``eager`` writes each point into the network and evaluates that. The other strategies evaluate the network's graph in
stages (``staged_graph``): ``folded`` with BatchNorm in the weights before it, ``first-layer`` also with what the first
layers make of the samples kept, ``compiled`` with the last stage compiled, ``vmapped`` with a few points going through
it at once, for devices that one point leaves idle. They agree to rounding.
"""

import shutil
import sysconfig
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossatlas.backends.torch.memory import held
from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.backends.torch.protocols import Evaluator, Statistics
from lossatlas.backends.torch.subspace import staged_graph
from lossatlas.backends.torch.tracing.fusion import can_fuse
from lossatlas.errors import LossAtlasError
from lossatlas.problem.protocol import Place

PRECISIONS = ("full", "bfloat16")
POINT_STRATEGIES = ("eager", "folded", "first-layer", "compiled", "vmapped")

CACHE_BYTES = 2**30
"""Bytes of what first layers make of the samples that are kept between units; the rest is made anew for each."""

POINT_BYTES = 2**28
"""Bytes of parameters of the points that go through the samples together."""

PIECE_BYTES = 2**24
"""Bytes of the largest activation, at the center and along all directions, of samples that are evaluated together.

What is cached of the samples is read for every point: it should lie in the processor's last cache.
"""

OUTPUT_NUMBERS = 2**16
"""Outputs of a point whose losses are computed together: a few chunks' worth, for chunks are often tiny there."""

TOGETHER = 4
"""Points that go through the last stage at once by ``vmapped``: always so many, for results may depend on how many."""

ALIGNED = 16
"""Every point's parameters begin at a multiple of so many numbers: results may depend on where they lie in memory."""


class Eager:
    """Each point is one in-place update of the flat parameters, and one evaluation of the network."""

    strategy, precision = "eager", "full"

    def __init__(self, problem: Evaluator, place: Place):
        self.problem, self.buffers = problem, place.buffers
        self.center, self.directions = map(problem.network.vector, place[:2])

    def metrics(self, points: np.ndarray) -> np.ndarray:
        """Return the metrics (point, metric) at center + points @ directions; ``points`` has shape (point, k)."""
        return np.stack([self.problem.means(self._sums(point, self.problem.chunks)) for point in points])

    def on_piece(self, number: int, points: np.ndarray) -> Tensor:
        """Return what ``problem.sums`` makes of one chunk, a row for each point."""
        chunks = self.problem.chunks
        first = number * len(chunks[0][1])
        return torch.stack([self._sums(point, chunks[number : number + 1], first) for point in points])

    def _sums(self, coefficients: np.ndarray, chunks: list, first: int = 0) -> Tensor:
        self.go_to(coefficients)
        return self.problem.evaluate(chunks, first)

    def go_to(self, coefficients: np.ndarray) -> None:
        """Write parameters and buffers of a point into the network."""
        network = self.problem.network
        self.place(network.theta, coefficients)
        network.load(buffers=self.buffers_at(coefficients))

    def buffers_at(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the buffers at a point whose parameters are in the network: the same everywhere."""
        return self.buffers

    @torch.no_grad()
    def place(self, theta: Tensor, coefficients: np.ndarray) -> None:
        """Write center + sum_k coefficient_k direction_k into ``theta``."""
        theta.copy_(self.center)
        for coefficient, direction in zip(coefficients, self.directions, strict=True):
            theta.add_(direction, alpha=float(coefficient))


class Recomputed(Eager):
    """BatchNorm's statistics are estimated anew at each point, from the samples of ``reference``."""

    def __init__(self, problem: Evaluator, place: Place, reference: Statistics):
        super().__init__(problem, place)
        self.reference = reference

    def buffers_at(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the buffers with the statistics at the network's present parameters."""
        return self.reference.statistics(self.buffers)


class Interpolated(Eager):
    """Buffers move along with the parameters, on ``moving`` (k, buffer); variances below zero are set to zero."""

    def __init__(self, problem: Evaluator, place: Place, moving: np.ndarray):
        super().__init__(problem, place._replace(buffers=np.asarray(place.buffers, np.float64)))
        self.moving, self.variances = moving, problem.network.variances()

    def buffers_at(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the buffers at a point."""
        buffers = self.buffers + coefficients @ self.moving
        return np.where(self.variances & (buffers < 0), 0.0, buffers)


class Staged:
    """The network's graph in stages; chunks of samples outside, points inside.

    Where the loss is not finite, or so large that intermediate results may not be, it is evaluated again as ``Eager``
    does: 0 * inf in a sum over directions is NaN where the point itself is finite.

    Args:
        strategy: one of ``POINT_STRATEGIES`` but the first.
        precision: ``full``, the network's own, or ``bfloat16`` for the stage that goes through the samples; points,
            folding and sums over directions stay as precise as the network, and so does the loss of its outputs.

    Raises:
        Exception: the network cannot be traced.
    """

    def __init__(self, problem: Evaluator, place: Place, strategy: str, precision: str = "full"):
        self.eager, directions = Eager(problem, place), place.directions
        self.problem, self.precision = problem, precision
        self.buffers = problem.network.vector(place.buffers)
        self.pieces = problem.cut(PIECE_BYTES // ((1 + len(directions)) * problem.largest_activation))
        cached = strategy != "folded"
        lowered = torch.bfloat16 if precision == "bfloat16" else problem.network.theta.dtype
        fused = strategy not in ("compiled", "vmapped") and can_fuse(problem.network.theta.device, lowered)
        self.stages = _stages(problem.network, self.pieces[0][0], cached, fused)
        plain = "first-layer" if self.stages.has_affine else "folded"
        self.strategy = strategy if strategy == "vmapped" else plain
        self._kept: dict[int, tuple] = {}
        self._room = CACHE_BYTES
        self._run = self._in_stages
        if strategy == "compiled":
            check_compiler()
            whole = staged_graph.with_sums(self.stages, len(directions))
            # Every call has the shapes of the first one: what guards would check for each chunk is known.
            unguarded: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
            self._run = partial(self._compiled, torch.compile(whole, dynamic=False, options=unguarded))
            self.strategy = strategy
            self.on_pieces([0], np.zeros((1, len(directions))))  # compiles

    @property
    def share_kept(self) -> float:
        """The share of chunks for which what first layers make of them is kept, as far as is known."""
        taken = CACHE_BYTES - self._room
        return 1.0 if not taken else min(1.0, CACHE_BYTES / (taken / len(self._kept) * len(self.pieces)))

    def metrics(self, points: np.ndarray) -> np.ndarray:
        """Return the metrics (point, metric) at center + points @ directions; ``points`` has shape (point, k)."""
        center = self.eager.center
        together = max(1, POINT_BYTES // (2 * center.numel() * center.element_size()))
        blocks = [points[i : i + together] for i in range(0, len(points), together)]
        found = np.concatenate([self._block(block) for block in blocks])
        limit = np.sqrt(torch.finfo(center.dtype).max)
        for row in np.flatnonzero(~(np.abs(found[:, 0]) < limit)):
            found[row] = self.eager.metrics(points[row : row + 1])[0]
        return found

    def _block(self, points: np.ndarray) -> np.ndarray:
        weights = self.weights(points)
        numbers = list(range(len(self.pieces)))
        together = max(1, OUTPUT_NUMBERS // self.stages.size)
        groups = [numbers[i : i + together] for i in range(0, len(numbers), together)]
        parts = (self.on_pieces(group, points, weights) for group in groups)
        return self.problem.means(sum(parts, start=torch.zeros(())))

    @torch.inference_mode()
    def on_pieces(self, numbers: list[int], points: np.ndarray, weights: list[tuple] | None = None) -> Tensor:
        """Return what ``problem.sums`` makes of some chunks together, a row for each point."""
        weights = weights or self.weights(points)
        outputs = zip(*(self.outputs(number, points, weights) for number in numbers), strict=True)
        targets = torch.cat([self.pieces[number][1] for number in numbers])
        first = numbers[0] * len(self.pieces[0][1])
        return torch.stack([self.problem.sums(torch.cat(found), targets, first) for found in outputs])

    @torch.inference_mode()
    def outputs(self, number: int, points: np.ndarray, weights: list[tuple] | None = None) -> list[Tensor]:
        """Return the network's outputs at each point, of one piece of the samples."""
        count, (samples, parts) = len(self.pieces[number][1]), self._of_samples(number)
        made = self.each(points, weights or self.weights(points), samples, parts)
        return [output[:count].to(self.eager.center.dtype) for output in made]

    def each(self, points: np.ndarray, weights: list[tuple], samples: tuple, parts: list) -> Iterator[Tensor]:
        """Yield the outputs at each point, of one piece of the samples."""
        for point, weight in zip(points, weights, strict=True):
            yield self._run(weight, samples, parts, point)

    @torch.inference_mode()
    def weights(self, points: np.ndarray) -> list[tuple]:
        """Return what the first stage makes of each point."""
        center = self.eager.center
        size = center.numel()
        rows = center.new_empty(len(points), -(-size // ALIGNED) * ALIGNED)
        for row, point in zip(rows, points, strict=True):
            self.eager.place(row[:size], point)
        inputs = self.pieces[0][0]
        made = (self.stages.point(row[:size], self.buffers, inputs) for row in rows)
        if inputs.ndim != 4:
            return [self._lower(tensors) for tensors in made]
        # Convolutions of channels-last images would copy their filters into that order for every chunk.
        channels_last = {4: torch.channels_last}
        return [
            self._lower(t.contiguous(memory_format=channels_last.get(t.ndim, torch.contiguous_format)) for t in tensors)
            for tensors in made
        ]

    def _of_samples(self, number: int) -> tuple[tuple, list[list[Tensor]]]:
        """Return what does not change from point to point of one chunk of samples, kept where there is room."""
        if number not in self._kept:
            with torch.inference_mode(False), torch.no_grad():
                made = self.make(number)
            size = held(made, self.pieces[number])
            if size > self._room:
                return made
            self._room -= size
            self._kept[number] = made
        return self._kept[number]

    def make(self, number: int) -> tuple[tuple, list[list[Tensor]]]:
        """Compute what does not change from point to point of one chunk of samples."""
        at = self.eager.center, self.buffers, self.pieces[number][0]
        parts = []
        if self.stages.has_affine:
            center, directions, *given = self.eager.center, self.eager.directions, *at[1:]
            parts = staged_graph.along_directions(self.stages.affine, center, directions, *given)
        return self._lower(self.stages.samples(*at)), parts

    def _in_stages(self, weight: tuple, samples: tuple, parts: list[list[Tensor]], point: np.ndarray) -> Tensor:
        return self.stages.rest(*weight, *samples, *self._summed(parts, point))

    def _summed(self, parts: list[list[Tensor]], point: np.ndarray) -> tuple:
        """Return the values that are affine in the coefficients, at a point."""
        values = []
        for center, *along in parts:
            total = torch.add(center, along[0], alpha=float(point[0]))
            for coefficient, part in zip(point[1:], along[1:], strict=True):
                total.add_(part, alpha=float(coefficient))
            values.append(total)
        return self._lower(values)

    def _compiled(
        self, whole: Any, weight: tuple, samples: tuple, parts: list[list[Tensor]], point: np.ndarray
    ) -> Tensor:
        given = [part for several in parts for part in several]
        return whole(*weight, *samples, *self._lower(given), *self.eager.center.new_tensor(point))

    def _lower(self, tensors: Iterable[Tensor]) -> tuple:
        """Return tensors in the precision of the stage that goes through the samples."""
        if self.precision == "full":
            return tuple(tensors)
        return tuple(t.bfloat16() if t.is_floating_point() else t for t in tensors)


class Vmapped(Staged):
    """``TOGETHER`` points at once go through the last stage; fewer are filled up with the last one."""

    def each(self, points: np.ndarray, weights: list[tuple], samples: tuple, parts: list) -> Iterator[Tensor]:
        """Yield the outputs at each point, of one piece of the samples."""
        for start in range(0, len(points), TOGETHER):
            chosen = [min(start + k, len(points) - 1) for k in range(TOGETHER)]
            of_points = _stacked([weights[k] for k in chosen])
            affine = _stacked([self._summed(parts, points[k]) for k in chosen])
            axes = *(0 for _ in of_points), *(None for _ in samples), *(0 for _ in affine)
            yield from torch.vmap(self.stages.rest, axes)(*of_points, *samples, *affine)[: len(points) - start]


def _stacked(several: list[tuple]) -> list[Tensor]:
    return [torch.stack(tensors) for tensors in zip(*several, strict=True)]


def _stages(network: FlatNetwork, inputs: Tensor, cached: bool, fused: bool) -> staged_graph.Stages:
    """Return the network's stages for inputs of this shape, traced once."""
    key = (tuple(inputs.shape), inputs.stride(), cached, fused)
    if key not in network.stages:
        if key[:2] not in network.stages:
            network.stages[key[:2]] = staged_graph.trace(network, inputs)
        network.stages[key] = staged_graph.stages(network.stages[key[:2]], cached, inputs.device.type == "cpu", fused)
    return network.stages[key]


def check_compiler() -> None:
    """Refuse to compile where there is nothing to compile with.

    Raises:
        LossAtlasError: a C++ compiler or Python's headers are missing.
    """
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise LossAtlasError("there is no C++ compiler")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.is_file():
        raise LossAtlasError(f"there are no Python headers ({header})")


def restrict(problem: Evaluator, place: Place, strategy: str, precision: str) -> Eager | Staged:
    """Return the loss on a subspace by a strategy, or by a plainer one where that cannot be; says so.

    Raises:
        LossAtlasError: there is no such strategy or precision, or the network cannot be evaluated in that precision.
    """
    if strategy not in POINT_STRATEGIES:
        raise LossAtlasError(f"strategy: {strategy!r} is not one of auto, {', '.join(POINT_STRATEGIES)}")
    if precision not in PRECISIONS:
        raise LossAtlasError(f"precision: {precision!r} is not one of {', '.join(PRECISIONS)}")
    reasons = []
    plainer = POINT_STRATEGIES[1:3]
    names = plainer[: plainer.index(strategy)] if strategy in plainer else plainer
    for name in [] if strategy == "eager" else [strategy, *reversed(names)]:
        try:
            staged = (Vmapped if name == "vmapped" else Staged)(problem, place, name, precision)
            staged.on_pieces([0], np.zeros((1, len(place.directions))))
            made: Eager | Staged = staged
            break
        except Exception as error:  # whatever a network of the user's does while it is traced
            reasons.append((str(error).strip() or type(error).__name__).split("\n")[0])
    else:
        if precision != "full":
            why = reasons[-1] if reasons else "strategy 'eager' has only the network's own"
            raise LossAtlasError(f"precision: this network cannot be evaluated in {precision!r} ({why}); use 'full'")
        made = Eager(problem, place)
    if reasons:
        print(f"grid points: strategy {made.strategy!r} instead of {strategy!r} ({reasons[0]})", flush=True)
    return made
