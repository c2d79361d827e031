"""Products for networks of every kind, by every way, against plain double backward passes that share no code."""

import re

import lossatlas
import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem
from lossatlas.backends.torch.build import as_loss
from lossatlas.backends.torch.hvp import strategies
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError

from tests.helpers import double_backward
from tests.helpers.networks import LOSSES, NETWORKS, REFUSED, Case

BLOCKS = (1, 4, 10)
OPERATORS = ("hessian", "ggn", "residual")
BACKWARD_ONLY = {"huber", "gaussian"}
"""Losses without forward derivatives of the gradient, or whose course depends on values: there is no graph of them."""
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


def wrong(case: Case, blocks: dict[str, tuple[int, ...]]) -> dict:
    """Return the errors of products that differ from the reference by more than rounding, relative to the Hessian."""
    module, inputs, targets, vectors = made(case)
    expected = double_backward.products(module, case.loss, inputs, targets, vectors, case.plain)
    scale = float(expected["hessian"].abs().max())
    assert np.isfinite(scale)
    assert scale > 1e-3
    problem = problem_of(module, case.loss, inputs, targets, "float64")
    at, errors = (problem.network.parameters(), problem.network.buffers()), {}
    for operator, counts in blocks.items():
        for way in strategies.PRODUCT_STRATEGIES:
            matrix = problem.linearize(*at, operator=operator, strategy=way)
            if matrix.strategy != (way if way in case.ways else "rebuild"):
                errors[operator, way] = matrix.strategy
            for count in counts:
                found = torch.tensor(matrix.matmat(vectors[:count].numpy()))
                error = float((found - expected[operator][:count]).abs().max()) / scale
                if not error < 1e-9:
                    errors[operator, way, count] = error
    return errors


@pytest.mark.parametrize(("number", "name"), list(enumerate(NETWORKS)), ids=list(NETWORKS))
def test_products_of_every_network_by_every_way(number, name):
    """Operators and blocks take turns: all nine pairs come up, each about ten times."""
    operator, block = OPERATORS[number % 3], BLOCKS[number // 3 % 3]
    assert not wrong(NETWORKS[name], {operator: (block,)})


@pytest.mark.full
@pytest.mark.parametrize("name", NETWORKS)
def test_every_operator_and_block_of_every_network_by_every_way(name):
    """The residual is the Hessian less the Gauss-Newton matrix, in one graph."""
    assert not wrong(NETWORKS[name], dict.fromkeys(OPERATORS, BLOCKS))


def case_of(name: str) -> Case:
    """Return the case of a loss."""
    build, inputs, targets, loss = LOSSES[name]
    ways = ("retained", "rebuild") if name in BACKWARD_ONLY else strategies.PRODUCT_STRATEGIES
    return Case(build, inputs, targets, loss, ways=ways)


@pytest.mark.parametrize(("number", "name"), list(enumerate(LOSSES)), ids=list(LOSSES))
def test_products_of_every_loss_by_every_way(number, name):
    assert not wrong(case_of(name), {OPERATORS[number % 3]: (BLOCKS[number // 3 % 3],)})


@pytest.mark.full
@pytest.mark.parametrize("name", LOSSES)
def test_every_operator_and_block_of_every_loss_by_every_way(name):
    assert not wrong(case_of(name), dict.fromkeys(OPERATORS, BLOCKS))


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_curvature_is_refused_in_one_line(name):
    case, said = REFUSED[name]
    module, inputs, targets, vectors = made(case)
    with pytest.raises(LossAtlasError) as refused:
        lossatlas.hessian(module, case.loss, (inputs, targets)).matmat(vectors.numpy())
    assert "\n" not in str(refused.value)
    assert re.search(said, str(refused.value))


@pytest.mark.full
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_by_the_public_function_in_float32(name):
    """The way is chosen here, and what was checked of it is in order."""
    case = NETWORKS[name]
    module, inputs, targets, vectors = made(case)
    expected = double_backward.products(module, case.loss, inputs, targets, vectors, case.plain)["hessian"][:4].numpy()
    matrix = lossatlas.hessian(module, case.loss, (inputs, targets), dtype="float32")
    found, agreement = matrix.matmat(vectors[:4].numpy()), matrix.agreement
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert matrix.dtype == np.float32
    assert agreement["against"] == "double backward"
    assert (agreement["samples"], agreement["vectors"]) == (len(inputs), 2)
    assert 0 < agreement["rounding"] < 1e-4
    assert 0 <= agreement["difference"] < 1e-4
    assert 0 <= agreement["asymmetry"] < 1e-3
    assert 0 < agreement["central_differences"] < 1e-2


@pytest.mark.parametrize("operator", OPERATORS)
def test_checkpointed_modules_are_differentiated_where_asked(operator):
    """They are evaluated again on the way backward: not at the parameters that the network last had."""
    case = NETWORKS["checkpointed"]
    module, inputs, targets, vectors = made(case)
    expected = double_backward.products(module, case.loss, inputs, targets, vectors)[operator]
    matrix = lossatlas.hessian(module, case.loss, (inputs, targets), operator=operator, dtype="float32")
    found = matrix.matmat(vectors.numpy())
    assert np.abs(found - expected.numpy()).max() < 1e-4 * float(expected.abs().max())
    problem = problem_of(module, case.loss, inputs, targets, "float64")
    theta, buffers = problem.network.parameters(), problem.network.buffers()
    gradient = problem.gradient(theta, buffers)
    problem.metrics(2 * theta, buffers)
    assert np.allclose(problem.gradient(theta, buffers), gradient, rtol=0, atol=1e-12)
