"""Compute the extreme Hessian eigenvalues on a grid over a plane, by MPI ranks that share one queue."""

import lossatlas.parallel.listen  # noqa: F401

import math

from lossatlas import backends
from lossatlas.data import evaluation_subsets, load_dataset
from lossatlas.drivers import command_line, curvature_map
from lossatlas.drivers.hessian_job import as_begun, remembered, with_strategy
from lossatlas.geometry.directions import orthogonalize, read_axes
from lossatlas.geometry.projection import Others
from lossatlas.io import store
from lossatlas.io.trajectory import Trajectory
from lossatlas.parallel import Timing, work_units
from lossatlas.problem.readiness import Remembered


def main(args, world) -> None:
    timing, spec, missing = Timing(), args.spec, 0
    with timing("read"):
        trajectory, axes = Trajectory(args.trajectory), read_axes([args.x, args.y])
        if spec["plane"]["orthogonalize"]:
            axes = orthogonalize(axes, trajectory)
        samples = {**spec["evaluation"], "test_samples": 0}
        subset = evaluation_subsets(load_dataset(spec["data"]), samples)["train"]
        backend = backends.backend(spec["backend"])
        device = backend.set_up(args.device, spec["dtype"], args.threads, world.local_rank)
        subsets = {"train": subset}
        chunks = spec["curvature"]["batch_size"], spec["curvature"]["batchnorm"]
        problem = backends.problems_of_run(backend, device, spec, trajectory, subsets, *chunks)["train"]
    if world.rank == 0:
        known = remembered(args, spec, device.description)
        prepare(args, trajectory, axes, problem, subset, command_line.other_paths(args, losses=False), known)
    with timing("idle"):
        world.barrier()
    made = store.Store(store.hidden_path(args.output, args.run_dir), writable=True)
    if not made.finished:
        evaluator = curvature_map.Evaluator(made, as_begun(spec["curvature"], made), axes, trajectory, problem)
        missing = work_units.compute(made, evaluator, world, timing, args.queue, args.label)
    command_line.conclude(args, world, timing, made, curvature_map.finish, missing, device.description)


def prepare(args, trajectory: Trajectory, axes, problem, subset, others: Others, known: Remembered) -> None:
    """Find or create the store."""
    spec = args.spec
    inputs = {"trajectory": trajectory.store.identity, **axes.identities, "subset/train": subset.digest}
    inputs |= {f"run/{name}": other.store.identity for name, other in others.runs.items()}
    fingerprint = store.Fingerprint("curvature", spec, inputs)
    if store.find(args.output, args.run_dir, fingerprint, args.fresh) is None:
        at = trajectory.parameters(0), trajectory.buffers(0)
        plan = curvature_map.Plan(spec["curvature"], spec["plane"], axes, trajectory, problem, subset, others)
        count = math.prod(spec["curvature"]["points"]) * spec["curvature"]["max_products"]
        build = with_strategy(plan.build, args.label, problem, at, 1, spec["curvature"], known, count)
        store.create(args.output, args.run_dir, fingerprint, build)


if __name__ == "__main__":
    parser = command_line.plane_arguments(__doc__)
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world), ranks=parsed.ranks, label=parsed.label)
