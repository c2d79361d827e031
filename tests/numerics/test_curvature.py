"""Extreme eigenvalues on a plane against dense Hessians of an independent code; points of infinite loss are kept."""

import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.data import Split, Subset
from lossatlas.drivers import curvature_map
from lossatlas.errors import LossAtlasError
from lossatlas.geometry.directions.direction_set import Axes
from lossatlas.io import store
from lossatlas.parallel import Timing, World, work_units
from torch import nn
from torch.nn import functional

from tests.conftest import contents, make_trajectory

PLANE = {"x": "d/1", "y": "d/2", "center": "last", "border": 0.4, "range": {"x": [-1, 1], "y": [-2, 2]}}
SPEC = {"points": [4, 3], "tolerance": 1e-9, "max_products": 400, "operator": "hessian", "parameters": ["*"]}
SPEC |= {"seed": 0, "memory_gb": 1.0}
WIDTHS = (4, 5, 3)


def make(run_dir, spec=SPEC, infinite=False):
    """Plan the curvature of a small network on a random plane; with ``infinite`` its loss is so where x > 0.5."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    module = nn.Sequential(nn.Linear(*WIDTHS[:2]), nn.Tanh(), nn.Linear(*WIDTHS[1:]))
    network = FlatNetwork(module, Device(torch.device("cpu"), torch.float64))
    split = Split(rng.standard_normal((17, 4)), rng.integers(0, 3, 17))
    problem = (Beyond if infinite else TorchProblem)(network, build_loss({"name": "cross-entropy"}), split, 5)
    trajectory = make_trajectory(run_dir, rng.standard_normal((3, network.layout.size)), network.layout)
    axes = Axes(rng.standard_normal((2, network.layout.size)), ["one", "two"], np.zeros(2), {})
    if infinite:
        problem.center, problem.axis = trajectory.parameters(2), axes.vectors
    subset = Subset(split, np.arange(17), "digest", True)
    fingerprint = store.Fingerprint("curvature", spec)
    link = run_dir / "curvature" / "p.zarr"
    job = curvature_map.CurvatureMap({"curvature": spec, "plane": PLANE}, problem, subset, axes, trajectory)
    made = store.find(link, run_dir, fingerprint) or store.create(link, run_dir, fingerprint, job.build)
    made.update(strategy="split")
    return made, job.evaluator(made), trajectory, axes, split


class Beyond(TorchProblem):
    """Infinite where the first coefficient of the plane exceeds 0.5, NaN where it falls below -0.9."""

    def _coefficient(self, theta):
        return np.linalg.lstsq(self.axis.T, np.asarray(theta) - self.center, rcond=None)[0][0]

    def metrics(self, theta, buffers):
        values, x = super().metrics(theta, buffers), self._coefficient(theta)
        return np.full_like(values, np.inf if x > 0.5 else np.nan) if not -0.9 < x < 0.5 else values

    def chunk_gradient(self, theta, buffers, chunk):
        value, gradient = super().chunk_gradient(theta, buffers, chunk)
        return (value if -0.9 < self._coefficient(theta) < 0.5 else value * torch.inf), gradient


def compute(made, evaluator):
    work_units.compute(made, evaluator, World(), Timing(), "counter", "test")
    return curvature_map.CurvatureMap.finish(made, {})


def written_out(split):
    """The loss as a function of theta, written out by hand."""
    a, b, c = WIDTHS
    inputs, targets = torch.as_tensor(split.inputs), torch.as_tensor(split.targets)

    def loss(t):
        one, two, three, four = t.split([a * b, b, b * c, c])
        hidden = torch.tanh(inputs @ one.view(b, a).T + two)
        return functional.cross_entropy(hidden @ three.view(c, b).T + four, targets)

    return loss


def test_extreme_eigenvalues_equal_those_of_dense_hessians(tmp_path):
    made, evaluator, trajectory, axes, split = make(tmp_path)
    assert compute(made, evaluator) == {"points": 12, "nonfinite_points": 0, "unconverged_points": 0}
    assert np.allclose(made["x"][:], np.linspace(-1, 1, 4))
    assert made["y"][:].tolist() == [-2, 0, 2]
    for j, y in enumerate(made["y"][:]):
        for i, x in enumerate(made["x"][:]):
            theta = torch.as_tensor(trajectory.parameters(2) + x * axes.vectors[0] + y * axes.vectors[1])
            exact = np.linalg.eigvalsh(torch.func.hessian(written_out(split))(theta).numpy())
            slope = torch.func.grad(written_out(split))(theta).norm()
            scale = np.abs(exact).max()
            assert abs(made["largest"][j, i] - exact[-1]) < 1e-8 * scale
            assert abs(made["smallest"][j, i] - exact[0]) < 1e-8 * scale
            assert made["ratio"][j, i] == pytest.approx(abs(exact[0] / exact[-1]), rel=1e-6, abs=1e-7)
            assert made["gradient_norm"][j, i] == pytest.approx(float(slope), rel=1e-10)
            assert max(made["largest_residual"][j, i], made["smallest_residual"][j, i]) < 1e-8 * scale
    assert (made["largest_converged"][...] * made["smallest_converged"][...]).all()


def test_points_of_infinite_loss_are_kept_as_nan_and_counted(tmp_path):
    made, evaluator, *_ = make(tmp_path, infinite=True)
    assert compute(made, evaluator) == {"points": 12, "nonfinite_points": 6, "unconverged_points": 0}
    assert made.attrs["nonfinite_points"] == 6
    known = np.isfinite(made["largest"][...])
    assert known.tolist() == [[False, True, True, False]] * 3
    assert np.array_equal(known, np.isfinite(made["smallest"][...]))
    assert np.isposinf(made["loss"][:, -1]).all()
    assert np.isnan(made["loss"][:, 0]).all()
    assert np.isnan(made["ratio"][:, [0, -1]]).all()


def test_units_in_any_order_give_the_same_bits(tmp_path):
    whole, evaluator, *_ = make(tmp_path / "whole")
    compute(whole, evaluator)
    made, evaluator, *_ = make(tmp_path / "parts")
    for point in reversed(range(12)):
        made["work/rows"][point : point + 1] = np.column_stack([evaluator(range(point, point + 1)), [1.0]])
    compute(made, None)
    assert contents(made.path) == contents(whole.path)


def test_what_has_not_converged_says_so(tmp_path):
    made, evaluator, *_ = make(tmp_path, {**SPEC, "max_products": 3, "points": [2, 2]})
    assert compute(made, evaluator) == {"points": 4, "nonfinite_points": 0, "unconverged_points": 4}
    assert (made["products"][...] == 5).all(), "two more for the residuals"
    assert np.isfinite(made["largest"][...]).all()


def test_patterns_that_match_nothing_are_refused(tmp_path):
    with pytest.raises(LossAtlasError, match=r"parameters: 'none' matches none of 0\.weight"):
        make(tmp_path, {**SPEC, "parameters": ["none"]})


def test_large_grids_stay_below_a_few_thousand_chunks():
    assert [curvature_map.points_per_chunk(points) for points in (4, 81, 2000, 2001, 40000)] == [1, 1, 1, 2, 20]
