"""Eigenpairs nearest a value, against matrices of known spectra and dense Hessians of small networks by autograd."""

import lossatlas
import numpy as np
import pytest
import torch
from lossatlas.errors import LossAtlasError, NonFiniteError
from lossatlas.krylov import nearest_eigenpairs
from torch import nn
from torch.nn import functional


class Diagonal:
    """A diagonal matrix whose products are rounded to a precision."""

    def __init__(self, values, dtype=np.float64):
        self.values, self.size, self.dtype = np.asarray(values, dtype), len(values), np.dtype(dtype)
        self.products = 0

    def matmat(self, vectors):
        self.products += len(vectors)
        return (vectors.astype(self.dtype) * self.values).astype(np.float64)


def check(found, values, near, tolerance, least_orthogonal=1e-12):
    """Compare with the values that lie nearest in a diagonal matrix; residuals are measured here anew."""
    count, norm = len(found.values), np.abs(values).max()
    nearest = values[np.argsort(np.abs(values - near), kind="stable")[:count]]
    assert np.abs(found.values - near) == pytest.approx(np.abs(nearest - near), abs=2 * tolerance * norm)
    residuals = np.linalg.norm(found.vectors * values - found.values[:, None] * found.vectors, axis=1)
    assert np.abs(residuals - found.residuals).max() <= 1e-6 * norm
    assert (residuals <= 1.01 * tolerance * norm).all()
    assert np.abs(found.vectors @ found.vectors.T - np.eye(count)).max() < least_orthogonal
    assert found.converged.all()
    assert found.none_nearer
    assert found.norm == pytest.approx(norm, rel=0.05)


BULK = np.random.default_rng(0).uniform(0.2, 1, 300) * np.repeat([-1, 1], 150)
SPECTRA = {
    "gap": (np.append(BULK, [0.03, -0.05]), 0.0, 2),
    "beyond the gap": (np.append(BULK, [0.03, -0.05]), 0.0, 4),
    "equally far on both sides": (np.arange(-40.5, 41) / 40, 0.0, 3),
    "cluster": (np.append(BULK, [0.05, 0.0501, 0.0502]), 0.0, 3),
    "triple": (np.append(BULK, [0.05] * 3), 0.0, 3),
    "multiples": (np.repeat([5.0, 4.0, 1.0, 0.5, 0.1], [4, 3, 50, 100, 43]), 4.2, 5),
    "beyond the end": (np.linspace(0, 1, 300) ** 2, 2.0, 2),
    "below": (np.append(BULK, [-3.0, -3.0, -2.0]), -9.0, 3),
    "at the end": (np.linspace(0, 1, 120), 0.999, 2),
    "zeros": (np.zeros(40), 0.0, 3),
    "all of one": (np.ones(7), 3.0, 7),
    "smaller than the basis": (np.linspace(-1, 1, 12) ** 3, 0.1, 4),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_the_nearest_of_known_spectra_are_found_as_often_as_they_are_there(name):
    values, near, count = SPECTRA[name]
    operator = Diagonal(values)
    found = nearest_eigenpairs(operator, near, count, 1e-6, 3000)
    check(found, values, near, 1e-6)
    assert operator.products <= found.products + 6, "besides those that measure noise"
    assert (np.diff(np.abs(found.values - near)) > -1e-6).all(), "nearest first"


@pytest.mark.parametrize(("tolerance", "seed"), [(1e-3, 0), (1e-3, 1), (5e-4, 2)])
def test_where_eigenvalues_are_denser_than_residuals_flat_directions_are_found_and_called_so(tolerance, seed):
    """Spectra of networks: outliers, and thousands of eigenvalues around zero; products in float32."""
    rng = np.random.default_rng(seed)
    values = np.concatenate(
        [rng.standard_normal(20_000) * 10 ** rng.uniform(-6, -1.5, 20_000), 24 / np.arange(24, 200)]
    )
    found = nearest_eigenpairs(Diagonal(values, np.float32), 0.0, 2, tolerance, 2000, seed)
    check(found, values, 0.0, tolerance, 1e-5)
    assert not found.isolated.any()
    random = rng.standard_normal(len(values))
    assert found.residuals.max() < 0.1 * np.linalg.norm(values * random) / np.linalg.norm(random)


def test_isolated_pairs_are_told_from_those_of_one_space():
    values = np.append(BULK, [0.05] * 2 + [-0.1])
    found = nearest_eigenpairs(Diagonal(values), 0.0, 3, 1e-6, 3000)
    assert found.isolated.tolist() == [False, False, True]


def test_a_search_that_ends_early_says_so():
    operator = Diagonal(np.linspace(0, 1, 500))
    short = nearest_eigenpairs(operator, 0.4999, 2, 1e-8, 150)
    assert short.products <= 150
    assert not short.converged.any()
    assert not short.none_nearer
    settled = nearest_eigenpairs(Diagonal(np.append(BULK, [0.03, -0.05])), 0.0, 2, 1e-3, 115)
    assert settled.converged.all()
    assert not settled.none_nearer, "pairs have converged, but no look at what else is there was possible"


def test_scales_do_not_matter():
    values = SPECTRA["gap"][0]
    for scale in (1e-8, 1e8):
        found = nearest_eigenpairs(Diagonal(scale * values), 0.01 * scale, 2, 1e-6, 3000)
        assert found.values / scale == pytest.approx([0.03, -0.05], abs=1e-6)


def test_impossible_requests_are_refused():
    with pytest.raises(LossAtlasError, match="eigenpairs: 6 asked for; must lie between 1 and"):
        nearest_eigenpairs(Diagonal(np.ones(5)), 0.0, 6)
    with pytest.raises(LossAtlasError, match="max_products: 5 is less than twice the number of pairs, 3"):
        nearest_eigenpairs(Diagonal(np.ones(5)), 0.0, 3, max_products=5)
    with pytest.raises(NonFiniteError, match="NaN or inf"):
        nearest_eigenpairs(Diagonal(np.full(5, np.nan)), 0.0, 1)


class Dense:
    """A dense symmetric matrix."""

    def __init__(self, matrix):
        self.matrix, self.size, self.dtype = matrix, len(matrix), matrix.dtype

    def matmat(self, vectors):
        return vectors @ self.matrix


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.last = (nn.Linear(4, n) for n in (4, 4, 4, 3))

    def forward(self, x):
        shares = torch.softmax(self.query(x) @ self.key(x).mT / 2, -1)
        return self.last((shares @ self.value(x)).mean(1))


class Recurrence(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps, self.last = nn.GRU(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.steps(x)[0][:, -1])


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(20, 5), nn.Tanh(), nn.Linear(5, 3))


def dense_hessian(model, data):
    """Return the Hessian of the mean cross-entropy by autograd."""
    names, shapes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)

    def loss(theta):
        parts = theta.split([shape.numel() for shape in shapes])
        parameters = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return functional.cross_entropy(torch.func.functional_call(model, parameters, data[0]), data[1])

    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    return torch.autograd.functional.hessian(loss, theta).numpy()


@pytest.mark.parametrize("build", [perceptron, Attention, Recurrence])
@pytest.mark.parametrize("near", [0.0, 0.05])
def test_nearest_pairs_of_networks_are_those_of_their_dense_hessians(build, near):
    torch.manual_seed(0)
    model = build().double()
    data = torch.randn(40, 5, 4, dtype=torch.float64), torch.randint(0, 3, (40,))
    dense = dense_hessian(model, data)
    exact = np.linalg.eigvalsh(dense)
    pairs = nearest_eigenpairs(Dense(dense), near, 3, 1e-5, 6000)
    wanted = np.sort(np.abs(exact - near))[:3]
    assert np.abs(pairs.values - near) == pytest.approx(wanted, abs=2e-5 * np.abs(exact).max())
    residuals = np.linalg.norm(pairs.vectors @ dense - pairs.values[:, None] * pairs.vectors, axis=1)
    assert np.abs(residuals - pairs.residuals).max() < 1e-10
    assert residuals.max() <= 1e-5 * np.abs(exact).max()
    assert pairs.converged.all()
    assert pairs.none_nearer


def test_the_api_takes_a_value_or_an_end():
    torch.manual_seed(0)
    model = perceptron().double()
    data = torch.randn(40, 5, 4, dtype=torch.float64), torch.randint(0, 3, (40,))
    hessian, dense = lossatlas.hessian(model, "cross-entropy", data), dense_hessian(model, data)
    exact = np.linalg.eigvalsh(dense)
    pairs = hessian.eigenpairs(2, tolerance=1e-2, near=0.0)
    assert pairs.values == pytest.approx(np.zeros(2), abs=1e-2 * exact[-1])
    assert np.linalg.norm(pairs.vectors @ dense, axis=1).max() < 2e-2 * exact[-1]
    assert pairs.converged.all()
    with pytest.raises(LossAtlasError, match="which: 'SA' is an end of the spectrum; leave it out with 'near'"):
        hessian.eigenpairs(1, "SA", near=0.0)
    with pytest.raises(LossAtlasError, match="eigenpairs: near: nan is no finite number"):
        hessian.eigenpairs(1, near=float("nan"))
