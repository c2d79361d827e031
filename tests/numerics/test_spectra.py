"""The spectra driver against full eigendecompositions, interrupted and resumed (oracles 14, 19); eigenvector planes."""

import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.data import Split, Subset
from lossatlas.drivers import spectra
from lossatlas.errors import LossAtlasError
from lossatlas.geometry.directions import complete
from lossatlas.geometry.directions.eigen import as_known, eigen
from lossatlas.geometry.segments import AlongTraining
from lossatlas.io import store
from lossatlas.krylov import Spectrum, lanczos, probe_vectors
from lossatlas.parallel import Timing, World, work_units
from scipy.stats import wasserstein_distance
from torch import nn
from torch.nn import functional

from tests.conftest import contents, make_trajectory

FLOAT64 = Device(torch.device("cpu"), torch.float64)
SPEC = {
    "stride": 3,
    "probes": 4,
    "steps": 12,
    "seed": 0,
    "distribution": "gaussian",
    "memory_gb": 1.0,
    "tolerance": None,
}
SPEC |= {"operator": "hessian", "parameters": ["*"]}


def make(run_dir, module=None, spec=SPEC, thetas=None):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = FlatNetwork(module or nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), FLOAT64)
    split = Split(rng.standard_normal((17, 6)), rng.integers(0, 3, 17))
    problem = TorchProblem(network, build_loss({"name": "cross-entropy"}), split, 5)
    if thetas is None:
        thetas = rng.standard_normal((8, network.layout.size))
    trajectory = make_trajectory(run_dir, thetas, network.layout)
    sites = AlongTraining(trajectory, spec["stride"])
    job = spectra.Spectra({"spectra": spec}, problem, Subset(split, np.arange(17), "digest", True), sites)
    link, fingerprint = run_dir / "spectra.zarr", store.Fingerprint("spectra", spec)
    made = store.find(link, run_dir, fingerprint) or store.create(link, run_dir, fingerprint, job.build)
    return made, job.evaluate, trajectory, problem


def run(made, evaluator):
    work_units.compute(made, evaluator, World(), Timing(), "counter", "test")
    return spectra.Spectra.finish(made, {})


def test_spectra_along_training_equal_dense_ones(tmp_path):
    made, evaluator, trajectory, problem = make(tmp_path)
    said = run(made, evaluator)
    assert (said["spectra"], said["short_runs"]) == (4, 0)
    assert said["accuracy:"] == made.attrs["accuracy"]
    assert made["iteration"][:].tolist() == [0, 3, 6, 7]
    size = problem.layout.size
    probes = probe_vectors(size, range(4), 0)
    for i, row in enumerate((0, 3, 6, 7)):
        h = problem.linearize(trajectory.parameters(row), np.zeros(0), strategy="rebuild").matmat(np.eye(size))
        nodes, weights = made["nodes"][i], made["weights"][i]
        for power in (1, 2, 5):
            exact = np.einsum("pi,ij,pj->p", probes, np.linalg.matrix_power(h, power), probes)
            scale = np.linalg.norm(h, 2) ** power
            assert np.abs((weights * nodes**power).sum(axis=1) - exact).max() < 1e-12 * scale
        assert made["trace"][i] == pytest.approx(size * np.mean(np.einsum("pi,ij,pj->p", probes, h, probes)), rel=1e-10)
        exact = np.linalg.eigvalsh(h)
        assert abs(np.trace(h) - made["trace"][i]) < 5 * made["trace_error"][i]
        assert exact[0] - 1e-10 <= made["smallest"][i]
        assert made["largest"][i] <= exact[-1] + 1e-10
        bounds = made["residual_bounds"][i]
        distances = np.abs(nodes[:, :, None] - exact).min(axis=2)
        assert (distances <= bounds + 1e-10).all()


def test_the_store_holds_the_quadratures_bit_for_bit_and_nothing_else(tmp_path):
    made, evaluator, trajectory, problem = make(tmp_path)
    run(made, evaluator)
    arrays = {"iteration", "row", "nodes", "weights", "residual_bounds", "alpha", "beta"}
    scalars = {"trace", "trace_error", "largest", "smallest", "wasserstein_steps", "wasserstein_probes"}
    assert set(made.group.array_keys()) == arrays | scalars
    assert made["nodes"].metadata.dimension_names == ("iteration", "probe", "node")
    assert made["work/rows"].shape == (16, 26)
    probes = probe_vectors(problem.layout.size, range(4), 0)
    for i, row in enumerate((0, 3, 6, 7)):
        operator = problem.linearize(trajectory.parameters(row), np.zeros(0), memory_gb=1.0)
        for p, alone in enumerate(lanczos(operator, probes, 12)):
            found = (made[name][i, p] for name in ("nodes", "weights", "residual_bounds", "alpha", "beta"))
            for ours, direct in zip(found, (*alone.ritz(), alone.alpha, alone.beta), strict=True):
                assert np.array_equal(ours, direct)


def test_oracle_19_interrupted_spectra_resume_to_the_same_bits(tmp_path):
    made, evaluator, _, _ = make(tmp_path / "whole")
    run(made, evaluator)
    made, evaluator, _, _ = make(tmp_path / "parts")
    calls = []

    def dies(unit):
        calls.append(unit)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluator(unit)

    with pytest.raises(KeyboardInterrupt):
        work_units.compute(made, dies, World(), Timing(), "counter", "test")
    assert len(work_units.unfinished(made)) == 2
    made, evaluator, _, _ = make(tmp_path / "parts")
    run(made, evaluator)
    assert contents(tmp_path / "parts/.stores/spectra.zarr") == contents(tmp_path / "whole/.stores/spectra.zarr")


def test_a_tolerance_uses_fewer_probes_and_steps_and_says_how_accurate_it_is(tmp_path):
    spec = {**SPEC, "probes": 40, "steps": 40, "tolerance": 0.1}
    made, evaluator, trajectory, problem = make(tmp_path, spec=spec)
    run(made, evaluator)
    for i, row in enumerate((0, 3, 6, 7)):
        h = problem.linearize(trajectory.parameters(row), np.zeros(0), strategy="rebuild").matmat(np.eye(53))
        used = np.isfinite(made["nodes"][i])
        assert 4 <= used.any(axis=1).sum() <= 40 and used.sum(axis=1).max() < 40
        found = Spectrum.read(*(made[name][i] for name in ("nodes", "weights", "residual_bounds")), 53)
        known = np.isfinite(found.nodes)
        distance = wasserstein_distance(np.linalg.eigvalsh(h), found.nodes[known], None, found.weights[known])
        assert found.accuracy().steps == made["wasserstein_steps"][i]
        assert distance <= made["wasserstein_steps"][i] + 2 * made["wasserstein_probes"][i]
        assert found.trace().value == pytest.approx(made["trace"][i], rel=1e-12)
    assert np.isfinite(made["nodes"][...]).any(axis=2).sum() < 4 * 40, "fewer probes than allowed somewhere"


def test_units_never_span_two_iterations():
    assert [spectra.block_size(k) for k in (1, 2, 7, 10, 12, 13, 20, 23)] == [1, 2, 7, 10, 6, 1, 10, 1]


def test_nan_names_iteration_and_chunk(tmp_path):
    thetas = np.random.default_rng(0).standard_normal((8, 53))
    thetas[6, 0] = np.nan
    made, evaluator, _, _ = make(tmp_path, thetas=thetas)
    with pytest.raises(LossAtlasError, match=r"spectra: iteration 6: Hessian: loss nan .* in chunk 0 of 4"):
        work_units.compute(made, evaluator, World(), Timing(), "counter", "test")


@pytest.mark.parametrize(
    ("keys", "message"), [({"steps": 54}, "steps: 54; must lie between 1 and"), ({"probes": 0}, "probes: 0")]
)
def test_impossible_sizes_are_refused(tmp_path, keys, message):
    with pytest.raises(LossAtlasError, match=message):
        make(tmp_path, spec={**SPEC, **keys})


class Noisy(nn.Module):
    """Dropout that evaluation mode does not switch off."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 20), nn.Linear(20, 3)

    def forward(self, x):
        return self.b(functional.dropout(torch.tanh(self.a(x)), 0.5, training=True))


def test_dropout_left_on_is_refused(tmp_path):
    with pytest.raises(LossAtlasError, match="evaluated twice it gave two results"):
        make(tmp_path, module=Noisy())


def test_eigenvector_plane_is_unbent_and_curves_as_its_eigenvalue(tmp_path):
    _, _, trajectory, problem = make(tmp_path)
    choices = {
        "largest": 2,
        "smallest": 1,
        "tolerance": 1e-9,
        "max_products": 500,
        "seed": 0,
        "memory_gb": 1.0,
    }
    choices |= {"kind": "eigen", "center": "last", "normalize": "none", "ignore": []}
    raw = eigen(problem, trajectory, 7, choices)
    theta = trajectory.parameters(7)
    exact = np.linalg.eigvalsh(problem.linearize(theta, np.zeros(0), strategy="rebuild").matmat(np.eye(theta.size)))
    assert np.allclose(raw.values["eigenvalue"], [exact[-1], exact[-2], exact[0]], atol=1e-9)
    assert raw.values["converged"].all()
    made = complete(raw, choices, trajectory)
    assert np.array_equal(made.used, raw.vectors)
    plane, gradient = problem.restrict(theta, made.used, np.zeros(0)), problem.gradient(theta, np.zeros(0))
    middle = plane.metrics(np.zeros((1, 3)))[0, 0]
    for k in range(3):
        step = np.zeros(3)
        step[k] = 1e-3
        curvature = (plane.metrics(step[None])[0, 0] + plane.metrics(-step[None])[0, 0] - 2 * middle) / 1e-6
        assert curvature == pytest.approx(raw.values["eigenvalue"][k], abs=1e-4 * exact[-1])
        slope = (plane.metrics(step[None])[0, 0] - plane.metrics(-step[None])[0, 0]) / 2e-3
        assert slope == pytest.approx(gradient @ made.used[k], abs=1e-5)


def test_a_plane_along_flat_directions_says_how_flat_they_are(tmp_path):
    _, _, trajectory, problem = make(tmp_path)
    choices = {"near": 0.0, "count": 2, "tolerance": 1e-3, "max_products": 500, "seed": 0, "memory_gb": 1.0}
    choices |= {"kind": "eigen", "center": "last", "normalize": "none", "ignore": []}
    raw = eigen(problem, trajectory, 7, choices)
    theta = trajectory.parameters(7)
    dense = problem.linearize(theta, np.zeros(0), strategy="rebuild").matmat(np.eye(theta.size))
    exact = np.linalg.eigvalsh(dense)
    nearest = exact[np.argsort(np.abs(exact))[:2]]
    assert np.abs(raw.values["eigenvalue"]) == pytest.approx(np.abs(nearest), abs=2e-3 * exact[-1])
    measured = np.linalg.norm(raw.vectors @ dense - raw.values["eigenvalue"][:, None] * raw.vectors, axis=1)
    assert raw.values["residual"] == pytest.approx(measured, abs=1e-10)
    assert raw.values["converged"].all()
    assert raw.notes["near"] == 0.0
    assert raw.notes["none_nearer"]
    assert raw.notes["norm"] == pytest.approx(np.abs(exact).max(), rel=0.05)
    assert raw.notes["none_nearer_note"].startswith("by more than ")
    assert all(label.startswith("eigenvector λ = ") and " ± " in label for label in raw.labels)


@pytest.mark.parametrize(
    ("value", "residual", "text"),
    [
        *((1.23456e-3, 4.1e-4, "0.0012 ± 0.0004"), (-2.3e-5, 3e-4, "0 ± 0.0003"), (0.00997, 6e-4, "0.0100 ± 0.0006")),
        *((1.2345678, 9.96e-4, "1.235 ± 0.001"), (123.456, 3.0, "123 ± 3"), (1.5e-6, 1e-7, "1.5e-06 ± 1e-07")),
        *((5.0, 0.0, "5"), (1e-4, 1e-4, "0.0001 ± 0.0001"), (0.0996, 1e-2, "0.10 ± 0.01")),
    ],
)
def test_an_eigenvalue_has_the_digits_that_its_residual_leaves(value, residual, text):
    assert as_known(value, residual) == text


def test_spectra_of_other_matrices_and_of_some_parameters(tmp_path):
    chosen = {"operator": "ggn", "parameters": ["2.*"], "steps": 4}
    made, evaluator, trajectory, problem = make(tmp_path, spec=SPEC | chosen)
    run(made, evaluator)
    assert made.attrs["parameters"] == 18
    choices = {"operator": "ggn", "parameters": ("2.*",), "strategy": "rebuild"}
    operator = problem.linearize(trajectory.parameters(7), np.zeros(0), **choices)
    dense = operator.matmat(np.eye(18))
    probes = probe_vectors(18, range(4), 0)
    for power in (1, 2, 7):
        exact = np.einsum("pi,ij,pj->p", probes, np.linalg.matrix_power(dense, power), probes)
        ours = np.nansum(made["weights"][-1] * made["nodes"][-1] ** power, axis=1)
        assert np.abs(ours - exact).max() < 1e-10 * np.linalg.norm(dense, 2) ** power
