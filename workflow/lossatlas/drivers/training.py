"""Driver: train (or read checkpoints) and record the trajectory, resumable bit for bit."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lossatlas.errors import room_for
from lossatlas.io.store import Store
from lossatlas.io.trajectory import RowWriter, rows_on_disk
from lossatlas.parallel import signals
from lossatlas.parallel.progress import Progress


class Trainer(Protocol):
    """What a backend's trainer offers; every step is a function of (state, iteration)."""

    network: Any
    steps: int
    steps_per_epoch: int

    def step(self, iteration: int) -> tuple[float, float]:
        """Take one step; return (mini-batch loss before it, learning rate)."""

    def state(self) -> bytes:
        """Return all that a later process needs to go on."""

    def load_state(self, state: bytes) -> None:
        """Go on from a state."""


def recorded_iterations(steps: int, every: int) -> np.ndarray:
    """Return 0, n, 2n, ... and the last iteration, ``steps``."""
    return np.unique(np.append(np.arange(0, steps + 1, every), steps))


def record_training(
    trainer: Trainer,
    store: Store,
    label: str,
    log: Callable[[str], None] = print,
    save_every: float = 60.0,
) -> int:
    """Train to the end and write every recorded iteration; return how many steps were taken now.

    After each chunk of rows, and after ``save_every`` seconds, the trainer's state is saved beside the store
    at the start of an iteration; a killed job goes on from there.

    Raises:
        Interrupted: the job was told to stop; its state is saved.
    """
    recorded = set(store["iteration"][:].tolist())
    resume = ResumeFile(store.path.with_suffix(".resume"), store.fingerprint)
    writer, start = RowWriter(store), 0
    found = resume.read(log)
    if found and not rows_on_disk(store, found[1]):
        log(f"{label}: chunks of {store.path} are missing; training begins anew")
        found = None
    if found:
        start, writer.written, state = found
        trainer.load_state(state)
        log(
            f"{label}: resuming at iteration {start} of {trainer.steps}; "
            f"{writer.written} of {len(recorded)} rows found finished"
        )
    progress = Progress(label, trainer.steps, found=start, unit="iterations")
    saved_row, saved_at = writer.written, time.monotonic()
    with signals.deferred():
        for iteration in range(start, trainer.steps + 1):
            stop = signals.requested()
            if writer.written > saved_row or time.monotonic() - saved_at > save_every or stop:
                writer.flush()
                resume.write(iteration, writer.written, trainer.state())
                saved_row, saved_at = writer.written, time.monotonic()
            if stop:
                raise signals.Interrupted(
                    f"stopped by {stop} at iteration {iteration}; run the same command again to go on"
                )
            record = iteration in recorded
            before = (trainer.network.parameters(), trainer.network.buffers()) if record else None
            loss, rate = trainer.step(iteration) if iteration < trainer.steps else (np.nan, np.nan)
            if before is not None:
                writer.append(parameters=before[0], buffers=before[1], batch_loss=loss, learning_rate=rate)
            progress.update(iteration)
    writer.flush()
    progress.close()
    resume.remove()
    return trainer.steps - start


class ResumeFile:
    """The trainer's state on disk: one file, replaced atomically, for one fingerprint."""

    def __init__(self, path: Path, fingerprint: str):
        self.path, self._tag = path, fingerprint.encode()

    def read(self, log: Callable[[str], None] = print) -> tuple[int, int, bytes] | None:
        """Return (iteration, row, state), or None when there is none for this fingerprint or it is torn."""
        if not self.path.exists():
            return None
        head, _, rest = self.path.read_bytes().partition(b"\n")
        tag, _, digest = head.partition(b" ")
        if digest.decode(errors="replace") != hashlib.sha256(rest).hexdigest():
            log(f"{self.path}: torn, its digest differs; training begins anew")
            return None
        numbers, _, state = rest.partition(b"\n")
        iteration, row = map(int, numbers.split())
        return (iteration, row, state) if tag == self._tag else None

    def write(self, iteration: int, row: int, state: bytes) -> None:
        rest = b"%d %d\n" % (iteration, row) + state
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        content = self._tag + b" " + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest
        with room_for(self.path, len(content)):
            temporary.write_bytes(content)
        os.replace(temporary, self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
