"""Overlaps: planted angles, the law of Gaussian vectors' cosines, and that these are the directions of kind random."""

import numpy as np
import pytest
from lossatlas.config import resolve
from lossatlas.drivers.base import Order
from lossatlas.drivers.overlaps import Overlaps
from lossatlas.errors import LossAtlasError
from lossatlas.geometry.directions import make_directions
from lossatlas.geometry.directions.direction_set import Axes

from tests.conftest import make_trajectory

SIZE = 2500


@pytest.fixture
def made(tmp_path):
    """Overlaps of two directions 60 degrees apart and one that is opposite to the first, of other lengths."""
    vectors = np.zeros((3, SIZE))
    vectors[0, 0], vectors[1, :2], vectors[2, 0] = 3, (0.01, 0.01 * np.sqrt(3)), -1e5
    job = Overlaps({"gaussians": 400, "seed": 7}, Axes(vectors, ["a", "b", "c"], np.zeros(3), {}))
    return job.create(Order(tmp_path / "o.zarr", tmp_path, "test"), job.plan())


def test_planted_angles(made):
    expected = [[1, 0.5, -1], [0.5, 1, -0.5], [-1, -0.5, 1]]
    assert made["cosine"][:] == pytest.approx(np.array(expected), abs=1e-14)


def test_gaussian_vectors_are_as_orthogonal_as_chance_makes_them(made):
    found = made["gaussian_cosine"][:]
    assert found.shape == (3, 400)
    assert abs(found.mean(axis=1)).max() < 4 / np.sqrt(400 * SIZE)
    assert found.std(axis=1) == pytest.approx(np.full(3, SIZE**-0.5), rel=4 / np.sqrt(2 * 400))
    assert found[2] == pytest.approx(-found[0])


def test_gaussian_vectors_are_the_directions_of_kind_random(made, tmp_path):
    trajectory = make_trajectory(tmp_path, np.ones((2, SIZE)))
    spec = {"kind": "random", "center": "last", "normalize": "model", "ignore": [], "count": 3, "seed": 7}
    used = make_directions(spec, trajectory, {}).used
    exact = used[:, 0] / np.sqrt((used**2).sum(axis=1))
    assert made["gaussian_cosine"][0, :3] == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    ("overlap", "message"),
    [
        ({"x": "randm"}, r"runs.r.overlaps.o.x: no directions 'randm' in this run; did you mean 'random'\?"),
        ({"x": "random/3"}, r"runs.r.overlaps.o.x: 'random/3', but 'random' has only 2"),
        ({"x": "random", "gaussians": -1}, r"runs.r.overlaps.o.gaussians"),
        ({}, r"runs.r.overlaps.o"),
    ],
)
def test_mistakes_are_named(overlap, message):
    with pytest.raises(LossAtlasError, match=message):
        resolve({"runs": {"r": {"model": {"name": "lenet"}, "overlaps": {"o": overlap}}}})
