"""Driver: a trajectory from existing checkpoints, or from one that the user recorded."""

import hashlib
from argparse import Namespace
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from lossatlas import backends
from lossatlas.data import sample_split
from lossatlas.drivers.base import Order
from lossatlas.drivers.training import TrajectoryJob
from lossatlas.errors import LossAtlasError
from lossatlas.io.store import Store
from lossatlas.io.trajectory import RowWriter, Trajectory, check_disk
from lossatlas.parallel import Timing, World
from lossatlas.parallel.progress import Progress
from lossatlas.problem.readiness import check_memory


@dataclass
class CheckpointImport(TrajectoryJob):
    """Checkpoints that become the rows of a trajectory; ``recorded`` is the user's own trajectory in their place."""

    backend: ModuleType
    network: Any
    files: list[Path]
    recorded: Trajectory | None

    @classmethod
    def read(cls, args: Namespace, world: World) -> Self:
        """Build the network and look at the checkpoints.

        Raises:
            LossAtlasError: checkpoints are not of the network, or disk or memory do not suffice.
        """
        spec, backend = args.spec, backends.backend(args.spec["backend"])
        network = build_network(backend, spec)
        recorded = recorded_by_user(args.files, network)
        inputs: dict[str, Any]
        if recorded:
            network.load(frozen=recorded.frozen)
            recording, inputs = network.recording(recorded.iterations), {"trajectory": recorded.store.identity}
        else:
            told = spec.get("checkpoints", {})
            iterations = told["iterations"] if "iterations" in told else iterations_inside(backend, args.files, network)
            recording = network.recording(np.asarray(iterations))
            inputs = {"files": [[str(file), digest(file)] for file in args.files]}
        print(check_disk(args.run_dir, recording), flush=True)
        if args.needs:
            count = max(4, *(need["batch_size"] for need in args.needs.values()))
            check_memory(backend, network, spec["loss"], sample_split(spec["data"], count), args.needs)
        return cls(spec, recording, backend, network, args.files, recorded, inputs=inputs)

    def compute(self, store: Store, order: Order, world: World, timing: Timing) -> int:
        """Write all rows."""
        with timing("compute"):
            if self.recorded:
                copy_trajectory(self.recorded, store)
            else:
                self._copy_rows(store, order.label)
        store.update(files=[str(file) for file in self.files])
        return 0

    def _copy_rows(self, store: Store, label: str) -> None:
        """Write each checkpoint as one row."""
        writer, progress = RowWriter(store), Progress(label, len(self.files), unit="checkpoints")
        losses = self.spec.get("checkpoints", {}).get("losses")
        for number, file in enumerate(self.files):
            inside = self.backend.read_checkpoint(file, self.network)
            if not np.isfinite(self.network.parameters()).all():
                raise LossAtlasError(f"checkpoints: {file} holds NaN or inf among the trained parameters")
            row = {"parameters": self.network.parameters(), "buffers": self.network.buffers()}
            loss = losses[number] if losses else inside.get("loss", np.nan)
            writer.append(**row, batch_loss=loss, learning_rate=np.nan)
            progress.update(number + 1)
        writer.flush()
        progress.close()

    @staticmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Return how many checkpoints there are."""
        return {"checkpoints": store["iteration"].shape[0]}


def build_network(backend: ModuleType, spec: dict) -> Any:
    """Return the network that a run's model builds, on the processor."""
    device = backend.set_up("cpu", spec["dtype"], threads=1)
    return backend.FlatNetwork(backend.build_module(spec["model"], spec["seed"]), device)


def digest(file: Path) -> str:
    """Return the SHA-256 of a checkpoint, read piece by piece: a file may be larger than memory."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def iterations_inside(backend: ModuleType, files: list[Path], network: Any) -> list[int]:
    """Return the iterations that checkpoints hold beside their weights; 0, 1, 2 ... unless all do and ascend.

    Raises:
        LossAtlasError: a checkpoint is not of the network.
    """
    first = backend.read_checkpoint(files[0], network)
    key = next((key for key in ("step", "global_step", "iteration") if key in first), None)
    if key is None:
        return list(range(len(files)))
    steps = [first[key], *(backend.read_checkpoint(file, network).get(key, -1) for file in files[1:])]
    ascending = steps[0] >= 0 and all(one < other for one, other in pairwise(steps))
    return [int(step) for step in steps] if ascending else list(range(len(files)))


def recorded_by_user(files: list[Path], network: Any) -> Trajectory | None:
    """Return the trajectory that is given instead of checkpoints, if any; names of its parameters may differ.

    Raises:
        LossAtlasError: it is one of several files, or was recorded from another network.
    """
    if not any(file.suffix == ".zarr" for file in files):
        return None
    if len(files) > 1:
        raise LossAtlasError(f"checkpoints: {files[0]} and {len(files) - 1} more; give one trajectory.zarr or files")
    recorded = Trajectory(files[0])
    theirs, ours = ([(slot.shape, slot.kind) for slot in layout] for layout in (recorded.layout, network.layout))
    sizes = [(len(recorded.buffers(0)), len(network.buffers())), (len(recorded.frozen), len(network.frozen()))]
    if theirs != ours or any(there != here for there, here in sizes):
        frozen = recorded.store.attrs["frozen_layout"], network.recording(np.zeros(0)).frozen_shapes
        told = recorded.layout.difference(network.layout, *frozen) or "its buffers are others"
        raise LossAtlasError(f"model: {files[0]} was recorded from another network than it builds: {told}")
    return recorded


def copy_trajectory(recorded: Trajectory, store: Store) -> None:
    """Write each row of a recorded trajectory as one row, whole; say in which precision it was recorded."""
    writer = RowWriter(store)
    scalars = {name: recorded.store[name][: len(recorded)] for name in ("batch_loss", "learning_rate")}
    for row in range(len(recorded)):
        numbers = {"parameters": recorded.parameters(row), "buffers": recorded.buffers(row)}
        writer.append(**numbers, **{name: values[row] for name, values in scalars.items()})
    writer.flush()
    store["epoch"][...] = recorded.store["epoch"][: len(recorded)]
    store.update(**recorded.precision)
