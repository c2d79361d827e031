"""Eigenvectors along training: planted crossings, closed forms, dense eigendecompositions, any order of units."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.data import Split, Subset
from lossatlas.drivers import tracking
from lossatlas.errors import LossAtlasError
from lossatlas.io import store
from lossatlas.krylov import eigenpairs
from lossatlas.parallel import Timing, World, signals, work_units
from lossatlas.parallel.checkpointing import Saves
from lossatlas.render.figures.tracking import identities, tracking_figure
from matplotlib import pyplot as plt
from torch import nn

from tests.conftest import contents, flat_layout, make_trajectory

SIZE, ROWS, CROSSING, NEWCOMER = 200, 9, 4, 7
SPEC = {"largest": 3, "smallest": 0, "stride": 1, "per_unit": 3, "tolerance": 1e-6, "max_products": 300, "seed": 0}
SPEC |= {"operator": "hessian", "parameters": ["*"], "batch_size": 5, "memory_gb": 1.0}
BASIS = np.linalg.qr(np.random.default_rng(1).standard_normal((SIZE, SIZE)))[0].T


class Dense:
    """A matrix given by eigenvalues on ``BASIS``."""

    size, dtype = SIZE, np.dtype(float)

    def __init__(self, values):
        self.values = values

    def matmat(self, vectors):
        return (vectors @ BASIS.T * self.values) @ BASIS


class Quadratic:
    """A stand-in for a Problem: the eigenvalues depend on the iteration, which is theta's first entry.

    Pairs 0 and 1 cross between iterations 3 and 4; from iteration 7 on a vector that was in the bulk is the largest.
    """

    layout, samples = flat_layout(SIZE), 17

    @staticmethod
    def values(iteration):
        values = np.concatenate([[5 - 0.45 * iteration, 3.2 + 0.03 * iteration, 1.2], np.linspace(-0.5, 0.8, SIZE - 3)])
        values[50] = 0.1 if iteration < NEWCOMER else 9.0
        return values

    def linearize(self, theta, buffers, **choices):
        return Dense(self.values(theta[0]))

    def gradient(self, theta, buffers):
        return (BASIS @ theta * self.values(theta[0])) @ BASIS


def planted_path():
    """Checkpoints whose first entry is their number."""
    thetas = np.random.default_rng(2).standard_normal((ROWS, SIZE))
    thetas[:, 0] = np.arange(ROWS)
    return thetas


def make(run_dir, problem, thetas, spec=SPEC):
    trajectory = make_trajectory(run_dir, thetas, problem.layout)
    split = Split(np.zeros((17, 1)), np.zeros(17))
    subset = Subset(split, np.arange(17), "digest", True)
    job = tracking.Tracking({"tracking": spec}, problem, subset, trajectory)
    link, fingerprint = run_dir / "tracking.zarr", store.Fingerprint("tracking", spec)
    made = store.find(link, run_dir, fingerprint) or store.create(link, run_dir, fingerprint, job.build)
    return made, job


def run(made, job):
    work_units.compute(made, job.evaluate, World(), Timing(), "counter", "test")
    counts = tracking.Tracking.finish(made, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return counts, xr.open_zarr(made.path, chunks=None).load()


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return run(*make(tmp_path_factory.mktemp("planted"), Quadratic(), planted_path()))


def test_identities_pass_through_a_crossing(planted):
    counts, tracked = planted
    assert counts["crossings"] == 2
    assert counts["not_converged"] == 0
    exact = np.stack([np.sort(Quadratic.values(i))[:-4:-1] for i in range(ROWS)])
    assert np.abs(tracked["eigenvalue"].values - exact).max() < 1e-9
    matched = tracked["matched"].values
    assert (matched[0] == -1).all()
    for i in set(range(1, ROWS)) - {CROSSING, NEWCOMER}:
        assert matched[i].tolist() == [0, 1, 2]
    assert matched[CROSSING].tolist() == [1, 0, 2]
    assert np.flatnonzero(tracked["crossing"].values).tolist() == [CROSSING, NEWCOMER]
    overlap = tracked["overlap"].values
    assert np.isnan(overlap[0]).all()
    assert np.abs(overlap[CROSSING] - np.eye(3)[[1, 0, 2]]).max() < 1e-4
    place, kept = identities(tracked)
    assert place[:, 0].tolist()[:NEWCOMER] == [0] * CROSSING + [1] * (NEWCOMER - CROSSING)
    assert kept[1:NEWCOMER].min() > 1 - 1e-6


def test_a_vector_that_rises_out_of_the_bulk_is_found_though_the_start_knows_nothing_of_it(planted):
    _, tracked = planted
    assert NEWCOMER % SPEC["per_unit"] == 1, "not the first of its unit: the search is a warm one"
    assert tracked["eigenvalue"].values[NEWCOMER, 0] == pytest.approx(9.0)
    assert tracked["overlap"].values[NEWCOMER, :, 0].max() < 1e-4
    assert tracked["matched"].values[NEWCOMER].tolist() == [2, 0, 1]
    assert tracked["subspace_overlap"].values[NEWCOMER] == pytest.approx(2 / 3, abs=1e-6)


def test_shares_equal_closed_forms(planted):
    _, tracked = planted
    thetas = planted_path()
    for i in range(ROWS):
        values = Quadratic.values(i)
        top = np.argsort(-values)[:3]
        gradient = BASIS @ thetas[i] * values
        assert tracked["gradient_share"].values[i] == pytest.approx(
            np.sum(gradient[top] ** 2) / np.sum(gradient**2), rel=1e-4
        )
        if i + 1 < ROWS:
            step = BASIS @ (thetas[i + 1] - thetas[i])
            expected = np.sum(step[top] ** 2) / np.sum(step**2)
            assert tracked["step_share"].values[i] == pytest.approx(expected, rel=1e-3)
    assert np.isnan(tracked["step_share"].values[-1])


def test_units_in_any_order_give_the_same_bits(tmp_path):
    run(*make(tmp_path / "forward", Quadratic(), planted_path()))
    made, job = make(tmp_path / "backward", Quadratic(), planted_path())
    for start in (6, 0, 3):
        rows = range(start, start + 3)
        made[work_units.ARRAY][rows.start : rows.stop] = np.column_stack([job.evaluate(rows), np.ones(3)])
    run(made, job)
    ours, theirs = (contents(tmp_path / f"{name}/.stores/tracking.zarr") for name in ("forward", "backward"))
    assert ours == theirs


def test_a_warm_start_saves_products():
    problem, theta = Quadratic(), np.zeros(SIZE)
    before = eigenpairs(problem.linearize(theta, None), 3, tolerance=1e-4)
    theta[0] = 1
    operator = problem.linearize(theta, None)
    cold = eigenpairs(operator, 3, tolerance=1e-4)
    warm = eigenpairs(operator, 3, tolerance=1e-4, start=before.vectors.sum(axis=0))
    assert warm.products < 0.75 * cold.products
    assert warm.converged.all()
    assert np.abs(warm.values - cold.values).max() < 1e-6


def test_a_warm_start_misses_as_seldom_as_stated():
    """The start is orthogonal to the largest eigenvector, which only a look can find."""
    values = Quadratic.values(NEWCOMER)
    start = BASIS[:3].sum(axis=0)
    for seed in range(200):
        assert eigenpairs(Dense(values), 3, tolerance=1e-3, seed=seed, start=start).values[0] == pytest.approx(9.0)


def small_network():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = FlatNetwork(
        nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), Device(torch.device("cpu"), torch.float64)
    )
    split = Split(rng.standard_normal((17, 6)), rng.integers(0, 3, 17))
    return TorchProblem(network, build_loss({"name": "cross-entropy"}), split, 5)


@pytest.mark.parametrize(
    ("patterns", "operator", "largest", "smallest"),
    [
        (["*"], "hessian", 2, 2),
        (["2.*"], "hessian", 3, 0),
        (["0.weight", "2.bias"], "ggn", 2, 0),
        (["*"], "hessian", 0, 2),
    ],
)
def test_pairs_and_shares_equal_those_of_dense_matrices(tmp_path, patterns, operator, largest, smallest):
    problem, rng = small_network(), np.random.default_rng(4)
    thetas = rng.standard_normal(problem.layout.size) + np.cumsum(
        0.1 * rng.standard_normal((6, problem.layout.size)), 0
    )
    chosen = {"parameters": patterns, "operator": operator, "largest": largest, "smallest": smallest}
    made, job = make(tmp_path, problem, thetas, SPEC | chosen | {"stride": 2, "tolerance": 1e-8})
    _, tracked = run(made, job)
    assert tracked["iteration"].values.tolist() == [0, 2, 4, 5]
    columns = np.arange(problem.layout.size)
    inside = np.concatenate([columns[part] for part in tracking.selection(problem.layout, patterns)])
    assert tracked.attrs["parameters"] == len(inside)
    before = None
    for i, row in enumerate((0, 2, 4, 5)):
        choices = {"operator": operator, "parameters": tuple(patterns), "strategy": "rebuild"}
        dense = problem.linearize(thetas[row], np.zeros(0), **choices).matmat(np.eye(len(inside)))
        values, vectors = np.linalg.eigh(dense)
        ends = [*range(len(values) - 1, len(values) - 1 - largest, -1), *range(smallest - 1, -1, -1)]
        assert np.abs(tracked["eigenvalue"].values[i] - values[ends]).max() < 1e-9
        basis = vectors[:, ends[: largest or smallest]]
        step = thetas[row + 1] - thetas[row] if row < 5 else None
        for name, vector in (("gradient_share", problem.gradient(thetas[row], np.zeros(0))), ("step_share", step)):
            if vector is not None:
                part = vector[inside]
                expected = np.sum((basis.T @ part) ** 2) / np.sum(part**2)
                assert tracked[name].values[i] == pytest.approx(expected, abs=1e-6)
        if before is not None:
            assert np.abs(tracked["overlap"].values[i] - np.abs(before.T @ vectors[:, ends])).max() < 1e-5
        before = vectors[:, ends]


def test_every_array_is_labelled_and_drawn(planted):
    _, tracked = planted
    assert all(variable.attrs["long_name"] for variable in tracked.variables.values())
    assert tracked["overlap"].dims == ("iteration", "previous_pair", "pair")
    figure = tracking_figure(tracked, title="planted")
    above, middle, below = figure.axes
    assert "order changed" in above.get_legend_handles_labels()[1]
    assert len(middle.get_lines()) == 3 + 3
    assert below.get_legend_handles_labels()[1][-1] == f"chance, k / N = 3 / {SIZE}"
    plt.close(figure)


def test_more_pairs_than_parameters_are_refused(tmp_path):
    with pytest.raises(
        LossAtlasError, match="tracking: largest \\+ smallest is 201; the matrix has only 200 parameters"
    ):
        make(tmp_path, Quadratic(), planted_path(), SPEC | {"smallest": 198})


def test_nan_names_the_iteration(tmp_path):
    problem, thetas = small_network(), np.random.default_rng(0).standard_normal((5, 53))
    thetas[3, 0] = np.nan
    made, job = make(tmp_path, problem, thetas)
    with pytest.raises(LossAtlasError, match="tracking: iteration 3: Hessian: loss nan"):
        work_units.compute(made, job.evaluate, World(), Timing(), "counter", "test")


def test_without_a_step_its_share_is_unknown():
    assert np.isnan(tracking.share_within(np.zeros(4), np.eye(4)[:2]))
    assert tracking.share_within(np.array([3.0, 0, 4, 0]), np.eye(4)[:2]) == pytest.approx(9 / 25)


def test_oracle_19_a_unit_told_to_stop_goes_on_at_the_next_iteration(tmp_path, monkeypatch):
    problem = Quadratic()
    _, undisturbed = make(tmp_path, problem, planted_path())
    whole = undisturbed.evaluate(range(3, 6))

    def job(limit=None):
        found = replace(undisturbed, saves=Saves(tmp_path / "states", 600))
        search, searched = found.search, []

        def counted(number, before=None):
            searched.append(number)
            if number == limit:
                monkeypatch.setattr(signals, "_received", "SIGTERM")
            return search(number, before)

        found.search = counted
        return found, searched

    stopped, searched = job(limit=4)
    with pytest.raises(signals.Dropped):
        stopped.evaluate(range(3, 6))
    assert searched == [2, 3, 4]
    monkeypatch.setattr(signals, "_received", None)
    resumed, searched = job()
    assert np.array_equal(resumed.evaluate(range(3, 6)), whole, equal_nan=True)
    assert searched == [5], "nothing was searched twice"
