"""Turn existing checkpoints into a trajectory."""

import lossatlas.parallel.listen  # noqa: F401

import hashlib
import time
from pathlib import Path

import numpy as np
from lossatlas import backends
from lossatlas.data import sample_split
from lossatlas.drivers import command_line
from lossatlas.errors import LossAtlasError
from lossatlas.io import store
from lossatlas.io.trajectory import RowWriter, Trajectory, check_disk
from lossatlas.parallel.progress import Progress
from lossatlas.problem.readiness import check_memory


def main(args, _world) -> None:
    started, spec = time.monotonic(), args.spec
    backend = backends.backend(spec["backend"])
    device = backend.set_up("cpu", spec["dtype"], threads=1)
    network = backend.FlatNetwork(backend.build_module(spec["model"], spec["seed"]), device)
    recorded = recorded_by_user(args.files, network)
    if recorded:
        recording, inputs = network.recording(recorded.iterations), {"trajectory": recorded.store.identity}
    else:
        backend.read_checkpoint(args.files[0], network)
        recording = network.recording(np.arange(len(args.files)))
        inputs = {"files": [[str(file), digest(file)] for file in args.files]}
    print(check_disk(args.run_dir, recording), flush=True)
    if args.needs:
        count = max(4, *(need["batch_size"] for need in args.needs.values()))
        check_memory(backend, network, spec["loss"], sample_split(spec["data"], count), args.needs)
    fingerprint = store.Fingerprint("trajectory", spec, inputs)
    found = store.find(args.output, args.run_dir, fingerprint, args.fresh)
    found = found or store.create(args.output, args.run_dir, fingerprint, recording.build)
    if found.finished:
        print(f"{args.label}: found finished, nothing to compute", flush=True)
    else:
        if recorded:
            copy_trajectory(recorded, found)
        else:
            copy_rows(args.files, network, backend.read_checkpoint, found, args.label)
        found.update(files=[str(file) for file in args.files])
        found.finish({"ranks": 1, "wall_seconds": time.monotonic() - started})
    store.publish(args.output, args.run_dir)


def digest(file: Path) -> str:
    """Return the SHA-256 of a checkpoint, read piece by piece: a file may be larger than memory."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def recorded_by_user(files: list[Path], network) -> Trajectory | None:
    """Return the trajectory that is given instead of checkpoints, if any; names of its parameters may differ."""
    if not any(file.suffix == ".zarr" for file in files):
        return None
    if len(files) > 1:
        raise LossAtlasError(f"checkpoints: {files[0]} and {len(files) - 1} more; give one trajectory.zarr or files")
    found = Trajectory(files[0])
    theirs, ours = ([(slot.shape, slot.kind) for slot in layout] for layout in (found.layout, network.layout))
    if theirs != ours or len(found.buffers(0)) != len(network.buffers()):
        raise LossAtlasError(f"checkpoints: {files[0]} was recorded from another network than the config's model")
    return found


def copy_trajectory(recorded: Trajectory, found: store.Store) -> None:
    """Write each row of a recorded trajectory as one row."""
    writer = RowWriter(found)
    scalars = {name: recorded.store[name][:] for name in ("batch_loss", "learning_rate")}
    for row in range(len(recorded)):
        numbers = {"parameters": recorded.parameters(row), "buffers": recorded.buffers(row)}
        writer.append(**numbers, **{name: values[row] for name, values in scalars.items()})
    writer.flush()
    found["epoch"][...] = recorded.store["epoch"][:]


def copy_rows(files: list[Path], network, read_checkpoint, found: store.Store, label: str) -> None:
    """Write each checkpoint as one row."""
    writer, progress = RowWriter(found), Progress(label, len(files), unit="checkpoints")
    for number, file in enumerate(files):
        read_checkpoint(file, network)
        if not np.isfinite(network.parameters()).all():
            raise LossAtlasError(f"checkpoints: {file} holds NaN or inf among the trained parameters")
        row = {"parameters": network.parameters(), "buffers": network.buffers()}
        writer.append(**row, batch_loss=np.nan, learning_rate=np.nan)
        progress.update(number + 1)
    writer.flush()
    progress.close()


if __name__ == "__main__":
    parser = command_line.arguments(__doc__)
    command_line.add_needs(parser)
    parser.add_argument("--files", type=Path, nargs="+", required=True, help="checkpoints in order")
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world), label=parsed.label)
