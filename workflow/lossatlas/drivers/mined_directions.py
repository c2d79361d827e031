"""Driver: directions mined by descent, by ranks that share them; each saves its state and goes on from there."""

import shutil
from argparse import Namespace
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from lossatlas.drivers.base import Order
from lossatlas.drivers.direction_sets import FromNetwork
from lossatlas.drivers.inputs import read_problems
from lossatlas.geometry.directions import complete, connection
from lossatlas.geometry.directions.mined import Gradient, Vein, mine, partition, veins
from lossatlas.geometry.directions.unnormalized import RawDirections
from lossatlas.geometry.segments import Checkpoint, align_end, check_same_network, read_checkpoint
from lossatlas.io.store import Store, hidden_path
from lossatlas.parallel import Timing, World, signals, work_units
from lossatlas.parallel.checkpointing import State, states_beside
from lossatlas.problem import Problem, batchnorm_note


@dataclass
class Mined(FromNetwork):
    """Directions that descent finds; each is mined by one rank."""

    @classmethod
    def read(cls, args: Namespace, world: World) -> Self:
        """Open what directions of their kind are made of, see ``FromNetwork``."""
        kind: Any = Connection if args.spec["directions"]["kind"] == "connection" else cls
        made: Any = super(Mined, kind).read(args, world)
        return made

    @property
    def veins(self) -> list[Vein]:
        """What is to be mined."""
        return veins(self.choices)

    def prepare(self, order: Order, world: World, timing: Timing) -> Store:
        """Find the store, or mine the directions, share by share, and create it."""
        folder = states_beside(hidden_path(order.output, order.run_dir), self.fingerprint.digest)
        if world.broadcast(self.find(order) is None if world.rank == 0 else None):
            choices = self.choices
            subsets, chunks = partition(self.subset, choices), (choices["batch_size"], choices["batchnorm"])
            problems, self.device = read_problems(self.args, world, self.trajectory, subsets, *chunks)
            share = range(world.rank, len(self.veins), world.size)
            with timing("compute"):
                mined = self.share(list(problems.values()), share, folder, 60 * order.save_minutes)
            with signals.deferred(), timing("idle"):  # who has nothing to do lets the others save their states
                work_units.meet(world)
            if gathered := world.gather(mined):
                found = {number: vector for part in gathered for number, vector in part.items()}
                self.directions = self.completed(np.stack([found[k] for k in range(len(found))]))
        store = super().prepare(order, world, timing)
        if world.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        return store

    def share(self, problems: list[Problem], numbers: range, folder: Path, seconds: float) -> dict[int, np.ndarray]:
        """Mine some of the directions; return them by number.

        Args:
            problems: of the batches.
            folder: receives the states.
            seconds: from one save of a state to the next.

        Raises:
            Interrupted: the job was told to stop; the states are saved.
        """
        (theta, buffers), found = self.beginning, {}
        gradients: list[Gradient] = [partial(_gradient, problem, buffers) for problem in problems]
        for number in numbers:
            state = State(folder / str(number), seconds)
            try:
                with signals.deferred():
                    found[number] = self.mine(self.veins[number], theta, gradients, state)
            except signals.Dropped:
                why = f"stopped by {signals.requested()}; run the same command again to go on"
                raise signals.Interrupted(why) from None
        return found

    @property
    def beginning(self) -> tuple[np.ndarray, np.ndarray]:
        """Theta of the checkpoint theta_c, float64, and its flat buffers."""
        row = self.trajectory.row_of(self.choices["center"], "directions.center")
        return self.trajectory.parameters(row).astype(np.float64), self.trajectory.buffers(row)

    def mine(self, vein: Vein, theta: np.ndarray, gradients: list[Gradient], state: State) -> np.ndarray:
        """Return one mined direction, float64 (N,)."""
        start = None if vein.to is None else self._end(self.choices["to"][vein.to], f"directions.to.{vein.to}").theta
        return mine(vein, theta, start, gradients, self.choices, state)

    def _end(self, end: dict, where: str) -> Checkpoint:
        """Return a checkpoint that directions lead to."""
        there = self.others[end["run"]] if "run" in end else self.trajectory
        check_same_network(self.trajectory, there, f"{where}: run {end.get('run')!r}")
        return read_checkpoint(there, end["iteration"], f"{where}.iteration", end.get("run"))

    def completed(self, vectors: np.ndarray) -> Any:
        """Return the set of directions with what its store says of them, normalised as asked."""
        choices, found = self.choices, self.veins
        grid = choices["algorithm"] == "vvv-basin"
        values = {name: np.array([getattr(vein, name) for vein in found]) for name in ("gamma", "alpha") if grid}
        notes = {
            "algorithm": choices["algorithm"],
            **self.notes,
        }
        raw = RawDirections(vectors, [vein.label for vein in found], values, notes)
        return complete(raw, choices, self.trajectory)

    @property
    def notes(self) -> dict[str, Any]:
        """What a store says of how its directions were mined."""
        return {
            "batchnorm": batchnorm_note(self.choices, "frozen: running statistics of the checkpoint"),
            "samples": len(self.subset),
            "device": self.device,
        }

    @staticmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Return how long each direction is."""
        norms = zip(store["direction"][:], store["raw_norm"][:], strict=True)
        return {f"{label}:": f"norm {norm:.4g}" for label, norm in norms}


@dataclass
class Connection(Mined):
    """A curve of low loss from the checkpoint to another one, by the vectors to its end and to its bend."""

    end: Checkpoint = field(init=False)

    @property
    def veins(self) -> list[Vein]:
        """What is to be trained: the bend."""
        return [Vein(connection.BEND, 0)]

    def share(self, problems: list[Problem], numbers: range, folder: Path, seconds: float) -> dict[int, np.ndarray]:
        """Train the bend, if it is this rank's, once the end of the curve is known; see ``Mined``."""
        self.end = self._end(self.choices["to"], "directions.to")
        if self.choices["to"].get("align"):
            self.end = align_end(self.beginning[0], self.end, problems[0].interchangeable(), self.trajectory)
        return super().share(problems, numbers, folder, seconds)

    def mine(self, vein: Vein, theta: np.ndarray, gradients: list[Gradient], state: State) -> np.ndarray:
        """Return the bend as seen from the checkpoint, float64 (N,)."""
        return connection.train(self.choices["curve"], theta, self.end.theta, gradients, self.choices, state) - theta

    def completed(self, vectors: np.ndarray) -> Any:
        """Return the two directions with what their store says of them."""
        labels = [f"to {self.end.name}", f"to {connection.BEND}"]
        notes = {"curve": self.choices["curve"], **self.end.notes, **self.notes}
        raw = RawDirections(np.stack([self.end.theta - self.beginning[0], *vectors]), labels, notes=notes)
        return complete(raw, self.choices, self.trajectory)


def _gradient(problem: Problem, buffers: np.ndarray, theta: np.ndarray) -> np.ndarray:
    return problem.gradient(theta, buffers)
