"""Recording of a training by Lightning's Trainer as a trajectory."""

import os
from typing import Any

import numpy as np

from lossatlas.backends.torch.recorder import TorchTape, record
from lossatlas.vision import torchvision

torchvision()  # Lightning imports it, and fails where a CPU build of torch has another one beside it
from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402


class LightningRecorder(Callback):
    """A callback for Lightning's ``Trainer`` that writes ``trajectory.zarr``; see ``lossatlas.record``.

    An iteration is a step of the optimiser; its loss is that of the last batch of those that are accumulated. A new
    training begins anew and sets aside what lies at the path, one that is resumed (``ckpt_path``) goes on there.

    Args:
        path: the store to write, ``.../trajectory.zarr``.
        every: iterations from one row to the next; the first and the last are always recorded.
        module: the name of what is recorded of the LightningModule (``"model"``); left out all of it.
        precision: as for ``lossatlas.record``.
    """

    def __init__(self, path: str | os.PathLike, every: int = 1, module: str = "", precision: str | None = None):
        self.path, self.every, self.module, self.precision = path, every, module, precision

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the store."""
        chosen, self._steps = pl_module.get_submodule(self.module), trainer.global_step
        steps = trainer.num_training_batches / trainer.accumulate_grad_batches
        per_epoch = steps if np.isfinite(steps) else None
        self._rate = np.nan
        ahead: dict[str, Any] = {"start": self._steps, "steps_per_epoch": per_epoch, "precision": self.precision}
        tape = record(chosen, self.path, self.every, **ahead)
        self._tape: TorchTape = tape.__enter__()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the learning rate, which the step may change."""
        self._rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else np.nan

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the step, if one was taken."""
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            self._tape.step(np.nan if loss is None else loss, self._rate)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record where training ended, and finish the store."""
        self._tape.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Finish the store with what was recorded."""
        if hasattr(self, "_tape"):
            self._tape.close(complete=False)
