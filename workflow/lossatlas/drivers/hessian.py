"""What the drivers of Hessian products share: how these are computed is chosen once, and ranks may team up."""

from abc import abstractmethod
from argparse import Namespace
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from lossatlas.data import Subset
from lossatlas.drivers.base import Evaluate, Job, Order, Plan
from lossatlas.drivers.inputs import identities, open_others, read_problem
from lossatlas.geometry.segments import Sites
from lossatlas.io.store import Store
from lossatlas.io.trajectory import Trajectory
from lossatlas.parallel import Timing, World, work_units
from lossatlas.parallel.checkpointing import Saves, states_beside
from lossatlas.parallel.process_group import ALONE, Team, form_teams, ranks_per_unit
from lossatlas.problem import Problem
from lossatlas.problem.readiness import Remembered, choose_products


@dataclass
class HessianJob(Job):
    """A job that computes Hessian products of one problem; ``spec[kind]`` says of which matrix and how."""

    problem: Problem
    subset: Subset
    remembered: Remembered | None = field(default=None, kw_only=True)

    @property
    def width(self) -> int:
        """How many vectors are multiplied at once."""
        return 1

    @property
    def choices(self) -> dict[str, Any]:
        """The driver's own part of the spec."""
        return self.spec[self.kind]

    @cached_property
    def matrix(self) -> dict[str, Any]:
        """What a store says of the matrix and its samples."""
        spec, subset = self.choices, self.subset
        return {
            "parameters": self.problem.layout.select(spec["parameters"]).size,
            "operator": spec["operator"],
            "parameter_patterns": spec["parameters"],
            "samples": len(subset),
            "subset_digest": subset.digest,
        }

    @property
    @abstractmethod
    def products(self) -> int:
        """How many products are computed at most."""

    @abstractmethod
    def first_point(self) -> tuple[np.ndarray, np.ndarray]:
        """Return theta and buffers of a point at which products are tried."""

    def plan(self) -> Plan:
        """Choose how products are computed, and check that they are deterministic."""
        ahead = self.remembered, self.products
        choice = choose_products(self.problem, self.first_point(), self.width, self.choices, *ahead)
        attributes = {"strategy": choice.strategy, "strategy_note": choice.told, "product_bytes": choice.peak}
        return Plan(attributes | {"agreement": choice.agreement}, f"Hessian products: {choice.told}")

    def as_begun(self, store: Store) -> Self:
        """Return the job with the strategy that the store was begun with, whatever is fastest now."""
        return replace(self, spec={**self.spec, self.kind: {**self.choices, "strategy": store.attrs["strategy"]}})


@dataclass
class TeamJob(HessianJob):
    """A job along points of parameter space, whose units are computed by a ``team`` of ranks and save their states."""

    points: Sites | Trajectory
    saves: Saves | None = field(default=None, kw_only=True)
    team: Team = field(default=ALONE, kw_only=True)

    @classmethod
    @abstractmethod
    def choose_points(
        cls, args: Namespace, trajectory: Trajectory, others: dict[str, Trajectory]
    ) -> Sites | Trajectory:
        """Return the points at which the job works, from the run's trajectory and those of other runs."""

    @abstractmethod
    def evaluate(self, unit: range) -> np.ndarray:
        """Return the results of the rows of a unit (row, column), on every rank of the team."""

    @classmethod
    def read(cls, args: Namespace, world: World) -> Self:
        """Open trajectories and samples, and rebuild the network on the training samples alone."""
        trajectory, others = Trajectory(args.trajectory), open_others(args)
        problem, subset, device = read_problem(args, world, trajectory, args.spec[cls.kind])
        points = cls.choose_points(args, trajectory, others)  # after the limit on threads, on which sums depend
        about: dict[str, Any] = {"device": device, "remembered": remembered(args, device)}
        inputs = identities(trajectory, {"train": subset}, others)
        return cls(args.spec, problem, subset, points, inputs=inputs, **about)

    def first_point(self) -> tuple[np.ndarray, np.ndarray]:
        """Return theta and buffers of the first point."""
        return self.points.parameters(0), self.points.buffers(0)

    def evaluator(self, store: Store) -> Evaluate:
        """Return the function that computes the rows of a unit."""
        return self.as_begun(store).evaluate

    def compute(self, store: Store, order: Order, world: World, timing: Timing) -> int:
        """Compute all missing units by teams of ranks; see ``Job.compute``."""
        units = work_units.count(store)
        size = ranks_per_unit(order.data_ranks, world.size, units)
        if world.rank == 0 and world.size > 1:
            print(f"{order.label}: {world.size // size} team(s) of {size} rank(s) share {units} chunks", flush=True)
        teams = form_teams(world, size)
        saves = Saves(states_beside(store.path, store.fingerprint), 60 * order.save_minutes, teams[0])
        evaluate = replace(self, saves=saves, team=teams[0]).evaluator(store)
        missing = work_units.compute(store, evaluate, world, timing, order.queue, order.label, teams)
        if world.rank == 0 and not missing:
            saves.clear()
        return missing


def remembered(args: Namespace, device: str) -> Remembered:
    """Return the choices of the jobs of a run whose problem, device and threads are these."""
    keys = ("seed", "backend", "dtype", "model", "data", "loss", "evaluation")
    problem = {key: args.spec.get(key) for key in keys}
    return Remembered(args.run_dir, **problem, device=device, threads=args.threads)
