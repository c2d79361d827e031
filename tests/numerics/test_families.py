"""Families of curves: planted functions of each family, with noise and without; nothing is seen in noise alone."""

from itertools import pairwise

import numpy as np
import pytest
from lossatlas.drivers import line_scans
from lossatlas.geometry.families import FAMILIES, shape

from tests.conftest import make_trajectory
from tests.numerics.test_curves import DIRECTIONS, ClosedForm, axes, compute, make

ALPHA, NONE = np.linspace(-1, 1, 41), np.zeros((41, 1))
PLANTED = {
    "v-basin": (lambda a: 1 + a**2, "v-basin", [0]),
    "steep v-basin": (lambda a: 1 + np.abs(a) ** 0.5, "v-basin", [0]),
    "v-side": (lambda a: 1 + (a - 0.5) ** 2, "v-side", [0.5]),
    "falling": (lambda a: np.exp(-a), "v-side", []),
    "w-basin": (lambda a: 1 + (a * (a - 0.8)) ** 2 * 8, "w-basin", [0, 0.4, 0.8]),
    "w-peak": (lambda a: 1 + 4 * (a**2 - 0.36) ** 2, "w-peak", [-0.6, 0, 0.6]),
    "w-peak, arms that go on": (lambda a: 2 - a**2, "w-peak", [0]),
    "w-peak, one arm that goes on": (
        lambda a: np.where(a < 0, 1 - a**2, 1 + 4 * a**4 - 3 * a**2),
        "w-peak",
        [0, 0.612],
    ),
    "a basin before a fall": (lambda a: np.where(a < 0.3, a**2, 0.18 - (a - 0.6) ** 2), "other", [0, 0.6]),
    "vvv-basin": (lambda a: 2 + np.cos(3 * np.pi * a), "other", [-2 / 3, -1 / 3, 0, 1 / 3, 2 / 3]),
    "three basins": (lambda a: 2 - np.cos(2.5 * np.pi * a), "vvv-basin", [-0.8, -0.4, 0, 0.4, 0.8]),
    "level": (lambda a: np.full_like(a, 1.0), "flat", []),
    "many": (lambda a: np.sin(9 * np.pi * a), "other", None),
    "a peak elsewhere": (lambda a: 2 - (a - 0.5) ** 2, "other", [0.5]),
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_planted_families_are_named(name, noise):
    function, family, places = PLANTED[name]
    rng = np.random.default_rng(len(name))
    for _ in range(50 if noise else 1):
        loss = function(ALPHA) + noise * rng.standard_normal(len(ALPHA))
        found = shape(ALPHA, loss, independent(np.full(len(ALPHA), noise)))
        assert found.family == family
        if places is not None:
            # Near a stationary point of curvature 2 noise of this size moves it by up to sqrt(2 * 6 * noise / 2).
            assert ALPHA[found.turns] == pytest.approx(places, abs=0.25 if noise else 0.026)


def independent(error):
    """Return noise whose differences have the standard errors of independent losses."""
    return np.diag(error) * np.sqrt(len(error))


def test_nothing_is_seen_in_noise_alone():
    """Of 400 flat curves one in twenty at most turns, whatever the noise's size; without its size nearly all do."""
    rng = np.random.default_rng(0)
    for size in (1e-6, 1.0):
        loss = 3 + size * rng.standard_normal((200, 41))
        turns = [shape(ALPHA, one, independent(np.full(41, size))).turns.any() for one in loss]
        assert np.mean(turns) <= 0.05
        assert np.mean([shape(ALPHA, one, NONE).turns.any() for one in loss]) > 0.99


def test_noise_of_other_sizes_along_the_curve():
    """A basin between arms of loud noise: the arms count their own noise, the basin its own."""
    rng = np.random.default_rng(1)
    error = np.where(np.abs(ALPHA) > 0.5, 1.0, 0.001)
    for _ in range(100):
        loss = 1 + 20 * ALPHA**2 + error * rng.standard_normal(41)
        found = shape(ALPHA, loss, independent(error))
        assert found.family == "v-basin"
        assert np.abs(ALPHA[found.turns]).max() < 0.1


def test_minima_and_maxima_alternate_and_differ_by_more_than_noise():
    rng = np.random.default_rng(2)
    for _ in range(150):
        loss, error = np.cumsum(rng.standard_normal(41)), rng.uniform(0, 0.5, 41)
        turns = np.flatnonzero(shape(ALPHA, loss, independent(error)).turns)
        assert (np.diff(np.sign(np.diff(loss[turns]))) != 0).all()
        for one, other in pairwise(turns):
            assert abs(loss[one] - loss[other]) > 2 * np.hypot(error[one], error[other])


def paired(curve, rng, samples=400, columns=50):
    """Return mean losses of samples and their random sums: samples differ by 1, by 0.05 from point to point.

    Their differences vary smoothly along the curve. The standard error of a loss is 0.05, of a difference 0.0035.
    """
    centers = np.linspace(-1, 1, 9)
    bumps = np.exp(-(((ALPHA[:, None] - centers) / 0.25) ** 2))
    bumps *= 0.05 / np.sqrt((bumps**2).sum(axis=1, keepdims=True))
    each = rng.standard_normal((samples, 1)) + rng.standard_normal((samples, 9)) @ bumps.T
    signs = rng.choice([-1.0, 1.0], (columns, samples))
    loss = each.mean(axis=0)
    return curve + loss, (signs @ (each - loss)).T / np.sqrt(samples * (samples - 1))


def test_losses_over_the_same_samples_show_barriers_of_one_standard_error():
    """Flat curves turn in one case of twenty at most; a barrier of one standard error is found in nearly all."""
    rng, barrier = np.random.default_rng(4), 0.025 * (ALPHA**4 / 0.25 - 2 * ALPHA**2 + 0.25)  # wells at +-1/2
    flat = [shape(ALPHA, *paired(0.0, rng), 50).turns.any() for _ in range(300)]
    assert np.mean(flat) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    families = [shape(ALPHA, *paired(8 * barrier, rng), 50).family for _ in range(60)]
    assert families.count("w-peak") >= 57
    loss, noise = paired(8 * barrier, rng)
    error = np.sqrt((noise**2).mean(axis=1))
    assert shape(ALPHA, loss, independent(error)).family != "w-peak", "taken as independent it is not"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_that_are_no_numbers_are_left_out(bad):
    loss = 1 + ALPHA**2
    loss[[0, 7, 30]] = bad
    assert shape(ALPHA, loss, NONE).family == "v-basin"
    loss[20] = bad
    assert shape(ALPHA, loss, NONE).family == "other"
    assert shape(ALPHA, np.full(41, bad), NONE).family == "other"


def test_stores_name_families_and_the_mean_number_of_stationary_points(tmp_path):
    """A saddle along three directions: up, down and both; the mean is over the directions."""
    problem = ClosedForm(lambda t: t[0] ** 2 - t[1] ** 2 + t[1] ** 4 + t[2])
    rng = np.random.default_rng(3)
    problem.metric_names, problem.sketch = ("loss", "loss_standard_error"), lambda columns: None
    problem.metrics = lambda theta, _: np.array([problem.loss(theta), 1e-4, *1e-4 * rng.standard_normal(50)])
    course = line_scans.Along(DIRECTIONS, axes(np.eye(3)), make_trajectory(tmp_path, np.zeros((2, 3))))
    made = compute(*make(tmp_path, course, {"train": problem}))
    assert made.attrs["families"] == list(FAMILIES)
    assert [FAMILIES[int(k)] for k in made["family"][:, 0]] == ["v-basin", "w-peak", "v-side"]
    assert made["turning_points"][:, 0].tolist() == [1, 3, 0]
    numbers = np.array([1, 3, 0])
    assert made["mean_stationary_points"][0] == pytest.approx(numbers.mean())
    assert made["mean_stationary_points_error"][0] == pytest.approx(numbers.std(ddof=1) / np.sqrt(3))
    assert made["monotonic_curves"][0] == 1
    assert made["difference_error"][:, 0, 10] == pytest.approx(0)
    assert np.median(made["difference_error"][:]) == pytest.approx(np.sqrt(2) * 1e-4, rel=0.1)
