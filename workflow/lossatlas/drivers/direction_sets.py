"""Driver: sets of directions. They are made before their store is created, which then holds them whole."""

import hashlib
from argparse import Namespace
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import zarr

from lossatlas.data import Subset
from lossatlas.drivers.base import Job, Order, Plan
from lossatlas.drivers.hessian import remembered
from lossatlas.drivers.inputs import identities, open_others, read_problems, read_subsets
from lossatlas.geometry.directions import DirectionSet, complete, make_directions
from lossatlas.geometry.directions.eigen import eigen
from lossatlas.geometry.directions.gradient import batches, gradient
from lossatlas.io.store import Store
from lossatlas.io.trajectory import Trajectory
from lossatlas.parallel import Timing, World, limit_threads
from lossatlas.parallel.process_group import LEAVES, form_teams


@dataclass
class Directions(Job):
    """Directions that need no network: random, differences of checkpoints, or from a file."""

    trajectory: Trajectory
    others: dict[str, Trajectory] = field(default_factory=dict)

    kind: ClassVar[str] = "directions"

    @classmethod
    def read(cls, args: Namespace, world: World) -> Self:
        """Open the trajectories, and take the digest of the file if there is one."""
        limit_threads(args.spec["threads"])
        trajectory, others = Trajectory(args.trajectory), open_others(args)
        inputs = identities(trajectory, {}, others)
        if args.spec["kind"] == "file":
            with Path(args.spec["path"]).open("rb") as stream:
                inputs["file"] = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(args.spec, trajectory, others, inputs=inputs)

    @property
    def choices(self) -> dict[str, Any]:
        """What the directions are, as the config says it."""
        return self.spec

    @cached_property
    def directions(self) -> DirectionSet:
        """The directions, raw and in use."""
        return make_directions(self.choices, self.trajectory, self.others)

    def plan(self) -> Plan:
        """Make the directions, before there is a store."""
        note = self.directions.raw.notes.get("strategy_note")
        return Plan({}, f"Hessian products: {note}" if note else "")

    def build(self, group: zarr.Group) -> None:
        """Write the directions."""
        self.directions.build(group, self.trajectory.layout, self.choices)

    @staticmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Return each direction's share of the path's variance, and by how much normalisation bent it."""
        columns = (store[name][:] for name in ("direction", "variance_share", "bend"))
        return {
            f"{label}:": f"{100 * share:.2f} % of the path's variance, bent by {bend:.1f} degrees"
            for label, share, bend in zip(*columns, strict=True)
        }


@dataclass
class PrincipalComponents(Directions):
    """Principal components of the path, by ranks that share its columns, beside those of a random walk."""

    threads: int = field(default=1, kw_only=True)

    @classmethod
    def read(cls, args: Namespace, world: World) -> Self:
        """Open the trajectory."""
        limit_threads(1)  # threads take shares of the columns, with BLAS on one each: their number changes no bit
        trajectory = Trajectory(args.trajectory)
        return cls(args.spec, trajectory, inputs=identities(trajectory, {}), threads=args.threads)

    def prepare(self, order: Order, world: World, timing: Timing) -> Store:
        """Find the store, or compute the directions together and create it."""
        if world.broadcast(self.find(order) is None if world.rank == 0 else None):
            team, _ = form_teams(world, min(world.size, LEAVES))
            if world.rank < team.size:
                timing.units, timing.ranks_per_unit = 1, team.size
                with timing("compute"):
                    self.directions = make_directions(self.choices, self.trajectory, {}, self.threads, team)
                timing.move("compute", "communication", team.seconds)
        return super().prepare(order, world, timing)

    @staticmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Return what ``Directions`` does, and how alike components and similarities are to a random walk's."""
        figures = Directions.conclude(store)
        for label, alike in zip(store["direction"][:], store["walk_correlation"][:], strict=False):
            figures[f"{label}: correlation with a random walk's:"] = f"{alike:.3f}"
        similar, spread = (store.attrs[f"walk_{name}"] for name in ("similarity", "spread"))
        return figures | {"similarity to a random walk:": f"{similar:.3f}", "spread in units of its:": f"{spread:.3g}"}


@dataclass
class FromNetwork(Directions):
    """Directions that need the network, which is built only when they are; ``args`` says where it is run."""

    subset: Subset = field(kw_only=True)
    args: Namespace = field(kw_only=True)

    @classmethod
    def read(cls, args: Namespace, world: World) -> Self:
        """Open the trajectories and the samples; the network is built only when directions are to be computed."""
        trajectory, others = Trajectory(args.trajectory), open_others(args)
        subset = read_subsets(args.spec, world, test=False)["train"]
        inputs = identities(trajectory, {"train": subset}, others)
        return cls(args.spec, trajectory, others, inputs=inputs, subset=subset, args=args)

    @property
    def choices(self) -> dict[str, Any]:
        """What the directions are, as the config says it."""
        return self.spec["directions"]


@dataclass
class Derivatives(FromNetwork):
    """Hessian eigenvectors, or negative gradients, at a checkpoint."""

    @cached_property
    def directions(self) -> DirectionSet:
        """The directions, searched or computed, and normalised as asked."""
        choices, trajectory = self.choices, self.trajectory
        center = trajectory.row_of(choices["center"], "directions.center")
        of_gradient = choices["kind"] == "gradient"
        subsets = batches(self.subset, choices) if of_gradient else {"train": self.subset}
        chunks = choices["batch_size"], choices["batchnorm"]
        problems, self.device = read_problems(self.args, World(), trajectory, subsets, *chunks)
        if of_gradient:
            raw = gradient(problems, trajectory, center, choices)
        else:
            raw = eigen(problems["train"], trajectory, center, choices, remembered(self.args, self.device))
        raw.notes["device"] = self.device
        return complete(raw, choices, trajectory)

    @staticmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Return the norm of each gradient, or how well each eigenvector has converged."""
        if store.attrs["kind"] == "gradient":
            norms = zip(store["direction"][:], store["raw_norm"][:], strict=True)
            return {f"{name} over {store.attrs['samples']} samples:": f"norm {norm:.6g}" for name, norm in norms}
        columns = (store[name][:] for name in ("eigenvalue", "residual", "converged"))
        states = {True: "converged", False: "NOT converged; raise max_products or tolerance"}
        figures = {
            f"eigenvalue {number}:": f"{value:.6g} (residual {residual:.1e}, {states[bool(converged)]})"
            for number, (value, residual, converged) in enumerate(zip(*columns, strict=True), 1)
        }
        return figures | (_nearest(store) if "near" in store.attrs else {})


def _nearest(store: Store) -> dict[str, Any]:
    """Return what the log says about eigenvectors nearest to a value."""
    shared = [str(number) for number, alone in enumerate(store["isolated"][:], 1) if not alone]
    figures: dict[str, Any] = {"||H||:": f"{store.attrs['norm']:.4g}", "products": store.attrs["products"]}
    if shared:
        figures["not told from neighbours within the residual:"] = ", ".join(shared)
    if not store.attrs["none_nearer"]:
        figures[f"whether others lie nearer to {store.attrs['near']:g}:"] = "not known; raise max_products"
    return figures
