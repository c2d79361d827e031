"""Evaluate the loss on a plane and along the path, by MPI ranks that share one queue."""

import time
from pathlib import Path

from lossatlas import backends, cli, landscape, store, units
from lossatlas.data import evaluation_subsets, load_dataset
from lossatlas.directions import read_axes
from lossatlas.errors import LossAtlasError
from lossatlas.parallel import Timing
from lossatlas.trajectory import Trajectory


def main(args, world) -> None:
    started, timing, spec = time.monotonic(), Timing(), args.spec
    with timing("read"):
        trajectory = Trajectory(args.trajectory)
        axes = read_axes([axis(args.x), axis(args.y)])
        subsets = evaluation_subsets(load_dataset(spec["data"]), spec["evaluation"])
        backend = backends.backend(spec["backend"])
        device = backend.set_up(args.device, spec["dtype"], args.threads, world.local_rank)
        problems = load_problems(backend, device, spec, trajectory, subsets)
    if world.rank == 0:
        prepare(args, trajectory, axes, problems, subsets)
    with timing("idle"):
        world.barrier()
    made = store.Store(store.hidden_path(args.output, args.run_dir), writable=True)
    if not made.finished:
        with timing("read"):
            evaluator = landscape.Evaluator(made, axes, trajectory, problems)
        units.compute(made, evaluator, world, timing, args.queue, args.label)
    elif world.rank == 0:
        print(f"{args.label}: found finished, nothing to compute", flush=True)
    records = world.gather(timing.record(world.rank))
    if world.rank == 0:
        conclude(args, made, records, device.description, time.monotonic() - started)


def axis(text: str) -> tuple[Path, int]:
    """Split PATH:NUMBER, counted from 1."""
    path, number = text.rsplit(":", 1)
    return Path(path), int(number) - 1


def load_problems(backend, device, spec: dict, trajectory: Trajectory, subsets: dict) -> dict:
    """Rebuild the run's network, with its parameters that are not trained, as one problem per subset."""
    network = backend.FlatNetwork(backend.build_module(spec["model"], spec["seed"]), device)
    if network.layout != trajectory.layout:
        raise LossAtlasError(f"{trajectory.path}: was recorded from another network than the config's model")
    network.load(frozen=trajectory.frozen)
    return backend.problems(network, backend.build_loss(spec["loss"]), subsets, spec["evaluation"]["batch_size"])


def prepare(args, trajectory: Trajectory, axes, problems: dict, subsets: dict) -> None:
    """Find or create the store."""
    inputs = {"trajectory": trajectory.store.identity, **axes.identities}
    inputs |= {f"subset/{name}": subset.digest for name, subset in subsets.items()}
    fingerprint = store.Fingerprint("landscape", args.spec, inputs)
    if store.find(args.output, args.run_dir, fingerprint, args.fresh) is None:
        plane = landscape.Plane(args.spec["plane"], axes, trajectory, problems, subsets)
        store.create(args.output, args.run_dir, fingerprint, plane.build)


def conclude(args, made: store.Store, records: list[dict], device: str, wall: float) -> None:
    """Finish and link the store; write the timing record."""
    chunks = sum(record["units"] for record in records)
    if not made.finished:
        attempt = {
            "ranks": len(records),
            "threads": args.threads,
            "device": device,
            "wall_seconds": wall,
            "chunks": chunks,
        }
        counts = landscape.finish(made, attempt)
        print(
            f"{args.label}: {counts['points']} points, {counts['nonfinite_points']} of them NaN or inf",
            flush=True,
        )
    for record in records:
        print(f"{args.label}: rank {record['rank']} did {record['units']} chunks; seconds: {record['seconds']}")
    cli.write_json(args.timing, {"label": args.label, "wall_seconds": wall, "device": device, "ranks": records})
    store.publish(args.output, args.run_dir)


if __name__ == "__main__":
    parser = cli.arguments(__doc__)
    parser.add_argument("--trajectory", type=Path, required=True)
    parser.add_argument("--x", required=True, metavar="STORE:NUMBER", help="direction of the x axis, counted from 1")
    parser.add_argument("--y", required=True, metavar="STORE:NUMBER", help="direction of the y axis")
    parser.add_argument("--timing", type=Path, required=True, help="timing record to write, JSON")
    parser.add_argument("--ranks", type=int, required=True, help="ranks that MPI's world must have")
    parser.add_argument("--threads", type=int, required=True, help="threads of each rank")
    parser.add_argument("--device", required=True)
    parser.add_argument("--queue", choices=["counter", "static"], required=True)
    parsed = parser.parse_args()
    cli.run(lambda world: main(parsed, world), ranks=parsed.ranks)
