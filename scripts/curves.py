"""Evaluate the loss along directions or between two checkpoints, by MPI ranks that share one queue."""

import lossatlas.listen  # noqa: F401

from lossatlas import backends, cli, curves, landscape, store, units
from lossatlas.data import evaluation_subsets, load_dataset
from lossatlas.directions import read_directions
from lossatlas.parallel import Timing
from lossatlas.trajectory import Trajectory


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
        guess = curves.random_guess(spec["loss"], dataset.train.targets, classes)
        prepare(args, inputs, curves.Plan(spec["curve"], course, problems, subsets, guess))
    with timing("idle"):
        world.barrier()
    made = store.Store(store.hidden_path(args.output, args.run_dir), writable=True)
    if not made.finished:
        evaluator = curves.Evaluator(course, problems, landscape.choices_of(made.attrs))
        missing = units.compute(made, evaluator, world, timing, args.queue, args.label)
    cli.conclude(args, world, timing, made, curves.finish, missing, device.description)


def course_of(args, trajectory: Trajectory, others: dict[str, Trajectory]) -> tuple[curves.Course, dict]:
    """Return where the curves run, and the identities of what that depends on besides the run's own trajectory."""
    spec = args.spec["curve"]
    if args.x:
        axes = read_directions(args.x)
        return curves.Along(spec, axes, trajectory), axes.identities
    identities = {f"run/{name}": other.store.identity for name, other in others.items()}
    return curves.Between(spec, trajectory, others, f"curves.{args.output.stem}"), identities


def prepare(args, inputs: dict, plan: curves.Plan) -> None:
    """Find or create the store."""
    fingerprint = store.Fingerprint("curves", args.spec, inputs)
    if store.find(args.output, args.run_dir, fingerprint, args.fresh) is None:
        store.create(args.output, args.run_dir, fingerprint, curves.with_strategy(plan, args.label))


if __name__ == "__main__":
    parser = cli.mpi_arguments(__doc__)
    cli.add_trajectories(parser)
    told = "directions, counted from 1, or all of a store; a curve each"
    parser.add_argument("--x", action="append", default=[], type=cli.axis, metavar="STORE:NUMBER", help=told)
    parsed = parser.parse_args()
    cli.run(lambda world: main(parsed, world), ranks=parsed.ranks, label=parsed.label)
