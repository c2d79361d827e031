"""The job that spectra and tracking share: a driver over points of parameter space, by MPI ranks with one queue."""

import argparse
from collections.abc import Callable
from types import ModuleType

import numpy as np
import zarr

from lossatlas import backends
from lossatlas.data import evaluation_subsets, load_dataset
from lossatlas.drivers import command_line
from lossatlas.geometry.segments import Sites
from lossatlas.io import store
from lossatlas.io.trajectory import Trajectory
from lossatlas.krylov import check_deterministic
from lossatlas.parallel import Timing, World, work_units
from lossatlas.parallel.checkpointing import Saves
from lossatlas.parallel.process_group import Team, form_teams, ranks_per_unit
from lossatlas.problem import Choice, Problem, choices_of
from lossatlas.problem.readiness import Remembered

Where = Callable[[argparse.Namespace, Trajectory, dict[str, Trajectory]], Sites | Trajectory]


def run(description: str, kind: str, driver: ModuleType, where: Where) -> None:
    """Parse the command line and make the store.

    Args:
        kind: key of the spec that holds the driver's choices, and kind of the store.
        driver: a module with ``Plan``, ``Evaluator`` and ``finish``, such as ``spectra``.
        where: returns the points at which the driver works, from the run's trajectory and those of other runs.
    """
    parser = command_line.mpi_arguments(description)
    command_line.add_trajectories(parser)
    parser.add_argument("--save-minutes", type=float, required=True, help="from one save of a long unit to the next")
    parser.add_argument("--data-ranks", required=True, help="ranks that compute a unit together, or auto")
    parsed = parser.parse_args()
    command_line.run(lambda world: _main(parsed, world, kind, driver, where), ranks=parsed.ranks, label=parsed.label)


def with_strategy(
    build: Callable[[zarr.Group], None],
    label: str,
    problem: Problem,
    at: tuple[np.ndarray, np.ndarray],
    width: int,
    spec: dict,
    remembered: Remembered | None = None,
    count: int | None = None,
) -> Callable[[zarr.Group], None]:
    """Choose how Hessian products are computed and check that they are deterministic; return a ``build`` that says so.

    The choice depends on the clock, and strategies differ by rounding. So it is made once, by who creates the store.

    Args:
        build: fills an empty store, see ``store.create``.
        at: theta and buffers of a point where products are tried.
        width: vectors at once.
        remembered: choices of other jobs of the run, which are then not made and checked again.
        count: products that are ahead, about, if that is known.
    """
    choices = choices_of(spec)

    def checked() -> Choice:
        choice = problem.choose_strategy(*at, width, **choices, count=count)
        check_deterministic(lambda: problem.linearize(*at, **{**choices, "strategy": choice.strategy}))
        return choice

    chunks = {key: spec[key] for key in ("batch_size", "batchnorm") if key in spec}
    choice = remembered.choice(checked, width, count, **choices, **chunks) if remembered else checked()
    print(f"{label}: Hessian products: {choice.told}", flush=True)

    def complete(group: zarr.Group) -> None:
        build(group)
        group.attrs.update(strategy=choice.strategy, strategy_note=choice.told, product_bytes=choice.peak)
        group.attrs.update(agreement=choice.agreement)

    return complete


def remembered(args: argparse.Namespace, spec: dict, device: str) -> Remembered:
    """Return the choices of the jobs of a run whose problem, device and threads are these."""
    problem = {key: spec.get(key) for key in ("seed", "backend", "dtype", "model", "data", "loss", "evaluation")}
    return Remembered(args.run_dir, **problem, device=device, threads=args.threads)


def as_begun(spec: dict, made: store.Store) -> dict:
    """Return the choices of a driver with the strategy that its store was begun with, whatever is fastest now."""
    return {**spec, "strategy": made.attrs["strategy"]}


def _main(args: argparse.Namespace, world: World, kind: str, driver: ModuleType, where: Where) -> None:
    timing, spec, missing = Timing(), args.spec, 0
    with timing("read"):
        trajectory = Trajectory(args.trajectory)
        others = {name: Trajectory(file) for name, file in args.other}
        samples = {**spec["evaluation"], "test_samples": 0}
        subsets = evaluation_subsets(load_dataset(spec["data"]), samples)
        backend = backends.backend(spec["backend"])
        device = backend.set_up(args.device, spec["dtype"], args.threads, world.local_rank)
        points = where(args, trajectory, others)  # after the limit on threads, on which sums depend
        chunks = spec[kind]["batch_size"], spec[kind]["batchnorm"]
        problem = backends.problems_of_run(backend, device, spec, trajectory, subsets, *chunks)["train"]
    if world.rank == 0:
        inputs = {"trajectory": trajectory.store.identity, "subset/train": subsets["train"].digest}
        inputs |= {f"run/{name}": other.store.identity for name, other in others.items()}
        fingerprint = store.Fingerprint(kind, spec, inputs)
        if store.find(args.output, args.run_dir, fingerprint, args.fresh) is None:
            at = points.parameters(0), points.buffers(0)
            plan = driver.Plan(spec[kind], points, problem, subsets["train"])
            count = driver.products(spec[kind], points)
            known = remembered(args, spec, device.description)
            width = driver.width(spec[kind])
            build = with_strategy(plan.build, args.label, problem, at, width, spec[kind], known, count)
            store.create(args.output, args.run_dir, fingerprint, build)
    with timing("idle"):
        world.barrier()
    made = store.Store(store.hidden_path(args.output, args.run_dir), writable=True)
    if not made.finished:
        states = made.path.with_name(f"{made.path.name}.states-{made.fingerprint[:12]}")
        teams = _teams(args, world, work_units.count(made))
        saves = Saves(states, 60 * args.save_minutes, teams[0])
        evaluator = driver.Evaluator(as_begun(spec[kind], made), points, problem, saves, teams[0])
        missing = work_units.compute(made, evaluator, world, timing, args.queue, args.label, teams)
        if world.rank == 0 and not missing:
            saves.clear()
    command_line.conclude(args, world, timing, made, driver.finish, missing, device.description)


def _teams(args: argparse.Namespace, world: World, count: int) -> tuple[Team, World | None]:
    """Deal the ranks into teams that fit the number of units; say so."""
    size = ranks_per_unit(args.data_ranks, world.size, count)
    if world.rank == 0 and world.size > 1:
        print(f"{args.label}: {world.size // size} team(s) of {size} rank(s) share {count} chunks", flush=True)
    return form_teams(world, size)
