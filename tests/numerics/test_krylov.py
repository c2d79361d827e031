"""Lanczos, quadrature and eigenpairs on dense matrices (oracles 6-13, 16) and coverage of the error bars."""

import numpy as np
import pytest
from lossatlas.errors import LossAtlasError
from lossatlas.krylov import Spectrum, eigenpairs, lanczos, probe_vectors
from lossatlas.krylov.christoffel import christoffel, quadrature_error
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.stats import wasserstein_distance


class Dense:
    """A dense symmetric matrix whose products are rounded to a precision."""

    def __init__(self, matrix, dtype=np.float64):
        self.matrix, self.size, self.dtype = matrix.astype(dtype), len(matrix), np.dtype(dtype)
        self.products = 0

    def matmat(self, vectors):
        self.products += len(vectors)
        return (vectors.astype(self.dtype) @ self.matrix).astype(np.float64)


def symmetric(eigenvalues, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2))
    matrix = (q * eigenvalues) @ q.T
    return (matrix + matrix.T) / 2


def network_like(size=300):
    """A bulk near zero, a few outliers, some negative values: what Hessians of networks look like."""
    rng = np.random.default_rng(1)
    return np.concatenate([0.02 * rng.standard_normal(size - 5), [0.7, 1.5, 3.0, 8.0, 20.0]])


EXACT = pytest.mark.parametrize(("dtype", "exact"), [(np.float64, True), (np.float32, False)])


@EXACT
def test_oracles_7_8_11_basis_recurrence_and_residual_bounds(dtype, exact):
    operator = Dense(symmetric(network_like()), dtype)
    (run,) = lanczos(operator, probe_vectors(300, range(1), 0), 80, keep_basis=True)
    q, h = run.basis.astype(float), operator.matrix.astype(float)
    t = np.diag(run.alpha) + np.diag(run.beta[:-1], 1) + np.diag(run.beta[:-1], -1)
    assert np.abs(q @ q.T - np.eye(80)).max() < (1e-13 if exact else 1e-5)
    remainder = h @ q.T - q.T @ t
    assert np.abs(remainder[:, :-1]).max() < (1e-12 if exact else 1e-5) * 20
    assert np.linalg.norm(remainder[:, -1]) == pytest.approx(run.beta[-1], rel=1e-8 if exact else 1e-3)
    nodes, vectors = np.linalg.eigh(t)
    bounds = run.ritz()[2]
    for j in (0, 40, 79):
        y = vectors[:, j] @ q
        assert abs(np.linalg.norm(h @ y - nodes[j] * y) - bounds[j]) < (1e-12 if exact else 1e-5) * 20


@EXACT
def test_oracle_9_moments_are_exact_up_to_2m_minus_1_and_not_beyond(dtype, exact):
    matrix, m = symmetric(np.linspace(-1, 1, 60)), 6
    probe = probe_vectors(60, range(1), 3)
    (run,) = lanczos(Dense(matrix, dtype), probe, m)
    nodes, weights, _ = run.ritz()
    for power in range(2 * m + 1):
        expected = probe[0] @ np.linalg.matrix_power(matrix, power) @ probe[0]
        error = abs(weights @ nodes**power - expected)
        if power < 2 * m:
            assert error < (1e-12 if exact else 1e-6)
        else:
            assert error > 1e-6


@EXACT
def test_oracle_10_weights_and_nodes(dtype, exact):
    values = network_like()
    for run in lanczos(Dense(symmetric(values), dtype), probe_vectors(300, range(4), 0), 50):
        nodes, weights, _ = run.ritz()
        assert (weights >= 0).all()
        assert abs(weights.sum() - 1) < (1e-13 if exact else 1e-5)
        assert nodes.min() >= values.min() - (1e-12 if exact else 1e-5) * 20
        assert nodes.max() <= values.max() + (1e-12 if exact else 1e-5) * 20


@EXACT
def test_oracle_12_exactly_one_copy_of_the_top_eigenvalue(dtype, exact):
    for run in lanczos(Dense(symmetric(network_like()), dtype), probe_vectors(300, range(3), 0), 80):
        nodes = run.ritz()[0]
        for outlier in (20.0, 8.0, 3.0, 1.5):
            assert (np.abs(nodes - outlier) < 1e-3).sum() == 1


@EXACT
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize(
    ("values", "degree"),
    [
        (np.zeros(50), 1),
        (np.ones(50), 1),
        (np.array([0.0] * 45 + [1, 2, 3, 4, 5]), 6),
        (np.array([-1.0] * 20 + [0.5] * 20 + [2.0] * 10), 3),
    ],
    ids=["zero", "identity", "rank 5", "three values"],
)
def test_oracles_6_13_lanczos_stops_at_the_degree_whatever_the_scale(dtype, exact, scale, values, degree):
    runs = lanczos(Dense(scale * symmetric(values), dtype), probe_vectors(50, range(3), 0), 30)
    for run in runs:
        # Rounding may be amplified to one step more; it then repeats a true value, and that is the end.
        assert degree <= run.steps <= degree + 1
        nodes, weights, bounds = run.ritz()
        assert np.isfinite(nodes).all()
        assert (bounds == 0).all()
        nearest = np.abs(nodes[:, None] - np.unique(values) * scale).min(axis=1)
        heavy = weights > (1e-20 if exact else 1e-8)
        assert len(np.unique(np.round(nodes[heavy] / scale, 3))) == degree
        assert nearest[heavy].max() <= (1e-11 if exact else 1e-4) * 5 * scale
    spectrum = Spectrum.of(runs, 50)
    assert np.isfinite(spectrum.density(np.linspace(-1, 1, 5)).value).all()


@EXACT
def test_a_healthy_matrix_does_not_break_down(dtype, exact):
    for run in lanczos(Dense(symmetric(network_like()), dtype), probe_vectors(300, range(3), 0), 100):
        assert run.steps == 100


def test_oracle_6_a_shift_shifts_the_spectrum():
    matrix, probes = symmetric(network_like()), probe_vectors(300, range(2), 0)
    plain = Spectrum.of(lanczos(Dense(matrix), probes, 20), 300)
    shifted = Spectrum.of(lanczos(Dense(matrix + 3 * np.eye(300)), probes, 20), 300)
    assert np.abs(shifted.nodes - 3 - plain.nodes).max() < 1e-11 * 20
    assert np.abs(shifted.weights - plain.weights).max() < 1e-11


def wishart(seed=0, size=400, samples=800, spike=0.0):
    x = np.random.default_rng(seed).standard_normal((samples, size))
    x[:, 0] *= np.sqrt(1 + spike)
    return x.T @ x / samples


@pytest.mark.parametrize("spike", [0.0, 20.0])
def test_oracle_13_known_spectra(spike):
    matrix = wishart(spike=spike)
    exact = np.linalg.eigvalsh(matrix)
    spectrum = Spectrum.of(lanczos(Dense(matrix), probe_vectors(400, range(20), 0), 60), 400)
    distance = wasserstein_distance(exact, spectrum.nodes.ravel(), v_weights=spectrum.weights.ravel())
    assert distance < 0.01 * (exact.max() - exact.min())
    lower, upper = (1 - np.sqrt(0.5)) ** 2, (1 + np.sqrt(0.5)) ** 2  # Marchenko-Pastur, ratio 1/2
    bulk = spectrum.nodes[spectrum.nodes < 5]
    assert bulk.min() == pytest.approx(lower, abs=0.05)
    assert bulk.max() == pytest.approx(upper, abs=0.1)
    if spike:
        assert np.allclose(spectrum.nodes.max(axis=1), exact.max(), rtol=1e-10)


def test_density_is_the_sum_of_gaussians_and_integrates_to_one():
    spectrum = Spectrum.of(lanczos(Dense(symmetric(network_like())), probe_vectors(300, range(3), 0), 40), 300)
    grid = np.linspace(-5, 25, 20001)
    for sigma in (0.05, 0.3):
        density = spectrum.density(grid, sigma).value
        assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-6)
        by_hand = np.zeros_like(grid)
        for i in range(3):
            for node, weight in zip(spectrum.nodes[i], spectrum.shares[i], strict=True):
                by_hand += weight * np.exp(-0.5 * ((grid - node) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi)) / 3
        assert np.abs(density - by_hand).max() < 1e-12 * by_hand.max()


def test_full_lanczos_gives_the_exact_distribution_of_each_probe():
    values = np.arange(1.0, 21.0)
    matrix = symmetric(values)
    probes = probe_vectors(20, range(4), 0)
    spectrum = Spectrum.of(lanczos(Dense(matrix), probes, 20), 20)
    vectors = np.linalg.eigh(matrix)[1]
    shares = ((probes @ vectors) ** 2).cumsum(axis=1)
    at = np.arange(1.5, 21.0)
    assert np.abs(spectrum.distribution(at).value - shares.mean(axis=0)).max() < 1e-12


def test_quadrature_bounds_hold_for_every_probe():
    """Chebyshev-Markov-Stieltjes: the exact share of the probe's own measure lies between the bounds."""
    matrix = symmetric(network_like(200))
    values, vectors = np.linalg.eigh(matrix)
    at = np.linspace(-0.1, 21, 400)
    for number in range(10):
        probe = probe_vectors(200, range(number, number + 1), 0)
        (run,) = lanczos(Dense(matrix), probe, 12)
        nodes, weights, _ = run.ritz()
        cumulative = np.concatenate([[0], np.cumsum(weights)])
        left = np.searchsorted(nodes, at, side="right")
        exact = np.concatenate([[0], np.cumsum((probe @ vectors)[0] ** 2)])[np.searchsorted(values, at, side="right")]
        assert (cumulative[np.maximum(left - 1, 0)] <= exact + 1e-12).all()
        assert (exact <= cumulative[np.minimum(left + 1, len(nodes))] + 1e-12).all()


@pytest.mark.parametrize("steps", [5, 12, 25])
def test_intervals_of_a_very_large_matrix_are_the_bounds_of_its_probe(steps):
    """Where N is vast, probes vary no more: what is left of the interval must hold the probe's own measure, known."""
    half = np.geomspace(1e-3, 1, 150)
    values, probe, size = np.append(-half[::-1], half), probe_vectors(300, range(1), 5), 10**18
    measure = probe[0] ** 2
    run = lanczos(Dense(np.diag(values)), probe, steps)[0].ritz()
    found, wide = (Spectrum(*(one[None] for one in run[:2]), size, bounds) for bounds in (run[2][None], None))
    at = np.concatenate([np.linspace(-0.1, 0.1, 60), [-0.8, 0.3, 0.99]])
    cases = [(q.distribution(at), (values <= at[:, None]) @ measure) for q in (found, wide)]
    ratios = size * np.maximum(values, 0) / (np.maximum(values, 0) + 0.01)
    cases += [(q.effective_dimension(0.01), ratios @ measure) for q in (found, wide)]
    sides = {"below": values < -0.01, "within": np.abs(values) <= 0.01, "above": values > 0.01}
    for side, mask in sides.items():
        cases += [(q.count(0.01)[side], size * (mask @ measure)) for q in (found, wide)]
    for (one, exact), (other, _) in zip(cases[::2], cases[1::2], strict=True):
        rounding = 1e-6 * np.max(other.high)
        assert (one.low - rounding <= exact).all() and (exact <= one.high + rounding).all()
        assert np.all(one.low >= other.low - rounding) and np.all(one.high <= other.high + rounding)
    (one, _), (other, _) = cases[:2]
    assert np.mean(one.high - one.low) < 0.9 * np.mean(other.high - other.low)


def test_more_steps_change_no_more_than_the_quadrature_bound_says():
    """The measure of a probe is known exactly: squared components along the eigenvectors."""
    values, vectors = np.linalg.eigh(symmetric(network_like()))
    probes = probe_vectors(300, range(6), 2)
    for steps in (12, 30, 60):
        for probe, run in zip(probes, lanczos(Dense(symmetric(network_like())), probes, steps), strict=True):
            nodes, weights, bounds = run.ritz()
            distance = wasserstein_distance(nodes, values, weights, (vectors.T @ probe) ** 2)
            assert 0 < distance <= quadrature_error(nodes, weights, bounds)


def test_what_a_quadrature_leaves_open_is_the_least_square_of_polynomials_that_are_one_at_a_point():
    """Christoffel's function: min of the integral of q^2 over polynomials q of degree <= m with q(t) = 1."""
    values, probe = np.sort(np.random.default_rng(2).uniform(-1, 1, 40)), probe_vectors(40, range(1), 0)
    at = np.concatenate([np.random.default_rng(3).uniform(-1.2, 1.2, 50), values[:3]])
    for steps in (1, 2, 7, 12):
        found = lanczos(Dense(np.diag(values)), probe, steps)[0].ritz()
        measure, degrees = probe[0] ** 2, np.arange(steps + 1)
        cosines = np.cos(degrees * np.arccos(np.clip(values, -1, 1))[:, None])
        one = np.polynomial.chebyshev.chebvander(at, steps)
        least = 1 / np.einsum("ti,ij,tj->t", one, np.linalg.inv(cosines.T * measure @ cosines), one)
        assert np.allclose(christoffel(at, *found), least, rtol=1e-6)
        assert np.allclose(christoffel(found[0], *found), found[1], rtol=1e-12), "a node's weight"


def test_the_quadrature_bound_is_the_integral_of_what_is_left_open_or_less():
    for steps in (3, 8, 25):
        found = lanczos(Dense(symmetric(network_like())), probe_vectors(300, range(1), 0), steps)[0].ritz()
        nodes, weights, bounds = found
        away = np.geomspace(1e-9, 30, 3000)
        at = np.sort(nodes[:, None, None] + np.stack([away, -away]), axis=None)
        least = min(np.trapezoid(christoffel(at, *found), at), np.sum(np.sqrt(weights) * bounds))
        assert 0.98 * least <= quadrature_error(*found) <= 1.3 * least


def test_accuracy_says_how_far_the_density_is_from_the_spectrum():
    matrix, eigenvalues, distances, stated = symmetric(network_like()), network_like(), [], []
    for seed in range(20):
        runs = lanczos(Dense(matrix), probe_vectors(300, range(6), seed), 80)
        found = Spectrum.of(runs, 300)
        accuracy = found.accuracy()
        distances.append(wasserstein_distance(found.nodes.ravel(), eigenvalues, found.shares.ravel()))
        stated.append(accuracy.steps + accuracy.probes)
        assert accuracy.scale == pytest.approx(20, rel=1e-6)
    assert np.mean(np.array(distances) <= stated) >= 0.95
    assert np.mean(stated) <= 5 * np.mean(distances)


@pytest.mark.parametrize(("steps", "probes", "tolerance", "said"), [
    (3, 30, 0.005, "raise steps"),
    (60, 2, 0.0003, "raise probes"),
    (4, 2, 0.001, "raise steps and probes"),
    (60, 30, 0.01, "steps and probes suffice for it"),
])  # fmt: skip
def test_a_statement_says_what_to_raise(steps, probes, tolerance, said):
    found = Spectrum.of(lanczos(Dense(symmetric(network_like())), probe_vectors(300, range(probes), 0), steps), 300)
    assert found.accuracy().statement(tolerance).endswith(said)
    errors = found.accuracy()
    assert (max(errors.probes, errors.steps) <= 0.5 * tolerance * errors.scale) == ("suffice" in said)


@EXACT
def test_steps_up_to_a_tolerance_stop_early_and_keep_it(dtype, exact):
    matrix, probes = symmetric(network_like()), probe_vectors(300, range(4), 1)
    values, vectors = np.linalg.eigh(matrix)
    counts = []
    for tolerance in (0.02, 0.005, 0.001):
        runs = lanczos(Dense(matrix, dtype), probes, 200, tolerance=tolerance)
        counts.append(max(run.steps for run in runs))
        for probe, run in zip(probes, runs, strict=True):
            nodes, weights, _ = run.ritz()
            distance = wasserstein_distance(nodes, values, weights, (vectors.T @ probe) ** 2)
            assert distance <= 0.5 * tolerance * np.abs(values).max()
    assert counts == sorted(counts) and counts[0] < counts[-1] < 200
    fixed = lanczos(Dense(matrix, dtype), probes, counts[0])
    assert np.array_equal(fixed[0].alpha[:4], runs[0].alpha[:4])


def test_effective_dimension_against_its_sum():
    eigenvalues = network_like()
    found = Spectrum.of(lanczos(Dense(symmetric(eigenvalues)), probe_vectors(300, range(30), 4), 100), 300)
    for alpha in (0.01, 0.1, 1.0):
        exact = sum(value / (value + alpha) for value in eigenvalues if value > 0)
        got = found.effective_dimension(alpha)
        assert abs(got.value - exact) < 4 * got.standard_error + 1e-6


def test_probes_that_were_left_out_do_not_count():
    nodes, weights = np.array([[1.0, 3.0], [np.nan, np.nan]]), np.array([[0.5, 0.5], [np.nan, np.nan]])
    found = Spectrum.read(nodes, weights, nodes, 10)
    assert found.trace().value == 20
    assert len(found.nodes) == 1


def coverage(matrix, steps, probes, distribution):
    """Over 200 seeds: how often the stated 95 % intervals hold the truth."""
    size, values = len(matrix), np.linalg.eigvalsh(matrix)
    at, hits = np.array([0.0, 0.05, 1.0]), {"trace": 0, "second moment": 0, "distribution": np.zeros(3)}
    truth = (values[None, :] <= at[:, None]).mean(axis=1)
    for seed in range(200):
        runs = lanczos(Dense(matrix), probe_vectors(size, range(probes), seed, distribution), steps)
        spectrum = Spectrum.of(runs, size)
        trace, second, cdf = spectrum.trace(), spectrum.moment(2), spectrum.distribution(at)
        hits["trace"] += trace.low <= values.sum() <= trace.high
        hits["second moment"] += second.low <= (values**2).mean() <= second.high
        hits["distribution"] += (cdf.low <= truth) & (truth <= cdf.high)
    return {name: np.asarray(count) / 200 for name, count in hits.items()}


def test_error_bars_cover_what_they_state():
    matrix = symmetric(np.concatenate([0.1 * np.random.default_rng(2).standard_normal(195), [0.5, 1, 1.5, 2, 3]]))
    covered = coverage(matrix, steps=12, probes=8, distribution="gaussian")
    assert 0.90 <= covered["trace"] <= 0.99
    assert 0.90 <= covered["second moment"] <= 0.99
    assert (covered["distribution"] >= 0.90).all(), "conservative: spread and quadrature bounds together"


def test_probes_are_unit_common_and_unbiased():
    for distribution in ("gaussian", "rademacher"):
        probes = probe_vectors(100, range(3), 5, distribution)
        assert np.abs(np.linalg.norm(probes, axis=1) - 1).max() < 1e-14
        assert np.array_equal(probes[2:], probe_vectors(100, range(2, 3), 5, distribution))
        many = probe_vectors(20, range(4000), 0, distribution)
        assert np.abs(many.T @ many / 4000 - np.eye(20) / 20).max() < 5 / np.sqrt(4000) / 20 * 1.5
    with pytest.raises(LossAtlasError, match="'uniform' is not one of"):
        probe_vectors(3, range(1), 0, "uniform")


@EXACT
@pytest.mark.parametrize(("largest", "smallest"), [(2, 0), (0, 3), (3, 2), (1, 1)])
def test_oracle_16_eigenpairs_against_scipy(dtype, exact, largest, smallest):
    values = np.concatenate([network_like(395), [-4.0, -2.0, -1.0, -0.5, -0.3]])
    matrix = symmetric(values)
    found = eigenpairs(Dense(matrix, dtype), largest, smallest, tolerance=1e-10 if exact else 1e-5)
    oracle = LinearOperator(matrix.shape, matvec=lambda v: matrix @ v)
    expected = []
    for count, which in ((largest, "LA"), (smallest, "SA")):
        if count:
            expected += sorted(eigsh(oracle, count, which=which, tol=1e-12)[0], reverse=True)
    assert np.abs(found.values - expected).max() < (1e-9 if exact else 1e-4) * 20
    assert found.converged.all()
    residuals = np.linalg.norm(found.vectors @ matrix - found.values[:, None] * found.vectors, axis=1)
    assert np.abs(residuals - found.residuals).max() < (1e-12 if exact else 1e-5) * 20
    assert np.abs(found.vectors @ found.vectors.T - np.eye(len(expected))).max() < (1e-9 if exact else 1e-4)


def test_eigenpairs_restart_in_bounded_memory_and_tell_when_they_did_not_converge():
    values = np.linspace(0, 1, 500) ** 2  # a dense end, slow to converge
    operator = Dense(symmetric(values))
    found = eigenpairs(operator, 2, tolerance=1e-8)
    assert found.converged.all()
    assert found.products > 2 * 2 + 20, "several restarts"
    assert np.abs(found.values - values[:-3:-1]).max() < 1e-8
    short = eigenpairs(Dense(symmetric(values)), 2, tolerance=1e-12, max_products=26)
    assert not short.converged.all()
    assert (short.residuals > 1e-12).any()


@pytest.mark.parametrize("values", [np.zeros(30), np.ones(30), np.array([0.0] * 28 + [1.0, 2.0])])
def test_eigenpairs_of_degenerate_matrices_do_not_fail(values):
    found = eigenpairs(Dense(symmetric(values)), 1)
    assert found.values[0] == pytest.approx(values.max(), abs=1e-10)
    assert np.isfinite(found.vectors).all()


@EXACT
@pytest.mark.parametrize(
    ("values", "largest", "smallest"),
    [
        (np.repeat([5.0, 4.0, 1.0, 0.5], [4, 3, 50, 143]), 6, 0),
        (np.repeat([0.4716, 0.4187, 0.3663, 0.3071], [5, 5, 5, 5]), 8, 0),
        (np.repeat([0.4716, 0.4187, 0.3663, 0.3071], [5, 5, 5, 5]), 3, 7),
        (np.concatenate([np.linspace(-1, 1, 300), [3.0, 3.0, 2.5, -4.0, -4.0, -4.0]]), 3, 3),
        (np.array([1.0, 2.0, 3.0] + [0.0] * 40), 6, 0),
        (np.zeros(30), 3, 0),
        (np.ones(7), 7, 0),
    ],
)
def test_multiple_eigenvalues_are_found_as_often_as_they_are_there(dtype, exact, values, largest, smallest):
    matrix = symmetric(values)
    found = eigenpairs(Dense(matrix, dtype), largest, smallest, tolerance=1e-8 if exact else 1e-4)
    ordered = np.sort(values)[::-1]
    expected = np.concatenate([ordered[:largest], ordered[len(ordered) - smallest :]])
    assert found.values == pytest.approx(expected, abs=1e-7 if exact else 1e-3)
    assert np.abs(found.vectors @ found.vectors.T - np.eye(len(expected))).max() < (1e-6 if exact else 1e-3)
    assert found.converged.all()


def test_impossible_requests_are_refused():
    operator = Dense(np.eye(5))
    with pytest.raises(LossAtlasError, match="steps: 6; must lie between 1 and the number of parameters, 5"):
        lanczos(operator, probe_vectors(5, range(1), 0), 6)
    with pytest.raises(LossAtlasError, match="probes: 0"):
        lanczos(operator, np.zeros((0, 5)), 3)
    with pytest.raises(LossAtlasError, match="NaN or inf"):
        lanczos(Dense(np.full((5, 5), np.nan)), probe_vectors(5, range(1), 0), 3)
