"""What jobs read: trajectories, samples and the network of a run, as their command lines name them."""

from argparse import Namespace
from typing import Any

from lossatlas import backends
from lossatlas.data import Split, Subset, evaluation_subsets, load_dataset
from lossatlas.geometry.directions.direction_set import Axes
from lossatlas.io.trajectory import Trajectory
from lossatlas.parallel import World
from lossatlas.problem import Problem


def open_others(args: Namespace) -> dict[str, Trajectory]:
    """Open the trajectories of other runs that a command line names."""
    return {name: Trajectory(file) for name, file in args.other}


def read_problems(
    args: Namespace,
    world: World,
    trajectory: Trajectory,
    subsets: dict[str, Subset],
    batch_size: int,
    batchnorm: str = "frozen",
) -> tuple[dict[str, Problem], str]:
    """Set up the device and rebuild a run's network as one problem per subset; return these, and the device in words.

    From here on this process has the threads that it was given, and no more.
    """
    backend = backends.backend(args.spec["backend"])
    device = backend.set_up(args.device, args.spec["dtype"], args.threads, world.local_rank)
    problems = backends.problems_of_run(backend, device, args.spec, trajectory, subsets, batch_size, batchnorm)
    return problems, device.description


def read_problem(args: Namespace, world: World, trajectory: Trajectory, choices: dict) -> tuple[Problem, Subset, str]:
    """Return the problem of the training samples alone, these, and the device in words.

    Args:
        choices: of the driver, with the keys ``batch_size`` and ``batchnorm``.
    """
    subset = read_subsets(args.spec, world, test=False)["train"]
    chunks = choices["batch_size"], choices["batchnorm"]
    problems, device = read_problems(args, world, trajectory, {"train": subset}, *chunks)
    return problems["train"], subset, device


def read_subsets(spec: dict, world: World, test: bool = True) -> dict[str, Subset]:
    """Return the evaluation subsets by split, read by rank 0 alone: images are decoded once per job.

    Args:
        test: whether those of the test set are wanted.
    """
    found: dict[str, Subset] = {}
    if world.rank == 0:
        wanted = spec["evaluation"] if test else {**spec["evaluation"], "test_samples": 0}
        found = evaluation_subsets(load_dataset(spec["data"]), wanted)
    world.barrier()  # where the others wait without using the processor
    told = world.broadcast([(name, one.index, one.digest, one.stratified) for name, one in found.items()])
    return {name: Subset(_shared(found[name].samples if name in found else None, world), *rest) for name, *rest in told}


def _shared(samples: Split | None, world: World) -> Split:
    """Return rank 0's samples on every rank."""
    parts = world.broadcast(None if samples is None else samples.parts)
    inputs = world.broadcast_array(None if samples is None else samples.inputs)
    targets = world.broadcast_array(None if samples is None else samples.targets)
    return Split(inputs, targets, parts)


def identities(
    trajectory: Trajectory,
    subsets: dict[str, Subset],
    others: dict[str, Trajectory] | None = None,
    axes: Axes | None = None,
) -> dict[str, Any]:
    """Return the identities of all that a job reads, by name."""
    known: dict[str, Any] = {"trajectory": trajectory.store.identity, **(axes.identities if axes else {})}
    known |= {f"subset/{name}": subset.digest for name, subset in subsets.items()}
    return known | {f"run/{name}": other.store.identity for name, other in (others or {}).items()}
