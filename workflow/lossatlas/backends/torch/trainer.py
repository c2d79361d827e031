"""Mini-batch training by optimisers and schedules of PyTorch."""

import io
from typing import Any

import torch

from lossatlas import rng
from lossatlas.backends.torch.checks import fit
from lossatlas.backends.torch.problem import to_tensors
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError
from lossatlas.problem.training import TrainerBase

TRIED = 1024
"""Training samples, spread evenly over all, on which model and loss are tried."""


class TorchTrainer(TrainerBase):
    """Trains by any first-order optimiser of ``torch.optim``."""

    def _prepare(self, split: Split) -> None:
        self.inputs, self.targets = to_tensors(split, self.network)
        self._check()
        self.optimizer = self._optimizer()
        self.schedule = self._schedule()

    def _check(self) -> None:
        """Try model and loss on up to ``TRIED`` samples: what later steps would refuse is found before training."""
        few = torch.linspace(0, len(self.inputs) - 1, min(TRIED, len(self.inputs))).long().to(self.inputs.device)
        fit(self.network, self.loss, (self.inputs[few], self.targets[few]), size=self.batch_size)

    def step(self, iteration: int) -> tuple[float, float]:
        """Take the step from ``iteration`` to ``iteration + 1``; see ``TrainerBase``."""
        chosen = torch.as_tensor(self._chosen(iteration)).to(self.inputs.device)
        inputs, targets = self.inputs[chosen], self.targets[chosen]
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
        self._check_finite(value, iteration)
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


def _make(maker: Any, where: str, *args: Any, **kwargs: Any) -> Any:
    try:
        return maker(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise LossAtlasError(f"{where}: {maker.__name__} refuses its arguments: {error}") from error
