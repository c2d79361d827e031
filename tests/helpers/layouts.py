"""Run on several MPI ranks: spectra and eigenpairs of small networks, in teams of every size; each team writes them.

mpiexec -n 4 python layouts.py RANKS FOLDER
"""

import sys
from functools import partial

import numpy as np
import torch
from lossatlas import cli
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.data import Split
from lossatlas.krylov import Spectrum, eigenpairs, probe_vectors, quadrature_runs
from lossatlas.parallel import limit_threads
from lossatlas.team import form_teams, ranks_per_unit
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


def results(team=None) -> dict[str, np.ndarray]:
    """Return nodes, weights, moments and pairs for both precisions; 7 samples are fewer chunks than ranks."""
    torch.set_num_threads(1)
    limit_threads(1)
    choices, found = ({"team": team} if team else {}), {}
    for precision in PRECISIONS:
        for samples in (7, 103):
            made = problem(precision, samples)
            leaves = {"leaves": team.leaves} if team else {}
            operator = made.linearize(made.network.parameters(), made.network.buffers(), **leaves)
            probes = partial(probe_vectors, operator.size, seed=0)
            runs = quadrature_runs(operator, probes, range(3), 40, **choices)
            spectrum = Spectrum.of(runs, operator.size)
            pairs = eigenpairs(operator, 2, 1, 1e-3, 200, **choices)
            kept = {"nodes": spectrum.nodes, "weights": spectrum.weights, "density": spectrum.density([0.0, 0.1]).value}
            kept |= {"values": pairs.values, "vectors": pairs.vectors, "residuals": pairs.residuals}
            found |= {f"{precision}, {samples}: {name}": array for name, array in kept.items()}
    return found


def main(world) -> None:
    for size in range(1, world.size + 1):
        if world.size % size == 0:
            team, leaders = form_teams(world, ranks_per_unit(size, world.size, 2))
            found = results(team)
            if leaders:
                np.savez(f"{sys.argv[2]}/{world.size // team.size}-{team.size}-{leaders.rank}.npz", **found)


if __name__ == "__main__":
    cli.run(main, ranks=int(sys.argv[1]))
