"""A training of the user's own, recorded in their loop: three lines of config lead to planes, spectra and a video."""

import shutil

import lossatlas
import numpy as np
import pytest
import torch
import xarray as xr
from lossatlas import config
from lossatlas.config.run import runs_of
from lossatlas.errors import LossAtlasError

from tests.conftest import ROOT
from tests.workflow.conftest import run_config
from tests.workflow.own_code import tiny_transformer

pytestmark = pytest.mark.workflow


def record(path) -> torch.nn.Module:
    """Train the transformer, whose embedding is frozen, in a plain loop."""
    torch.manual_seed(3)
    module, (tokens, sums) = tiny_transformer.build(), tiny_transformer.load(160)["train"]
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 0.01)
    with lossatlas.record(module, path, every=2, steps_per_epoch=4) as tape:
        for step in range(13):
            batch = slice(30 * (step % 4), 30 * (step % 4) + 30)
            optimizer.zero_grad()
            loss = tiny_transformer.loss(module(tokens[batch]), sums[batch]).mean()
            loss.backward()
            optimizer.step()
            tape.step(loss, learning_rate=0.01)
    return module


def recorded_config(**changes) -> dict:
    spectra = {"stride": 7, "probes": 2, "steps": 5, "batch_size": 40, "strategy": "rebuild"}
    mine = {
        "checkpoints": {"files": "mine/trajectory.zarr"},
        "model": {"import": "own_code.tiny_transformer:build"},
        "data": {"import": "own_code.tiny_transformer:load", "kwargs": {"samples": 160}},
        "loss": {"import": "own_code.tiny_transformer:loss"},
        "evaluation": {"train_samples": 40, "test_samples": 20},
        "planes": {"pca": {"x": "pca/1", "y": "pca/2", "points": [4, 3], "strategy": "eager"}},
        "spectra": spectra,
        "video": {"hold_seconds": 0},
        **changes,
    }
    return {"python_path": ["."], "runs": {"mine": mine}}


def test_a_recorded_loop_becomes_planes_spectra_and_a_video(tmp_path):
    shutil.copytree(ROOT / "tests/workflow/own_code", tmp_path / "own_code")
    module = record(tmp_path / "mine/trajectory.zarr")
    run_config(tmp_path, recorded_config())
    run = tmp_path / "results/mine"
    trajectory, plane, spectra = (
        xr.open_zarr(run / f"{name}.zarr", chunks=None) for name in ("trajectory", "landscape/pca", "spectra")
    )
    assert trajectory["iteration"].values.tolist() == [0, 2, 4, 6, 8, 10, 12, 13]
    assert np.array_equal(trajectory["frozen"].values, module.embed.weight.detach().numpy().ravel())
    (tokens, sums) = tiny_transformer.load(160)["train"]
    with torch.no_grad():
        subset = torch.as_tensor(plane["subset_train"].values)
        loss = tiny_transformer.loss(module.eval()(tokens[subset]), sums[subset]).mean()
    true = plane["path_true_loss"].sel(split="train").values
    assert true[-1] == pytest.approx(float(loss), rel=1e-5)
    assert spectra["iteration"].values.tolist() == [0, 13]
    for file in ("figures/pca_contour.png", "figures/spectra_density.png", "video/pca.mp4", "report.html"):
        assert (run / file).stat().st_size > 5000, file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoints": {"files": "own_code"}}, "runs.mine.checkpoints.files: no file 'own_code'"),
        (
            {"checkpoints": {"files": "results.zarr"}},
            "runs.mine.checkpoints.files: 'results.zarr' is a store of kind 'unknown', no trajectory; give what",
        ),
        (
            {"checkpoints": {"files": "mine/trajectory.zarr", "iterations": [3, 2]}},
            "runs.mine.checkpoints.iterations: [3, 2] do not ascend",
        ),
        (
            {"curves": {"line": {"from": 5, "to": {"iteration": "last"}}}},
            "runs.mine.curves.line.from: iteration 5 of mine is not recorded; the nearest is 4, the last 13",
        ),
    ],
)
def test_what_does_not_fit_the_recording_is_said_before_any_job(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "tests/workflow/own_code", tmp_path / "own_code")
    record(tmp_path / "mine/trajectory.zarr")
    (tmp_path / "results.zarr").mkdir()
    with pytest.raises(LossAtlasError) as error:
        runs_of(config.load(recorded_config(**changes)))
    assert f"config: {message}" in str(error.value)
