"""Curves: closed forms of quadratics and double wells, both ends bit for bit, NaN and inf, units in any order."""

import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.data import Split, Subset
from lossatlas.drivers import line_scans
from lossatlas.drivers.base import Order
from lossatlas.errors import LossAtlasError
from lossatlas.geometry.directions.direction_set import Axes
from lossatlas.geometry.families import features
from lossatlas.io import store
from lossatlas.io.trajectory import Recording, RowWriter, Trajectory
from lossatlas.parallel import Timing, World, work_units
from torch import nn
from torch.nn import functional

from tests.conftest import contents, make_trajectory

SUBSET = Subset(Split(np.zeros((3, 1)), np.zeros(3)), np.arange(3), "digest", False)
DIRECTIONS = {"center": "last", "batchnorm": "frozen", "range": [-1, 1], "points": 21}
LINE = {"from": "first", "to": {"iteration": "last"}, "batchnorm": "interpolate", "range": [-0.5, 1.5], "points": 41}


class ClosedForm:
    """A loss in closed form as a problem that shares no code with ours."""

    samples, metric_names = 3, ("loss",)

    def __init__(self, loss):
        self.loss = loss

    def metrics(self, theta, buffers):
        return np.array([self.loss(theta)])

    def restrict(self, center, directions, buffers):
        problem = self

        class Line:
            def metrics(self, points):
                return np.stack([problem.metrics(center + point @ directions, buffers) for point in points])

        return Line()


def make(run_dir, course, problems, spec=DIRECTIONS):
    link, subsets = run_dir / "curves" / "c.zarr", dict.fromkeys(problems, SUBSET)
    fingerprint = store.Fingerprint("curves", spec)
    store.find(link, run_dir, fingerprint)
    job = line_scans.LineScan({"curve": spec}, course, problems, subsets, 1.5)
    made = store.create(link, run_dir, fingerprint, job.build)
    return made, job.evaluator(made)


def compute(made, evaluator):
    work_units.compute(made, evaluator, World(), Timing(), "counter", "test")
    line_scans.LineScan.finish(made, {})
    return made


def axes(vectors):
    return Axes(vectors, [f"d{k}" for k in range(len(vectors))], np.zeros(len(vectors)), {})


def test_oracle_17_a_quadratic_bowl_along_any_direction(tmp_path):
    rng = np.random.default_rng(0)
    half = rng.standard_normal((8, 8))
    h, thetas, d = half @ half.T, rng.standard_normal((3, 8)), rng.standard_normal((2, 8))
    problems = {"train": ClosedForm(lambda t: t @ h @ t / 2), "test": ClosedForm(lambda t: 3 - t @ t)}
    course = line_scans.Along(DIRECTIONS, axes(d), make_trajectory(tmp_path, thetas))
    made, c = compute(*make(tmp_path, course, problems)), thetas[-1]
    alpha = np.linspace(-1, 1, 21)
    assert np.allclose(made["alpha"][:], alpha, atol=1e-15)
    for k in range(2):
        exact = (c @ h @ c + 2 * alpha * (c @ h @ d[k]) + alpha**2 * (d[k] @ h @ d[k])) / 2
        assert np.allclose(made["loss"][k, 0], exact, rtol=1e-12)
        assert np.allclose(made["loss"][k, 1], 3 - ((c + alpha[:, None] * d[k]) ** 2).sum(axis=1), rtol=1e-12)
        lowest = np.clip(-(c @ h @ d[k]) / (d[k] @ h @ d[k]), -1, 1)
        assert abs(made["minimum_position"][k, 0] - lowest) <= 0.05 + 1e-12
        assert made["minimum"][k, 0] == made["loss"][k, 0].min()
        assert made["stationary_points"][k, 0] == (abs(lowest) < 0.95)
        assert made["barrier"][k, 0] == 0, "a parabola has nothing to climb"
        assert made["direction_norm"][k] == pytest.approx(np.linalg.norm(d[k]))
    cosine = d[0] @ d[1] / np.linalg.norm(d[0]) / np.linalg.norm(d[1])
    assert made["angle"][0, 1] == pytest.approx(np.degrees(np.arccos(cosine)))
    assert made.attrs["center"] == "iteration 2"


def double_well(theta):
    return (theta[0] ** 2 - 1) ** 2 + 0.25 * theta[0]


@pytest.fixture
def well(tmp_path):
    """A path from one well at u = -1 to the other at u = 1, by way of a point elsewhere."""
    thetas = np.zeros((3, 4))
    thetas[:, 0], thetas[1, 1] = [-1, 5, 1], 2
    return make_trajectory(tmp_path / "well", thetas), {"train": ClosedForm(double_well)}


def test_oracle_17_the_barrier_between_two_wells(well, tmp_path):
    trajectory, problems = well
    made = compute(*make(tmp_path, line_scans.Between(LINE, trajectory, {}, "curve"), problems, LINE))
    alpha = made["alpha"][:]
    exact = ((2 * alpha - 1) ** 2 - 1) ** 2 + 0.25 * (2 * alpha - 1)
    assert np.allclose(made["loss"][0, 0], exact, atol=1e-14)
    fine = np.linspace(-1, 1, 200_001)
    on_path = (fine**2 - 1) ** 2 + 0.25 * fine
    spacing = 0.1  # of u; near the maximum the curvature is at most 4
    assert made["barrier"][0, 0] == pytest.approx(on_path.max() - 0.25, abs=4 * spacing**2 / 8)
    assert made["barrier_above_chord"][0, 0] == pytest.approx(1, abs=1e-12), "the tilt is the chord's"
    assert (made["barrier_from"][0, 0], made["barrier_to"][0, 0]) == (0, 1)
    assert made["stationary_points"][0, 0] == 3
    roots = np.sort(np.roots([4, 0, -4, 0.25]).real)
    found = 2 * alpha[made["stationary"][0, 0] == 1] - 1
    assert np.allclose(found, roots, atol=spacing)
    assert 2 * made["minimum_position"][0, 0] - 1 == pytest.approx(roots[0], abs=spacing)
    falls = np.diff(on_path[:: 200_000 // 20]) < 0
    assert made["monotonicity"][0, 0] == pytest.approx(falls.mean())
    assert made.attrs["from"] == "iteration 0"
    assert made.attrs["length"] == 2


def test_a_peak_between_two_descents_along_a_direction(well, tmp_path):
    """From the top between the wells the barrier is what separates the two lowest points on either side."""
    top = make_trajectory(tmp_path / "top", np.zeros((2, 4)))
    spec = {**DIRECTIONS, "range": [-1.5, 1.5], "points": 61}
    made = compute(*make(tmp_path, line_scans.Along(spec, axes(np.eye(4)[:1]), top), well[1], spec))
    alpha, loss = made["alpha"][:], made["loss"][0, 0]
    left, right = loss[alpha <= 0].min(), loss[alpha >= 0].min()
    assert made["barrier"][0, 0] == loss[np.abs(alpha) < 0.9].max() - max(left, right)
    assert loss[alpha == made["barrier_from"][0, 0]] == left
    assert loss[alpha == made["barrier_to"][0, 0]] == right
    assert made["stationary_points"][0, 0] == 3


X = np.linspace(-2, 2, 5)


@pytest.mark.parametrize(
    ("loss", "ends", "expected"),
    [
        ([4, 1, 0, 1, 4], None, {"stationary_points": 1, "barrier": 0, "monotonicity": 1, "minimum_position": 0}),
        ([8, 4, 2, 1, 0], None, {"stationary_points": 0, "barrier": 0, "monotonicity": 0.5, "minimum_position": 2}),
        ([0, 3, 4, 3, 1], None, {"stationary_points": 1, "barrier": 3, "barrier_above_chord": 3.5, "monotonicity": 0}),
        ([1, 0, 2, 0, 1], None, {"stationary_points": 3, "barrier": 2, "barrier_from": -1, "barrier_to": 1}),
        ([9, 8, 4, 2, 9], (-1.0, 1.0), {"barrier": 0, "barrier_above_chord": 0, "monotonicity": 1}),
        ([9, 4, 8, 2, 9], (-1.0, 1.0), {"barrier": 4, "barrier_above_chord": 5, "monotonicity": 0.5}),
        ([1, 1, 1, 1, 1], (-1.0, 1.0), {"stationary_points": 0, "barrier": 0, "monotonicity": 0, "minimum": 1}),
        ([np.inf, 1, 0, 1, np.inf], None, {"stationary_points": 1, "monotonicity": 1, "minimum": 0, "barrier": 0}),
        ([9, 4, np.inf, 2, 9], (-1.0, 1.0), {"barrier": np.inf, "monotonicity": 0.5, "minimum": 2}),
        ([9, 4, np.nan, 2, 9], (-1.0, 1.0), {"barrier": np.nan, "monotonicity": 0, "stationary_points": 0}),
        (
            [np.nan] * 5,
            None,
            {"minimum": np.nan, "minimum_position": np.nan, "stationary_points": 0, "barrier": np.nan},
        ),
        ([np.inf] * 5, (-1.0, 1.0), {"minimum": np.nan, "barrier": np.nan, "stationary_points": 0}),
    ],
    ids=[
        "v-basin",
        "v-side",
        "peak",
        "w",
        "falling",
        "barrier",
        "flat",
        "inf",
        "inf inside",
        "NaN",
        "all NaN",
        "all inf",
    ],
)
def test_features_by_hand(loss, ends, expected):
    found = features(X, np.array(loss, float), np.zeros((5, 0)), ends)
    assert {key: found[key] for key in expected} == pytest.approx(expected, nan_ok=True)


def test_zero_and_one_are_among_the_positions():
    assert line_scans.positions((-1, 1), 41, (0.0,))[20] == 0.0
    assert len(line_scans.positions((-1, 1), 41, (0.0,))) == 41
    found = line_scans.positions((-1, 2), 5, (0.0, 1.0))
    assert found.tolist() == [-1, -0.25, 0, 0.5, 1, 1.25, 2]
    assert line_scans.positions((0, 1), 3, (0.0, 1.0)).tolist() == [0, 0.5, 1]
    assert line_scans.positions((-1, 1), 3, (0.0, 1e-9)).tolist() == [-1, 0, 1e-9, 1], "one wanted point is kept"


class Normalised(nn.Module):
    """A small network with BatchNorm."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))


@pytest.fixture
def normalised(tmp_path):
    """A network with BatchNorm in double precision, its problem and three checkpoints."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = FlatNetwork(Normalised(), Device(torch.device("cpu"), torch.float64))
    split = Split(rng.standard_normal((17, 4)), rng.integers(0, 3, 17))
    thetas = rng.standard_normal((3, network.layout.size))
    buffers = np.concatenate([rng.standard_normal((3, 5)), rng.uniform(0.1, 3, (3, 5))], axis=1)
    recording = Recording(
        network.layout, np.arange(3), "float64", None, [("norm.running_mean", (5,)), ("norm.running_var", (5,))]
    )
    (tmp_path / ".stores").mkdir(parents=True)
    made = store.create(tmp_path / "t.zarr", tmp_path, store.Fingerprint("trajectory", {}), recording.build)
    writer = RowWriter(made)
    for theta, own in zip(thetas, buffers, strict=True):
        writer.append(parameters=theta, buffers=own, batch_loss=1.0, learning_rate=0.1)
    writer.flush()
    made.finish({})
    problem = TorchProblem(network, build_loss({"name": "cross-entropy"}), split, 5)
    return Trajectory(made.path), problem, split, thetas, buffers


def by_torch(split, theta, buffers):
    """Return loss and accuracy of the module itself with these parameters and running statistics."""
    module = Normalised().double().eval()
    parts = torch.tensor(theta).split([p.numel() for p in module.parameters()])
    for parameter, part in zip(module.parameters(), parts, strict=True):
        parameter.data = part.view(parameter.shape)
    module.norm.running_mean, module.norm.running_var = torch.tensor(buffers[:5]), torch.tensor(buffers[5:])
    outputs, targets = module(torch.tensor(split.inputs)), torch.tensor(split.targets)
    loss = functional.cross_entropy(outputs, targets).item()
    return loss, (outputs.argmax(1) == targets).double().mean().item()


@pytest.mark.parametrize("batchnorm", ["interpolate", "frozen"])
def test_running_statistics_move_along_or_stay(normalised, tmp_path, batchnorm):
    trajectory, problem, split, thetas, stats = normalised
    spec = {**LINE, "batchnorm": batchnorm, "points": 5}
    course = line_scans.Between(spec, trajectory, {}, "curve")
    made = compute(*make(tmp_path, course, {"train": problem}, spec))
    for n, t in enumerate([-0.5, 0, 0.5, 1, 1.5]):
        own = (1 - t) * stats[0] + t * stats[2] if batchnorm == "interpolate" else stats[0]
        own = np.concatenate([own[:5], np.maximum(own[5:], 0)])
        loss, accuracy = by_torch(split, (1 - t) * thetas[0] + t * thetas[2], own)
        assert made["loss"][0, 0, n] == pytest.approx(loss, rel=1e-12)
        assert made["accuracy"][0, 0, n] == pytest.approx(accuracy)
    assert made.attrs["batchnorm"].startswith(batchnorm)
    if batchnorm == "interpolate":
        for n, row in ((1, 0), (3, 2)):
            exact = problem.metrics(trajectory.parameters(row), trajectory.buffers(row))
            assert made["loss"][0, 0, n] == exact[0], "the ends are the checkpoints bit for bit"


def test_points_with_clipped_variances_are_counted_and_turn_nowhere(normalised, tmp_path):
    trajectory, problem, _, _, stats = normalised
    spec = {**LINE, "range": [-3, 4], "points": 29}
    made = compute(*make(tmp_path, line_scans.Between(spec, trajectory, {}, "c"), {"train": problem}, spec))
    alpha = made["alpha"][:]
    clipped = ((1 - alpha[:, None]) * stats[0, 5:] + alpha[:, None] * stats[2, 5:] < 0).any(axis=1)
    assert 2 < clipped.sum() < 26
    assert made.attrs["clipped_points"] == clipped.sum()
    assert not made["stationary"][0, 0][clipped].any()
    assert not made["turning"][0, 0][clipped].any()
    assert made["minimum"][0, 0] == made["loss"][0, 0][~clipped].min()
    assert np.isfinite(made["loss"][:]).all(), "they stay in the store"


@pytest.mark.parametrize("between", [True, False])
def test_running_statistics_are_recomputed_on_the_training_samples(normalised, tmp_path, between):
    """Mean and unbiased variance of what reaches BatchNorm at each point, of the training samples for both splits."""
    trajectory, problem, split, thetas, _ = normalised
    few = TorchProblem(problem.network, problem.loss, Split(split.inputs[:7], split.targets[:7]), 5)
    spec = {**(LINE if between else DIRECTIONS), "batchnorm": "recompute", "points": 5, "range": [-0.5, 1.5]}
    start, step = (thetas[0], thetas[2] - thetas[0]) if between else (thetas[2], thetas[1])
    if between:
        course = line_scans.Between(spec, trajectory, {}, "curve")
    else:
        course = line_scans.Along(spec, axes(thetas[1:2]), trajectory)
    made = compute(*make(tmp_path, course, {"train": problem, "test": few}, spec))
    for n, t in enumerate(made["alpha"][:]):
        theta = start + t * step
        before = split.inputs @ theta[:20].reshape(5, 4).T + theta[20:25]
        own = np.concatenate([before.mean(axis=0), before.var(axis=0, ddof=1)])
        for k, part in enumerate((split, Split(split.inputs[:7], split.targets[:7]))):
            assert made["loss"][0, k, n] == pytest.approx(by_torch(part, theta, own)[0], rel=1e-10)
    assert made.attrs["batchnorm"].startswith("recompute: at each point of the curve")


@pytest.mark.parametrize("between", [True, False])
def test_oracle_3_strategies_agree_and_are_named(normalised, tmp_path, between):
    trajectory, problem, split, thetas, stats = normalised
    spec = {**(LINE if between else DIRECTIONS), "batchnorm": "frozen", "points": 5, "strategy": "first-layer"}
    course = (
        line_scans.Between(spec, trajectory, {}, "curve")
        if between
        else line_scans.Along(spec, axes(thetas[:2]), trajectory)
    )
    job = line_scans.LineScan({"curve": spec}, course, {"train": problem}, {"train": SUBSET})
    made = job.create(Order(tmp_path / "c.zarr", tmp_path, "test"), job.plan())
    assert made.attrs["strategy"] == "first-layer"
    assert made.attrs["precision"] == "full"
    compute(made, job.evaluator(made))
    start = 0 if between else 2
    for k, step in enumerate([thetas[2] - thetas[0]] if between else thetas[:2]):
        for n, t in enumerate(made["alpha"][:]):
            exact = by_torch(split, thetas[start] + t * step, stats[start])
            assert made["loss"][k, 0, n] == pytest.approx(exact[0], rel=1e-12)
    moving = line_scans.Between({**LINE, "batchnorm": "interpolate"}, trajectory, {}, "curve")
    with pytest.raises(LossAtlasError, match=r"curve: strategy: 'first-layer' needs batchnorm: frozen"):
        line_scans.LineScan({"curve": spec}, moving, {"train": problem}, {"train": SUBSET}).plan()
    job = line_scans.LineScan({"curve": LINE}, moving, {"train": problem}, {"train": SUBSET})
    made = job.create(Order(tmp_path / "m.zarr", tmp_path, "test"), job.plan())
    assert made.attrs["strategy_note"] == "eager: running statistics change from point to point"


def test_oracle_19_units_in_any_order_and_after_an_interruption_give_the_same_bits(normalised, tmp_path):
    trajectory, problem, *_ = normalised
    rng, spec = np.random.default_rng(1), {**DIRECTIONS, "points_per_chunk": 5}
    course = line_scans.Along(spec, axes(rng.standard_normal((3, trajectory.layout.size))), trajectory)
    whole = compute(*make(tmp_path / "whole", course, {"train": problem}, spec))
    made, evaluator = make(tmp_path / "parts", course, {"train": problem}, spec)
    assert work_units.count(made) == 13
    calls = []

    def dies(unit):
        calls.append(unit)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return evaluator(unit)

    with pytest.raises(KeyboardInterrupt):
        work_units.compute(made, dies, World(), Timing(), "counter", "test")
    assert len(work_units.unfinished(made)) == 10
    for start in (60, 20):  # others' ranks come back in any order
        rows = evaluator(range(start, min(start + 5, 63)))
        made["work/rows"][start : start + len(rows)] = np.column_stack([rows, np.ones(len(rows))])
    compute(made, evaluator)
    assert contents(made.path) == contents(whole.path)


def test_nan_and_inf_are_kept_and_counted(tmp_path):
    problem = ClosedForm(lambda t: np.nan if t[0] > 0.5 else np.inf if t[0] < -0.5 else t[0] ** 2)
    course = line_scans.Along(DIRECTIONS, axes(np.eye(2)[:1]), make_trajectory(tmp_path, np.zeros((2, 2))))
    made, evaluator = make(tmp_path, course, {"train": problem})
    work_units.compute(made, evaluator, World(), Timing(), "counter", "test")
    assert line_scans.LineScan.finish(made, {}) == {"curves": 1, "points": 21, "nonfinite_points": {"train": 10}}
    loss, alpha = made["loss"][0, 0], made["alpha"][:]
    assert np.isnan(loss[alpha > 0.51]).all()
    assert np.isposinf(loss[alpha < -0.51]).all()
    assert made["minimum"][0, 0] == 0


def test_the_loss_of_a_random_guess():
    labels = np.repeat(np.arange(7), 3)
    assert line_scans.random_guess({"name": "cross-entropy"}, labels) == pytest.approx(np.log(7))
    uniform = functional.cross_entropy(torch.zeros(21, 7), torch.tensor(labels)).item()
    assert line_scans.random_guess({"name": "cross-entropy"}, labels) == pytest.approx(uniform, rel=1e-6)
    assert line_scans.random_guess({"name": "mse"}, labels) is None
    assert line_scans.random_guess({"name": "cross-entropy"}, np.eye(7)) is None
