"""Runs with TensorFlow: the same stages, in processes that never import PyTorch."""

import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pytest
import xarray as xr
import yaml
from lossatlas import backends
from lossatlas.io.trajectory import Trajectory

from tests.conftest import ROOT, environment, snakemake
from tests.workflow.conftest import all_contents, write_config

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory):
    """A folder for PYTHONPATH in which importing torch ends a job."""
    folder = tmp_path_factory.mktemp("poison")
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("raise SystemExit('a run with TensorFlow must not import torch')")
    return str(folder)


def small(**changes):
    """Return config/test-tensorflow.yaml with a small network, one plane and few products."""
    config = yaml.safe_load((ROOT / "config/test-tensorflow.yaml").read_text())
    config["results"] = "results"
    run = config["runs"]["tiny"]
    run |= {"model": {"name": "mlp", "kwargs": {"hidden": [8]}}}
    run["planes"] = {"pca": run["planes"]["pca"]}
    run["directions"] = {"pca": run["directions"]["pca"]}
    for key in ("curves", "spectra_between", "tracking"):
        del run[key]
    run["spectra"] |= {"stride": 5, "steps": 4}
    run |= changes
    return config


def test_whole_run_without_torch(tmp_path, without_torch):
    file = write_config(tmp_path, small())
    snakemake("--configfile", str(file), "--cores", "2", cwd=tmp_path, PYTHONPATH=without_torch)
    run = tmp_path / "results/tiny"
    frames = imageio_ffmpeg.count_frames_and_secs(str(run / "video/pca.mp4"))[0]
    trajectory = Trajectory(run / "trajectory.zarr")
    assert frames >= len(trajectory) == 11
    with xr.open_zarr(run / "landscape/pca.zarr", chunks=None) as plane:
        assert plane.attrs["strategy"] == "graph"
        assert np.isfinite(plane["loss"]).all()
        last = plane["path_true_loss"].sel(split="train").values
        assert last[-1] < last[0]
    with xr.open_zarr(run / "spectra.zarr", chunks=None) as spectra:
        assert spectra.attrs["strategy"] == "nested"
        assert (spectra["largest"] > 0).all()


@pytest.mark.full
def test_oracle_14_any_number_of_ranks_gives_the_same_bits(tmp_path):
    found = {}
    for ranks in (1, 3):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        file = write_config(folder, small() | {"mpi": {"ranks": ranks, "threads_per_rank": 1}})
        until = ("--until", "landscape", "spectra")
        snakemake("--configfile", str(file), "--cores", "3", *until, cwd=folder)
        found[ranks] = all_contents(folder)
    assert len(found[1]) == 4, "trajectory, directions, landscape and spectra"
    assert found[1] == found[3]


RECORD = """
import sys
from lossatlas.backends import tensorflow as backend
from lossatlas.data import load_dataset
device = backend.set_up("cpu", "float32", 1)
spec = {"name": "mlp", "kwargs": {"hidden": [8]}}
for _ in range(2):
    model = backend.build_module(spec, 3)
data = load_dataset({"name": "fashion-mnist-mini"}).train
import keras
model.compile(keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
inputs, targets = data.inputs[:200].reshape(200, -1), data.targets[:200]
recorder = backend.KerasRecorder("mine/trajectory.zarr")
model.fit(inputs, targets, batch_size=50, epochs=2, verbose=0, callbacks=[recorder])
for name in ("epoch9.weights.h5", "epoch10.weights.h5"):
    model.save_weights(name)
    model.fit(inputs, targets, batch_size=50, verbose=0)
"""


@pytest.mark.full
def test_recorded_training_and_checkpoints_become_trajectories(tmp_path, without_torch):
    (tmp_path / "mine").mkdir()
    subprocess.run([sys.executable, "-c", RECORD], cwd=tmp_path, env=environment(), check=True)
    config = small(planes={}, spectra=None)
    tiny = config["runs"].pop("tiny")
    del tiny["train"], tiny["spectra"]
    config["runs"] = {
        "recorded": {**tiny, "checkpoints": {"files": "mine/trajectory.zarr"}},
        "files": {**tiny, "checkpoints": {"files": "epoch*.weights.h5"}},
    }
    file = write_config(tmp_path, config)
    targets = [f"results/{run}/trajectory.zarr" for run in config["runs"]]
    snakemake("--configfile", str(file), "--cores", "2", *targets, cwd=tmp_path, PYTHONPATH=without_torch)
    recorded, files = (Trajectory(tmp_path / target) for target in targets)
    mine = Trajectory(tmp_path / "mine/trajectory.zarr")
    assert recorded.iterations.tolist() == mine.iterations.tolist() == list(range(9))
    for row in range(9):
        assert np.array_equal(recorded.parameters(row), mine.parameters(row))
    assert np.array_equal(recorded.store["batch_loss"][:8], mine.store["batch_loss"][:8])
    assert np.array_equal(files.parameters(0), mine.parameters(8)), "natural order: epoch 9 comes first"
    assert len(files) == 2


def test_the_plan_of_runs_with_both_frameworks(tmp_path):
    config = small()
    config["runs"]["other"] = {**config["runs"]["tiny"], "backend": "torch", "spectra": {"strategy": "split"}}
    file = write_config(tmp_path, config)
    snakemake("--configfile", str(file), "--cores", "1", "plan", cwd=tmp_path)
    text = (tmp_path / "results/plan.log").read_text()
    rows = dict(line.split()[:2] for line in text.splitlines() if "/trajectory" in line)
    assert rows.keys() == {"tiny/trajectory", "other/trajectory"}
    assert rows["tiny/trajectory"] == rows["other/trajectory"]


def test_a_framework_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    for name in [name for name in sys.modules if name.startswith("lossatlas.backends.tensorflow")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(backends.LossAtlasError, match=r"pip install 'lossatlas\[tensorflow\]'"):
        backends.backend("tensorflow")
