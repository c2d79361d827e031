"""Sums, spectra and eigenpairs by teams of ranks: the same bits in every layout of the process grid."""

import sys

import numpy as np
import pytest
from lossatlas.errors import LossAtlasError
from lossatlas.krylov import lanczos, probe_vectors
from lossatlas.krylov.tree_sum import LEAVES, fold, leaf
from lossatlas.parallel.process_group import Team, ranks_per_unit

from tests.conftest import ROOT, mpiexec
from tests.helpers import layouts


@pytest.fixture(scope="module")
def alone():
    """What one process without MPI finds."""
    return layouts.results()


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("ranks", "layouts_of_ranks"),
    [
        (2, ["2-1", "1-2"]),
        pytest.param(3, ["3-1", "1-3"], marks=pytest.mark.full),
        pytest.param(4, ["4-1", "2-2", "1-4"], marks=pytest.mark.full),
    ],
)
def test_oracle_14_spectra_and_pairs_are_the_same_in_every_layout(alone, tmp_path, ranks, layouts_of_ranks):
    """Teams times ranks of each. Where one rank of a team is told to stop all do, and resume at the next step."""
    made = layouts.problem("float32", 103)
    operator = made.linearize(made.network.parameters(), made.network.buffers())
    whole = [run.alpha for run in lanczos(operator, probe_vectors(operator.size, range(2), seed=0), 30)]
    mpiexec(ranks, sys.executable, layouts.__file__, str(ranks), str(tmp_path), PYTHONPATH=str(ROOT))
    teams = sorted(f"{layout}-{team}" for layout in layouts_of_ranks for team in range(int(layout[0])))
    assert sorted(file.stem for file in tmp_path.glob("*.npz")) == teams
    for team in teams:
        found = np.load(tmp_path / f"{team}.npz")
        for name, expected in alone.items():
            assert np.array_equal(found[name], expected, equal_nan=True), (team, name)
        if team.split("-")[1] != "1":
            assert np.array_equal(found["resumed"], whole)
            assert found["products"] == 2 * 20, "steps were done twice, or the noise measured anew"


@pytest.mark.full
def test_the_single_process_finds_what_dense_matrices_have(alone):
    made = layouts.problem("float64", 103)
    dense = made.linearize(made.network.parameters(), made.network.buffers(), strategy="rebuild").matmat(
        np.eye(made.layout.size)
    )
    exact = np.linalg.eigvalsh(dense)
    assert np.abs(alone["float64, 103: values"] - exact[[-1, -2, 0]]).max() < 1e-2 * exact[-1]
    assert np.nanmax(alone["float64, 103: nodes"]) == pytest.approx(exact[-1], rel=1e-4)


@pytest.mark.parametrize("total", [3, LEAVES, 1000])
def test_leaves_are_added_along_one_tree_however_they_are_dealt(total):
    values = 10.0 ** np.random.default_rng(0).uniform(-12, 12, total)
    terms = [values[leaf(total, n)].sum() for n in range(LEAVES)]

    def dealt(ranks):
        shares = [range(LEAVES * r // ranks, LEAVES * (r + 1) // ranks) for r in range(ranks)]
        parts = [fold([(range(n, n + 1), terms[n]) for n in share]) for share in shares]
        ((leaves, found),) = fold([branch for part in parts for branch in part])
        assert leaves == range(LEAVES)
        return found

    pairs = terms
    while len(pairs) > 1:  # the tree, written out
        pairs = [a + b for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
    assert {dealt(ranks) for ranks in range(1, LEAVES + 1)} == {pairs[0]}
    assert pairs[0] == pytest.approx(values.sum(), rel=1e-12)


def test_leaves_without_anything_to_sum_are_left_out():
    branches = [(range(n, n + 1), np.float64(n) if n % 5 == 0 else None) for n in range(LEAVES)]
    assert fold(branches) == [(range(LEAVES), 30.0)]
    assert fold([(range(n, n + 1), None) for n in range(LEAVES)]) == [(range(LEAVES), None)]


def test_a_process_on_its_own_holds_everything():
    team = Team()
    assert (team.rank, team.size, team.part(7)) == (0, 1, slice(0, 7))
    assert [list(range(7)[place]) for place in team.leaves_of_part(7)] == [
        list(range(7)[leaf(7, n)]) for n in range(LEAVES)
    ]
    assert team.any(0, "yes") == (False, True)


@pytest.mark.parametrize(
    ("ranks", "units", "size"),
    [(1, 1, 1), (4, 10, 1), (4, 4, 1), (4, 3, 2), (4, 1, 4), (6, 2, 3), (5, 4, 5), (40, 1, 10)],
)
def test_teams_are_as_small_as_leave_no_rank_idle(ranks, units, size):
    assert ranks_per_unit("auto", ranks, units) == size


def test_teams_that_do_not_fit_the_ranks_are_refused():
    with pytest.raises(LossAtlasError, match=r"mpi.data_ranks: 2 does not fit 3 rank\(s\); possible: 1, 3, or auto"):
        ranks_per_unit(2, 3, 10)
