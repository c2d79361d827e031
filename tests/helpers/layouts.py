"""Run on several MPI ranks: spectra and eigenpairs of small networks, in teams of every size; each team writes them.

mpiexec -n 4 python layouts.py RANKS FOLDER
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.data import Split
from lossatlas.drivers import command_line
from lossatlas.krylov import Spectrum, eigenpairs, lanczos, nearest_eigenpairs, probe_vectors, quadrature_runs
from lossatlas.parallel import limit_threads, signals
from lossatlas.parallel.checkpointing import State
from lossatlas.parallel.process_group import ALONE, Team, form_teams, ranks_per_unit
from torch import nn

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


def network() -> nn.Module:
    """Return a small convolutional network of 341 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 10)
    )


def problem(precision: str, samples: int) -> TorchProblem:
    """Return its cross-entropy on random images, five a chunk."""
    rng = np.random.default_rng(0)
    split = Split(rng.standard_normal((samples, 2, 8, 8)), rng.integers(0, 10, samples))
    flat = FlatNetwork(network(), Device(torch.device("cpu"), PRECISIONS[precision]))
    return TorchProblem(flat, build_loss({"name": "cross-entropy"}), split, 5)


CASES = [("float32", 103, "split"), ("float64", 103, "rebuild"), ("float64", 7, "rebuild")]
"""Precision, samples and strategy; 7 samples are fewer chunks than ranks."""


def results(team: Team = ALONE) -> dict[str, np.ndarray]:
    """Return nodes, weights, density and pairs of all cases."""
    torch.set_num_threads(1)
    limit_threads(1)
    found = {}
    for precision, samples, strategy in CASES:
        made = problem(precision, samples)
        at = made.network.parameters(), made.network.buffers()
        operator = made.linearize(*at, strategy=strategy, leaves=team.leaves)
        probes = partial(probe_vectors, operator.size, seed=0)
        spectrum = Spectrum.of(quadrature_runs(operator, probes, range(3), 20, team=team), operator.size)
        pairs = eigenpairs(operator, 2, 1, 1e-2, 60, team=team)
        kept = {"nodes": spectrum.nodes, "weights": spectrum.weights, "density": spectrum.density([0.0, 0.1]).value}
        nearest = nearest_eigenpairs(operator, 0.0, 2, 1e-2, 60, team=team)
        kept |= {"nearest": nearest.vectors, "nearest residuals": nearest.residuals}
        kept |= {"values": pairs.values, "vectors": pairs.vectors, "residuals": pairs.residuals}
        found |= {f"{precision}, {samples}: {name}": array for name, array in kept.items()}
    return found


def stopped_and_resumed(team: Team, folder: Path) -> tuple[list, int]:
    """Let the team's last rank be told to stop after the noise (two blocks) and ten steps.

    Returns what it finds in the end, and its products since.
    """
    made = problem("float32", 103)
    operator = made.linearize(made.network.parameters(), made.network.buffers(), leaves=team.leaves)
    probes, plain, products = probe_vectors(operator.size, range(2), seed=0), operator.partial, []

    def partial_products(vectors, leaves):
        products.append(len(vectors))
        if len(products) == 2 + 10 and team.rank == team.size - 1:
            signals._received = "SIGTERM"
        return plain(vectors, leaves)

    operator.partial = partial_products
    try:
        lanczos(operator, probes, 30, state=State(folder, 600, team), team=team)
        raise AssertionError("nobody was told to stop")
    except signals.Dropped:
        signals._received = None
    operator.partial = plain
    before = operator.products
    runs = lanczos(operator, probes, 30, state=State(folder, 600, team), team=team)
    return runs, operator.products - before


def main(world) -> None:
    for size in range(1, world.size + 1):
        if world.size % size == 0:
            team, leaders = form_teams(world, ranks_per_unit(size, world.size, 2))
            found = results(team)
            if team.size > 1:
                folder = Path(sys.argv[2]) / f"state-{world.size}-{world.rank // team.size}"
                runs, products = stopped_and_resumed(team, folder)
                found |= {"resumed": np.array([run.alpha for run in runs]), "products": products}
            if leaders:
                np.savez(f"{sys.argv[2]}/{world.size // team.size}-{team.size}-{leaders.rank}.npz", **found)


if __name__ == "__main__":
    command_line.run(main, ranks=int(sys.argv[1]))
