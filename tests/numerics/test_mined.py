"""Mined directions: the smallest eigenvalue's eigenvector, a planted saddle, wells solved for by scipy; resumed."""

import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.config import check, resolve
from lossatlas.config.references import count
from lossatlas.data import Split, Subset
from lossatlas.drivers import mined_directions
from lossatlas.drivers.base import Order
from lossatlas.drivers.mined_directions import Mined
from lossatlas.errors import LossAtlasError
from lossatlas.geometry.directions.mined import Vein, mine, partition, veins
from lossatlas.geometry.families import shape
from lossatlas.parallel import Timing, World, signals
from scipy.optimize import minimize
from torch import nn

from tests.conftest import make_trajectory

PEAK = {"seed": 0, "epochs": 300, "learning_rate": 0.2}
ALPHA = np.linspace(-1, 1, 41)


def noise(points: int, error: float) -> np.ndarray:
    """Return noise that is independent from point to point, of this standard error."""
    return error * points**0.5 * np.eye(points)


class Nowhere:
    """Keeps nothing."""

    def load(self):
        return None

    def due(self):
        return False

    def save(self, arrays):
        pass


def test_oracle_17_on_a_quadratic_the_peak_is_the_smallest_eigenvalues_eigenvector():
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((20, 20)))
    h = rotation * np.array([-0.8, *np.linspace(-0.2, 3, 19)]) @ rotation.T
    noise = rng.standard_normal((5, 20))
    noise -= noise.mean(axis=0)  # theta is stationary, each batch has a gradient there
    theta = rng.standard_normal(20)
    gradients = [lambda t, g=g: h @ (t - theta) + g for g in noise]
    exact = np.linalg.eigh(h)[1][:, 0]
    for number in range(3):
        found = mine(Vein("d", number), theta, None, gradients, {**PEAK, "epochs": 80}, Nowhere())
        assert abs(found @ exact) / np.linalg.norm(found) > 0.999


def test_oracle_17_a_planted_saddle_is_descended_on_both_sides():
    """L = x'x - 2 u^2 + u^4 has its valleys at u = +-1: the mined curve is a w-peak along u, as long as Eq. 2 wants."""

    def loss(t):
        return t[1:] @ t[1:] - 2 * t[0] ** 2 + t[0] ** 4

    def gradient(t, push):
        return np.concatenate([[-4 * t[0] + 4 * t[0] ** 3], 2 * t[1:]]) + push

    push = np.full(5, 0.1)
    batches = [lambda t: gradient(t, push), lambda t: gradient(t, -push)]
    found = mine(Vein("d", 0), np.zeros(5), None, batches, {**PEAK, "learning_rate": 0.05}, Nowhere())
    assert abs(found[0]) / np.linalg.norm(found) > 0.99
    # E over lambda in [-1, 1] of -2 l^2 e^2 + l^4 e^4 is -2 e^2 / 3 + e^4 / 5, smallest at e^2 = 5 / 3.
    assert abs(found[0]) == pytest.approx(np.sqrt(5 / 3), rel=0.1)
    values = np.array([loss(a * found) for a in ALPHA])
    assert shape(ALPHA, values, noise(41, 1e-3)).family == "w-peak"


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.9])
def test_oracle_17_a_planted_double_well_ends_where_scipy_does(gamma):
    """phi ends at the minimum of L(phi) + gamma L((theta + phi) / 2) in the other well, found without gradients."""

    def loss(t):
        return (t[0] ** 2 - 1) ** 2 + 0.3 * t[0] + t[1] ** 2

    def gradient(t):
        return np.array([4 * t[0] * (t[0] ** 2 - 1) + 0.3, 2 * t[1]])

    theta, start = np.array([-1.03, 0.0]), np.array([1.3, 0.5])
    spec = {"seed": 0, "epochs": 400, "learning_rate": 0.05}
    found = mine(Vein("d", 0, 0, gamma, 0.0), theta, start, [gradient], spec, Nowhere())
    exact = minimize(lambda p: loss(p) + gamma * loss((theta + p) / 2), start, method="Nelder-Mead", tol=1e-12).x
    assert found == pytest.approx(exact - theta, abs=1e-5)


def test_three_planted_wells_are_a_vvv_basin():
    def gradient(t):
        return np.array([2 * t[0] * (t[0] ** 2 - 1) * (3 * t[0] ** 2 - 1)])

    spec, theta = {"seed": 0, "epochs": 300, "learning_rate": 0.05}, np.array([-1.0])
    found = mine(Vein("d", 0, 0, 0.5, 0.1), theta, np.array([1.4]), [gradient], spec, Nowhere())
    alpha = np.linspace(-0.5, 1.5, 81)
    u = theta + alpha[:, None] * found
    assert shape(alpha, (u**2 * (u**2 - 1) ** 2)[:, 0], noise(81, 1e-4)).family == "vvv-basin"


class Stopped(Exception):
    """As a job that is told to stop ends."""


class Stops(Nowhere):
    """Keeps the state, and ends the direction at some of its steps."""

    def __init__(self, *steps):
        self.steps, self.kept, self.calls = list(steps), None, 0

    def load(self):
        return self.kept

    def due(self):
        self.calls += 1
        return self.calls in self.steps

    def save(self, arrays):
        self.kept = arrays
        if self.calls in self.steps:
            self.steps.remove(self.calls)
            raise Stopped


@pytest.mark.parametrize("start", [None, np.ones(4)])
def test_oracle_19_stopped_and_resumed_bit_for_bit(start):
    rng = np.random.default_rng(1)
    gradients = [lambda t, g=g: np.sin(t) + g for g in rng.standard_normal((3, 4))]
    spec, vein = {"seed": 5, "epochs": 10, "learning_rate": 0.1}, Vein("d", 1, None if start is None else 0, 0.5, 0.2)
    whole = mine(vein, np.zeros(4), start, gradients, spec, Nowhere())
    save = Stops(4, 11, 29)
    for _ in range(3):
        with pytest.raises(Stopped):
            mine(vein, np.zeros(4), start, gradients, spec, save)
    assert np.array_equal(mine(vein, np.zeros(4), start, gradients, spec, save), whole)
    assert np.array_equal(mine(vein, np.zeros(4), start, [None] * 3, spec, save), whole), "finished ones are kept"


class Waves:
    """A batch with many wells as a problem."""

    def __init__(self, push):
        self.push, self.calls = push, 0

    def gradient(self, theta, buffers):
        self.calls += 1
        return np.sin(theta) + self.push


@pytest.fixture
def job(tmp_path):
    """A job of four directions: two starts, two gammas; and its batches."""
    trajectory = make_trajectory(tmp_path, np.random.default_rng(2).standard_normal((3, 6)))
    to = [{"iteration": "first"}, {"iteration": 1}]
    chosen = {"algorithm": "vvv-basin", "to": to, "gamma": [0.1, 0.9], "alpha": [0.1], "center": "last", "seed": 3}
    spec = {"directions": {**chosen, "epochs": 5, "learning_rate": 0.1}}
    batches = [Waves(push) for push in np.random.default_rng(3).standard_normal((4, 6))]
    return Mined(spec, trajectory, subset=None, args=None), batches


def test_oracle_14_any_share_of_the_directions_gives_the_same_bits(job, tmp_path):
    made, batches = job
    whole = made.share(batches, range(4), tmp_path / "whole", 600)
    for size in (2, 3, 5):
        for rank in range(size):
            for number, vector in made.share(batches, range(rank, 4, size), tmp_path / f"{size}", 600).items():
                assert np.array_equal(vector, whole[number])


def test_oracle_19_a_job_that_is_told_to_stop_keeps_its_state(job, tmp_path, monkeypatch):
    made, batches = job
    whole = made.share(batches, range(4), tmp_path / "whole", 600)
    before = sum(batch.calls for batch in batches)
    told = iter([None] * 30 + ["SIGTERM"] * 3)
    monkeypatch.setattr(signals, "requested", lambda: next(told, None))
    with pytest.raises(signals.Interrupted, match="stopped by SIGTERM"):
        made.share(batches, range(4), tmp_path / "states", 600)
    monkeypatch.setattr(signals, "requested", lambda: None)
    again = made.share(batches, range(4), tmp_path / "states", 600)
    assert all(np.array_equal(again[k], whole[k]) for k in range(4))
    assert sum(batch.calls for batch in batches) == 2 * before, "no step was taken twice"


class Told(World):
    """The last of five ranks, which has no direction to mine; it is told to stop while others have."""

    def broadcast(self, value):
        return True

    def meet(self, patience):
        assert signals._deferred, "a signal would end all ranks before the others have saved"
        return patience() is None


def test_oracle_19_a_rank_without_a_share_lets_the_others_save(job, tmp_path, monkeypatch):
    made, _ = job
    monkeypatch.setitem(made.spec["directions"], "batch_size", 2)
    monkeypatch.setitem(made.spec["directions"], "batchnorm", "frozen")
    monkeypatch.setattr(mined_directions, "partition", lambda subset, choices: {})
    monkeypatch.setattr(mined_directions, "read_problems", lambda *about: ({}, "cpu"))
    monkeypatch.setattr(signals, "requested", lambda: "SIGTERM")
    order = Order(tmp_path / "directions" / "mined.zarr", tmp_path, "mined")
    with pytest.raises(signals.Interrupted, match="others did not come"):
        made.prepare(order, Told(4, 5), Timing())


def test_batches_are_a_partition():
    split = Split(np.arange(23.0)[:, None], np.arange(23))
    parts = partition(Subset(split, np.arange(23), "digest", True), {"seed": 0, "batch_size": 5})
    assert [len(one) for one in parts.values()] == [5, 5, 5, 4, 4]
    assert sorted(np.concatenate([one.index for one in parts.values()]).tolist()) == list(range(23))


def test_a_networks_peak_is_lower_on_both_sides():
    """Averaged over the curve, the loss lies below that of the center, as Eq. 2 wants; by torch itself."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = FlatNetwork(
        nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)), Device(torch.device("cpu"), torch.float64)
    )
    split = Split(rng.standard_normal((60, 6)), rng.integers(0, 3, 60))
    parts = partition(Subset(split, np.arange(60), "digest", True), {"seed": 0, "batch_size": 20})
    problems = [TorchProblem(network, build_loss({"name": "cross-entropy"}), one.samples, 20) for one in parts.values()]
    theta, none = network.parameters().astype(float), np.zeros(0)
    gradients = [lambda t, p=p: p.gradient(t, none) for p in problems]
    found = mine(Vein("d", 0), theta, None, gradients, {"seed": 0, "epochs": 60, "learning_rate": 0.5}, Nowhere())
    module = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)).double()

    def loss(at):
        nn.utils.vector_to_parameters(torch.tensor(at), module.parameters())
        return nn.functional.cross_entropy(module(torch.tensor(split.inputs)), torch.tensor(split.targets)).item()

    assert np.mean([loss(theta + a * found) for a in ALPHA]) < loss(theta) - 0.03


@pytest.mark.filterwarnings("ignore:overflow")
def test_what_leaves_the_numbers_or_stays_zero_is_refused():
    with pytest.raises(LossAtlasError, match=r"'d' is NaN or infinite in epoch \d+; lower learning_rate"):
        mine(Vein("d", 0), np.ones(2), None, [lambda t: t**3], {**PEAK, "learning_rate": 1e9}, Nowhere())
    with pytest.raises(LossAtlasError, match="'d' is zero"):
        mine(Vein("d", 0), np.zeros(2), None, [lambda t: t], PEAK, Nowhere())


def resolved(**mined):
    return resolve(
        {"runs": {"r": {"model": {"name": "lenet"}, "directions": {"m": {"kind": "mined", **mined}}, "planes": {}}}}
    )


def test_there_is_one_direction_for_each_seed_or_start_gamma_and_alpha():
    found = resolved(algorithm="w-peak", count=3)["runs"]["r"]["directions"]["m"]
    assert len(veins(found)) == count(check(found, "directions", "m")) == 3
    grid = {"to": [{"iteration": "first"}], "gamma": [0.1, 0.5, 0.9], "alpha": [0, 0.1]}
    found = resolved(algorithm="vvv-basin", **grid)["runs"]["r"]["directions"]["m"]
    assert [(one.gamma, one.alpha) for one in veins(found)] == [(g, a) for g in (0.1, 0.5, 0.9) for a in (0, 0.1)]
    assert count(check(found, "directions", "m")) == 6


@pytest.mark.parametrize(
    ("mined", "message"),
    [
        ({"algorithm": "w-peak", "gamma": [0.1]}, r"directions.m.gamma: belongs to algorithm: vvv-basin"),
        ({"algorithm": "vvv-basin"}, r"directions.m.algorithm: 'vvv-basin' needs 'to'"),
        ({"algorithm": "vvv-basin", "to": [{"run": "x"}]}, r"directions.m.to.0.run: no run 'x'"),
        ({"algorithm": "vvv-basin", "to": [{}]}, r"directions.m.to.0: 'last' and 'last' are both"),
        ({"algorithm": "vvv-basin", "to": [{"iteration": 0}], "alpha": [0.6]}, r"directions.m.alpha"),
        ({"algorithm": "peak"}, r"directions.m.algorithm"),
    ],
)
def test_mistakes_are_named(mined, message):
    with pytest.raises(LossAtlasError, match=message):
        resolved(**mined)
