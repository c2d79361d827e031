"""Products are tried before they are used: what is right passes, what is wrong is found and named."""

import re

import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.backends.torch.hvp import agreement, strategies
from lossatlas.backends.torch.hvp.strategies import arrange, way
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError
from torch import nn

CROSS_ENTROPY = build_loss({"name": "cross-entropy"})


def problem_of(module, dtype=torch.float64, inputs=None, samples=12, batchnorm="frozen"):
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((samples, 6)) if inputs is None else inputs
    network = FlatNetwork(module, Device(torch.device("cpu"), dtype))
    return TorchProblem(network, CROSS_ENTROPY, Split(inputs, rng.integers(0, 3, len(inputs))), 5, batchnorm)


def mlp(*between):
    return nn.Sequential(nn.Linear(6, 5), *between, nn.Linear(5, 3))


def point(problem):
    return problem.network.parameters(), problem.network.buffers()


def tried(problem, operator="hessian", width=4):
    """Return how products by retained gradients agree."""
    at = problem.network.theta.clone(), problem.network.vector(problem.network.buffers())
    matrix = problem.matrix(operator)
    retained = way("retained", matrix, *at)
    piece = arrange(problem, retained, width, 1.0).pieces[0]
    return agreement.Referee(problem, matrix, *at).compare(retained, piece, width)


def spoiled(monkeypatch, kind, spoil):
    """Let a kind of strategy return what ``spoil`` makes of products and vectors."""
    right = kind.product

    def product(self, piece, kept, vectors):
        return spoil(right(self, piece, kept, vectors), vectors)

    monkeypatch.setattr(kind, "product", product)


@pytest.mark.parametrize("operator", ["hessian", "ggn", "residual"])
@pytest.mark.parametrize("distance", [1e-12, -1e-12])
def test_a_kink_nearer_than_all_differences_is_no_fault(operator, distance):
    """ReLU's input is this far from zero for one sample; derivatives are right there, and on one side only."""
    torch.manual_seed(0)
    module, inputs = mlp(nn.ReLU()).double(), np.random.default_rng(0).standard_normal((12, 6))
    with torch.no_grad():
        module[0].bias[0] = distance - module[0].weight[0] @ torch.as_tensor(inputs[0])
    found = tried(problem_of(module, inputs=inputs), operator)
    assert agreement.fault(found, torch.float64) is None
    assert found.difference < 1e-12
    assert found.central_differences < 1e-3


NETWORKS = {
    "relu": lambda: mlp(nn.ReLU()),
    "tanh": lambda: mlp(nn.Tanh()),
    "layer norm": lambda: mlp(nn.LayerNorm(5), nn.GELU()),
    "batch norm": lambda: mlp(nn.BatchNorm1d(5), nn.ReLU()),
    "attention": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.Unflatten(1, (2, 4)), nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True),
        nn.Flatten(), nn.Linear(8, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("operator", ["hessian", "ggn", "residual"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_right_agrees(name, dtype, operator):
    for seed in range(5):
        torch.manual_seed(seed)
        found = tried(problem_of(NETWORKS[name](), dtype), operator)
        assert agreement.fault(found, dtype) is None
        assert found.vectors == 3 and found.samples == 5 and found.against == "double backward"
        assert found.central_differences < 1e-4
        assert found.difference <= agreement.limit(found, dtype) <= {torch.float32: 1e-2, torch.float64: 1e-9}[dtype]
        assert found.asymmetry < {torch.float32: 1e-3, torch.float64: 1e-9}[dtype]
        assert (found.rounding is None) == (dtype == torch.float64)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda products, _: products * (1 + 1e-3),
            r"differs from double backward by 1.0e-03, rounding explains 1e-04",
        ),
        (lambda products, _: products.roll(1, 1), r"differs from double backward by \d"),
        (lambda products, _: products * float("nan"), r"differs from double backward by inf"),
        (lambda products, vectors: products + 1e-5 * vectors.roll(1, 1), None),
    ],
)
def test_what_disagrees_is_dropped_in_a_line(monkeypatch, capsys, spoil, told):
    torch.manual_seed(0)
    problem = problem_of(mlp(nn.Tanh()), torch.float32)
    spoiled(monkeypatch, strategies.Split, spoil)
    monkeypatch.setattr(strategies, "seconds", lambda *_: 1.0)  # the first one is preferred
    choice = problem.choose_strategy(*point(problem), 4)
    asked = problem.choose_strategy(*point(problem), 4, strategy="split")
    said = capsys.readouterr().out
    if told is None:  # below what rounding may be
        assert choice.strategy == asked.strategy == "split" and not said
        return
    assert (choice.strategy, asked.strategy) == ("retained", "rebuild")
    assert choice.agreement["against"] == "double backward" and choice.agreement["difference"] < 1e-5
    for line in said.splitlines():
        assert line.startswith("Hessian products: not by strategy 'split', which ")
        assert re.search(told, line)
    spoiled(monkeypatch, strategies.Retained, spoil)
    spoiled(monkeypatch, strategies.Rebuild, spoil)
    with pytest.raises(LossAtlasError, match=r"no way of multiplying is right; the last one differs"):
        problem.choose_strategy(*point(problem), 4)


def test_asymmetry_is_that_of_matrices():
    generator = torch.Generator().manual_seed(0)
    full, vectors = (torch.randn(n, 300, generator=generator, dtype=torch.float64) for n in (300, 2))
    assert agreement.asymmetry(vectors, vectors @ (full + full.T)) < 1e-14
    rows = torch.randn(40, 2, 300, generator=generator, dtype=torch.float64)
    found = [agreement.asymmetry(pair, pair @ full.T) for pair in rows]
    assert 0.3 < np.median(found) < 3  # of the order of one for a matrix without symmetry
    assert agreement.asymmetry(vectors, 0 * vectors) == 0


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(5, 5)

    def forward(self, x):
        with torch.no_grad():
            scale = self.dense(x).abs().mean(1, keepdim=True)
        return self.dense(x) / scale


def test_a_gradient_that_is_not_the_derivative_is_refused_and_its_module_named():
    torch.manual_seed(0)
    problem = problem_of(mlp(Detached(), nn.Tanh()))
    with pytest.raises(LossAtlasError) as caught:
        problem.choose_strategy(*point(problem), 4)
    assert "its gradient is not the derivative of its loss" in str(caught.value)
    assert "'1' (Detached)" in str(caught.value) and "\n" not in str(caught.value)


class Detaching(nn.Module):
    """Sine whose gradient is right, but computed from a cosine that backward passes take for a constant."""

    def forward(self, x):
        with torch.no_grad():
            cosine = x.cos()
        return x.sin().detach() + cosine * (x - x.detach())


class Opaque(nn.Module):
    """The same by NumPy, where there are no forward derivatives either."""

    def forward(self, x):
        cosine = torch.as_tensor(np.cos(x.detach().numpy()))
        return x.sin().detach() + cosine * (x - x.detach())


def test_wrong_double_backward_gives_way_to_right_forward_derivatives(capsys):
    torch.manual_seed(0)
    problem = problem_of(mlp(Detaching()))
    choice = problem.choose_strategy(*point(problem), 4)
    said = capsys.readouterr().out.splitlines()
    assert choice.strategy == "split" and choice.agreement["against"] == "forward derivatives"
    assert choice.agreement["central_differences"] < 1e-4
    assert "second derivative of '1' (Detaching) is wrong: double backward is off by" in said[0]
    assert all("which differs from forward derivatives by" in line for line in said[1:])


def test_second_derivatives_that_nobody_gets_right_are_refused_and_named():
    torch.manual_seed(0)
    problem = problem_of(mlp(Opaque()))
    with pytest.raises(LossAtlasError) as caught:
        problem.choose_strategy(*point(problem), 4)
    assert "PyTorch's second derivative of '1' (Opaque) is wrong" in str(caught.value)
    assert "forward derivatives are no better" in str(caught.value)


def test_kinks_are_no_faults():
    """A deep network of ReLU and max-pooling has a kink near every point; none of many is refused."""
    for seed in range(20):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU()]
        module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 4 * 4, 3))
        images = np.random.default_rng(seed).standard_normal((12, 1, 12, 12))
        found = tried(problem_of(module, torch.float32, images))
        assert agreement.fault(found, torch.float32) is None and found.central_differences < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_on_their_kinks_are_no_faults(dtype):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 3))
    for layer in (module[0], module[2], module[4]):
        nn.init.zeros_(layer.bias)
    inputs = np.random.default_rng(0).standard_normal((12, 6))
    inputs[::3] = 0  # all units of these samples are at zero
    problem = problem_of(module, dtype, inputs)
    assert agreement.fault(tried(problem), dtype) is None
    assert problem.choose_strategy(*point(problem), 4).agreement["central_differences"] < 1e-3


def test_nothing_is_said_of_what_is_not_finite():
    torch.manual_seed(0)
    problem = problem_of(mlp(nn.Tanh()))
    problem.network.load(theta=np.full(problem.layout.size, np.nan))
    found = tried(problem)
    assert agreement.fault(found, torch.float64) is None
    assert found.attributes["difference"] is None and found.central_differences is None


class Lowering(nn.Module):
    def forward(self, x):
        return x.float().tanh().to(x.dtype)


def test_what_is_computed_in_a_lower_precision_is_no_fault():
    torch.manual_seed(0)
    problem = problem_of(mlp(Lowering()), torch.float32)
    choice = problem.choose_strategy(*point(problem), 4)
    assert choice.agreement["central_differences"] is None, "differences in float64 would be those of float32"
    assert choice.agreement["difference"] < 1e-5


class Square(torch.autograd.Function):
    """x^2, with a right derivative, whose own derivative is off by a few percent, each time otherwise."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, slope):
        return Twice.apply(ctx.saved_tensors[0], slope)


class Twice(torch.autograd.Function):
    """2 x s."""

    @staticmethod
    def forward(ctx, x, slope):
        ctx.save_for_backward(x, slope)
        return 2 * x * slope

    @staticmethod
    def backward(ctx, grad):
        x, slope = ctx.saved_tensors
        return 2 * slope * grad * (1 + 0.2 * torch.randn_like(x)), 2 * x * grad


class Squares(nn.Module):
    def forward(self, x):
        return Square.apply(x)


def test_products_that_differ_from_time_to_time_are_refused():
    with pytest.raises(LossAtlasError, match=r"second derivative of .*Squares.* is wrong") as refused:
        problem = problem_of(mlp(Squares()))
        problem.choose_strategy(*point(problem), 1)
    assert "\n" not in str(refused.value)


def test_large_networks_are_tried_on_few_samples_and_small_ones_on_whole_pieces(monkeypatch):
    problem = problem_of(mlp(nn.Tanh()), samples=400)
    tried, keep = [], strategies.Retained.keep
    monkeypatch.setattr(
        strategies.Retained,
        "keep",
        lambda self, piece, width: (tried.append(len(piece[0])), keep(self, piece, width))[1],
    )
    for long_enough, most in ((0.0, strategies.FEW), (1e12, max(len(piece[0]) for piece in problem.pieces(1)))):
        tried.clear()
        monkeypatch.setattr(strategies, "LONG_ENOUGH", long_enough)
        problem.choose_strategy(*point(problem), 1, strategy="retained")
        assert max(tried) == most
