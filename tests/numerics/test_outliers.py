"""Exact weights of isolated eigenvalues: coverage of every stated 95 % interval, errors at equal products, traps.

The quadratures come from a Lanczos recurrence of this file, in the eigenbasis, for all probes of a draw at once.
"""

from functools import cache

import numpy as np
import pytest
import torch
from lossatlas.krylov import Spectrum, lanczos, probe_vectors
from lossatlas.krylov.outliers import last_components
from scipy.stats import wasserstein_distance
from torch import nn
from torch.func import functional_call, hessian

from tests.numerics.test_krylov import Dense, symmetric

SIZE, STEPS, DRAWS, PROBES = 150, 40, 200, (2, 3, 4, 10)


def gauss(values, starts, steps):
    """Return nodes, weights and residual bounds of the Gauss quadratures of vectors (probe, N) in the eigenbasis."""
    basis, alpha, beta = np.zeros((len(starts), steps, len(values))), *np.zeros((2, len(starts), steps))
    rest = starts
    for j in range(steps):
        basis[:, j] = rest / np.linalg.norm(rest, axis=1, keepdims=True)
        rest = basis[:, j] * values
        alpha[:, j] = np.einsum("pn,pn->p", rest, basis[:, j])
        for _ in range(2):
            rest = rest - np.einsum("pj,pjn->pn", np.einsum("pjn,pn->pj", basis[:, : j + 1], rest), basis[:, : j + 1])
        beta[:, j] = np.linalg.norm(rest, axis=1)
    row = np.arange(steps)
    tridiagonal = np.zeros((len(starts), steps, steps))
    tridiagonal[:, row, row], tridiagonal[:, row[1:], row[:-1]] = alpha, beta[:, :-1]  # eigh reads the lower half
    nodes, vectors = np.linalg.eigh(tridiagonal)
    return nodes, vectors[:, 0] ** 2, beta[:, -1:] * np.abs(vectors[:, -1])


def bulk(count):
    return np.random.default_rng(5).uniform(0, 1, count)


KNOWN = {
    "bulk alone": bulk(SIZE),
    "one outlier": np.append(bulk(SIZE - 1), 100.0),
    "three outliers": np.append(bulk(SIZE - 3), [100.0, 60.0, 30.0]),
    "ten outliers, decaying bulk": np.append(np.exp(-np.linspace(0, 8, SIZE - 10)), np.geomspace(5, 100, 10)),
    "power law": np.arange(1.0, SIZE + 1) ** -1.5,
    "rank one": np.append(np.zeros(SIZE - 1), 1.0),
    "log-uniform": np.geomspace(1e-6, 1, SIZE),
    "doubled outliers": np.append(bulk(SIZE - 4), [100.0, 100.0, 50.0, 50.0]),
    "negative outliers": np.append(bulk(SIZE - 3) - 0.5, [-100.0, -50.0, 80.0]),
}
SINGLE = ("one outlier", "three outliers", "ten outliers, decaying bulk", "negative outliers")
NETWORKS = {
    "classifier": (nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4)),
    "convolutions": (nn.Conv2d(1, 4, 3, 2), nn.Softplus(), nn.Flatten(), nn.Linear(36, 6), nn.Tanh(), nn.Linear(6, 3)),
    "regression": (nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 1)),
}  # fmt: skip


def trained(name):
    """Return the dense Hessian of a small network after 100 steps of Adam on synthetic samples."""
    torch.manual_seed(0)
    module, label = nn.Sequential(*NETWORKS[name]).double(), torch.arange(120) % 3
    for layer in module:
        getattr(layer, "reset_parameters", lambda: None)()
    x = torch.randn(120, *{"classifier": (10,), "convolutions": (1, 8, 8), "regression": (5,)}[name]).double()
    x = x if name == "regression" else x + torch.randn(3, *x.shape[1:]).double()[label]
    y, loss = (torch.sin(x.sum(1, True)), nn.MSELoss()) if name == "regression" else (label, nn.CrossEntropyLoss())
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        loss(module(x), y).backward()
        optimizer.step()
    names, parts = zip(*module.named_parameters(), strict=True)

    def of(theta):
        pieces = zip(names, parts, theta.split([part.numel() for part in parts]), strict=True)
        return loss(functional_call(module, {key: piece.view_as(part) for key, part, piece in pieces}, (x,)), y)

    return hessian(of)(torch.cat([part.detach().flatten() for part in parts])).numpy()


@cache
def eigen(name):
    """Return eigenvalues and eigenvectors: of a random basis for known spectra, else of a network's Hessian."""
    if name in KNOWN:
        return KNOWN[name], np.linalg.qr(np.random.default_rng(0).standard_normal((SIZE, SIZE)))[0]
    return np.linalg.eigh(trained(name))


def held(estimate, truth, scale):
    """Return whether an interval holds the truth, up to rounding: intervals without any spread have no width."""
    return (estimate.low - 1e-9 * scale <= truth) & (truth <= estimate.high + 1e-9 * scale)


def look(found, values):
    """Return which statements about one draw are true, and the squared errors of the trace."""
    size, scale, epsilon = len(values), np.abs(values).max(), 1.01 * np.quantile(np.abs(values), 0.6)
    at, alpha = np.quantile(values, [0.05, 0.5, 0.99]) + 1e-9 * scale, 0.01 * scale
    counts, accuracy = found.count(epsilon), found.accuracy()
    inside = {"below": values < -epsilon, "within": np.abs(values) <= epsilon, "above": values > epsilon}
    distance = wasserstein_distance(found.nodes.ravel(), values, found.shares.ravel())
    positive = np.maximum(values, 0)
    return {
        "trace": held(found.trace(), values.sum(), size * scale),
        "second moment": held(found.moment(2), (values**2).mean(), scale**2),
        "counts": np.mean([held(counts[name], mask.sum(), size) for name, mask in inside.items()]),
        "distribution": held(found.distribution(at), (values <= at[:, None]).mean(axis=1), 1).mean(),
        "effective dimension": held(found.effective_dimension(alpha), (positive / (positive + alpha)).sum(), size),
        "Wasserstein": distance <= accuracy.steps + accuracy.probes + 1e-9 * scale,
        "plain": ((found.weights * found.nodes).sum() / len(found.nodes) - values.mean()) ** 2,
        "ours": (found.trace().value / size - values.mean()) ** 2,
    }


def draws(name, distribution):
    """Return what ``look`` sees in every draw, by the number of probes; the basis of two steps holds a rank-one H."""
    values, vectors = eigen(name)
    generator, shape = np.random.default_rng(7), (PROBES[-1], len(values))
    seen = {probes: [] for probes in PROBES}
    for _ in range(DRAWS):
        gaussian = distribution == "gaussian"
        starts = generator.standard_normal(shape) if gaussian else generator.choice((-1.0, 1.0), shape)
        nodes, weights, bounds = gauss(values, starts @ vectors, 2 if name == "rank one" else STEPS)
        for probes in PROBES:
            found = Spectrum(nodes[:probes], weights[:probes], len(values), bounds[:probes])
            seen[probes].append(look(found, values))
    return seen


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("name", [*KNOWN, *NETWORKS])
def test_error_bars_cover_what_they_state_and_errors_fall(name, distribution):
    """Intervals of trace and moments cover 95 %; those that hold quadrature bounds, which none exceeds, cover more.

    Each share of 200 draws may be three standard deviations below 95 %; the mean over numbers of probes may not.
    """
    shares = []
    for seen in draws(name, distribution).values():
        share = {key: np.mean([one[key] for one in seen]) for key in seen[0]}
        gain = share.pop("plain") / share.pop("ours")
        assert min(share.values()) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / DRAWS), share
        assert gain >= (2 if name in NETWORKS else 10 if name in SINGLE else 1 / 1.1)
        shares.append(share)
    for statement in shares[0]:
        mean = np.mean([share[statement] for share in shares])
        assert 0.93 <= mean <= (0.99 if statement in ("trace", "second moment") else 1), statement


@pytest.mark.parametrize("top", [[9.0] * 3 + [5.0] * 3, [9.0, 9.0, 5.0, 5.0, 3.0], [9.0, 9.0 - 3e-6, 5.0, 5.0 - 1e-3]])
def test_multiplicities_are_right_or_left_undecided(top):
    """One run sees a multiple eigenvalue once, then again through rounding: in between nothing may be said."""
    values, decided = np.append(np.linspace(0, 1, 100), top), 0
    for dtype in (np.float64, np.float32):
        operator = Dense(symmetric(values), dtype)
        for steps in range(6, 60, 6):
            runs = lanczos(operator, probe_vectors(len(values), range(3), steps), steps)
            found = Spectrum.of(runs, len(values)).outliers
            for one in found[found > 1.1]:
                assert (np.abs(found - one) < 1e-4).sum() == (np.abs(values - one) < 1e-4).sum()
            decided += (found > 1.1).sum()
    assert decided > 20


def test_isolated_eigenvalues_are_eigenvalues_and_the_others_keep_their_ratios():
    values, size = KNOWN["power law"], SIZE
    runs = lanczos(Dense(symmetric(values)), probe_vectors(size, range(3), 0), 30)
    found = Spectrum.of(runs, size)
    count = len(found.outliers)
    assert count >= 4 and np.abs(found.outliers - np.sort(values)[-count:]).max() < 1e-14
    assert (found.shares[found.isolated] == 1 / size).all()
    ratios = (found.shares / found.weights)[~found.isolated].reshape(3, -1)
    assert np.allclose(ratios, ratios[:, :1], rtol=1e-14)
    assert np.allclose(found.shares.sum(axis=1), 1, rtol=1e-14)
    assert np.array_equal(found.weights, [run.ritz()[1] for run in runs]), "what a store holds stays as it is"


@pytest.mark.parametrize("name", ["bulk alone", "one outlier"])
def test_without_isolated_eigenvalues_nothing_changes(name):
    steps = 40 if name == "bulk alone" else 4  # few steps find no outlier to the last digit
    found = Spectrum.of(lanczos(Dense(symmetric(KNOWN[name])), probe_vectors(SIZE, range(3), 0), steps), SIZE)
    assert not found.isolated.any() and found.shares is found.weights
    assert found.trace().value == pytest.approx(SIZE * (found.weights * found.nodes).sum() / 3, rel=1e-14)


def test_one_probe_that_has_not_found_an_eigenvalue_leaves_it_alone():
    operator, probes = Dense(symmetric(KNOWN["one outlier"])), probe_vectors(SIZE, range(3), 0)
    runs = lanczos(operator, probes, 20)
    assert len(Spectrum.of(runs, SIZE).outliers) == 1
    assert len(Spectrum.of([*runs, *lanczos(operator, probes[:1], 3)], SIZE).outliers) == 0


def test_last_components_follow_from_nodes_and_weights():
    run = lanczos(Dense(symmetric(np.linspace(-1, 1, 60))), probe_vectors(60, range(1), 0), 12)[0]
    vectors = np.linalg.eigh(np.diag(run.alpha) + np.diag(run.beta[:-1], 1) + np.diag(run.beta[:-1], -1))[1]
    assert np.allclose(10.0 ** last_components(*run.ritz()[:2]), np.abs(vectors[-1]), rtol=1e-6)


def test_the_standard_error_is_that_of_random_unit_vectors():
    """Against 4000 vectors: var v'Hv = 2 / (N + 2) times the variance of the eigenvalues."""
    values = np.linspace(0, 1, 30) ** 1.5
    vectors = np.random.default_rng(3).standard_normal((4000, 30))
    forms = (vectors**2 @ values) / (vectors**2).sum(axis=1)
    nodes = np.tile(values, (2, 1))
    found = Spectrum(nodes, np.full((2, 30), 1 / 30), 30).moment(1)
    assert found.standard_error == pytest.approx(forms.std() / np.sqrt(2), rel=5 / np.sqrt(4000))
    assert (found.high - found.value) / found.standard_error < 2.0, "many eigenvalues are as good as normal"
    decides = Spectrum(np.array([[0.0, 1.0]] * 2), np.array([[0.98, 0.02]] * 2), 50).moment(1)
    assert (decides.high - decides.value) / decides.standard_error == pytest.approx(4.30, rel=0.06), "Student, 2"
