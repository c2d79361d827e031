"""Driver: directions mined by descent, by ranks that share them; each saves its state and goes on from there."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lossatlas.drivers.base import Order
from lossatlas.drivers.direction_sets import FromNetwork
from lossatlas.drivers.inputs import read_problems
from lossatlas.errors import LossAtlasError
from lossatlas.geometry.directions import complete
from lossatlas.geometry.directions.mined import mine, partition, veins
from lossatlas.geometry.directions.unnormalized import RawDirections
from lossatlas.io.store import Store
from lossatlas.parallel import Timing, World, signals
from lossatlas.parallel.checkpointing import State
from lossatlas.problem import Problem, batchnorm_note


@dataclass
class Mined(FromNetwork):
    """Directions that descent finds; each is mined by one rank."""

    def prepare(self, order: Order, world: World, timing: Timing) -> Store:
        """Find the store, or mine the directions, share by share, and create it."""
        folder = order.run_dir / ".stores" / f"mined-{self.fingerprint.digest[:12]}"
        if world.broadcast(self.find(order) is None if world.rank == 0 else None):
            choices = self.choices
            subsets, chunks = partition(self.subset, choices), (choices["batch_size"], choices["batchnorm"])
            problems, self.device = read_problems(self.args, world, self.trajectory, subsets, *chunks)
            share = range(world.rank, len(veins(choices)), world.size)
            with timing("compute"):
                mined = self.share(list(problems.values()), share, folder, 60 * order.save_minutes)
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
        choices, trajectory, found = self.choices, self.trajectory, {}
        center = trajectory.row_of(choices["center"], "directions.center")
        theta, buffers = trajectory.parameters(center).astype(np.float64), trajectory.buffers(center)
        gradients = [partial(_gradient, problem, buffers) for problem in problems]
        for number in numbers:
            vein, state = veins(choices)[number], State(folder / str(number), seconds)
            start = None if vein.to is None else self._start(vein.to)
            try:
                with signals.deferred():
                    found[number] = mine(vein, theta, start, gradients, choices, state)
            except signals.Dropped:
                why = f"stopped by {signals.requested()}; run the same command again to go on"
                raise signals.Interrupted(why) from None
        return found

    def _start(self, number: int) -> np.ndarray:
        """Return the checkpoint of an entry of ``to``, shape (N,), float64."""
        end = self.choices["to"][number]
        there = self.others[end["run"]] if "run" in end else self.trajectory
        if there.layout != self.trajectory.layout:
            raise LossAtlasError(f"directions.to.{number}: run {end['run']!r} has another network than this run")
        row = there.row_of(end["iteration"], f"directions.to.{number}.iteration")
        return there.parameters(row).astype(np.float64)

    def completed(self, vectors: np.ndarray) -> Any:
        """Return the set of directions with what its store says of them, normalised as asked."""
        choices, found = self.choices, veins(self.choices)
        grid = choices["algorithm"] == "vvv-basin"
        values = {name: np.array([getattr(vein, name) for vein in found]) for name in ("gamma", "alpha") if grid}
        notes = {
            "algorithm": choices["algorithm"],
            "batchnorm": batchnorm_note(choices, "frozen: running statistics of the checkpoint"),
            "samples": len(self.subset),
            "device": self.device,
        }
        raw = RawDirections(vectors, [vein.label for vein in found], values, notes)
        return complete(raw, choices, self.trajectory)

    @staticmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Return how long each direction is."""
        norms = zip(store["direction"][:], store["raw_norm"][:], strict=True)
        return {f"{label}:": f"norm {norm:.4g}" for label, norm in norms}


def _gradient(problem: Problem, buffers: np.ndarray, theta: np.ndarray) -> np.ndarray:
    return problem.gradient(theta, buffers)
