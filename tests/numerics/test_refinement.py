"""Adaptive grids against closed forms: the tolerance is kept, the stated error is honest, NaN and inf do no harm."""

import contextlib
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from lossatlas.drivers import adaptive_grid, landscape
from lossatlas.drivers.base import Order
from lossatlas.errors import LossAtlasError
from lossatlas.io import store
from lossatlas.parallel import Timing, World, work_units

from tests.conftest import BIN, ROOT, contents, environment, mpiexec
from tests.helpers.adaptive import SURFACES, ClosedForm, adaptive_store, blobs, drawn, truth

TOLERANCE, ROUNDING = 0.01, 1e-12
ORDER = Order(Path(), Path(), "test", queue="counter")


def errors(surface, made, scale="auto", maximum=None):
    """Return the error of each interpolated point as drawn, computed anew from the closed form."""
    true, found = truth(surface, made), made["loss"][0]
    high = np.nanmax(true[np.isfinite(true)]) if maximum is None else maximum
    draw = (lambda loss: np.minimum(loss, high)) if scale == "linear" else (lambda loss: np.log(np.minimum(loss, high)))
    both = np.isfinite(true) & np.isfinite(found)
    heights = draw(true[np.isfinite(true)])
    return np.abs(draw(found[both]) - draw(true[both])) / np.ptp(heights)


def computed(tmp_path, surface, points=(51, 51), **grid):
    made, job = adaptive_store(tmp_path, surface, points, {"mode": "adaptive", "tolerance": TOLERANCE, **grid})
    assert job.compute(made, ORDER, World(), Timing()) == 0
    landscape.Landscape.finish(made, {})
    return made


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("name", ["bowl", "saddle", "banana"])
def test_closed_forms_keep_the_tolerance_with_a_quarter_of_the_points(tmp_path, name, scale):
    surface = SURFACES[name]
    made = computed(tmp_path, surface, scale=scale)
    found = errors(surface, made, scale)
    evaluated = made["evaluated"][:]
    assert found.size == 51 * 51
    assert found.max() <= made["error"][0] + ROUNDING
    assert made["error"][0] <= TOLERANCE
    assert evaluated.sum() <= 51 * 51 / 4
    assert made["logarithmic"][0] == (scale == "log")
    assert np.array_equal(made["loss"][0][evaluated], truth(surface, made)[evaluated]), "evaluated points are exact"


@pytest.mark.parametrize("seed", range(8))
def test_the_stated_error_of_smooth_surfaces_is_honest(tmp_path, seed):
    surface = blobs(seed)
    made = computed(tmp_path, surface, tolerance=0.05, scale="linear")
    assert errors(surface, made, "linear").max() <= made["error"][0] <= 0.05


LONG = [
    pytest.param(*case, marks=pytest.mark.full) for case in (("step", 1), ("disc", 1), ("ring", 1), ("valley", 0.7))
]


@pytest.mark.parametrize(("kind", "share"), [("bowl", 0.3), *LONG])
def test_the_stated_error_holds_beside_steps_and_edges(tmp_path, kind, share):
    """The largest error of at least 19 of 20 surfaces drawn at random is at most the stated one, whatever their kind;
    smooth ones need few points."""
    held, spent = 0, []
    for seed in range(20):
        surface = drawn(kind, seed)
        made = computed(tmp_path / str(seed), surface, (21, 21), tolerance=0.02, scale="linear")
        held += errors(surface, made, "linear").max(initial=0.0) <= made["error"][0] + ROUNDING
        assert made["error"][0] <= 0.02
        spent.append(made["evaluated"][:].mean())
    assert held >= 19
    assert np.mean(spent) <= share


def test_a_point_that_its_neighbours_miss_shows_a_step():
    """Beside a step all is rough, at the height of the step; away from it and on a plane surface nothing is."""
    everywhere = adaptive_grid.positions(21, 21)
    numbers = np.flatnonzero((np.indices((21, 21)).sum(axis=0) % 2 == 0).ravel())
    scale = adaptive_grid.Scale(False, 0.0, 1.0)
    plane = everywhere @ [0.3, 0.5]
    assert adaptive_grid.KnownLosses((21, 21), numbers, plane[numbers], scale).roughness.max() < 1e-9
    step = (everywhere[:, 0] > 0.5).astype(float)
    rough = adaptive_grid.KnownLosses((21, 21), numbers, step[numbers], scale).roughness
    beside = np.abs(everywhere[:, 0] - 0.52) < 0.05
    beside[numbers] = False
    assert rough[beside].min() > 0.2
    assert rough[np.abs(everywhere[:, 0] - 0.5) > 0.25].max() < 0.1
    assert not rough[numbers].any()


def test_nan_and_inf_are_kept_and_do_not_take_all_evaluations(tmp_path):
    surface = SURFACES["cliff"]
    made = computed(tmp_path, surface, scale="linear")
    true, loss, evaluated = truth(surface, made), made["loss"][0], made["evaluated"][:]
    assert np.array_equal(loss[evaluated], true[evaluated], equal_nan=True), "NaN and inf where they were evaluated"
    assert np.isnan(loss[~evaluated & ~np.isfinite(loss)]).all()
    assert made.attrs["nonfinite_points"] == {"train": int((~np.isfinite(true[evaluated])).sum())}
    assert loss[np.isfinite(loss)].max() <= true[evaluated & np.isfinite(true)].max(), (
        "nothing is invented at the border"
    )
    wrong = np.isfinite(loss) != np.isfinite(true)
    assert 0 < wrong.sum() < 0.02 * loss.size, "only at the border may it be guessed wrong"
    assert errors(surface, made, "linear").max() <= made["error"][0] <= TOLERANCE
    assert evaluated.sum() <= 51 * 51 / 4


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.5])
def test_a_surface_of_one_value_needs_two_checks(tmp_path, value):
    made = computed(tmp_path, lambda u, v: np.full_like(u, value))
    loss, evaluated = made["loss"][0], made["evaluated"][:]
    assert evaluated.sum() <= 81 + 3 + 2 * (adaptive_grid.LEAST + 4)
    assert np.array_equal(loss[evaluated], np.full(evaluated.sum(), value), equal_nan=True)
    rest = np.full((~evaluated).sum(), value if np.isfinite(value) else np.nan)
    assert np.allclose(loss[~evaluated], rest, rtol=1e-12, equal_nan=True)


def test_what_lies_above_the_maximum_needs_no_accuracy(tmp_path):
    def surface(u, v):
        return 1 + u**2 + v**2 + np.where(u > 1.2, 20 * (1 + np.sin(8 * v)) * (u - 1.2) ** 2, 0)

    spent = {}
    for maximum in (3.0, None):
        grid = {"maximum": maximum} if maximum else {"tolerance": TOLERANCE * 2.0 / 26.0}  # the ranges up to them
        made = computed(tmp_path / str(maximum), surface, (41, 41), scale="linear", **grid)
        assert errors(surface, made, "linear", maximum).max() <= made["error"][0] <= TOLERANCE
        spent[maximum] = made["evaluated"][:].sum()
    assert spent[3.0] < 0.8 * spent[None]


def test_other_metrics_are_interpolated_within_their_range(tmp_path):
    made = computed(tmp_path, SURFACES["bowl"])
    accuracy, evaluated = made["accuracy"][0], made["evaluated"][:]
    assert np.array_equal(accuracy[evaluated], ClosedForm.accuracy(truth(SURFACES["bowl"], made))[evaluated])
    assert accuracy.min() >= accuracy[evaluated].min()
    assert accuracy.max() <= accuracy[evaluated].max()
    assert np.abs(accuracy - ClosedForm.accuracy(truth(SURFACES["bowl"], made))).max() < 0.05


@pytest.mark.parametrize("points", [(2, 2), (2, 40), (12, 9), (31, 50)])
def test_grids_of_any_shape(tmp_path, points):
    surface = SURFACES["saddle"]
    made = computed(tmp_path, surface, points, scale="linear")
    assert errors(surface, made, "linear").max() <= TOLERANCE


def test_a_full_grid_comes_coarse_to_fine_with_the_same_bits(tmp_path):
    order, first = adaptive_grid.coarse_to_fine(51, 31)
    assert sorted(order) == list(range(51 * 31))
    coarse = np.zeros((31, 51), bool)
    coarse.ravel()[order[:first]] = True
    assert coarse.sum() == 81
    assert np.array_equal(coarse, np.outer(coarse.any(axis=1), coarse.any(axis=0))), "a lattice"
    assert max(np.diff(np.flatnonzero(coarse.any(axis=0)))) == 7
    made, job = adaptive_store(tmp_path, SURFACES["cliff"], (51, 31), {"mode": "full"})
    job.compute(made, ORDER, World(), Timing())
    landscape.Landscape.finish(made, {})
    assert made["evaluated"][:].all()
    assert np.array_equal(made["loss"][0], truth(SURFACES["cliff"], made), equal_nan=True)
    assert "error" not in made.group


def test_a_preview_of_an_unfinished_store(tmp_path):
    made, job = adaptive_store(tmp_path, SURFACES["saddle"], (25, 25), {"mode": "full"})
    with pytest.raises(LossAtlasError, match="no point of the grid is evaluated yet"):
        landscape.preview(made)
    calls = []

    def dies(unit):
        calls.append(unit)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return job.evaluator(made)(unit)

    with pytest.raises(KeyboardInterrupt):
        work_units.compute(made, dies, World(), Timing(), "counter", "test")
    seen = landscape.preview(made)
    assert int(seen["evaluated"].sum()) == 29 * 4
    true = truth(SURFACES["saddle"], made)
    assert np.abs(seen["loss"][0].values - true).max() < 0.02 * np.ptp(true)
    assert np.isnan(seen["path_projected_loss"].values).all(), "not there yet"


class Killed(Exception):
    pass


@pytest.mark.parametrize("where", ["in a round", "between rounds"])
def test_oracle_19_killed_in_every_round_and_resumed(tmp_path, monkeypatch, where):
    surface = SURFACES["banana"]
    grid = {"mode": "adaptive", "tolerance": TOLERANCE}
    expected = contents(computed(tmp_path / "undisturbed", surface, (31, 31)).path)
    call, plan, killed = landscape.Evaluator.__call__, landscape.plan_round, []

    def dies_in_a_unit(self, unit):
        number = int(landscape.planned(made)[unit.start, 1])
        if number not in killed and unit.start % 8 == 4:
            killed.append(number)
            raise Killed
        return call(self, unit)

    def dies_before_planning(made, label):
        number = int(landscape.planned(made)[-1, 1])
        if number not in killed:
            killed.append(number)
            raise Killed
        return plan(made, label)

    if where == "in a round":
        monkeypatch.setattr(landscape.Evaluator, "__call__", dies_in_a_unit)
    else:
        monkeypatch.setattr(landscape, "plan_round", dies_before_planning)
    while True:
        made, job = adaptive_store(tmp_path / "killed", surface, (31, 31), grid)
        with contextlib.suppress(Killed):
            assert job.compute(made, ORDER, World(), Timing()) == 0
            break
    landscape.Landscape.finish(made, {})
    assert killed == list(range(made.attrs["rounds"]))
    assert made.attrs["rounds"] >= 4
    assert contents(made.path) == expected


HELPER = ROOT / "tests/helpers/adaptive.py"


def store_in(folder):
    return contents(store.Store(next(folder.glob(".stores/landscape/*.zarr"))).path)


@pytest.mark.full
@pytest.mark.mpi
def test_oracles_14_19_any_number_of_ranks_also_after_a_stop_bit_for_bit(tmp_path):
    found = []
    for ranks, queue in ((1, "counter"), (2, "static"), (3, "counter")):
        folder = tmp_path / str(ranks)
        mpiexec(ranks, "python", str(HELPER), str(folder), str(ranks), queue)
        found.append(store_in(folder))
    assert found[0] == found[1] == found[2]
    folder, mark = tmp_path / "stopped", tmp_path / "mark"
    command = [str(BIN / "mpiexec"), "-n", "2", str(BIN / "python"), str(HELPER), str(folder), "2", "counter"]
    job = subprocess.Popen([*command, str(mark)], cwd=ROOT, env=environment())
    while not mark.exists():
        assert job.poll() is None
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=300) != 0
    done = mpiexec(2, "python", str(HELPER), str(folder), "2", "counter")
    begun = [int(n) for n in re.findall(r"test: (\d+) of \d+ chunks found finished", done.stdout)]
    assert begun[0] > 20, "what was computed is kept"
    assert store_in(folder) == found[0]
