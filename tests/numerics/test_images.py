"""Rewritten graphs of convolutional networks: against second backward passes, which share none of it."""

import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.backends.torch.tracing import conv_rewrites
from lossatlas.data import Split
from torch import nn

EXACT = Device(torch.device("cpu"), torch.float64)


def pooled(*layers: nn.Module) -> nn.Sequential:
    """A convolution, the layers, another convolution and two classes per pixel averaged."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), *layers, nn.Conv2d(4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


class Branches(nn.Module):
    """ReLU's values are pooled and used as they are."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3)

    def forward(self, x):
        """Return three scores."""
        whole = torch.relu(self.first(x))
        return self.second(nn.functional.max_pool2d(whole, 2)).mean((2, 3)) + whole.square().mean((2, 3))


NETWORKS = {
    "relu, pool": (lambda: pooled(nn.ReLU(), nn.MaxPool2d(2)), True),
    "pool, relu": (lambda: pooled(nn.MaxPool2d(2), nn.ReLU()), True),
    "tanh, pool": (lambda: pooled(nn.Tanh(), nn.MaxPool2d(2)), True),
    "pool with gaps and rest": (lambda: pooled(nn.ReLU(), nn.MaxPool2d(2, stride=3)), True),
    "pool with padding": (lambda: pooled(nn.ReLU(), nn.MaxPool2d(3, padding=1)), True),
    "pools that overlap": (lambda: pooled(nn.ReLU(), nn.MaxPool2d(3, stride=2)), False),
    "dilated pool": (lambda: pooled(nn.ReLU(), nn.MaxPool2d(2, dilation=2)), False),
    "branches off before the pool": (Branches, True),
    "depthwise and transposed": (
        lambda: pooled(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.MaxPool2d(2), nn.ConvTranspose2d(4, 4, 2)),
        True,
    ),
}


def targets(problem: TorchProblem, count: int) -> set:
    """Return the operations of the graph for blocks of ``count`` vectors."""
    theta = problem.network.theta.clone()
    buffers = problem.network.vector(problem.network.buffers())
    *_, tangent = problem.matrix().graphs(theta, buffers, problem.pieces(count)[0], count)
    return {node.target for node in tangent.graph.nodes}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("count", [1, 3])
def test_rewritten_products_equal_second_backward_passes(name, count):
    torch.manual_seed(0)
    build, apart = NETWORKS[name]
    rng = np.random.default_rng(0)
    split = Split(rng.standard_normal((7, 2, 11, 11)), rng.integers(0, 3, 7))
    flat = FlatNetwork(build(), EXACT)
    problem = TorchProblem(flat, build_loss({"name": "cross-entropy"}), split, 4)
    vectors = rng.standard_normal((count, problem.layout.size))
    at = flat.parameters(), flat.buffers()
    ours = problem.linearize(*at, strategy="split").matmat(vectors)
    plain = problem.linearize(*at, strategy="rebuild").matmat(vectors)
    assert np.abs(ours - plain).max() < 1e-12 * np.abs(plain).max()
    assert (conv_rewrites.unpool in targets(problem, count)) == apart


@pytest.mark.parametrize("samples_first", [False, True])
def test_stacks_are_taken_as_they_lie(samples_first):
    torch.manual_seed(0)
    stack, weight = torch.randn(3, 5, 2, 6, 6, dtype=torch.float64), torch.randn(4, 2, 3, 3, dtype=torch.float64)
    expected = torch.stack([nn.functional.conv2d(images_of_one, weight) for images_of_one in stack])
    if samples_first:
        stack = stack.transpose(0, 1).contiguous().transpose(0, 1)
    made = conv_rewrites.convolve(stack, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    torch.testing.assert_close(made, expected)
    assert (made.stride(1) > made.stride(0)) == samples_first


def test_pool_and_unpool_are_max_pooling_and_its_derivative():
    torch.manual_seed(0)
    samples = torch.randn(5, 2, 6, 8)
    values, index = nn.functional.max_pool2d(samples, 2, return_indices=True)
    torch.testing.assert_close(conv_rewrites.pool(samples[None], index)[0], values, rtol=0, atol=0)
    weights = torch.randn(3, 5, 2, 3, 4)
    samples.requires_grad_(True)
    expected = [torch.autograd.grad(nn.functional.max_pool2d(samples, 2), samples, w)[0] for w in weights]
    torch.testing.assert_close(conv_rewrites.unpool(weights, index, (6, 8)), torch.stack(expected), rtol=0, atol=0)
