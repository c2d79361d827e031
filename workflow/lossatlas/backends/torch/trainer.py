"""Mini-batch training whose every step is a function of (state, iteration): resumable bit for bit."""

import io
import math

import numpy as np
import torch

from lossatlas import rng
from lossatlas.backends.torch.checks import fit
from lossatlas.backends.torch.losses import Loss
from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.backends.torch.problem import to_tensors
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError

TRIED = 1024
"""Training samples, spread evenly over all, on which model and loss are tried."""


class TorchTrainer:
    """Trains a ``FlatNetwork`` by any first-order optimiser of ``torch.optim``.

    The order of the batches is a permutation keyed by (seed, epoch), and dropout is keyed by (seed,
    iteration), so that no generator's state has to be carried along.

    Args:
        spec: the config's ``train``.

    Raises:
        LossAtlasError: optimiser or schedule is unknown or refuses its arguments, or model and data do not fit.
    """

    def __init__(self, network: FlatNetwork, loss: Loss, split: Split, spec: dict, seed: int):
        self.network, self.loss, self.spec, self.seed = network, loss, spec, seed
        self.inputs, self.targets = to_tensors(split, network)
        self.batch_size = min(spec["batch_size"], len(split))
        self.steps, self.steps_per_epoch = training_steps(len(split), spec)
        self._check(loss)
        self.optimizer = self._optimizer()
        self.schedule = self._schedule()
        self._order: tuple[int, torch.Tensor] | None = None

    def _check(self, loss: Loss) -> None:
        """Try model and loss on up to ``TRIED`` samples: what later steps would refuse is found before training."""
        few = torch.linspace(0, len(self.inputs) - 1, min(TRIED, len(self.inputs))).long().to(self.inputs.device)
        fit(self.network, loss, (self.inputs[few], self.targets[few]), size=self.batch_size)

    def step(self, iteration: int) -> tuple[float, float]:
        """Take the step from ``iteration`` to ``iteration + 1``; return (mini-batch loss, learning rate).

        Raises:
            LossAtlasError: the loss is NaN or infinite.
        """
        inputs, targets = self._batch(iteration)
        torch.manual_seed(rng.torch_seed(self.seed, "dropout", iteration))
        self.network.module.train()
        self.optimizer.zero_grad()
        try:
            loss = self.loss(self.network.module(inputs), targets)
        except (RuntimeError, ValueError) as error:
            raise LossAtlasError(
                f"train: iteration {iteration} with a batch of {len(inputs)} samples failed with "
                f"{type(error).__name__}: {str(error).splitlines()[0]} "
                "(a ragged last batch of one sample and BatchNorm? choose another train.batch_size)"
            ) from error
        value, rate = float(loss.detach()), float(self.optimizer.param_groups[0]["lr"])
        if not math.isfinite(value):
            raise LossAtlasError(
                f"train: the mini-batch loss is {value} at iteration {iteration}; "
                "lower train.learning_rate or check loss and data"
            )
        loss.backward()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return value, rate

    def state(self) -> bytes:
        """Return all that a later process needs to go on from here."""
        stream = io.BytesIO()
        schedule = self.schedule.state_dict() if self.schedule is not None else None
        state = {
            "module": self.network.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": schedule,
        }
        torch.save(state, stream)
        return stream.getvalue()

    def load_state(self, state: bytes) -> None:
        """Go on from a ``state``."""
        parts = torch.load(io.BytesIO(state), map_location=self.network.device.device, weights_only=True)
        self.network.module.load_state_dict(parts["module"])
        self.optimizer.load_state_dict(parts["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(parts["schedule"])

    def _batch(self, iteration: int) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, place = divmod(iteration, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            order = rng.generator(self.seed, "batches", epoch).permutation(len(self.inputs))
            self._order = (epoch, torch.as_tensor(order.astype(np.int64)).to(self.inputs.device))
        chosen = self._order[1][place * self.batch_size : (place + 1) * self.batch_size]
        return self.inputs[chosen], self.targets[chosen]

    def _optimizer(self) -> torch.optim.Optimizer:
        name = self.spec["optimizer"]
        maker = getattr(torch.optim, name, None)
        if not (isinstance(maker, type) and issubclass(maker, torch.optim.Optimizer)) or name in (
            "Optimizer",
            "LBFGS",
        ):
            raise LossAtlasError(f"train.optimizer: {name!r} is not a first-order optimiser in torch.optim")
        if "lr" in self.spec["optimizer_kwargs"]:
            raise LossAtlasError("train.optimizer_kwargs: give the learning rate as train.learning_rate, not as 'lr'")
        trainable = [p for p in self.network.module.parameters() if p.requires_grad]
        return _make(
            maker,
            "train.optimizer_kwargs",
            trainable,
            lr=self.spec["learning_rate"],
            **self.spec["optimizer_kwargs"],
        )

    def _schedule(self) -> torch.optim.lr_scheduler.LRScheduler | None:
        if "schedule" not in self.spec:
            return None
        name = self.spec["schedule"]["name"]
        maker = getattr(torch.optim.lr_scheduler, name, None)
        usable = isinstance(maker, type) and issubclass(maker, torch.optim.lr_scheduler.LRScheduler)
        if not usable or name == "ReduceLROnPlateau":
            raise LossAtlasError(
                f"train.schedule.name: {name!r} is not a schedule in torch.optim.lr_scheduler that steps by iteration"
            )
        return _make(maker, "train.schedule.kwargs", self.optimizer, **self.spec["schedule"]["kwargs"])


def _make(maker: type, where: str, *args: object, **kwargs: object) -> object:
    try:
        return maker(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise LossAtlasError(f"{where}: {maker.__name__} refuses its arguments: {error}") from error


def training_steps(samples: int, spec: dict) -> tuple[int, int]:
    """Return how many steps the config's ``train`` takes on so many samples: (altogether, per epoch)."""
    per_epoch = math.ceil(samples / min(spec["batch_size"], samples))
    return max(1, round(spec["epochs"] * per_epoch)), per_epoch
