"""Products for networks of every kind, by every way, against plain double backward passes that share no code."""

import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem
from lossatlas.backends.torch.build import as_loss
from lossatlas.data import Split

from tests.helpers import double_backward
from tests.helpers.networks import NETWORKS, Case

BLOCKS = (1, 4, 10)
DEVICES = {name: Device(torch.device("cpu"), getattr(torch, name)) for name in ("float64", "float32")}


def made(case: Case):
    """Return module, inputs, targets and ten vectors."""
    torch.manual_seed(1)
    module, inputs, targets = case.build().eval(), case.inputs(), case.targets()
    size = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert size < 500
    return module, inputs, targets, torch.randn(max(BLOCKS), size, dtype=torch.float64)


def problem_of(module, loss, inputs, targets, dtype: str) -> TorchProblem:
    return TorchProblem(
        FlatNetwork(module, DEVICES[dtype]), as_loss(loss), Split(inputs.numpy(), targets.numpy()), len(inputs)
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_products_of_every_network_by_every_way(name):
    case = NETWORKS[name]
    module, inputs, targets, vectors = made(case)
    expected = double_backward.products(module, case.loss, inputs, targets, vectors, case.plain)
    scale = expected["hessian"].abs().max()
    problem = problem_of(module, case.loss, inputs, targets, "float64")
    at = problem.network.parameters(), problem.network.buffers()
    wrong = {}
    for operator, oracle in expected.items():
        for way in ("split", "retained", "rebuild"):
            matrix = problem.linearize(*at, operator=operator, strategy=way)
            assert matrix.strategy == (way if way in case.ways else "rebuild")
            for count in BLOCKS:
                found = torch.tensor(matrix.matmat(vectors[:count].numpy()))
                error = float((found - oracle[:count]).abs().max() / scale)
                if not error < 1e-9:
                    wrong[operator, way, count] = error
    assert not wrong


@pytest.mark.parametrize("name", NETWORKS)
def test_products_of_every_network_in_float32(name):
    case = NETWORKS[name]
    module, inputs, targets, vectors = made(case)
    expected = double_backward.products(module, case.loss, inputs, targets, vectors, case.plain)
    problem = problem_of(module, case.loss, inputs, targets, "float32")
    matrix = problem.linearize(problem.network.parameters(), problem.network.buffers())
    found = matrix.matmat(vectors[:4].numpy())
    assert np.abs(found - expected["hessian"][:4].numpy()).max() < 1e-4 * expected["hessian"].abs().max()
