"""Graphs that are traced and rewritten: random programs must give what they give untraced."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem
from lossatlas.backends.torch.build import as_loss
from lossatlas.backends.torch.tracing import graphs
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


def test_a_rewriting_that_changes_values_is_dropped_with_one_line(monkeypatch, capsys):
    """The planted one turns the tanh of the forward pass into a sine; the products stay those of the network."""

    def bad(joint):
        graph = torch.fx.Graph()
        graph.output(graph.graph_copy(joint.graph, {}))
        for node in graph.nodes:
            node.target = torch.ops.aten.sin.default if node.target is torch.ops.aten.tanh.default else node.target
        return torch.fx.GraphModule(joint, graph)

    monkeypatch.setattr(graphs, "rewrite", bad)
    x, t = torch.randn(5, 4, dtype=torch.float64).numpy(), np.arange(5) % 3
    network = FlatNetwork(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)), FLOAT64)
    problem = TorchProblem(network, as_loss("cross-entropy"), Split(x, t), 5)
    at, v = (network.parameters(), network.buffers()), np.random.default_rng(0).standard_normal((4, 35))
    found = problem.linearize(*at, strategy="split").matmat(v)
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1
    assert told[0].startswith("Hessian products: a rewritten graph differs by ")
    expected = problem.linearize(*at, strategy="rebuild").matmat(v)
    assert np.abs(found - expected).max() < 1e-12 * np.abs(expected).max()


def test_functions_that_change_what_they_are_given_are_not_traced():
    kept = torch.zeros(3)
    for function in (lambda x: x.add_(1) * 2, lambda x: kept.add_(1) + x):
        with pytest.raises(graphs.ImpureError, match=r"aten\.(copy_|add_)\.\w+ changes a tensor in place"):
            graphs.plain(function, torch.ones(3))


def test_constants_that_are_written_into_are_made_pure():
    hidden = torch.tensor([True, False, True])

    def function(x):
        mask = torch.zeros_like(hidden, dtype=x.dtype).masked_fill_(hidden, 2.0)
        before = mask + 1
        return (mask.add_(1.0) + before) * x

    traced = graphs.plain(function, torch.ones(3))
    assert not any(node.target._schema.is_mutable for node in traced.graph.nodes if node.op == "call_function")
    assert torch.equal(graphs.rewrite(traced)(torch.arange(3.0)), function(torch.arange(3.0)))
    assert function(torch.ones(3)).tolist() == [6.0, 2.0, 6.0]


def test_operations_that_read_memory_get_it_as_it_was_traced():
    """PyTorch's backward pass of LayerNorm reads means and scales as if they had been written out."""
    x, mean, scale = torch.randn(6, 4).double(), torch.randn(1, 1).double(), torch.rand(1, 1).double() + 1

    def function(x, mean, scale):
        whole = [part.expand(6, 1).clone(memory_format=torch.contiguous_format) for part in (mean, scale)]
        return torch.ops.aten.native_layer_norm_backward(x.cos(), x, [4], *whole, None, None, [True, False, False])[0]

    traced = graphs.trace(function, x, mean, scale)
    assert any(node.target is graphs.laid_out for node in traced.graph.nodes)
    torch.testing.assert_close(traced(x, mean, scale), function(x, mean, scale), rtol=1e-14, atol=1e-14)
