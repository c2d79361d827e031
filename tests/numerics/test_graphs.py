"""Graphs that are traced and rewritten: random programs must give what they give untraced."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, graphs
from lossatlas.backends.torch.build import as_loss
from lossatlas.data import Split
from torch import nn

from tests.helpers import double_backward, programs
from tests.helpers.networks import Net

FLOAT64 = Device(torch.device("cpu"), torch.float64)


def some(names):
    """Programs of these steps."""
    return st.lists(st.tuples(st.sampled_from(sorted(names)), st.integers(0, 100)), min_size=1, max_size=8)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(some(programs.STEPS))
def test_a_rewritten_graph_gives_what_the_program_gives(steps):
    """The samples come in transposed, so that nothing lies in memory as it would by default."""
    x, v = (torch.randn(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    x = x.T.contiguous().T

    def function(x, v):
        return programs.run(x.view(3, 3, 4), steps) * programs.run(v.view(3, 2, 6).exp(), steps).sum()

    traced = graphs.trace(function, x, v)
    expected = function(x, v)
    torch.testing.assert_close(traced(x, v), expected, rtol=1e-12, atol=1e-12)
    primal, along, tangent = graphs.split(traced)
    torch.testing.assert_close(tangent(*primal(x), *along(v)), expected, rtol=1e-12, atol=1e-12)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(some(programs.STEPS.keys() - {"cast"}), st.sampled_from(["hessian", "ggn", "residual"]))
def test_products_through_random_programs_equal_double_backward(steps, operator):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(3, 6), Net(lambda m, x: m.scale * programs.run(x, steps), scale=nn.Parameter(torch.ones(1)))
    )
    module.append(Net(lambda _, x: x.flatten(1)))
    inputs, targets = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)

    def loss(outputs, targets):
        return outputs.tanh().sum(1).sub(targets).square().add(1).log()

    vectors = torch.randn(3, sum(p.numel() for p in module.parameters()), dtype=torch.float64)
    expected = double_backward.products(module, loss, inputs, targets, vectors)
    problem = TorchProblem(FlatNetwork(module, FLOAT64), as_loss(loss), Split(inputs.numpy(), targets.numpy()), 3)
    matrix = problem.linearize(problem.network.parameters(), problem.network.buffers(), operator=operator)
    scale = expected["hessian"].abs().max() + 1e-3
    assert np.abs(matrix.matmat(vectors.numpy()) - expected[operator].numpy()).max() < 1e-9 * scale
