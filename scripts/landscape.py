"""Evaluate the loss on a plane and along the path, by MPI ranks that share one queue."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas import backends
from lossatlas.data import evaluation_subsets, load_dataset
from lossatlas.drivers import command_line, landscape
from lossatlas.geometry.directions import orthogonalize, read_axes
from lossatlas.geometry.projection import Others
from lossatlas.io import store
from lossatlas.io.trajectory import Trajectory
from lossatlas.parallel import Timing


def main(args, world) -> None:
    timing, spec, missing = Timing(), args.spec, 0
    with timing("read"):
        trajectory = Trajectory(args.trajectory)
        others = command_line.other_paths(args, spec["plane"].get("paths_losses", True))
        axes = read_axes([args.x, args.y])
        if spec["plane"]["orthogonalize"]:
            axes = orthogonalize(axes, trajectory)
        subsets = evaluation_subsets(load_dataset(spec["data"]), spec["evaluation"])
        backend = backends.backend(spec["backend"])
        device = backend.set_up(args.device, spec["dtype"], args.threads, world.local_rank)
        batch = spec["evaluation"]["batch_size"]
        problems = backends.problems_of_run(backend, device, spec, trajectory, subsets, batch)
    if world.rank == 0:
        prepare(args, trajectory, axes, problems, subsets, others)
    with timing("idle"):
        world.barrier()
    made = store.Store(store.hidden_path(args.output, args.run_dir), writable=True)
    if not made.finished:
        with timing("read"):
            evaluator = landscape.Evaluator(made, axes, trajectory, problems, others)
        missing = landscape.compute(made, evaluator, world, timing, args.queue, args.label)
    command_line.conclude(args, world, timing, made, landscape.finish, missing, device.description)


def prepare(args, trajectory: Trajectory, axes, problems: dict, subsets: dict, others: Others) -> None:
    """Find or create the store."""
    inputs = {"trajectory": trajectory.store.identity, **axes.identities}
    inputs |= {f"subset/{name}": subset.digest for name, subset in subsets.items()}
    inputs |= {f"run/{name}": other.store.identity for name, other in others.runs.items()}
    fingerprint = store.Fingerprint("landscape", args.spec, inputs)
    if store.find(args.output, args.run_dir, fingerprint, args.fresh) is None:
        plane = landscape.Plane(args.spec["plane"], axes, trajectory, problems, subsets, others)
        store.create(args.output, args.run_dir, fingerprint, landscape.with_strategy(plane, args.label))


if __name__ == "__main__":
    parser = command_line.plane_arguments(__doc__)
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world), ranks=parsed.ranks, label=parsed.label)
