"""Speed of evaluating points of a plane, against loops over a module's weights and the bare forward pass."""

import copy
from collections.abc import Callable
from pathlib import Path

import loss_landscapes
import numpy as np
import torch
from loss_landscapes.metrics import Loss
from torch import nn
from torch.nn import functional

from tests.bench.curvature import setting
from tests.bench.table import Row, interleaved, row

STEPS = 2
BATCH = 128


class Setting:
    """A network on a plane whose ends are ``STEPS`` points away, and ``STEPS`` x ``STEPS`` points of it."""

    def __init__(self, name: str, samples: int):
        self.name, self.samples = name, samples
        self.module, self.network, self.problem = setting(name, samples)
        self.theta, self.buffers = self.network.parameters(), self.network.buffers()
        rng = np.random.default_rng(0)
        self.directions = 0.1 * rng.standard_normal((2, self.theta.size)) * np.abs(self.theta)
        # The points of loss_landscapes: it goes through every other row backwards, and is one step behind there.
        self.points = np.array([[i, j + 1 - i % 2] for i in range(STEPS) for j in range(STEPS)]) / STEPS
        self.inputs = torch.cat([inputs for inputs, _ in self.problem.chunks]).contiguous()
        self.targets = torch.cat([targets for _, targets in self.problem.chunks])

    def ours(self, strategy: str, precision: str = "full") -> Callable[[], np.ndarray]:
        """Return the function that evaluates all points as ranks do."""
        plane = self.problem.restrict(self.theta, self.directions, self.buffers, strategy, precision)
        assert plane.strategy == strategy, f"{self.name}: {plane.strategy} instead of {strategy}"
        return lambda: plane.metrics(self.points)[:, 0]

    def loop(self) -> Callable[[], np.ndarray]:
        """Return a loop in the style of Li et al. (2018): set the weights, run batches, add up losses and hits."""
        module = copy.deepcopy(self.module).eval()
        shapes = [p.shape for p in module.parameters()]
        weights, *along = (
            [part.view(shape) for part, shape in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]
            for flat in torch.tensor(np.stack([self.theta, *self.directions]), dtype=torch.float32)
        )

        @torch.no_grad()
        def run() -> np.ndarray:
            losses = []
            for x, y in self.points:
                for p, w, dx, dy in zip(module.parameters(), weights, *along, strict=True):
                    p.data = w + (x * dx + y * dy)
                total, hits = 0.0, 0
                for inputs, targets in zip(self.inputs.split(BATCH), self.targets.split(BATCH), strict=True):
                    outputs = module(inputs)
                    total += functional.cross_entropy(outputs, targets).item() * len(inputs)
                    hits += outputs.argmax(1).eq(targets).sum().item()
                losses.append(total / self.samples)
            return np.array(losses)

        return run

    def package(self) -> Callable[[], np.ndarray]:
        """Return the same points by ``loss_landscapes``, which evaluates all samples at once."""
        ends = [self._moved(direction) for direction in self.directions]
        metric = Loss(functional.cross_entropy, self.inputs, self.targets)

        def run() -> np.ndarray:
            start = self._moved(np.zeros(self.theta.size))  # it moves the model that it is given
            return loss_landscapes.planar_interpolation(start, *ends, metric, steps=STEPS).reshape(-1)

        return run

    def _moved(self, direction: np.ndarray) -> nn.Module:
        module = copy.deepcopy(self.module).eval()
        nn.utils.vector_to_parameters(torch.tensor(self.theta + direction, dtype=torch.float32), module.parameters())
        return module

    def forward(self) -> Callable[[], np.ndarray]:
        """Return nothing but as many passes through the samples, channels last, in the fastest of some batches."""
        module, images = copy.deepcopy(self.module).eval(), self.inputs.contiguous(memory_format=torch.channels_last)

        @torch.inference_mode()
        def run(batch: int) -> None:
            for _ in self.points:
                for inputs in images.split(batch):
                    module(inputs)

        times = {batch: interleaved(lambda b=batch: run(b), lambda: None, rounds=2)[0] for batch in (50, 100, 250)}
        best = min(times, key=times.get)
        return lambda: run(best)


def against_loops(at: Setting, strategy: str, target: float, precision: str = "full", rounds: int = 5) -> list[Row]:
    """Compare with the loop and with the package, whose losses must agree."""
    made, tolerance = [], 1e-5 if precision == "full" else 2e-2
    for name, peer in (("Li et al.'s loop", at.loop()), ("loss-landscapes", at.package())):
        ours, found = at.ours(strategy, precision), {}
        times = interleaved(
            lambda ours=ours, found=found: found.update(ours=ours()),
            lambda peer=peer, found=found: found.update(peer=peer()),
            rounds,
        )
        gap = float(np.abs(found["ours"] / found["peer"] - 1).max())
        how = f"{strategy}, bfloat16" if precision != "full" else strategy
        what = f"points, {at.name}, {at.samples} samples, {how} : {name}"
        per_point = [seconds / len(at.points) for seconds in times]
        made.append(row(what, *per_point, target, "higher", f"relative {gap:.0e}", gap < tolerance))
    return made


def against_forward(at: Setting, strategy: str, target: float, rounds: int = 5) -> Row:
    """Compare with the bare forward pass, the limit of anything that evaluates points one by one."""
    ours, found = at.ours(strategy), {}
    times = interleaved(lambda: found.update(ours=ours()), at.forward(), rounds)
    expected = at.problem.restrict(at.theta, at.directions, at.buffers).metrics(at.points)[:, 0]
    gap = float(np.abs(found["ours"] / expected - 1).max())
    what = f"points, {at.name}, {at.samples} samples, {strategy} : forward"
    per_point = [seconds / len(at.points) for seconds in times]
    return row(what, *per_point, target, "lower", f"relative {gap:.0e}", gap < 1e-6)


def has_bfloat16() -> bool:
    """Return whether the processor computes with bfloat16."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16"))


def rows() -> list[Row]:
    """Return all comparisons."""
    lenet, resnet = Setting("lenet", 2000), Setting("resnet20", 200)
    made = [*against_loops(lenet, "compiled", 5.0), against_forward(lenet, "compiled", 0.35)]
    made += [against_forward(lenet, "first-layer", 0.4)]  # without a compiler
    made += [*against_loops(resnet, "compiled", 1.35), against_forward(resnet, "compiled", 0.95)]
    made += [against_forward(resnet, "folded", 0.95)]  # without a compiler
    return made + (against_loops(resnet, "folded", 2.5, "bfloat16") if has_bfloat16() else [])
