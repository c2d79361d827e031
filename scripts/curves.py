"""Evaluate the loss along directions or between two checkpoints, by MPI ranks that share one queue."""

import lossatlas.parallel.listen  # noqa: F401

from lossatlas import backends
from lossatlas.data import evaluation_subsets, load_dataset
from lossatlas.drivers import command_line, landscape, line_scans
from lossatlas.geometry.directions import read_directions
from lossatlas.io import store
from lossatlas.io.trajectory import Trajectory
from lossatlas.parallel import Timing, work_units


def main(args, world) -> None:
    timing, spec, missing = Timing(), args.spec, 0
    with timing("read"):
        trajectory = Trajectory(args.trajectory)
        others = {name: Trajectory(file) for name, file in args.other}
        dataset = load_dataset(spec["data"])
        subsets = evaluation_subsets(dataset, spec["evaluation"])
        backend = backends.backend(spec["backend"])
        device = backend.set_up(args.device, spec["dtype"], args.threads, world.local_rank)
        course, inputs = course_of(args, trajectory, others)
        batch = spec["evaluation"]["batch_size"]
        problems = backends.problems_of_run(backend, device, spec, trajectory, subsets, batch)
    if world.rank == 0:
        inputs |= {"trajectory": trajectory.store.identity}
        inputs |= {f"subset/{name}": subset.digest for name, subset in subsets.items()}
        classes = problems["train"].class_count
        guess = line_scans.random_guess(spec["loss"], dataset.train.targets, classes)
        prepare(args, inputs, line_scans.Plan(spec["curve"], course, problems, subsets, guess))
    with timing("idle"):
        world.barrier()
    made = store.Store(store.hidden_path(args.output, args.run_dir), writable=True)
    if not made.finished:
        evaluator = line_scans.Evaluator(course, problems, landscape.choices_of(made.attrs))
        missing = work_units.compute(made, evaluator, world, timing, args.queue, args.label)
    command_line.conclude(args, world, timing, made, line_scans.finish, missing, device.description)


def course_of(args, trajectory: Trajectory, others: dict[str, Trajectory]) -> tuple[line_scans.Course, dict]:
    """Return where the curves run, and the identities of what that depends on besides the run's own trajectory."""
    spec = args.spec["curve"]
    if args.x:
        axes = read_directions(args.x)
        return line_scans.Along(spec, axes, trajectory), axes.identities
    identities = {f"run/{name}": other.store.identity for name, other in others.items()}
    return line_scans.Between(spec, trajectory, others, f"curves.{args.output.stem}"), identities


def prepare(args, inputs: dict, plan: line_scans.Plan) -> None:
    """Find or create the store."""
    fingerprint = store.Fingerprint("curves", args.spec, inputs)
    if store.find(args.output, args.run_dir, fingerprint, args.fresh) is None:
        store.create(args.output, args.run_dir, fingerprint, line_scans.with_strategy(plan, args.label))


if __name__ == "__main__":
    parser = command_line.mpi_arguments(__doc__)
    command_line.add_trajectories(parser)
    told = "directions, counted from 1, or all of a store; a curve each"
    parser.add_argument("--x", action="append", default=[], type=command_line.axis, metavar="STORE:NUMBER", help=told)
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world), ranks=parsed.ranks, label=parsed.label)
