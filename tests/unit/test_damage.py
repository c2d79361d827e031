"""Whatever is damaged on disk ends with one line that names the file, or is computed again; never a wrong number."""

import numpy as np
import pytest
from lossatlas.drivers import training
from lossatlas.drivers.training import ResumeFile, record_training
from lossatlas.errors import LossAtlasError
from lossatlas.io import store
from lossatlas.io.trajectory import Recording
from lossatlas.parallel import work_units
from lossatlas.parallel.checkpointing import State

from tests.conftest import flat_layout, make_trajectory

THETAS = np.arange(60 * 7, dtype=np.float32).reshape(60, 7)


def flip(file, at=0.4):
    content = bytearray(file.read_bytes())
    content[int(at * len(content))] ^= 4
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-6])


def read_all(link):
    dataset = store.open_dataset(link)
    return {name: dataset[name].values for name in dataset.variables}


@pytest.mark.parametrize("damage", [flip, cut, lambda file: file.unlink()], ids=["flipped", "cut", "missing"])
def test_damage_in_any_chunk_of_a_finished_store_is_named(tmp_path, damage):
    sample = make_trajectory(tmp_path / "0", THETAS).path
    chunks = [file.relative_to(sample) for file in store.chunk_files(sample)]
    assert len(chunks) >= 8
    for number, chunk in enumerate(chunks, 1):
        folder = tmp_path / str(number)
        made = make_trajectory(folder, THETAS)
        damage(made.path.resolve() / chunk)
        with pytest.raises(LossAtlasError) as error:
            read_all(made.path)
        text = str(error.value)
        assert "torn" in text and "run again" in text and "\n" not in text
        assert str(chunk) in text or "chunk files are there" in text


def test_fast_reads_of_columns_and_reads_of_rows_check_too(tmp_path):
    made = make_trajectory(tmp_path, THETAS)
    flip(made.store.path / "parameters" / "c" / "1" / "0")
    with pytest.raises(LossAtlasError, match="parameters/c/1/0: torn"):
        list(made.column_blocks())
    with pytest.raises(LossAtlasError, match="parameters/c/1/0: torn"):
        made.parameters(30)
    assert np.array_equal(made.parameters(3), THETAS[3])


FINGERPRINT = store.Fingerprint("landscape", {}, {})


def build(group):
    store.add_array(group, "x", ("x",), data=np.arange(9.0), chunks=(3,))
    work_units.add_rows(group, "squares", 9, ["square"], 3)


def unfinished(folder):
    link = folder / "p.zarr"
    made = store.find(link, folder, FINGERPRINT) or store.create(link, folder, FINGERPRINT, build)
    made[work_units.ARRAY][:] = np.column_stack([np.arange(9.0) ** 2, np.ones(9)])
    return link, made.path


@pytest.mark.parametrize("damage", [flip, cut, lambda file: file.unlink()], ids=["flipped", "cut", "missing"])
def test_a_damaged_result_of_an_unfinished_store_is_computed_again(tmp_path, damage):
    link, path = unfinished(tmp_path)
    damage(path / "work" / "rows" / "c" / "1" / "0")
    said = []
    again = store.find(link, tmp_path, FINGERPRINT, log=said.append)
    assert work_units.unfinished(again) == [1]
    assert work_units.results(again)[:, 0].tolist() == [0, 1, 4, 0, 0, 0, 36, 49, 64]
    assert all("work/rows/c/1/0 is damaged; it is computed again" in line for line in said)


@pytest.mark.parametrize("damage", [flip, cut, lambda file: file.unlink()], ids=["flipped", "cut", "missing"])
def test_an_unfinished_store_with_a_damaged_coordinate_is_begun_anew(tmp_path, damage):
    link, path = unfinished(tmp_path)
    damage(path / "x" / "c" / "1")
    with pytest.raises(LossAtlasError, match=r"x/c/1: torn.*run again"):
        store.Store(path)["x"][:]
    said = []
    assert store.find(link, tmp_path, FINGERPRINT, log=said.append) is None
    assert "x/c/1" in said[0] and "begun anew" in said[0]
    assert not path.exists()


class Counting:
    """Training whose theta after k steps is k."""

    steps, steps_per_epoch = 100, 10

    def __init__(self, stop_at=None):
        self.network, self.at, self.stop_at = self, 0, stop_at

    def parameters(self):
        return np.full(3, self.at, np.float32)

    def buffers(self):
        return np.zeros(0)

    def step(self, iteration):
        if iteration == self.stop_at:
            raise KeyboardInterrupt
        self.at += 1
        return float(iteration), 0.1

    def state(self):
        return b"%d" % self.at

    def load_state(self, state):
        self.at = int(state)


TRAINING = store.Fingerprint("trajectory", {}, {})


def train(folder, stop_at=None):
    link = folder / "t.zarr"
    recording = Recording(flat_layout(3), training.recorded_iterations(100, 1), "float32", 10)
    said = []
    found = store.find(link, folder, TRAINING, log=said.append)
    found = found or store.create(link, folder, TRAINING, recording.build)
    record_training(Counting(stop_at), found, "t", said.append)
    found.finish({})
    return found, said


@pytest.mark.parametrize(
    "name", ["t.resume", "t.zarr/parameters/c/1/0", "t.zarr/iteration/c/0", "t.zarr/batch_loss/c/0"]
)
@pytest.mark.parametrize("damage", [flip, cut, lambda file: file.unlink()], ids=["flipped", "cut", "missing"])
def test_a_stopped_training_with_damage_ends_as_one_that_was_not_stopped(tmp_path, name, damage):
    whole, _ = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", stop_at=80)
    damage(tmp_path / "cut" / ".stores" / name)
    again, said = train(tmp_path / "cut")
    assert np.array_equal(again["parameters"][:], whole["parameters"][:])
    assert again.attrs["content"] == whole.attrs["content"]
    assert any("anew" in line for line in said) or (name == "t.resume" and not said)


def test_a_resume_file_is_used_when_it_is_whole(tmp_path):
    file = ResumeFile(tmp_path / "r", "tag")
    file.write(12, 3, b"state\nof two lines")
    assert file.read() == (12, 3, b"state\nof two lines")
    for place in np.linspace(0, 0.99, 23):
        file.write(12, 3, b"state\nof two lines")
        flip(tmp_path / "r", place)
        assert file.read(lambda _text: None) is None


def saved_state(folder):
    state, table = State(folder, 600), np.arange(50.0).reshape(10, 5)
    state.save({"alpha": np.arange(3.0)}, [(table, 4)])
    state.save({"alpha": np.arange(4.0)}, [(table, 7)])
    return table


def test_a_saved_state_is_used_only_as_it_was_saved(tmp_path):
    table = saved_state(tmp_path / "whole")
    state, into = State(tmp_path / "whole", 600), np.zeros((10, 5))
    assert state.load()["alpha"].tolist() == [0, 1, 2, 3]
    state.rows(0, into, 7)
    assert np.array_equal(into[:7], table[:7])
    state.save({"alpha": np.arange(5.0)}, [(table, 9)])
    assert State(tmp_path / "whole", 600).load()["alpha"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("place", np.linspace(0, 0.69, 12))
def test_a_saved_state_whose_rows_are_damaged_is_not_used(tmp_path, place):
    saved_state(tmp_path)
    flip(tmp_path / "rows-0.bin", place)
    assert State(tmp_path, 600).load() is None


def test_a_saved_state_whose_rows_are_cut_is_not_used(tmp_path):
    saved_state(tmp_path)
    file = tmp_path / "rows-0.bin"
    file.write_bytes(file.read_bytes()[:200])
    assert State(tmp_path, 600).load() is None
    file.unlink()
    assert State(tmp_path, 600).load() is None


def test_damage_in_the_arrays_of_a_saved_state_gives_none_or_the_same(tmp_path):
    saved_state(tmp_path)
    file = tmp_path / "state.npz"
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        file.write_bytes(whole)
        flip(file, place / len(whole))
        found = State(tmp_path, 600).load()
        assert found is None or found["alpha"].tolist() == [0, 1, 2, 3], place


def test_a_damaged_plan_of_rows_begins_the_store_anew_and_damaged_pictures_of_results_do_not(tmp_path):
    def build(group):
        store.add_array(group, "x", ("x",), data=np.arange(3.0))
        store.add_array(group, "loss", ("x",), shape=(3,))
        work = group.create_group("work")
        store.add_array(work, "rows", ("row",), shape=(4,), chunks=(2,))
        store.add_array(work, "order", ("row",), data=np.arange(4))

    link, fingerprint, said = tmp_path / "plane.zarr", store.Fingerprint("landscape", {}), []
    made = store.create(link, tmp_path, fingerprint, build)
    made["work/rows"][:] = 1.0
    made["loss"][:] = 2.0
    flip(made.path / "loss/c/0")
    found = store.find(link, tmp_path, fingerprint, log=said.append)
    assert found is not None and found["work/rows"][:].tolist() == [1.0] * 4, "results are kept"
    assert said.pop().endswith("loss/c/0 is damaged; it is computed again")
    flip(made.path / "work/order/c/0")
    assert store.find(link, tmp_path, fingerprint, log=said.append) is None
    assert said.pop().endswith("work/order/c/0 is damaged; the store is begun anew")


def test_a_store_of_another_format_is_said_to_be_that(tmp_path):
    link = tmp_path / "plane.zarr"
    made = store.create(link, tmp_path, store.Fingerprint("landscape", {}), lambda group: None)
    made.finish({})
    made.update(provenance={**made.attrs["provenance"], "format": 1})
    with pytest.raises(LossAtlasError, match=r"a store of format 1, made by another version"):
        store.open_finished(made.path)
