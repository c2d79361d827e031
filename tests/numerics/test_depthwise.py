"""Weight gradients of depthwise convolutions by matrix products: against PyTorch's, and second backward passes."""

import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.backends.torch.tracing import depthwise
from lossatlas.data import Split
from torch import nn

EXACT = Device(torch.device("cpu"), torch.float64)

SHAPES = {
    "plain": {},
    "stride and padding": {"stride": (2, 1), "padding": (1, 2)},
    "stride that leaves a rest": {"stride": (3, 2), "padding": (0, 1)},
    "dilated": {"dilation": (2, 1), "padding": (2, 1)},
    "all": {"stride": (2, 3), "dilation": (1, 2), "padding": (1, 3)},
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("several_out", [False, True])
def test_weight_gradients_are_those_of_grouped_convolutions(name, several_out):
    torch.manual_seed(0)
    groups, several, size = 4, 5, (3, 2)
    wide, options = groups * several, SHAPES[name]
    inward, outward = (groups, wide) if several_out else (wide, groups)
    weight = torch.randn(outward, inward // groups, *size, dtype=torch.float64, requires_grad=True)
    images = torch.randn(6, inward, 9, 8, dtype=torch.float64)
    made = nn.functional.conv2d(images, weight, groups=groups, **options)
    gradient = torch.randn_like(made)
    (expected,) = torch.autograd.grad(made, weight, gradient)
    stride, padding, dilation = (options.get(key, d) for key, d in (("stride", 1), ("padding", 0), ("dilation", 1)))
    pairs = ((n, n) if isinstance(n, int) else n for n in (stride, padding, dilation))
    found = depthwise.weight_gradient(gradient, images, tuple(weight.shape), *pairs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


NETWORKS = {
    "depthwise": lambda: (nn.Conv2d(4, 4, 3, groups=4),),
    "depthwise with stride and padding": lambda: (nn.Conv2d(4, 4, 3, 2, 1, groups=4, bias=False),),
    "dilated": lambda: (nn.Conv2d(4, 4, 3, dilation=2, padding=1, groups=4),),
    "two channels of each": lambda: (nn.Conv2d(4, 8, 3, groups=4), nn.Tanh(), nn.Conv2d(8, 4, 1)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("count", [1, 3])
def test_products_of_depthwise_networks_equal_second_backward_passes(name, count):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU6(), *NETWORKS[name](), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    rng = np.random.default_rng(0)
    split = Split(rng.standard_normal((7, 2, 11, 11)), rng.integers(0, 4, 7))
    flat = FlatNetwork(module, EXACT)
    problem = TorchProblem(flat, build_loss({"name": "cross-entropy"}), split, 4)
    vectors = rng.standard_normal((count, problem.layout.size))
    at = flat.parameters(), flat.buffers()
    ours = problem.linearize(*at, strategy="split").matmat(vectors)
    plain = problem.linearize(*at, strategy="rebuild").matmat(vectors)
    assert np.abs(ours - plain).max() < 1e-12 * np.abs(plain).max()
    theta, buffers = flat.theta.clone(), flat.vector(flat.buffers())
    parts = problem.matrix().graphs(theta, buffers, problem.pieces(count)[0], count)
    assert depthwise.weight_gradient in {node.target for part in parts for node in part.graph.nodes}
