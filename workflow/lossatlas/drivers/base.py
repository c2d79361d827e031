"""One job: a store that is found or created, computed by all ranks, concluded, and linked for the workflow.

A driver is a subclass of ``Job`` that says only what is its own. The steps, which ``command_line.run_job`` takes:

1. ``read`` opens the inputs, on every rank.
2. ``prepare``: rank 0 finds the store, or chooses how it is computed (``plan``) and creates it; the others wait. The
   choice depends on the clock, and strategies differ by rounding: a store says what was chosen, and is finished so.
3. ``compute``: all ranks compute the units that are missing.
4. ``finish``: rank 0 sorts the results into arrays (``conclude``) and marks the store finished.
"""

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import zarr

from lossatlas.io import store as stores
from lossatlas.io.store import Fingerprint, Store
from lossatlas.parallel import Timing, World, work_units

Evaluate = Callable[[range], np.ndarray]
"""From the numbers of a unit's rows to their columns (row, column)."""


@dataclass(frozen=True)
class Order:
    """What a command line says of a job besides what determines its numbers.

    ``output`` is the link to make inside ``run_dir``; ``queue``, ``data_ranks`` and ``save_minutes`` say how ranks
    share units, ``timing`` where the record of their seconds goes.
    """

    output: Path
    run_dir: Path
    label: str
    fresh: bool = False
    threads: int = 1
    timing: Path | None = None
    queue: str = "static"
    data_ranks: str = "1"
    save_minutes: float = 10.0

    @classmethod
    def of(cls, args: argparse.Namespace) -> Self:
        """Return what parsed arguments hold of it."""
        return cls(**{one.name: getattr(args, one.name) for one in fields(cls) if hasattr(args, one.name)})


@dataclass(frozen=True)
class Plan:
    """How a store is computed, chosen before it is created: what it says of that, and a line for the log."""

    attributes: dict[str, Any]
    told: str = ""


@dataclass
class Job(ABC):
    """One store to make.

    ``spec`` and ``inputs``, the identities of what is read, determine its numbers; ``device`` says where they are
    computed, and ``effort`` what this attempt did besides units.
    """

    spec: dict
    inputs: dict[str, Any] = field(default_factory=dict, kw_only=True)
    device: str = field(default="cpu", kw_only=True)
    effort: dict[str, int] = field(default_factory=dict, kw_only=True)

    kind: ClassVar[str]

    @classmethod
    @abstractmethod
    def read(cls, args: argparse.Namespace, world: World) -> Self:
        """Open all inputs that a command line names; every rank does."""

    @abstractmethod
    def build(self, group: zarr.Group) -> None:
        """Create all arrays of the store in an empty group."""

    @staticmethod
    @abstractmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Sort what was computed into the arrays of the store; return figures for the log by name."""

    @property
    def fingerprint(self) -> Fingerprint:
        """All that determines the numbers of the store."""
        return Fingerprint(self.kind, self.spec, self.inputs)

    def plan(self) -> Plan:
        """Choose how the store is computed; only who creates it does."""
        return Plan({})

    def evaluator(self, store: Store) -> Evaluate | None:
        """Return the function that computes the rows of a unit, as it was begun; None if it was created whole."""
        return None

    def prepare(self, order: Order, world: World, timing: Timing) -> Store:
        """Find or create the store, on rank 0; the others wait."""
        if world.rank == 0 and self.find(order) is None:
            plan = self.plan()
            if plan.told:
                print(f"{order.label}: {plan.told}", flush=True)
            self.create(order, plan)
        with timing("idle"):
            world.barrier()
        return Store(stores.hidden_path(order.output, order.run_dir), writable=True)

    def find(self, order: Order) -> Store | None:
        """Return the store of these numbers, finished or not; None when it has yet to be created."""
        return stores.find(order.output, order.run_dir, self.fingerprint, order.fresh)

    def create(self, order: Order, plan: Plan) -> Store:
        """Create the store, with all arrays and what was planned."""

        def build(group: zarr.Group) -> None:
            self.build(group)
            group.attrs.update(plan.attributes)

        return stores.create(order.output, order.run_dir, self.fingerprint, build)

    def compute(self, store: Store, order: Order, world: World, timing: Timing) -> int:
        """Compute all missing units; every rank takes part.

        Returns:
            How many units are still missing; 0 unless the ranks were told to stop.
        """
        with timing("read"):
            evaluate = self.evaluator(store)
        if evaluate is None:
            return 0
        return work_units.compute(store, evaluate, world, timing, order.queue, order.label)

    @classmethod
    def finish(cls, store: Store, attempt: dict[str, Any]) -> dict[str, Any]:
        """Conclude the store and mark it finished, with a record of this attempt; return figures for the log."""
        figures = cls.conclude(store)
        store.finish(attempt)
        return figures
