"""Spectra on a line between two checkpoints: closed forms, buffers of the ends, and what is refused."""

import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.data import Split, Subset
from lossatlas.drivers import spectra
from lossatlas.errors import LossAtlasError
from lossatlas.geometry.segments import AlongTraining, Line
from lossatlas.io import store
from lossatlas.io.layout import ParameterLayout
from lossatlas.io.trajectory import Recording, RowWriter, Trajectory
from lossatlas.parallel import Timing, World, work_units
from torch import nn

from tests.conftest import contents, flat_layout

LINE = {"from": "first", "to": {"iteration": "last"}, "points": 5, "extend": 0, "buffers": "interpolate"}
SPEC = {"probes": 3, "steps": 12, "seed": 0, "distribution": "gaussian", "memory_gb": 1.0, "tolerance": None}
SPEC |= {"operator": "hessian", "parameters": ["*"]}


def record(run_dir, thetas, buffers=None, names=(), layout=None, frozen=()):
    """Write a trajectory with buffers of the given (name, shape) and return it."""
    layout = layout or flat_layout(thetas.shape[1])
    frozen_shapes = [("fixed", (len(frozen),))] if len(frozen) else []
    recording = Recording(
        layout, np.arange(len(thetas)), str(thetas.dtype), None, list(names), np.array(frozen), frozen_shapes
    )
    (run_dir / ".stores").mkdir(parents=True)
    made = store.create(run_dir / "trajectory.zarr", run_dir, store.Fingerprint("trajectory", {}), recording.build)
    writer = RowWriter(made)
    for row, theta in enumerate(thetas):
        own = np.zeros(0) if buffers is None else buffers[row]
        writer.append(parameters=theta, buffers=own, batch_loss=1.0, learning_rate=0.1)
    writer.flush()
    made.finish({})
    return Trajectory(made.path)


class Bowl:
    """L = theta' H theta / 2 as a problem that shares no code with ours; its Hessian is H everywhere."""

    samples, metric_names = 3, ("loss",)

    def __init__(self, h):
        self.h, self.size, self.layout, self.dtype = h, len(h), flat_layout(len(h)), np.dtype(float)

    def metrics(self, theta, buffers):
        return np.array([theta @ self.h @ theta / 2])

    def gradient(self, theta, buffers):
        return self.h @ theta

    def linearize(self, theta, buffers, **choices):
        return self

    def matmat(self, vectors):
        return vectors @ self.h


SUBSET = Subset(Split(np.zeros((3, 1)), np.zeros(3)), np.arange(3), "digest", False)


def make(run_dir, sites, problem, spec=SPEC):
    fingerprint = store.Fingerprint("spectra", spec)
    link = run_dir / "spectra_between" / "l.zarr"
    store.find(link, run_dir, fingerprint)
    job = spectra.Spectra({"spectra": spec}, problem, SUBSET, sites)
    return store.create(link, run_dir, fingerprint, job.build), job.evaluate


def compute(made, evaluator):
    work_units.compute(made, evaluator, World(), Timing(), "counter", "test")
    spectra.Spectra.finish(made, {})
    return made


@pytest.fixture
def bowl(tmp_path):
    rng = np.random.default_rng(0)
    half = rng.standard_normal((12, 12))
    return record(tmp_path / "bowl", rng.standard_normal((4, 12))), Bowl(half + half.T)


def test_on_a_quadratic_the_spectrum_is_constant_and_that_of_numpy(bowl, tmp_path):
    trajectory, problem = bowl
    sites = Line({**LINE, "extend": 0.5}, trajectory, {}, "line")
    made = compute(*make(tmp_path, sites, problem))
    exact = np.linalg.eigh(problem.h)[0]
    assert np.abs(made["nodes"][...] - exact).max() < 1e-10 * np.abs(exact).max()
    for name in ("nodes", "weights", "trace", "largest", "smallest"):
        assert np.array_equal(made[name][...], np.broadcast_to(made[name][0], made[name].shape)), name
    t = np.array([-0.5, 0.0, 0.5, 1.0, 1.5])
    assert made["position"][:].tolist() == t.tolist()
    first, last = trajectory.parameters(0), trajectory.parameters(3)
    thetas = first + t[:, None] * (last - first)
    assert np.allclose(made["loss"][:], [theta @ problem.h @ theta / 2 for theta in thetas], rtol=1e-12)
    assert np.allclose(made["gradient_norm"][:], np.linalg.norm(thetas @ problem.h, axis=1), rtol=1e-12)
    assert np.allclose(made["distance"][:], t * np.linalg.norm(last - first), rtol=1e-12)
    assert made.attrs["from"] == "iteration 0"
    assert made.attrs["to"] == "iteration 3"


def test_units_in_any_order_give_the_same_bits(bowl, tmp_path):
    trajectory, problem = bowl
    sites, spec = Line(LINE, trajectory, {}, "line"), {**SPEC, "probes": 22, "steps": 5}
    whole = compute(*make(tmp_path / "whole", sites, problem, spec))
    made, evaluator = make(tmp_path / "parts", sites, problem, spec)
    assert made["work/rows"].chunks[0] == 2, "several units share a position"
    for start in np.random.default_rng(0).permutation(np.arange(0, 110, 2)):
        made["work/rows"][start : start + 2] = np.column_stack([evaluator(range(start, start + 2)), np.ones(2)])
    compute(made, None)
    assert contents(made.path) == contents(whole.path)


class Normalised(nn.Module):
    """A small network with BatchNorm."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))


BUFFERS = [("norm.running_mean", (5,)), ("norm.running_var", (5,))]


@pytest.fixture
def normalised(tmp_path):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = FlatNetwork(Normalised(), Device(torch.device("cpu"), torch.float32))
    assert network.recording(np.zeros(0)).buffers == BUFFERS
    split = Split(rng.standard_normal((17, 4)), rng.integers(0, 3, 17))
    problem = TorchProblem(network, build_loss({"name": "cross-entropy"}), split, 5)
    thetas = rng.standard_normal((3, network.layout.size)).astype(np.float32)
    buffers = np.concatenate([rng.standard_normal((3, 5)), rng.uniform(0.1, 3, (3, 5))], axis=1).astype(np.float32)
    buffers[:, 5] = [1.0, 0.5, 0.2]
    return record(tmp_path / "norm", thetas, buffers, BUFFERS, network.layout), problem


def test_both_ends_are_the_checkpoints_bit_for_bit_and_the_middle_is_the_mean(normalised):
    trajectory, _ = normalised
    line = Line(LINE, trajectory, {}, "line")
    for values, recorded in ((line.parameters, trajectory.parameters), (line.buffers, trajectory.buffers)):
        for site, row in ((0, 0), (4, 2)):
            assert values(site).astype(np.float32).tobytes() == recorded(row).tobytes()
        assert np.array_equal(values(2), (recorded(0).astype(float) + recorded(2)) / 2)
    assert line.data["clipped_variances"].tolist() == [0] * 5


@pytest.mark.parametrize("variance", ["running_var", "moving_variance"])
def test_variances_beyond_the_ends_are_clipped_at_zero_and_counted(normalised, tmp_path, variance):
    """Those of PyTorch and of Keras."""
    trajectory, _ = normalised
    rows = (np.stack([read(row) for row in range(3)]) for read in (trajectory.parameters, trajectory.buffers))
    trajectory = record(tmp_path / variance, *rows, [BUFFERS[0], (f"norm.{variance}", (5,))], trajectory.layout)
    line = Line({**LINE, "points": 3, "extend": 1.0}, trajectory, {}, "line")  # positions -1, 0.5, 2
    first, last = (trajectory.buffers(row).astype(float) for row in (0, 2))
    for site, t in enumerate((-1.0, 0.5, 2.0)):
        raw = (1 - t) * first + t * last
        negative = raw[5:] < 0
        assert line.data["clipped_variances"][site] == negative.sum()
        assert np.array_equal(line.buffers(site)[:5], raw[:5]), "means may be negative"
        assert np.allclose(line.buffers(site)[5:], np.where(negative, 0, raw[5:]), rtol=1e-12)
    assert line.buffers(2)[5] == 0


def test_frozen_buffers_are_those_of_from(normalised):
    trajectory, _ = normalised
    line = Line({**LINE, "buffers": "frozen"}, trajectory, {}, "line")
    assert all(np.array_equal(line.buffers(site), trajectory.buffers(0)) for site in range(5))


def test_at_its_ends_the_line_has_the_spectra_of_training(normalised, tmp_path):
    trajectory, problem = normalised
    along = compute(*make(tmp_path / "along", AlongTraining(trajectory, 2), problem))
    line = compute(*make(tmp_path / "line", Line(LINE, trajectory, {}, "line"), problem))
    for name in ("nodes", "weights", "alpha", "beta", "trace"):
        assert np.array_equal(line[name][...][[0, -1]], along[name][...]), name
    assert line["loss"][-1] == problem.metrics(trajectory.parameters(2), trajectory.buffers(2))[0]


def test_a_line_leads_to_another_run(bowl, tmp_path):
    trajectory, _ = bowl
    other = record(tmp_path / "other", np.ones((2, 12)))
    line = Line({**LINE, "to": {"run": "b", "iteration": 1}}, trajectory, {"b": other}, "line")
    assert line.attributes["to"] == "b, iteration 1"
    assert np.array_equal(line.parameters(4), np.ones(12))


def other_network(folder):
    return record(folder, np.ones((2, 12)), layout=ParameterLayout(flat_layout(11).slots + flat_layout(1).slots))


def other_constants(folder):
    return record(folder, np.ones((2, 12)), frozen=[1.0])


@pytest.mark.parametrize(
    ("change", "other", "message"),
    [
        ({"to": {"run": "b", "iteration": 0}}, other_network, "line.to.run: run 'b' has another network than this run"),
        ({"to": {"run": "b", "iteration": 0}}, other_constants, "line.to.run: run 'b' has another network"),
        ({"to": {"iteration": 9}}, None, "line.to.iteration: iteration 9 was not recorded in .*; the nearest is 3"),
        ({"from": 7}, None, "line.from: iteration 7 was not recorded"),
        ({"from": 3}, None, "line: 'from' and 'to' are one point"),
    ],
)
def test_impossible_lines_are_refused_in_one_line(bowl, tmp_path, change, other, message):
    others = {"b": other(tmp_path / "b")} if other else {}
    with pytest.raises(LossAtlasError, match=message) as error:
        Line({**LINE, **change}, bowl[0], others, "line")
    assert "\n" not in str(error.value)


def test_other_values_of_parameters_that_are_not_trained_are_refused(tmp_path):
    one, other = (record(tmp_path / str(value), np.ones((1, 3)) * value, frozen=[value]) for value in (1.0, 2.0))
    with pytest.raises(LossAtlasError, match="run 'b' holds other values in the parameters that are not trained"):
        Line({**LINE, "to": {"run": "b", "iteration": 0}}, one, {"b": other}, "line")
