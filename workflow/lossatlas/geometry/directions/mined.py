"""Directions mined by descent: Algorithms 1 (w-peak) and 2 (vvv-basin) of Li et al. 2024.

Batches are a partition of the samples that is drawn once; every epoch visits all in an order of its own. All draws are
functions of (seed, number, epoch or step), so that a direction depends neither on others nor on an interruption.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np

from lossatlas import rng
from lossatlas.data import Subset
from lossatlas.errors import LossAtlasError

Gradient = Callable[[np.ndarray], np.ndarray]
"""From theta (N,) to the gradient of the loss over one batch, float64 (N,)."""

Change = Callable[[np.ndarray, Gradient, float, float], np.ndarray]
"""From a vector (N,), the gradient of a batch, a draw of [-1, 1] and the share of epochs begun to a gradient (N,)."""


class Save(Protocol):
    """Keeps the state of a direction that is being mined, see ``parallel.checkpointing.State``."""

    def load(self) -> dict[str, np.ndarray] | None:
        """Return what was saved last, None if there is nothing."""

    def due(self) -> bool:
        """Return whether to save now."""

    def save(self, arrays: dict[str, Any]) -> None:
        """Save arrays by name."""


@dataclass(frozen=True)
class Vein:
    """One direction to mine: its ``label``, the ``number`` that keys its draws, and what Algorithm 2 needs.

    ``to`` is the number of the checkpoint at which phi starts.
    """

    label: str
    number: int
    to: int | None = None
    gamma: float = 0.0
    alpha: float = 0.0


def veins(spec: dict) -> list[Vein]:
    """Return the directions of a set: one for each seed, or for each start, gamma and alpha.

    Directions of one start and other gamma or alpha share their batches and the places of lambda in its interval.
    """
    if spec["algorithm"] == "w-peak":
        return [Vein(f"mined for w-peak {k + 1}", k) for k in range(spec["count"])]
    grid = list(product(range(len(spec["to"])), spec["gamma"], spec["alpha"]))
    several = len(spec["to"]) > 1
    return [
        Vein(
            f"mined for vvv-basin{f' {to + 1}' if several else ''}, γ = {gamma:g}, α = {alpha:g}", to, to, gamma, alpha
        )
        for to, gamma, alpha in grid
    ]


def partition(subset: Subset, spec: dict) -> dict[str, Subset]:
    """Return the batches: a partition of the samples into about equal parts of at most ``batch_size``, by name."""
    order = rng.generator(spec["seed"], "mined batches").permutation(len(subset))
    found = {}
    for k, part in enumerate(np.array_split(order, -(-len(subset) // spec["batch_size"]))):
        chosen = np.sort(part)
        samples = subset.samples.of(chosen)
        found[f"batch {k + 1}"] = Subset(samples, subset.index[chosen], samples.digest, False)
    return found


def mine(
    vein: Vein, theta: np.ndarray, start: np.ndarray | None, gradients: Sequence[Gradient], spec: dict, save: Save
) -> np.ndarray:
    """Return one mined direction, float64 (N,).

    Algorithm 1 minimises the mean of L(theta + lambda epsilon) over lambda in [-alpha, alpha], alpha growing from 1/E
    to 1 over the E epochs, from epsilon = 0 (its Eq. 2 has alpha = 1 throughout). Algorithm 2 minimises L(phi) + gamma
    L((1 - lambda) theta + lambda phi) over lambda in [0.5 - alpha, 0.5 + alpha], and gives phi - theta.

    Args:
        theta: the checkpoint theta_c, shape (N,).
        start: where phi begins, shape (N,), of Algorithm 2; None is Algorithm 1.
        gradients: of the batches.
        spec: keys ``seed``, ``epochs`` and ``learning_rate``.
        save: keeps the state, from which this goes on.

    Raises:
        LossAtlasError: it left the numbers, or never left zero.
    """

    def peak(vector: np.ndarray, gradient: Gradient, where: float, grown: float) -> np.ndarray:
        at = where * grown
        return at * gradient(theta + at * vector)

    def basin(phi: np.ndarray, gradient: Gradient, where: float, grown: float) -> np.ndarray:
        at = 0.5 + where * vein.alpha
        return gradient(phi) + vein.gamma * at * gradient((1 - at) * theta + at * phi)

    if start is not None:
        return descend(vein, start, gradients, basin, spec, save) - theta
    vector = descend(vein, np.zeros_like(theta), gradients, peak, spec, save)
    if not vector.any():
        raise LossAtlasError(f"directions: {vein.label!r} is zero: so are all gradients; choose another center")
    return vector


def descend(
    vein: Vein, start: np.ndarray, gradients: Sequence[Gradient], change: Change, spec: dict, save: Save
) -> np.ndarray:
    """Return where plain gradient descent ends that draws a batch and a place on a curve for every step.

    Args:
        start: shape (N,).
        gradients, spec, save: as for ``mine``.
        change: the gradient of what is minimised.

    Raises:
        LossAtlasError: it left the numbers.
    """
    state, batches = save.load() or {}, len(gradients)
    vector, first = state.get("vector", start), int(state.get("step", 0))
    for step in range(first, spec["epochs"] * batches):
        epoch, place = divmod(step, batches)
        order = rng.generator(spec["seed"], "mined order", vein.number, epoch).permutation(batches)
        where = rng.generator(spec["seed"], "mined lambda", vein.number, step).uniform(-1, 1)
        gradient = change(vector, gradients[order[place]], where, (epoch + 1) / spec["epochs"])
        vector = vector - spec["learning_rate"] * gradient
        if not np.isfinite(vector).all():
            raise LossAtlasError(
                f"directions: {vein.label!r} is NaN or infinite in epoch {epoch + 1}; lower learning_rate"
            )
        if save.due():
            save.save({"vector": vector, "step": step + 1})
    save.save({"vector": vector, "step": spec["epochs"] * batches})
    return vector
