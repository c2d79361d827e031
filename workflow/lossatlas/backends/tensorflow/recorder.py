"""Recording of a user's own ``model.fit`` as a trajectory."""

import os
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lossatlas.backends.tensorflow.device import device_of
from lossatlas.backends.tensorflow.network import FlatNetwork
from lossatlas.errors import LossAtlasError
from lossatlas.io import store
from lossatlas.io.trajectory import RowWriter, check_disk


class Recorder(keras.callbacks.Callback):
    """A callback for ``model.fit`` that writes ``trajectory.zarr``: theta before every step, and at the end.

    A run of the workflow reads it as ``checkpoints: {files: path/to/trajectory.zarr}``. What lies at the path is set
    aside. The mini-batch losses are those that Keras reports, penalties of the model's included.

    Args:
        path: the store to write, ``.../trajectory.zarr``.
        every: record every n-th iteration; the first and the last are always recorded.

    Raises:
        LossAtlasError: when training begins, if Keras does not know its number of steps, or takes several of them
            at once.
    """

    def __init__(self, path: str | os.PathLike, every: int = 1):
        super().__init__()
        self.path, self.every = Path(path), every
        if self.path.suffix != ".zarr" or every < 1:
            raise LossAtlasError(f"Recorder: path {str(path)!r} must end in .zarr, and every = {every} be at least 1")

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Create the store."""
        steps, at_once = self.params.get("steps"), self.model.steps_per_execution
        if not steps:
            raise LossAtlasError("Recorder: the number of steps is not known; give fit(steps_per_epoch=...)")
        if at_once != 1:
            raise LossAtlasError(f"Recorder: compile(steps_per_execution={at_once}) hides iterations; leave it out")
        self._network = FlatNetwork(self.model, device_of(self.model))
        self._iteration, self._recorded, self._sums = 0, [], (0.0, 0.0)
        self._steps, self._row, self._started = steps, None, time.monotonic()
        planned = -(-steps * self.params["epochs"] // self.every) + 1
        recording = self._network.recording(np.arange(planned), steps)
        folder = self.path.parent
        check_disk(folder, recording)
        told = {"recorded": "model.fit", "layout": self._network.layout.to_json()}
        fingerprint = store.Fingerprint("trajectory", told)
        store.find(self.path, folder, fingerprint, fresh=True)
        self._store = store.create(self.path, folder, fingerprint, recording.build)
        self._writer = RowWriter(self._store)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Keras sums the losses of an epoch anew."""
        self._sums = (0.0, 0.0)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Note where the step starts."""
        if self._iteration % self.every == 0:
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            self._row = {**self._numbers(), "learning_rate": rate}

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Write the row, now that the loss of the step is known."""
        loss = self._batch_loss()
        if self._row is not None:
            self._append(**self._row, batch_loss=loss)
        self._row, self._iteration = None, self._iteration + 1

    def on_train_end(self, logs: dict | None = None) -> None:
        """Write where training ended, and finish the store; training may have ended early."""
        self._append(**self._numbers(), batch_loss=np.nan, learning_rate=np.nan)
        self._writer.flush()
        iterations = np.array(self._recorded)
        for name in ("parameters", "buffers", "batch_loss", "learning_rate", "iteration", "epoch"):
            array = self._store[name]
            array.resize((len(iterations), *array.shape[1:]))
        self._store["iteration"][...] = iterations
        self._store["epoch"][...] = iterations / self._steps
        self._store.finish({"ranks": 1, "wall_seconds": time.monotonic() - self._started, "steps": self._iteration})
        store.publish(self.path, self.path.parent)

    def _numbers(self) -> dict[str, np.ndarray]:
        return {"parameters": self._network.parameters(), "buffers": self._network.buffers()}

    def _append(self, **row: Any) -> None:
        self._writer.append(**row)
        self._recorded.append(self._iteration)

    def _batch_loss(self) -> float:
        """Return the loss of the last step: how far Keras's sum over the epoch has grown."""
        mean = next((metric for metric in self.model.metrics if metric.name == "loss"), None)
        if mean is None:
            return np.nan
        before, self._sums = self._sums, (float(mean.total.numpy()), float(mean.count.numpy()))
        samples = self._sums[1] - before[1]
        return (self._sums[0] - before[0]) / samples if samples else np.nan
