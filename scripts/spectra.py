"""Compute Hessian spectra along training or on a line between two checkpoints, by MPI ranks that share one queue."""

from lossatlas import backends, cli, spectra, store, units
from lossatlas.data import evaluation_subsets, load_dataset
from lossatlas.krylov import check_deterministic
from lossatlas.parallel import Timing
from lossatlas.sites import AlongTraining, Line, Sites
from lossatlas.trajectory import Trajectory


def main(args, world) -> None:
    timing, spec, missing = Timing(), args.spec, 0
    with timing("read"):
        trajectory = Trajectory(args.trajectory)
        others = {name: Trajectory(file) for name, file in args.other}
        samples = {**spec["evaluation"], "test_samples": 0, "batch_size": spec["spectra"]["batch_size"]}
        subsets = evaluation_subsets(load_dataset(spec["data"]), samples)
        backend = backends.backend(spec["backend"])
        device = backend.set_up(args.device, spec["dtype"], args.threads, world.local_rank)
        sites = make_sites(args, trajectory, others)  # after the limit on threads, on which sums depend
        problem = backends.problems_of_run(backend, device, spec, trajectory, subsets, samples["batch_size"])["train"]
    if world.rank == 0:
        inputs = {"trajectory": trajectory.store.identity, "subset/train": subsets["train"].digest}
        inputs |= {f"run/{name}": other.store.identity for name, other in others.items()}
        fingerprint = store.Fingerprint("spectra", spec, inputs)
        if store.find(args.output, args.run_dir, fingerprint, args.fresh) is None:
            theta, buffers = sites.parameters(0), sites.buffers(0)
            check_deterministic(lambda: problem.linearize(theta, buffers))
            plan = spectra.Plan(spec["spectra"], sites, problem, subsets["train"])
            store.create(args.output, args.run_dir, fingerprint, plan.build)
    with timing("idle"):
        world.barrier()
    made = store.Store(store.hidden_path(args.output, args.run_dir), writable=True)
    if not made.finished:
        evaluator = spectra.Evaluator(spec["spectra"], sites, problem)
        missing = units.compute(made, evaluator, world, timing, args.queue, args.label)
    cli.conclude(args, world, timing, made, spectra.finish, missing, device.description)


def make_sites(args, trajectory: Trajectory, others: dict[str, Trajectory]) -> Sites:
    """Return where the spectra are computed: on the line of the spec, else along training."""
    if "line" in args.spec:
        return Line(args.spec["line"], trajectory, others, f"spectra_between.{args.output.stem}")
    return AlongTraining(trajectory, args.spec["spectra"]["stride"])


if __name__ == "__main__":
    parser = cli.mpi_arguments(__doc__)
    cli.add_trajectories(parser)
    parsed = parser.parse_args()
    cli.run(lambda world: main(parsed, world), ranks=parsed.ranks, label=parsed.label)
