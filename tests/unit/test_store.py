"""The store protocol: nothing computed is lost, nothing is mixed, a torn store is noticed."""

import os
import platform
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
import zarr
from lossatlas.errors import LossAtlasError
from lossatlas.io import store

from tests.conftest import ROOT, contents, environment


def build(group):
    store.add_array(group, "values", ("row",), shape=(6,), chunks=(2,), long_name="some values")


def fingerprint(seed=0, **inputs):
    return store.Fingerprint("landscape", {"seed": seed}, inputs)


def make(run_dir, seed=0, finish=True):
    link = run_dir / "landscape" / "p.zarr"
    made = store.find(link, run_dir, fingerprint(seed)) or store.create(link, run_dir, fingerprint(seed), build)
    made["values"][:] = seed + np.arange(6.0)
    if finish:
        made.finish({"ranks": 1})
    store.publish(link, run_dir)
    return link


def test_output_is_a_relative_link_to_the_hidden_store(tmp_path):
    link = make(tmp_path / "run")
    assert os.readlink(link) == "../.stores/landscape/p.zarr"
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "run", moved)
    assert store.open_finished(moved / "landscape" / "p.zarr")["values"][3] == 3.0


def test_store_opens_with_xarray_and_explains_itself(tmp_path, recwarn):
    dataset = xr.open_zarr(make(tmp_path), chunks=None)
    assert dataset["values"].attrs["long_name"] == "some values"
    assert dataset.attrs["provenance"]["spec"] == {"seed": 0}
    assert {"numpy", "zarr", "python"} <= dataset.attrs["attempts"][0]["software"].keys()
    assert not [w for w in recwarn if "consolidated" in str(w.message)]


def test_deleting_the_link_loses_nothing(tmp_path):
    link = make(tmp_path)
    before = contents(link)
    link.unlink()
    found = store.find(link, tmp_path, fingerprint())
    assert found.finished
    store.publish(link, tmp_path)
    assert contents(link) == before


def test_other_settings_set_the_store_aside_and_bring_it_back(tmp_path):
    link = make(tmp_path, seed=0)
    messages = []
    assert store.find(link, tmp_path, fingerprint(1), log=messages.append) is None
    assert "set aside" in messages[0]
    make(tmp_path, seed=1)
    assert store.open_finished(link)["values"][0] == 1.0
    back = store.find(link, tmp_path, fingerprint(0), log=messages.append)
    assert back.finished
    assert back["values"][0] == 0.0
    assert "brought back" in messages[-1]


def test_fresh_sets_aside_even_the_same_settings(tmp_path):
    link = make(tmp_path)
    assert store.find(link, tmp_path, fingerprint(), fresh=True) is None


@pytest.mark.parametrize("part", ["spec", "inputs", "kind", "algorithm"])
def test_everything_that_matters_changes_the_fingerprint(part, monkeypatch):
    before = fingerprint(0, trajectory=["a", "b"]).digest
    if part == "spec":
        after = fingerprint(1, trajectory=["a", "b"])
    elif part == "inputs":
        after = fingerprint(0, trajectory=["a", "c"])
    elif part == "kind":
        after = store.Fingerprint("directions", {"seed": 0}, {"trajectory": ["a", "b"]})
    else:
        monkeypatch.setitem(store.ALGORITHMS, "landscape", 999)
        after = fingerprint(0, trajectory=["a", "b"])
    assert after.digest != before


def test_the_slower_of_two_creators_takes_the_quicker_ones_store(tmp_path):
    link = tmp_path / "p.zarr"
    (tmp_path / ".stores").mkdir()
    quicker = []

    def interrupted(group):
        build(group)
        if not quicker:
            quicker.append(None)
            first = store.create(link, tmp_path, fingerprint(), interrupted)
            first["values"][:] = 7.0

    slower = store.create(link, tmp_path, fingerprint(), interrupted)
    assert (slower["values"][:] == 7.0).all()
    assert [p.name for p in (tmp_path / ".stores").iterdir()] == ["p.zarr"]


DIES = """
import os, sys
from pathlib import Path
from lossatlas.io import store
print(os.getpid())
run_dir = Path(sys.argv[1])
fingerprint = store.Fingerprint("landscape", {"seed": 0}, {})
store.create(run_dir / "landscape" / "p.zarr", run_dir, fingerprint, lambda group: os._exit(1))
"""


@pytest.fixture
def leftover(tmp_path):
    """What a process left that died while it created a store."""
    (tmp_path / ".stores" / "landscape").mkdir(parents=True)
    died = subprocess.run([sys.executable, "-c", DIES, tmp_path], env=environment(), stdout=subprocess.PIPE, text=True)
    (left,) = (tmp_path / ".stores" / "landscape").iterdir()
    assert died.returncode == 1
    assert f"-{died.stdout.strip()}-" in left.name
    return left


def test_leftovers_of_a_dead_creator_are_swept(leftover, tmp_path):
    store.find(tmp_path / "landscape" / "p.zarr", tmp_path, fingerprint())
    assert not leftover.exists()


def test_what_a_living_process_creates_is_left_alone(tmp_path):
    seen = []

    def interrupted(group):
        build(group)
        (mine,) = (tmp_path / ".stores").iterdir()
        store.find(tmp_path / "p.zarr", tmp_path, fingerprint())
        seen.append(mine.exists())
        later = mine.rename(f"{mine}1")  # a process of the same id that began at another time
        store.find(tmp_path / "p.zarr", tmp_path, fingerprint())
        seen.append(later.exists())
        build(zarr.open_group(mine, mode="w"))

    store.create(tmp_path / "p.zarr", tmp_path, fingerprint(), interrupted)
    assert seen == [True, False]


def test_what_another_host_creates_is_left_alone_until_the_store_is_finished(leftover, tmp_path):
    foreign = leftover.rename(leftover.with_name(re.sub(r"(?<=\.new-)[^-]+", "othernode", leftover.name)))
    link = make(tmp_path, finish=False)
    assert foreign.exists()
    store.find(link, tmp_path, fingerprint()).finish({"ranks": 1})
    assert not foreign.exists()
    assert store.open_finished(link)["values"][3] == 3.0


def test_a_creator_whom_another_hosts_finished_store_overtakes_takes_that_one(tmp_path, monkeypatch):
    def overtaken(group):
        build(group)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(platform, "node", lambda: "othernode")
            make(tmp_path)
        assert [folder.name for folder in (tmp_path / ".stores/landscape").iterdir()] == ["p.zarr"]
        build(group)

    taken = store.create(tmp_path / "landscape" / "p.zarr", tmp_path, fingerprint(), overtaken)
    assert taken.finished
    assert taken["values"][3] == 3.0


def test_prune_removes_what_was_never_completed(leftover, tmp_path):
    leftover.rename(leftover.with_name(".p.zarr.new-othernode-1-1"))
    make(tmp_path, finish=False)
    shutil.copytree(tmp_path / ".stores", tmp_path / "results/run/.stores")
    subprocess.run(["make", "--silent", "--file", str(ROOT / "Makefile"), "prune"], cwd=tmp_path, check=True)
    assert [folder.name for folder in (tmp_path / "results/run/.stores/landscape").iterdir()] == ["p.zarr"]


def torn_metadata(path):
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_ty')


def torn_chunk(path):
    (path / "values" / "c" / "1").unlink()


def foreign(path):
    shutil.rmtree(path)
    path.mkdir(parents=True)
    (path / "data.txt").write_text("mine")


@pytest.mark.parametrize("damage", [torn_metadata, torn_chunk, foreign])
def test_torn_and_foreign_stores_are_refused_by_name(tmp_path, damage):
    link = make(tmp_path)
    damage(link.resolve())
    with pytest.raises(LossAtlasError) as error:
        store.open_finished(link)
    assert "p.zarr" in str(error.value)
    assert "torn" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_foreign_folder_is_never_overwritten(tmp_path):
    link = make(tmp_path)
    foreign(link.resolve())
    with pytest.raises(LossAtlasError, match="foreign"):
        store.find(link, tmp_path, fingerprint())
    assert (link.resolve() / "data.txt").read_text() == "mine"


def test_unfinished_and_missing_stores_say_how_to_make_them(tmp_path):
    link = make(tmp_path, finish=False)
    with pytest.raises(LossAtlasError, match="not finished"):
        store.open_finished(link)
    with pytest.raises(LossAtlasError, match="no such store"):
        store.open_finished(tmp_path / "landscape" / "q.zarr")


def test_a_real_folder_in_the_way_of_the_link_is_kept(tmp_path):
    link = tmp_path / "landscape" / "p.zarr"
    link.mkdir(parents=True)
    with pytest.raises(LossAtlasError, match="in the way"):
        store.publish(link, tmp_path)


def test_content_digest_sees_every_byte(tmp_path):
    link = make(tmp_path)
    before = store.content_digest(link)[0]
    file = link / "values" / "c" / "2"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    assert store.content_digest(link)[0] != before
