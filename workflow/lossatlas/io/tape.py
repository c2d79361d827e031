"""What records a user's own training: theta every few iterations, written in the background."""

import threading
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from lossatlas.errors import LossAtlasError
from lossatlas.io.deltas import PRECISIONS
from lossatlas.io.growing import GrowingTrajectory, Row
from lossatlas.io.trajectory import Recording

PENDING_BYTES = 256 * 2**20
"""Rows that may wait to be written; training waits while there are more."""

SHARE = 20
"""How many times as long as a write took the next one waits: at most a twentieth of the time is spent on writing."""


class Recorded(Protocol):
    """A network that is trained elsewhere and read as it is."""

    def recording(self, iterations: np.ndarray, steps_per_epoch: float | None = None) -> Recording:
        """Describe a trajectory of it."""

    def parameters(self, out: np.ndarray | None = None) -> np.ndarray:
        """Return a copy of theta, written into ``out`` where it is given."""

    def buffers(self) -> np.ndarray:
        """Return a copy of all floating-point buffers, flat."""


class Tape:
    """A trajectory that is being recorded: theta before every ``every``-th step, and at the end.

    Within ``with`` call ``step`` after each step of the optimiser; ``iteration`` counts them. A killed process leaves
    a readable store; what was recorded in the last fraction of a second may be missing. Where training goes on is
    ``iteration`` at the beginning.

    Args:
        network: what is recorded.
        path: the store, ``.../trajectory.zarr``.
        every: iterations from one row to the next; the first and the last are always recorded.
        start: the iteration at which training goes on: what is there from it on is replaced, 0 begins anew. None
            goes on at the last recorded iteration, where the model must be what was recorded, or begins.
        steps_per_epoch: iterations of a pass over the training set, where the figures shall count those.
        precision: ``float16`` or ``bfloat16``: rows are differences of this precision from every 32nd row, which is
            whole; the store has the error of each.

    Raises:
        LossAtlasError: an argument is wrong, or, when entered, something else lies at the path.
    """

    def __init__(
        self,
        network: Recorded,
        path: Path,
        every: int = 1,
        start: int | None = None,
        steps_per_epoch: float | None = None,
        precision: str | None = None,
    ):
        if path.suffix != ".zarr":
            raise LossAtlasError(f"record: path {str(path)!r} must end in .zarr")
        for name, value, least in (("every", every, 1), ("start", start, 0)):
            if value is not None and (not isinstance(value, int) or value < least):
                raise LossAtlasError(f"record: {name}={value!r} must be a whole number, at least {least}")
        if precision not in (None, *PRECISIONS):
            raise LossAtlasError(f"record: precision={precision!r} is not one of {', '.join(PRECISIONS)}")
        self.iteration, self._precision = start or 0, precision
        self._network, self._path, self._every, self._start = network, path, every, start
        self._steps_per_epoch = steps_per_epoch
        self._writer: _Writer | None = None
        self._row: Row | None = None
        self._entered, self._seen = False, -1

    def __enter__(self) -> Self:
        """Create the store or open it again, and take the first row."""
        self.iteration = self._begin()
        self._entered = True
        return self

    def _begin(self) -> int:
        """Open the store; return the iteration at which training goes on."""
        recording = self._network.recording(np.zeros(0), self._steps_per_epoch)
        recording.precision = self._precision
        numbers = self._numbers()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        trajectory = GrowingTrajectory(self._path, recording, numbers["parameters"], self._start)
        self._row, self._seen = {"iteration": trajectory.start, **numbers}, trajectory.start
        self._writer = _Writer(trajectory)
        return trajectory.start

    @property
    def due(self) -> bool:
        """Whether the step from here on is recorded, with its loss."""
        return self._row is not None

    def step(self, loss: Any = np.nan, learning_rate: float = np.nan) -> None:
        """Note that a step of the optimiser was taken.

        Args:
            loss: of its mini-batch, a number or a tensor; only where a row is recorded it is looked at.
            learning_rate: of the step.

        Raises:
            LossAtlasError: called outside of ``with``.
        """
        if not self._entered:
            raise LossAtlasError("record: write `with lossatlas.record(...) as tape:` around the training loop")
        self._put(loss, learning_rate)
        self.iteration += 1
        if self.iteration % self._every == 0:
            self._row, self._seen = self._read(), self.iteration

    def flush(self) -> None:
        """Wait until all rows whose steps were taken are written."""
        if self._writer is not None:
            self._writer.flush()

    def close(self, complete: bool = True) -> None:
        """Finish the store; ``complete`` records the model as it is now, at the end.

        Raises:
            LossAtlasError: rows could not be written.
        """
        if self._entered and complete and self._seen != self.iteration:
            self._row = self._read()
        self._put(np.nan, np.nan)
        self._entered, writer, self._writer = False, self._writer, None
        if writer is not None:
            writer.close()

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        """Finish the store; the exception that ended training is passed on."""
        try:
            self.close(complete=kind is None)
        except LossAtlasError:
            if kind is None:
                raise

    def _numbers(self) -> Row:
        spare = None if self._writer is None else self._writer.spare()
        return {"parameters": self._network.parameters(spare), "buffers": self._network.buffers()}

    def _read(self) -> Row | None:
        """Return the row of this iteration; None in a process that does not write."""
        return {"iteration": self.iteration, **self._numbers()}

    def _put(self, loss: Any, learning_rate: float) -> None:
        """Hand the row that waits for the loss of its step to the writer."""
        if self._row is not None and self._writer is not None:
            value = float(loss.detach() if hasattr(loss, "detach") else loss)
            self._writer.put({**self._row, "batch_loss": value, "learning_rate": float(learning_rate)})
        self._row = None


class _Writer:
    """A thread that appends rows to a trajectory, many at once where they come fast.

    The memory of rows that are written is used again: fresh pages cost ten times as much as the copy into them.
    """

    def __init__(self, trajectory: GrowingTrajectory):
        self._trajectory = trajectory
        self._waiting: list[Row] = []
        self._spare: list[np.ndarray] = []
        self._bytes, self._busy, self._urgent, self._ended = 0, False, False, False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="lossatlas.record", daemon=True)
        self._thread.start()

    def put(self, row: Row) -> None:
        """Take a row; wait while too many are not written yet."""
        size = sum(value.nbytes for value in row.values() if isinstance(value, np.ndarray))
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._bytes + size <= PENDING_BYTES)
            if self._error is None:
                self._waiting.append(row)
                self._bytes += size
                self._changed.notify_all()

    def spare(self) -> np.ndarray | None:
        """Return memory for the parameters of a row, if there is some."""
        with self._changed:
            return self._spare.pop() if self._spare else None

    def flush(self) -> None:
        """Wait until all rows are written."""
        with self._changed:
            self._urgent = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting and not self._busy)
            self._urgent = False

    def close(self) -> None:
        """Write what is left and finish the store.

        Raises:
            LossAtlasError: what went wrong on the way, after which nothing was written.
        """
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None:
            raise LossAtlasError(f"record: {self._error}") from self._error
        self._trajectory.close()

    def _hurried(self) -> bool:
        return self._urgent or self._ended or self._bytes > PENDING_BYTES // 2

    def _work(self) -> None:
        pause = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                self._changed.wait_for(self._hurried, timeout=pause)
                rows, self._waiting, self._bytes, self._busy = self._waiting, [], 0, True
            began = time.perf_counter()
            if rows and self._error is None:
                self._append(rows)
            pause = SHARE * (time.perf_counter() - began)
            with self._changed:
                self._busy = False
                self._spare += [row["parameters"] for row in rows]
                self._changed.notify_all()
                if self._ended and not self._waiting:
                    return

    def _append(self, rows: list[Row]) -> None:
        """Write rows; training does not end because they cannot be written."""
        try:
            self._trajectory.append(rows)
        except Exception as error:
            self._error = error
            warnings.warn(f"lossatlas.record: nothing is recorded any more: {error}", stacklevel=1)
