"""Derivatives along curves: a quadratic in closed form, and networks by autograd of the loss along the line."""

import lossatlas
import numpy as np
import pytest
import torch
from lossatlas.config import resolve
from lossatlas.errors import LossAtlasError
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

AT = [-0.31, 0.0, 0.8]


class Attention(nn.Module):
    """One layer of attention over four tokens of three numbers."""

    def __init__(self):
        super().__init__()
        self.project, self.head = nn.Linear(3, 24), nn.Linear(8, 3)

    def forward(self, x):
        query, key, value = self.project(x.view(-1, 4, 3)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.head(mixed.transpose(1, 2).flatten(2).mean(1))


def normalised():
    """Return a network whose running statistics are not those of any samples."""
    model = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    return model


NETWORKS = {
    "dense": lambda: nn.Sequential(nn.Linear(12, 5), nn.Softplus(), nn.Linear(5, 3)),
    "attention": Attention,
    "batchnorm": normalised,
}


@pytest.fixture
def given(request):
    torch.manual_seed(5)
    model = NETWORKS[request.param]().double()
    return model, (torch.randn(17, 12, dtype=torch.float64), torch.randint(0, 3, (17,)))


def along(model, data, start, direction, alpha):
    """Return loss, first and second derivative of t -> L(start + t direction) by plain autograd."""
    t = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    names = [(name, p.shape) for name, p in model.named_parameters()]
    parts = (start + t * direction).split([shape.numel() for _, shape in names])
    values = {name: part.view(shape) for (name, shape), part in zip(names, parts, strict=True)}
    with sdpa_kernel(SDPBackend.MATH):
        loss = functional.cross_entropy(functional_call(model.eval(), values, data[0]), data[1])
        (first,) = torch.autograd.grad(loss, t, create_graph=True)
        (second,) = torch.autograd.grad(first, t)
    return [value.item() for value in (loss, first, second)]


@pytest.mark.parametrize("given", NETWORKS, indirect=True)
def test_derivatives_are_those_of_autograd_along_the_line(given):
    model, data = given
    few = tuple(part[:5] for part in data)
    how = {"test": few, "count": 2, "points": 5, "batch_size": 6, "normalize": "model", "vectors": True}
    curves = lossatlas.curve(model, "cross-entropy", data, **how, second_order=AT).data
    start = nn.utils.parameters_to_vector(model.parameters()).detach()
    assert set(AT) <= set(curves["alpha"].values), "positions become points"
    for k, direction in enumerate(torch.tensor(curves["direction"].values)):
        for split, samples in (("train", data), ("test", few)):
            for alpha in AT:
                found = curves.sel(split=split, alpha=alpha).isel(curve=k)
                exact = along(model, samples, start, direction, alpha)
                assert [float(found[name]) for name in ("loss", "slope", "curvature")] == pytest.approx(exact, rel=1e-9)
    elsewhere = curves.sel(alpha=[a for a in curves["alpha"].values if a not in AT])
    assert elsewhere["slope"].isnull().all()
    assert elsewhere["curvature"].isnull().all()


def test_a_quadratic_is_its_own_approximation_at_every_point():
    torch.manual_seed(6)
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 1, dtype=torch.float64)
    model, other = nn.Linear(4, 1).double(), nn.Linear(4, 1).double()
    curve = lossatlas.curve(model, "mse", (x, y), to=other, batchnorm="frozen", points=9, second_order=AT).data
    alpha, loss = curve["alpha"].values, curve["loss"].values[0, 0]
    for at in AT:
        here = curve.sel(alpha=at, split="train").isel(curve=0)
        step = alpha - at
        approximation = float(here["loss"]) + float(here["slope"]) * step + float(here["curvature"]) * step**2 / 2
        assert approximation == pytest.approx(loss, rel=1e-10)
    h = 2 / 9 * np.concatenate([x, np.ones((9, 1))], axis=1).T @ np.concatenate([x, np.ones((9, 1))], axis=1)
    vectors = [nn.utils.parameters_to_vector(m.parameters()).detach().numpy() for m in (model, other)]
    d = vectors[1] - vectors[0]
    assert curve["curvature"].values[np.isfinite(curve["curvature"].values)] == pytest.approx([d @ h @ d] * 3)


@pytest.mark.parametrize("given", ["batchnorm"], indirect=True)
def test_moving_statistics_are_refused(given):
    model, data = given
    with pytest.raises(LossAtlasError, match=r"curve.second_order: this network has BatchNorm.*choose 'frozen'"):
        lossatlas.curve(model, "cross-entropy", data, batchnorm="recompute", points=3, second_order=[0.0])
    with pytest.raises(LossAtlasError, match="interpolate; choose 'frozen'"):
        lossatlas.curve(model, "cross-entropy", data, to=normalised().double(), points=3, second_order=[0.0])


@pytest.mark.parametrize(
    ("second_order", "message"),
    [
        ({"at": [0, 3]}, r"runs.r.curves.c.second_order.at: 3 is not in the range \[-1, 1\]"),
        ({"at": [0.5, 0]}, r"curves.c.second_order.at: \[0.5, 0\] do not ascend"),
        ({"at": []}, r"curves.c.second_order.at: \[\] has fewer entries than 1"),
        ({"at": [0], "points": 3}, r"curves.c.second_order: unknown key 'points'"),
        ({"at": [0], "strategy": "nested"}, r"second_order.strategy: 'nested' is not there with backend: torch"),
    ],
)
def test_mistakes_are_named(second_order, message):
    curves = {"c": {"x": "random", "second_order": second_order}}
    with pytest.raises(LossAtlasError, match=message):
        resolve({"runs": {"r": {"model": {"name": "lenet"}, "curves": curves}}})
