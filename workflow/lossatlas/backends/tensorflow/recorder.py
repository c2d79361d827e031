"""Recording of a user's own ``model.fit`` as a trajectory."""

import os
from pathlib import Path

import keras
import numpy as np

from lossatlas.backends.tensorflow.device import device_of
from lossatlas.backends.tensorflow.network import FlatNetwork
from lossatlas.errors import LossAtlasError
from lossatlas.io.tape import Tape


class KerasRecorder(keras.callbacks.Callback):
    """A callback for ``model.fit`` that writes ``trajectory.zarr``: theta every few steps, and at the end.

    A run of the workflow reads it as ``checkpoints: {files: path/to/trajectory.zarr}``. The mini-batch losses are those
    that Keras reports, penalties of the model's included.

    Args:
        path: the store to write, ``.../trajectory.zarr``.
        every: record every n-th iteration; the first and the last are always recorded.
        start: the iteration at which training goes on, as for ``lossatlas.record``; 0 begins anew, and sets aside what
            lies at the path.
        precision: as for ``lossatlas.record``.

    Raises:
        LossAtlasError: when training begins, if Keras takes several steps at once, or as for ``lossatlas.record``.
    """

    def __init__(self, path: str | os.PathLike, every: int = 1, start: int | None = 0, precision: str | None = None):
        super().__init__()
        self.path, self.every, self.start, self.precision = Path(path), every, start, precision

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Create the store."""
        at_once = self.model.steps_per_execution
        if at_once != 1:
            raise LossAtlasError(f"KerasRecorder: compile(steps_per_execution={at_once}) hides steps; leave it out")
        network = FlatNetwork(self.model, device_of(self.model))
        per_epoch = self.params.get("steps")
        self._tape = Tape(network, self.path, self.every, self.start, per_epoch, self.precision).__enter__()
        self._sums, self._rate = (0.0, 0.0), np.nan

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Keras sums the losses of an epoch anew."""
        self._sums = (0.0, 0.0)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Note the learning rate, which the step may change."""
        if self._tape.due:
            self._rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Note the step."""
        self._tape.step(self._batch_loss(), self._rate)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Record where training ended, and finish the store; training may have ended early."""
        self._tape.close()

    def _batch_loss(self) -> float:
        """Return the loss of the last step: how far Keras's sum over the epoch has grown."""
        mean = next((metric for metric in self.model.metrics if metric.name == "loss"), None)
        if mean is None:
            return np.nan
        before, self._sums = self._sums, (float(mean.total.numpy()), float(mean.count.numpy()))
        samples = self._sums[1] - before[1]
        return (self._sums[0] - before[0]) / samples if samples else np.nan
