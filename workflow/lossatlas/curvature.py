"""The job that spectra and tracking share: a driver along training, by MPI ranks that share one queue."""

import argparse
from pathlib import Path
from types import ModuleType

from lossatlas import backends, cli, store, units
from lossatlas.data import evaluation_subsets, load_dataset
from lossatlas.krylov import check_deterministic
from lossatlas.parallel import Timing, World
from lossatlas.trajectory import Trajectory


def run(description: str, kind: str, driver: ModuleType) -> None:
    """Parse the command line and make the store.

    Args:
        kind: key of the spec that holds the driver's choices, and kind of the store.
        driver: a module with ``Plan``, ``Evaluator`` and ``finish``, such as ``spectra``.
    """
    parser = cli.mpi_arguments(description)
    parser.add_argument("--trajectory", type=Path, required=True)
    parsed = parser.parse_args()
    cli.run(lambda world: _main(parsed, world, kind, driver), ranks=parsed.ranks, label=parsed.label)


def _main(args: argparse.Namespace, world: World, kind: str, driver: ModuleType) -> None:
    timing, spec, missing = Timing(), args.spec, 0
    with timing("read"):
        trajectory = Trajectory(args.trajectory)
        samples = {**spec["evaluation"], "test_samples": 0, "batch_size": spec[kind]["batch_size"]}
        subsets = evaluation_subsets(load_dataset(spec["data"]), samples)
        backend = backends.backend(spec["backend"])
        device = backend.set_up(args.device, spec["dtype"], args.threads, world.local_rank)
        problem = backends.problems_of_run(backend, device, spec, trajectory, subsets, samples["batch_size"])["train"]
    if world.rank == 0:
        inputs = {"trajectory": trajectory.store.identity, "subset/train": subsets["train"].digest}
        fingerprint = store.Fingerprint(kind, spec, inputs)
        if store.find(args.output, args.run_dir, fingerprint, args.fresh) is None:
            theta, buffers = trajectory.parameters(0), trajectory.buffers(0)
            check_deterministic(lambda: problem.linearize(theta, buffers))
            plan = driver.Plan(spec[kind], trajectory, problem, subsets["train"])
            store.create(args.output, args.run_dir, fingerprint, plan.build)
    with timing("idle"):
        world.barrier()
    made = store.Store(store.hidden_path(args.output, args.run_dir), writable=True)
    if not made.finished:
        evaluator = driver.Evaluator(spec[kind], trajectory, problem)
        missing = units.compute(made, evaluator, world, timing, args.queue, args.label)
    cli.conclude(args, world, timing, made, driver.finish, missing, device.description)
