"""States of long units: saved at any instant, resumed to the same bits (oracle 19)."""

import numpy as np
import pytest
from lossatlas.krylov import lanczos, probe_vectors, quadrature_runs
from lossatlas.parallel import signals
from lossatlas.parallel.checkpointing import Saves, State

from tests.numerics.test_krylov import Dense, network_like, symmetric


class StopsAfter(Dense):
    """A matrix after so many products of which the job is told to stop."""

    def __init__(self, limit, monkeypatch, dtype=np.float32):
        super().__init__(symmetric(network_like(200)), dtype)
        self.limit, self.monkeypatch = limit, monkeypatch

    def matmat(self, vectors):
        product = super().matmat(vectors)
        if self.limit is not None and self.products >= self.limit:
            self.monkeypatch.setattr(signals, "_received", "SIGTERM")
        return product


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("limit", [3, 9, 20, 56])
def test_oracle_19_lanczos_stopped_at_any_step_goes_on_to_the_same_bits(tmp_path, monkeypatch, limit, dtype):
    probes = probe_vectors(200, range(3), 0)
    whole = lanczos(StopsAfter(None, monkeypatch, dtype), probes, 20, keep_basis=True)
    with pytest.raises(signals.Dropped):
        lanczos(StopsAfter(limit, monkeypatch, dtype), probes, 20, state=State(tmp_path / "unit", 600))
    monkeypatch.setattr(signals, "_received", None)
    rest = StopsAfter(None, monkeypatch, dtype)
    resumed = lanczos(rest, probes, 20, keep_basis=True, state=State(tmp_path / "unit", 600))
    assert rest.products == 3 * (20 - max(1, -(-limit // 3) - 1)), "no step was done twice, the noise was kept"
    for one, two in zip(whole, resumed, strict=True):
        for name in ("alpha", "beta", "basis"):
            assert np.array_equal(getattr(one, name), getattr(two, name)), name


def test_states_are_saved_now_and_then_and_the_last_one_counts(tmp_path, monkeypatch):
    """As when the machine dies without a word: saved after every step, killed between two."""
    probes, state = probe_vectors(200, range(2), 0), State(tmp_path / "unit", 0.0)
    whole = lanczos(StopsAfter(None, monkeypatch), probes, 15)

    class Dies(StopsAfter):
        def matmat(self, vectors):
            if self.products > 20:
                raise KeyboardInterrupt
            return super().matmat(vectors)

    with pytest.raises(KeyboardInterrupt):
        lanczos(Dies(None, monkeypatch), probes, 15, state=state)
    operator = StopsAfter(None, monkeypatch)
    resumed = lanczos(operator, probes, 15, state=State(tmp_path / "unit", 0.0))
    assert operator.products < 2 * 15
    assert all(np.array_equal(a.alpha, b.alpha) for a, b in zip(whole, resumed, strict=True))


def test_an_adaptive_unit_goes_on_within_its_parts(tmp_path, monkeypatch):
    def runs(operator, state=None):
        return quadrature_runs(operator, lambda n: probe_vectors(200, n, 0), range(12), 60, 0.002, state)

    whole = runs(StopsAfter(None, monkeypatch))
    with pytest.raises(signals.Dropped):
        runs(StopsAfter(100, monkeypatch), State(tmp_path, 0.0))
    monkeypatch.setattr(signals, "_received", None)
    resumed = runs(StopsAfter(None, monkeypatch), State(tmp_path, 600))
    assert len(whole) == len(resumed)
    assert all(np.array_equal(a.alpha, b.alpha) for a, b in zip(whole, resumed, strict=True))


def test_a_torn_state_is_not_used(tmp_path, monkeypatch):
    state = State(tmp_path, 0.0)
    state.save({"alpha": np.arange(3.0)})
    whole = (tmp_path / "state.npz").read_bytes()
    for size in (0, 10, len(whole) - 5):
        (tmp_path / "state.npz").write_bytes(whole[:size])
        assert State(tmp_path, 600).load() is None


def test_states_of_finished_units_are_removed(tmp_path):
    saves = Saves(tmp_path / "states", 0.0)
    saves.unit(0).save({"x": np.zeros(2)})
    saves.unit(4).save({"x": np.zeros(2)})
    assert [folder.name for folder in (tmp_path / "states").iterdir()] == ["4"]
    saves.clear()
    assert not (tmp_path / "states").exists()
