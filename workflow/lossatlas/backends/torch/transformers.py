"""Recording of a training by the Trainer of Hugging Face's transformers as a trajectory."""

import os
from typing import Any

import numpy as np

from lossatlas.backends.torch.recorder import TorchTape, record
from lossatlas.vision import torchvision

torchvision()  # transformers imports it, and fails where a CPU build of torch has another one beside it
from transformers import TrainerCallback  # noqa: E402


class TrainerRecorder(TrainerCallback):
    """A callback for transformers' ``Trainer`` that writes ``trajectory.zarr``; see ``lossatlas.record``.

    An iteration is a step of the optimiser. The Trainer tells losses where it logs them: with ``logging_steps=1`` they
    are recorded, else they are NaN. A new training begins anew and sets aside what lies at the path, one that is
    resumed (``resume_from_checkpoint``) goes on there.

    Args:
        path: the store to write, ``.../trajectory.zarr``.
        every: iterations from one row to the next; the first and the last are always recorded.
        precision: as for ``lossatlas.record``.
    """

    def __init__(self, path: str | os.PathLike, every: int = 1, precision: str | None = None):
        self.path, self.every, self.precision = path, every, precision

    def on_train_begin(self, args: Any, state: Any, control: Any, **told: Any) -> None:
        """Create the store."""
        per_epoch = state.max_steps / state.num_train_epochs if state.num_train_epochs else None
        choices: dict[str, Any] = {
            "start": state.global_step,
            "steps_per_epoch": per_epoch,
            "precision": self.precision,
        }
        tape = record(told["model"], self.path, self.every, **choices)
        self._taken, self._loss, self._rate = False, np.nan, np.nan
        self._tape: TorchTape = tape.__enter__()

    def on_step_begin(self, args: Any, state: Any, control: Any, **told: Any) -> None:
        """Note the step before, whose loss is known by now, and the learning rate of this one."""
        self._note_step()
        schedule = told.get("lr_scheduler")
        self._rate = schedule.get_last_lr()[0] if schedule is not None else np.nan

    def on_step_end(self, args: Any, state: Any, control: Any, **told: Any) -> None:
        """Remember that a step was taken; its loss is logged afterwards."""
        self._taken = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **told: Any) -> None:
        """Note the loss, a mean over the steps since the last log."""
        if args.logging_steps == 1:
            self._loss = (logs or {}).get("loss", self._loss)

    def on_train_end(self, args: Any, state: Any, control: Any, **told: Any) -> None:
        """Record where training ended, and finish the store."""
        self._note_step()
        self._tape.close()

    def _note_step(self) -> None:
        if self._taken:
            self._tape.step(self._loss, self._rate)
        self._taken, self._loss = False, np.nan
