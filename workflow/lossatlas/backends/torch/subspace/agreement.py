"""Whether a way to evaluate points agrees with the plain one: the network's outputs, sample by sample, to rounding.

Rounding is measured: how far the plain outputs move when samples, parameters and buffers change by their own rounding.
Means over samples are not compared, for in them errors may cancel; that they follow from the outputs whichever way the
samples are grouped is checked as well.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from lossatlas.backends.torch.protocols import Evaluator
from lossatlas.backends.torch.subspace.subspace_loss import Eager, Staged
from lossatlas.problem.agreement import PointAgreement
from lossatlas.problem.protocol import Place

MULTIPLE = 16.0
"""A difference of up to so many times the measured rounding is rounding. Measured were up to 3 times, by all strategies
on 55 kinds of networks in both precisions."""

FLOOR = 8
"""Outputs may differ by so many units in the last place where no rounding was measured."""

SHARE, LEAST_SECONDS = 0.005, 0.5
"""Checks of a strategy end after this share of all points' time, or so many seconds, whichever is more: up to four
strategies are tried, each of which is faster than plain evaluation, and together checks may take 3 % or two seconds."""

Pair = tuple[Tensor, Tensor]


class Reference:
    """Plain evaluation at some points, which ways are compared with; what it found is kept for the next way.

    Args:
        points: some points (point, k); the last ones come first.
        count: how many points there will be.
    """

    def __init__(self, problem: Evaluator, place: Place, points: np.ndarray, count: int):
        self.problem, self.points, self.count = problem, points[::-1], count
        self.plain = Eager(problem, place)
        self._found: dict[tuple[int, int], Pair] = {}
        self._fastest = float("inf")

    def compare(self, made: Staged) -> PointAgreement:
        """Compare on the last piece of the samples, which may be ragged, on the first and on the middle one."""
        started, seen, difference, rounding = time.perf_counter(), list[tuple[int, int]](), 0.0, 0.0
        for number, row in self._places(made):
            if seen and time.perf_counter() - started > self._budget(len(made.pieces)):
                break
            (found,) = made.outputs(number, self.points[row : row + 1])
            gap, moved, reason = self._differ(made.pieces[number], number, row, found)
            seen.append((number, row))
            difference, rounding = max(difference, gap), max(rounding, moved)
            if reason:
                break
        numbers, rows = map(set, zip(*seen, strict=True))
        samples = sum(len(made.pieces[number][1]) for number in numbers)
        return PointAgreement(made.strategy, len(rows), samples, difference, rounding, reason)

    def _places(self, made: Staged) -> Iterator[tuple[int, int]]:
        last = len(made.pieces) - 1
        for number in dict.fromkeys((last, 0, last // 2)):
            for row in range(len(self.points)):
                yield number, row

    def _budget(self, pieces: int) -> float:
        return max(LEAST_SECONDS, SHARE * self.count * pieces * self._fastest)

    def _differ(self, piece: Pair, number: int, row: int, found: Tensor) -> tuple[float, float, str]:
        """Return difference and rounding of the outputs of one piece at one point, and why they do not agree."""
        inputs, targets = piece[0][: len(piece[1])], piece[1]
        if (number, row) not in self._found:
            started = time.perf_counter()
            plain = self._outputs(inputs, row)
            self._fastest = min(self._fastest, time.perf_counter() - started)
            self._found[number, row] = plain, self._outputs(inputs, row, moved=True)
        plain, moved = self._found[number, row]
        if found.shape != plain.shape:
            return np.inf, 0.0, f"its outputs have the shape {tuple(found.shape)}, not {tuple(plain.shape)}"
        gap, rounding = apart(plain, found), apart(plain, torch.where(plain.isnan(), plain, moved))
        if not gap <= MULTIPLE * rounding + FLOOR * torch.finfo(plain.dtype).eps:
            return gap, rounding, f"its outputs are off by {gap:.1e}, rounding is {rounding:.1e}"
        return gap, rounding, self._grouped(plain, targets)

    @torch.inference_mode()
    def _outputs(self, inputs: Tensor, row: int, moved: bool = False) -> Tensor:
        """Return the plain outputs at a point, chunk by chunk, ``moved`` by the rounding of all that they depend on."""
        network, size = self.problem.network, len(self.problem.chunks[0][0])
        self.plain.go_to(self.points[row])
        if not moved:
            return torch.cat([network.module(chunk) for chunk in inputs.split(size)])
        generator = torch.Generator(inputs.device).manual_seed(row)
        tensors = (*network.module.named_parameters(), *network.module.named_buffers())
        values = {name: _moved(tensor, generator) for name, tensor in tensors}
        chunks = _moved(inputs, generator).split(size)
        return torch.cat([functional_call(network.module, values, (chunk,)) for chunk in chunks])

    @torch.inference_mode()
    def _grouped(self, outputs: Tensor, targets: Tensor) -> str:
        """Return how metrics depend on which samples are evaluated together, nothing where they do not."""
        together, half = self.problem.sums(outputs, targets), -(-len(targets) // 2)
        moved = self.problem.sums(_moved(outputs, torch.Generator(outputs.device).manual_seed(0)), targets)
        halves = sum(map(self.problem.sums, outputs.split(half), targets.split(half)))
        rounding = (moved - together).abs() + torch.finfo(outputs.dtype).eps * together.abs()
        wrong = (halves - together).abs() > MULTIPLE * rounding
        return "its metrics depend on which samples are evaluated together" if wrong.any() else ""


def _moved(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return a tensor whose floating-point numbers are larger or smaller by their rounding, at random."""
    if not tensor.is_floating_point():
        return tensor
    signs = torch.randint(0, 2, tensor.shape, generator=generator, device=tensor.device, dtype=torch.int8) * 2 - 1
    return tensor * (1 + torch.finfo(tensor.dtype).eps * signs.to(tensor.dtype))


def apart(plain: Tensor, others: Tensor) -> float:
    """Return the largest difference of outputs (sample, ...), as a share of the sample's largest plain output.

    Samples whose outputs are small count as if they were as large as the median sample's. Where plain outputs are NaN
    the others must be; where only the others are, the point is evaluated again plainly.
    """
    limit = torch.finfo(plain.dtype).max ** 0.5
    plain, others = (t.reshape(len(t), -1).double().clamp(-limit, limit) for t in (plain, others))
    largest = plain.abs().nan_to_num(0.0).amax(1)
    scale = torch.maximum(largest, largest.median()).clamp(min=torch.finfo(torch.float64).tiny)
    gaps = (plain - others).abs() / scale[:, None]
    gaps = torch.where(others.isnan(), 0.0, torch.where(plain.isnan(), torch.inf, gaps))
    return float(gaps.max())
