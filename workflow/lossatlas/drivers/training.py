"""Driver: train and record the trajectory, resumable bit for bit."""

import hashlib
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import zarr

from lossatlas import backends
from lossatlas.data import load_dataset
from lossatlas.drivers.base import Job, Order
from lossatlas.io import owner
from lossatlas.io.store import Store
from lossatlas.io.trajectory import Recording, RowWriter, check_disk, rows_on_disk
from lossatlas.parallel import Timing, World, signals
from lossatlas.parallel.progress import Progress
from lossatlas.problem.readiness import check_memory
from lossatlas.problem.training import TrainerBase
from lossatlas.zoo import weights


@dataclass
class TrajectoryJob(Job):
    """A job that makes a trajectory; ``recording`` says of what."""

    recording: Recording

    kind: ClassVar[str] = "trajectory"

    def build(self, group: zarr.Group) -> None:
        """Create all arrays of the trajectory."""
        self.recording.build(group)


@dataclass
class Training(TrajectoryJob):
    """A run that is trained."""

    trainer: TrainerBase

    @classmethod
    def read(cls, args: Namespace, world: World) -> Self:
        """Build the network, with published weights where the model asks for them, and load the samples.

        Raises:
            LossAtlasError: the disk has no room for the trajectory, or a later job's ``memory_gb`` is too little.
        """
        spec, backend = args.spec, backends.backend(args.spec["backend"])
        device = backend.set_up(args.device, spec["dtype"], args.threads)
        model = spec["model"]
        network = backend.FlatNetwork(backend.build_module(model, spec["seed"]), device)
        if "pretrained" in model:
            file = weights.locate(model["name"], model["pretrained"], Path(model["data_root"]))
            backend.read_pretrained(file, network)
        samples = load_dataset(spec["data"]).train.whole()
        trainer = backend.Trainer(network, backend.build_loss(spec["loss"]), samples, spec["train"], spec["seed"])
        iterations = recorded_iterations(trainer.steps, spec["train"]["record_every"])
        recording = network.recording(iterations, trainer.steps_per_epoch)
        print(check_disk(args.run_dir, recording), flush=True)
        check_memory(backend, network, spec["loss"], samples, args.needs)
        return cls(spec, recording, trainer, inputs={"data": samples.digest}, device=device.description)

    def compute(self, store: Store, order: Order, world: World, timing: Timing) -> int:
        """Train to the end; see ``record_training``."""
        with timing("compute"):
            self.effort["steps"] = record_training(self.trainer, store, order.label)
        return 0

    @staticmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Return the first loss and the last ones."""
        losses = store["batch_loss"][:]
        return {"mini-batch loss": f"{losses[0]:.4f} -> {np.mean(losses[-11:-1]):.4f} (mean of the last ten)"}


def recorded_iterations(steps: int, every: int) -> np.ndarray:
    """Return 0, n, 2n, ... and the last iteration, ``steps``."""
    return np.unique(np.append(np.arange(0, steps + 1, every), steps))


def record_training(
    trainer: TrainerBase,
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
    saved = resume.read(log)
    if saved and not rows_on_disk(store, saved[1]):
        log(f"{label}: chunks of {store.path} are missing; training begins anew")
        saved = None
    if saved:
        start, writer.written, state = saved
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
        owner.write(self.path, self._tag + b" " + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
