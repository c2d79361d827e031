"""Projection of paths, ranges and the landscape store (oracle 17); NaN and inf are kept and counted."""

import numpy as np
import pytest
from lossatlas.data import Split, Subset
from lossatlas.drivers import evaluation, landscape
from lossatlas.drivers.base import Order
from lossatlas.drivers.plane import grid_coordinates
from lossatlas.errors import LossAtlasError
from lossatlas.geometry import projection
from lossatlas.geometry.directions.direction_set import Axes
from lossatlas.io import store
from lossatlas.parallel import Timing, World, work_units

from tests.conftest import make_trajectory


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_oracle_17_a_planted_path_projects_back_exactly(tmp_path, dtype, tolerance):
    rng = np.random.default_rng(0)
    center, axes = rng.standard_normal(400), rng.standard_normal((2, 400))
    axes[1] += 0.8 * axes[0]  # far from orthogonal
    planted = rng.standard_normal((20, 2))
    away = rng.standard_normal((20, 400))
    away -= away @ np.linalg.pinv(axes) @ axes
    distance = np.linspace(0, 3, 20)
    away *= (distance / np.linalg.norm(away, axis=1))[:, None]
    thetas = (center + planted @ axes + away).astype(dtype)
    path = projection.project_path(make_trajectory(tmp_path, thetas), center, axes)
    assert np.abs(path.coefficients - planted).max() < tolerance
    assert np.abs(path.residual - distance).max() < 100 * tolerance


def path_of(*coefficients):
    return projection.Path(np.array(coefficients, float), np.zeros(len(coefficients)))


def test_range_is_the_extent_plus_a_border_on_each_side():
    x, y = grid_coordinates(path_of((0, 1), (2, 5)), {"points": [5, 3], "border": 0.4})
    assert np.allclose(x, np.linspace(-0.8, 2.8, 5))
    assert np.allclose(y, [1 - 1.6, 3, 5 + 1.6])


def test_fixed_ranges_and_degenerate_extents():
    spec = {"points": [3, 3], "border": 0.5, "range": {"x": [-7, 7]}}
    x, y = grid_coordinates(path_of((0, 1), (2, 1)), spec)
    assert x.tolist() == [-7, 0, 7]
    assert np.allclose(y, [1 - 2, 1, 1 + 2]), "an extent of zero borrows the other axis's"
    x, y = grid_coordinates(path_of((0, 0)), {"points": [3, 2], "border": 0.4})
    assert x.tolist() == [-1, 0, 1]
    assert y.tolist() == [-1, 1]


class Saddle:
    """A problem in closed form: L = 1 + u^2 - v^2 of the first two parameters, NaN beyond u = 1, inf below -1."""

    samples, metric_names = 4, ("loss",)

    def metrics(self, theta, buffers):
        u, v = theta[0], theta[1]
        return np.array([np.nan if u > 1 else np.inf if u < -1 else 1 + u**2 - v**2])

    def restrict(self, center, directions, buffers):
        problem = self

        class Plane:
            def metrics(self, points):
                return np.stack([problem.metrics(center + point @ directions, buffers) for point in points])

        return Plane()


@pytest.fixture
def saddle(tmp_path):
    thetas = np.zeros((5, 6))
    thetas[:, 0] = [0.9, 0.5, 0.3, 0.1, 0.0]
    thetas[:, 1] = [0.2, 0.1, 0.3, -0.4, 0.0]
    thetas[:, 2] = [1.0, 0.5, 0.0, 0.0, 0.0]  # leaves the plane
    trajectory = make_trajectory(tmp_path, thetas)
    axes = Axes(np.eye(6)[:2], ["u", "v"], np.array([0.5, 0.3]), {})
    subset = Subset(Split(np.zeros((4, 1)), np.zeros(4)), np.arange(4), "digest", False)
    spec = {"center": "last", "points": [9, 5], "border": 0.4, "range": {"x": [-2, 2], "y": [-1, 1]}}
    problems = {"train": Saddle()}
    plane = landscape.Landscape({"plane": spec}, axes, trajectory, problems, {"train": subset})
    link = tmp_path / "landscape" / "p.zarr"
    fingerprint = store.Fingerprint("landscape", spec)
    store.find(link, tmp_path, fingerprint)
    made = store.create(link, tmp_path, fingerprint, plane.build)
    return made, plane.evaluator(made), thetas


def test_oracle_17_planted_saddle_with_nan_and_inf(saddle):
    made, evaluator, thetas = saddle
    work_units.compute(made, evaluator, World(), Timing(), "counter", "test")
    counts = landscape.Landscape.finish(made, {})
    x, y = np.linspace(-2, 2, 9), np.linspace(-1, 1, 5)
    loss = made["loss"][0]
    assert loss.shape == (5, 9)
    for j in range(5):
        for i in range(9):
            if abs(x[i]) <= 1:
                assert loss[j, i] == pytest.approx(1 + x[i] ** 2 - y[j] ** 2, abs=1e-14)
    assert np.isnan(loss[:, x > 1]).all()
    assert np.isposinf(loss[:, x < -1]).all()
    assert counts == {"points": 45, "nonfinite_points": {"train": 20}}
    assert made.attrs["nonfinite_points"] == {"train": 20}
    expected = 1 + thetas[:, 0] ** 2 - thetas[:, 1] ** 2
    assert np.allclose(made["path_true_loss"][0], expected, atol=1e-14)
    assert np.allclose(made["path_projected_loss"][0], expected, atol=1e-14)
    assert np.allclose(made["path_residual"][:], thetas[:, 2], atol=1e-14)
    assert np.allclose(made["path_x"][:], thetas[:, 0], atol=1e-14)


def test_oracle_19_interrupted_units_are_found_and_only_the_rest_is_computed(saddle):
    made, evaluator, _ = saddle
    calls = []

    def dies(unit):
        calls.append(unit)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return evaluator(unit)

    with pytest.raises(KeyboardInterrupt):
        work_units.compute(made, dies, World(), Timing(), "counter", "test")
    assert work_units.unfinished(made) == list(range(4, 14)), "4 chunks of 4 points each are written"
    timing = Timing()
    again = []
    work_units.compute(
        made, lambda unit: again.append(unit.start) or evaluator(unit), World(), timing, "counter", "test"
    )
    assert again == list(range(16, 55, 4))
    assert timing.units == 10
    assert work_units.unfinished(made) == []


def test_a_chunk_of_nan_or_of_zeros_counts_as_written(saddle):
    made, _, _ = saddle
    flat = lambda unit: np.full((len(unit), 1), np.nan if unit.start % 8 < 4 else 0.0)  # noqa: E731
    work_units.compute(made, flat, World(), Timing(), "counter", "test")
    assert work_units.unfinished(made) == []


def test_stores_stay_below_a_few_thousand_files():
    assert evaluation.points_per_chunk({}, 100) == 4
    assert -(-201 * 201 // evaluation.points_per_chunk({}, 201 * 201)) <= evaluation.MAX_CHUNKS
    assert evaluation.points_per_chunk({"points_per_chunk": 3}, 10**6) == 3


def with_other_runs(tmp_path, losses, mode="full", points=(4, 3)):
    """A saddle, with the paths of two other runs of different lengths; one leaves the first's range."""
    here = np.zeros((3, 6))
    here[:, 0] = [0.5, 0.2, 0.0]
    far, short = np.zeros((4, 6)), np.zeros((2, 6))
    far[:, 1], far[:, 3] = [0, 1, 2, 3], [1, 0, 0, 2]
    short[:, 0] = [-0.5, 0.9]
    trajectory = make_trajectory(tmp_path / "here", here)
    runs = {n: make_trajectory(tmp_path / n, thetas) for n, thetas in (("far", far), ("short", short))}
    others = projection.Others(runs, losses)
    axes = Axes(np.eye(6)[:2], ["u", "v"], np.array([0.5, 0.3]), {})
    subset = Subset(Split(np.zeros((4, 1)), np.zeros(4)), np.arange(4), "digest", False)
    chosen = {"mode": mode} | ({"tolerance": 0.01, "scale": "linear"} if mode == "adaptive" else {})
    spec = {"center": "last", "points": list(points), "border": 0.0, "grid": chosen}
    problems = {"train": Saddle()}
    plane = landscape.Landscape({"plane": spec}, axes, trajectory, problems, {"train": subset}, others)
    link = tmp_path / "landscape" / "p.zarr"
    (tmp_path / ".stores" / "landscape").mkdir(parents=True)
    made = store.create(link, tmp_path, store.Fingerprint("landscape", spec), plane.build)
    plane.compute(made, Order(link, tmp_path, "t"), World(), Timing())
    counts = landscape.Landscape.finish(made, {})
    store.publish(link, tmp_path)
    return link, counts, np.concatenate([far, short])


@pytest.mark.parametrize(("mode", "points"), [("full", (4, 3)), ("adaptive", (33, 33))])
def test_oracle_17_paths_of_other_runs_are_projected_and_evaluated(tmp_path, recwarn, mode, points):
    link, counts, thetas = with_other_runs(tmp_path, True, mode, points)
    assert (counts["points"] < points[0] * points[1]) == (mode == "adaptive")
    found = store.open_dataset(link)
    assert counts["evaluations_of_other_runs"] == 12
    assert found["other_run"].values.tolist() == ["far"] * 4 + ["short"] * 2
    assert found["other_iteration"].values.tolist() == [0, 1, 2, 3, 0, 1]
    assert np.allclose(found["other_x"], thetas[:, 0], atol=1e-14)
    assert np.allclose(found["other_y"], thetas[:, 1], atol=1e-14)
    assert np.allclose(found["other_residual"], thetas[:, 3], atol=1e-14)
    expected = 1 + thetas[:, 0] ** 2 - thetas[:, 1] ** 2
    assert np.allclose(found["other_true_loss"][0], expected, atol=1e-14)
    assert np.allclose(found["other_projected_loss"][0], expected, atol=1e-14)
    assert np.allclose(found["path_true_loss"][0], 1 + np.array([0.5, 0.2, 0.0]) ** 2, atol=1e-14)
    assert np.allclose(found["x"].values[[0, -1]], (-0.5, 0.9), atol=1e-14), "the range includes them"
    assert np.allclose(found["y"].values[[0, -1]], (0, 3), atol=1e-14)
    assert not recwarn.list


def test_paths_of_other_runs_need_no_evaluations(tmp_path):
    link, counts, _ = with_other_runs(tmp_path, losses=False)
    found = store.open_dataset(link)
    assert counts["evaluations_of_other_runs"] == 0
    assert "other_x" in found
    assert "other_true_loss" not in found
    assert store.Store(link)[work_units.ARRAY].shape[0] == 12 + 2 * 3


def test_paths_of_other_networks_are_refused(tmp_path):
    here, there = (make_trajectory(tmp_path / n, np.ones((2, size))) for n, size in (("a", 5), ("b", 6)))
    with pytest.raises(LossAtlasError, match=r"plane.paths: run 'b' has another network than this run"):
        projection.Others({"b": there}).check(here)
    projection.Others({"a": here}).check(here)
