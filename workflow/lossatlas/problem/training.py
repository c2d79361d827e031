"""Mini-batch training whose every step is a function of (state, iteration): resumable bit for bit."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from lossatlas import rng
from lossatlas.config.sizes import training_steps
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError


class TrainerBase(ABC):
    """Trains a ``FlatNetwork`` by a first-order optimiser of its framework.

    The order of the batches is a permutation keyed by (seed, epoch), and random layers are keyed by (seed, iteration),
    so that no generator's state has to be carried along.

    Args:
        loss: a function (outputs, targets) -> mean over the batch.
        spec: the config's ``train``.

    Raises:
        LossAtlasError: optimiser or schedule is unknown or refuses its arguments, or model and data do not fit.
    """

    def __init__(self, network: Any, loss: Callable, split: Split, spec: dict, seed: int):
        self.network, self.loss, self.spec, self.seed, self.samples = network, loss, spec, seed, len(split)
        self.batch_size = min(spec["batch_size"], len(split))
        self.steps, self.steps_per_epoch = training_steps(len(split), spec["batch_size"], spec["epochs"])
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))
        self._prepare(split)

    @abstractmethod
    def _prepare(self, split: Split) -> None:
        """Put the samples on the device, try model and loss on them, and make the optimiser."""

    @abstractmethod
    def step(self, iteration: int) -> tuple[float, float]:
        """Take the step from ``iteration`` to ``iteration + 1``; return (mini-batch loss before it, learning rate).

        Raises:
            LossAtlasError: the loss is NaN or infinite.
        """

    @abstractmethod
    def state(self) -> bytes:
        """Return all that a later process needs to go on from here."""

    @abstractmethod
    def load_state(self, state: bytes) -> None:
        """Go on from a ``state``."""

    def _chosen(self, iteration: int) -> np.ndarray:
        """Return the numbers of the samples of a batch."""
        epoch, place = divmod(iteration, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = rng.generator(self.seed, "batches", epoch).permutation(self.samples)
            self._order = (epoch, order.astype(np.int64))
        return self._order[1][place * self.batch_size : (place + 1) * self.batch_size]

    @staticmethod
    def _check_finite(value: float, iteration: int) -> None:
        if not math.isfinite(value):
            raise LossAtlasError(
                f"train: the mini-batch loss is {value} at iteration {iteration}; "
                "lower train.learning_rate or check loss and data"
            )
