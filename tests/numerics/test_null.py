"""PCA of random walks: closed forms, sampled walks, and how unlike them planted drift is."""

import numpy as np
import pytest
from lossatlas.geometry import random_walk
from lossatlas.geometry.directions import pca
from lossatlas.geometry.directions.unnormalized import Source
from sklearn.decomposition import PCA

from tests.conftest import make_trajectory


def components(trajectory, center, count, solver):
    """Return the principal components of a path, and the arrays of the comparison with a random walk by name."""
    spec = {"count": count, "center_rows": True, "solver": solver, "seed": 0}
    raw = pca.make(spec, Source(trajectory, center))
    return raw, {array.name: values for array, values in raw.arrays.items()}


def sampled_walk(points, size, lengths=None, seed=0):
    steps = np.random.default_rng(seed).standard_normal((points - 1, size))
    steps *= (np.ones(points - 1) if lengths is None else lengths)[:, None] / np.sqrt(size)
    return np.concatenate([np.zeros((1, size)), np.cumsum(steps, axis=0)])


def closed_form(points, center, center_rows, count, lengths=None):
    squares = np.ones(points - 1) if lengths is None else lengths**2
    factor = random_walk.walk_factor(squares, center)
    rows = np.delete(np.arange(points), center)
    return random_walk.principal(factor @ factor.T, rows, center_rows, count), rows


def test_components_of_equal_steps_are_cosines_with_the_known_shares():
    """Lissajous curves: with the last point as centre the rows are a walk of n points (Antognini & Sohl-Dickstein)."""
    n = 60
    walk, _ = closed_form(n + 1, n, True, 5)
    k = np.arange(1, 6)
    inverse = 1 / (2 * (1 - np.cos(np.pi * k / n)))
    assert np.allclose(walk.moments, inverse, rtol=1e-10)
    assert np.allclose(walk.moments / walk.total, inverse / ((n**2 - 1) / 6), rtol=1e-10)
    assert np.allclose(walk.moments / walk.total, 6 / (np.pi * k) ** 2, rtol=0.02), "about 1 / k^2"
    cosines = np.cos(np.pi * np.outer(np.arange(n) + 0.5, k) / n) * np.sqrt(2 / n)
    assert np.allclose(np.abs((walk.axes * cosines).sum(axis=0)), 1, atol=1e-10)


@pytest.mark.parametrize(("center", "center_rows"), [(99, True), (0, True), (15, False)])  # apart moments
def test_the_closed_form_agrees_with_a_sampled_walk_of_uneven_steps(center, center_rows):
    lengths = np.linspace(3, 0.5, 99)
    sampled = sampled_walk(100, 20_000, lengths)
    m = np.delete(sampled, center, axis=0) - sampled[center]
    m = m - m.mean(axis=0) if center_rows else m
    moments, axes = np.linalg.eigh(m @ m.T)
    walk, rows = closed_form(100, center, center_rows, 4, lengths)
    assert np.allclose(walk.moments, moments[:-5:-1], rtol=0.02)
    assert np.abs((walk.axes * axes[:, :-5:-1]).sum(axis=0)).min() > 0.999
    assert np.allclose(np.square(walk.coordinates[rows]).sum(axis=0), walk.moments)


def test_coordinates_of_all_points_equal_sklearns():
    path = np.random.default_rng(2).standard_normal((30, 100)).cumsum(axis=0)
    rows, about = np.delete(np.arange(30), 12), path - path[12]
    found = random_walk.principal(about @ about.T, rows, True, 3)
    oracle = PCA(3, svd_solver="full").fit(about[rows])
    theirs = oracle.transform(about)
    assert np.allclose(np.abs(found.coordinates), np.abs(theirs), rtol=1e-8, atol=1e-8)
    assert np.allclose(found.moments / found.total, oracle.explained_variance_ratio_)


def drift(points, size, curved):
    rng = np.random.default_rng(5)
    time, ways = np.linspace(0, 1, points), rng.standard_normal((3, size))
    bends = [time, time**2, np.exp(-4 * time)] if curved else [time]
    noise = 1e-3 * rng.standard_normal((points, size))
    return sum(np.outer(bend, way) for bend, way in zip(bends, ways, strict=False)) + noise


@pytest.mark.parametrize("solver", ["gram", "randomized"])
def test_a_planted_walk_is_told_from_planted_drift(tmp_path, solver):
    paths = {"walk": sampled_walk(80, 20_000), "straight": drift(80, 20_000, False), "curved": drift(80, 20_000, True)}
    made = {n: components(make_trajectory(tmp_path / n, p), 79, 2, solver) for n, p in paths.items()}
    alike = {name: raw.notes["walk_similarity"] for name, (raw, _) in made.items()}
    correlations = {name: arrays["walk_correlation"][:2] for name, (_, arrays) in made.items()}
    assert correlations["walk"].min() > 0.99
    assert correlations["straight"][1] < 0.7, "all is in one component, the second is noise"
    spread = {name: raw.notes["walk_spread"] for name, (raw, _) in made.items()}
    assert spread["walk"] == pytest.approx(1, rel=0.03)
    assert spread["straight"] == pytest.approx(np.sqrt(79 / 2), rel=0.02), "n (n^2 - 1) / 12 by (n^2 - 1) / 6"
    if solver == "gram":
        assert alike["walk"] > 0.99
        assert alike["straight"] < 0.85
        assert alike["curved"] < 0.9
    else:
        assert all(np.isnan(value) for value in alike.values())


def test_similarity_is_the_best_inner_product_of_rotated_paths():
    """Against scipy's orthogonal Procrustes on the points themselves."""
    from scipy.linalg import orthogonal_procrustes

    path, rows = np.random.default_rng(0).standard_normal((12, 40)).cumsum(axis=0), np.arange(11)
    squares = np.linspace(1, 2, 11) ** 2
    factor = random_walk.walk_factor(squares, 11)
    about = path - path[11]
    found = random_walk.similarity(about @ about.T, factor, rows, True)
    a, b = (x[rows] - x[rows].mean(axis=0) for x in (about, np.pad(factor, ((0, 0), (0, 29)))))
    _, scale = orthogonal_procrustes(a / np.linalg.norm(a), b / np.linalg.norm(b))
    assert found == pytest.approx(scale, rel=1e-7)
    assert random_walk.similarity(factor @ factor.T, factor, rows, True) == pytest.approx(1, abs=1e-6)


def test_what_is_stored_turns_with_the_vectors(tmp_path):
    path = np.random.default_rng(4).standard_normal((25, 300)).cumsum(axis=0)
    raw, arrays = components(make_trajectory(tmp_path, path), 10, 3, "gram")
    about = path - np.delete(path, 10, axis=0).mean(axis=0)
    coordinates, walk = (arrays[name] for name in ("path_coordinate", "walk_coordinate"))
    assert coordinates.shape == walk.shape == (25, random_walk.COMPONENTS)
    assert np.allclose(coordinates[:, :3], about @ raw.vectors.T, atol=1e-9)
    rows = np.delete(np.arange(25), 10)
    assert ((coordinates * walk)[rows].sum(axis=0) >= 0).all()
    assert np.allclose(arrays["path_share"][:3], raw.values["explained_variance_ratio"])
