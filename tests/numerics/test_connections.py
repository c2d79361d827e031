"""Curves of low loss between two minima: rings whose valley is known, gradients by autograd, quadrature by scipy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lossatlas import rng
from lossatlas.config import check, resolve
from lossatlas.config.references import count
from lossatlas.drivers import line_scans
from lossatlas.drivers.mined_directions import Connection
from lossatlas.errors import LossAtlasError
from lossatlas.geometry.directions import connection, orthogonalize, read_axes
from lossatlas.io import store
from scipy.integrate import quad
from scipy.optimize import minimize

from tests.conftest import make_trajectory
from tests.numerics.test_curves import ClosedForm, compute, make
from tests.numerics.test_mined import Nowhere, Stopped, Stops

SPEC = {"seed": 0, "epochs": 3000, "learning_rate": 0.01}
A, B = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])


def ring(theta):
    """Zero on the circle of radius 1 in the plane of the first two coordinates."""
    return (theta[0] ** 2 + theta[1] ** 2 - 1) ** 2 + theta[2] ** 2


def ring_gradient(theta):
    x, y, z = theta
    return np.array([4 * x * (x**2 + y**2 - 1), 4 * y * (x**2 + y**2 - 1), 2 * z])


def point(curve, bend, t, beginning=A, end=B):
    """Return a point of a curve, by de Casteljau's construction or by its straight pieces."""
    if curve == "bezier":
        left, right = beginning + t * (bend - beginning), bend + t * (end - bend)
        return left + t * (right - left)
    return beginning + 2 * t * (bend - beginning) if t < 0.5 else bend + (2 * t - 1) * (end - bend)


def mean_loss(curve, bend):
    return quad(lambda t: ring(point(curve, bend, t)), 0, 1, points=[0.5])[0]


@pytest.fixture(scope="module", params=["bezier", "chain"])
def trained(request):
    return request.param, connection.train(request.param, A, B, [ring_gradient], SPEC, Nowhere())


def test_oracle_17_the_bend_ends_where_the_mean_loss_is_smallest(trained):
    """On a ring the best bend is symmetric and off the chord; scipy finds it by quadrature, without gradients."""
    curve, bend = trained
    best = minimize(lambda b: mean_loss(curve, b), [0.7, 0.7, 0.1], method="Nelder-Mead", tol=1e-9)
    assert bend == pytest.approx(best.x, abs=0.03), "as near as steps of constant size come"
    assert mean_loss(curve, bend) < 1.05 * best.fun
    assert mean_loss(curve, bend) < 0.05 * mean_loss("chain", (A + B) / 2), "the straight line climbs 50 times as much"


def test_oracle_17_the_curves_driver_finds_the_quadrature_and_the_length(trained, tmp_path):
    """Loss on the trained curve and on the straight line, their means and lengths, against scipy's quadrature."""
    curve, bend = trained
    spec = {"connection": "bend", "batchnorm": "frozen", "range": [0, 1], "points": 201}
    axes = SimpleNamespace(vectors=np.stack([B - A, bend - A]), labels=["to one", "to the bend"])
    attributes = {"center": "last", "curve": curve}
    course = line_scans.Connected(spec, axes, attributes, make_trajectory(tmp_path, np.stack([B, A])))
    made = compute(*make(tmp_path, course, {"train": ClosedForm(ring)}, spec))
    t, loss, length = made["alpha"][:], made["loss"][:, 0], made["arc_length"][:]
    assert np.allclose(loss[0], [ring(point(curve, bend, at)) for at in t], atol=1e-13)
    assert np.allclose(loss[1], [ring(A + at * (B - A)) for at in t], atol=1e-13)
    assert np.trapezoid(loss[0], t) == pytest.approx(mean_loss(curve, bend), rel=1e-2)
    assert made["barrier"][1, 0] == pytest.approx(0.25)
    assert made["barrier"][0, 0] < 0.1 * 0.25
    assert made.attrs["from"] == "iteration 1"

    def speed(at):
        return np.linalg.norm(point(curve, bend, at + 1e-6) - point(curve, bend, at - 1e-6)) / 2e-6

    assert length[0, -1] == pytest.approx(quad(speed, 0, 1, points=[0.5])[0], rel=1e-4)
    assert length[0, 40] == pytest.approx(quad(speed, 0, t[40])[0], rel=1e-4)
    assert length[1] == pytest.approx(t * np.sqrt(2))
    assert made.attrs["length"] == pytest.approx(np.sqrt(2))


@pytest.mark.parametrize("curve", ["bezier", "chain"])
def test_a_step_follows_the_gradient_of_the_curves_loss(curve):
    """Of one batch and one t, by autograd through the curve itself."""
    draws, spec = np.random.default_rng(0), {"seed": 7, "epochs": 1, "learning_rate": 0.1}
    beginning, end, push = draws.standard_normal((3, 5))
    found = connection.train(curve, beginning, end, [lambda p: np.cos(p) + push], spec, Nowhere())
    t = (1 + rng.generator(7, "mined lambda", 0, 0).uniform(-1, 1)) / 2
    bend = torch.tensor((beginning + end) / 2, requires_grad=True)
    at = point(curve, bend, t, torch.tensor(beginning), torch.tensor(end))
    (torch.sin(at) + torch.tensor(push) * at).sum().backward()
    assert np.allclose(((beginning + end) / 2 - found) / 0.1, bend.grad, rtol=1e-10)


@pytest.fixture
def job(tmp_path):
    """A connection on a ring between a run's first and last checkpoint."""
    trajectory = make_trajectory(tmp_path, np.stack([B, 2 * A, A]))
    chosen = {"kind": "connection", "to": {"iteration": "first"}, "curve": "bezier", "center": "last", "seed": 0}
    chosen |= {"normalize": "none", "ignore": [], "epochs": 200, "learning_rate": 0.05}
    made = Connection({"directions": chosen}, trajectory, subset=range(3), args=None)
    made.device = "cpu"
    return made, [SimpleNamespace(gradient=lambda theta, buffers: ring_gradient(theta))]


@pytest.mark.parametrize("curve", ["bezier", "chain"])
def test_the_length_is_that_of_a_fine_polygon(curve):
    t = np.array([-0.3, 0, 0.3, 0.85, 1, 1.4])  # not at the bend of the chain
    vectors = np.array([[2.0, 0, 0], [1, 1, 0.5]])
    fine = np.sort(np.concatenate([np.linspace(-0.3, 1.4, 20001), t, [0.5]]))
    along = np.append(0, np.linalg.norm(np.diff(connection.shares(curve, fine) @ vectors, axis=0), axis=1).cumsum())
    exact = np.interp(t, fine, along) - np.interp(0, fine, along)
    assert connection.arc_length(curve, t, vectors) == pytest.approx(exact, rel=2e-3 if curve == "bezier" else 1e-9)


def test_oracle_14_one_of_any_number_of_ranks_trains_the_bend(job, tmp_path):
    made, problems = job
    whole = made.share(problems, range(1), tmp_path / "whole", 600)[0]
    shares = [made.share(problems, range(rank, 1, 3), tmp_path / "3", 600) for rank in range(3)]
    assert np.array_equal(shares[0][0], whole)
    assert shares[1:] == [{}, {}]


def test_oracle_19_stopped_and_resumed_bit_for_bit():
    spec = {**SPEC, "epochs": 40}
    whole, save = connection.train("bezier", A, B, [ring_gradient], spec, Nowhere()), Stops(3, 30)
    for _ in range(2):
        with pytest.raises(Stopped):
            connection.train("bezier", A, B, [ring_gradient], spec, save)
    assert np.array_equal(connection.train("bezier", A, B, [ring_gradient], spec, save), whole)


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0)])
def test_the_plane_of_the_three_points_holds_the_curve(job, tmp_path, numbers):
    """Every drawn point, taken from the axes back to theta, lies on the curve; made orthogonal or not."""
    made, problems = job
    bend = made.share(problems, range(1), tmp_path / "states", 600)[0]
    link = tmp_path / "directions" / "bend.zarr"
    fingerprint = store.Fingerprint("directions", {})
    store.find(link, tmp_path, fingerprint)
    built = made.completed(bend[None])
    store.create(link, tmp_path, fingerprint, lambda group: built.build(group, made.trajectory.layout, made.choices))
    finished = store.Store(store.hidden_path(link, tmp_path), writable=True)
    finished.finish({})
    store.publish(link, tmp_path)
    plain = read_axes([(link, number) for number in numbers])
    for axes in (plain, orthogonalize(plain, made.trajectory)):
        drawn = A + np.array(axes.notes["connection"]) @ axes.vectors
        exact = [point("bezier", A + bend, t) for t in np.linspace(0, 1, 101)]
        assert np.allclose(drawn, exact, atol=1e-12)
        assert sorted(axes.ends) == ["iteration 0", "the bend"]
    assert read_axes([(link, 0), (link, 1)]).labels == ["to iteration 0", "to the bend"]


def resolved(low=None, plane=None, **changes):
    made = {"kind": "connection", "to": {"run": "two"}, **changes}
    run = {"model": {"name": "lenet"}, "directions": {"bend": made, "random": {"kind": "random"}}, "planes": {}}
    curves = {"curves": {"low": low or {"connection": "bend"}}}
    planes = {"planes": {"p": {"x": "bend/1", "y": "bend/2", **plane}}} if plane else {}
    return resolve({"runs": {"one": {**run, **curves, **planes}, "two": {"model": {"name": "lenet"}, "seed": 1}}})


def test_a_connection_is_two_directions():
    run = resolved(plane={"batchnorm": "recompute"})["runs"]["one"]
    assert count(check(run["directions"]["bend"], "directions", "bend")) == 2
    assert run["curves"]["low"]["range"] == [0, 1]
    assert run["curves"]["low"]["batchnorm"] == "recompute"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"to": {"run": "x"}}, r"directions.bend.to.run: no run 'x'"),
        ({"to": {"iteration": "last"}}, r"directions.bend.to: 'last' and 'last' are both"),
        ({"normalize": "filter"}, r"directions.bend.normalize: would move the end and the bend; leave it out"),
        ({"curve": "spline"}, r"directions.bend.curve: 'spline' is not one of bezier, chain"),
        ({"gamma": [1]}, r"directions.bend.gamma: belongs to"),
    ],
)
def test_mistakes_in_directions_are_named(changes, message):
    with pytest.raises(LossAtlasError, match=message):
        resolved(**changes)


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ({"connection": "random"}, r"curves.low.connection: 'random' is of kind 'random', not 'connection'"),
        ({"connection": "bent"}, r"curves.low.connection: no directions 'bent' in this run; did you mean 'bend'\?"),
        ({"connection": "bend", "x": "bend/1"}, r"curves.low: give one of 'x' .* not several"),
        ({"connection": "bend", "batchnorm": "interpolate"}, r"curves.low.batchnorm: 'interpolate' needs"),
        ({"connection": "bend", "range": [0, 0.5]}, r"curves.low.range: \[0, 0.5\] must hold 1"),
    ],
)
def test_mistakes_in_curves_are_named(curve, message):
    with pytest.raises(LossAtlasError, match=message):
        resolved(curve)


def test_a_plane_begins_where_the_connection_does():
    with pytest.raises(LossAtlasError, match=r"planes.p.center: 'first', but the connection on x begins at 'last'"):
        resolved(plane={"center": "first"})
