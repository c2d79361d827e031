"""Random sums of samples' losses: standard errors of differences against those of the samples' own losses."""

import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, as_loss
from lossatlas.data import Split
from lossatlas.problem.noise import standard_error
from torch import nn
from torch.nn import functional

COLUMNS, SAMPLES = 3000, 43
WEIGHTS = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
LOSSES = {
    "plain": nn.CrossEntropyLoss(),
    "weighted": nn.CrossEntropyLoss(weight=WEIGHTS),
    "ignored": nn.CrossEntropyLoss(ignore_index=2),
    "own": lambda o, t: functional.cross_entropy(o, t, reduction="none").square(),
}


@pytest.fixture(scope="module")
def line():
    torch.manual_seed(1)
    network = FlatNetwork(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)),
                          Device(torch.device("cpu"), torch.float64))  # fmt: skip
    rng = np.random.default_rng(0)
    return network, Split(rng.standard_normal((SAMPLES, 4)), rng.integers(0, 3, SAMPLES)), rng.standard_normal(51)


def each_of(network, split, loss, theta):
    """Return losses and weights of single samples at theta."""
    parts = torch.tensor(theta).split([24, 6, 18, 3])
    hidden = torch.tanh(torch.tensor(split.inputs) @ parts[0].view(6, 4).T + parts[1])
    outputs = hidden @ parts[2].view(3, 6).T + parts[3]
    targets = torch.tensor(split.targets)
    each = functional.cross_entropy(outputs, targets, reduction="none")
    if loss == "own":
        each = each.square()
    weights = {"weighted": WEIGHTS[targets], "ignored": (targets != 2).double()}.get(loss, torch.ones(SAMPLES))
    return each.numpy(), weights.numpy()


@pytest.mark.parametrize("strategy", ["eager", "first-layer"])
@pytest.mark.parametrize("loss", LOSSES)
def test_oracle_standard_errors_of_differences_are_those_of_paired_samples(line, loss, strategy):
    """Over 3000 random sums, whose standard error is 1.3 %; the losses themselves stay what they are."""
    network, split, direction = line
    problem, start = TorchProblem(network, as_loss(LOSSES[loss]), split, 5), np.zeros(51)
    place, points = (start, direction[None], np.zeros(0)), np.array([[0.5], [0.52], [-1.0]])
    plain = problem.restrict(*place, strategy=strategy).metrics(points)
    problem.sketch(COLUMNS)
    found = problem.restrict(*place, strategy=strategy).metrics(points)
    assert np.array_equal(found[:, : plain.shape[1]], plain)
    noise = found[:, plain.shape[1] :]
    assert noise.shape == (3, COLUMNS)
    parts = [each_of(network, split, loss, start + point * direction) for point in points[:, 0]]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        (a, w), (b, _) = parts[one], parts[other]
        counted = (w > 0).sum()
        off = w * (a - b) - w * (w @ (a - b)) / w.sum()
        exact = np.sqrt((off**2).sum() * counted / (counted - 1)) / w.sum()
        assert standard_error(noise[one], noise[other]) == pytest.approx(exact, rel=0.07)
    assert np.sqrt((noise**2).mean(axis=1)) == pytest.approx(plain[:, -1], rel=0.07)
