"""Published weights in the workflow: fetched by a local rule, the first row of the trajectory."""

import hashlib

import numpy as np
import pytest
import torch
import xarray as xr
from lossatlas.backends.torch import build_module

from tests.conftest import ROOT
from tests.workflow.conftest import run_config, test_config

pytestmark = pytest.mark.workflow


def test_training_begins_with_downloaded_weights(tmp_path):
    published = build_module({"name": "mobilenet-v2", "kwargs": {"classes": 1000}}, 5)
    torch.save(published.state_dict(), tmp_path / "saved.pth")
    digest = hashlib.sha256((tmp_path / "saved.pth").read_bytes()).hexdigest()[:8]
    file = (tmp_path / "saved.pth").rename(tmp_path / f"mobilenet_v2-{digest}.pth")
    model = {"name": "mobilenet-v2", "pretrained": "imagenet1k-v1"}
    train = {"learning_rate": 0.01, "batch_size": 16, "epochs": 0.012, "threads": 1}
    environment = {"OTHER_WEIGHTS": file.as_uri(), "PYTHONPATH": f"{ROOT}/tests/helpers/other_weights:{ROOT}/workflow"}
    config = test_config(model=model, train=train)
    done = run_config(tmp_path, config, "results/tiny/trajectory.zarr", **environment)
    assert "Download weights imagenet1k-v1 of mobilenet-v2 into data" in done.stdout + done.stderr
    assert (tmp_path / "data" / file.name).read_bytes() == file.read_bytes()
    first, *_, last = xr.open_zarr(tmp_path / "results/tiny/trajectory.zarr", chunks=None)["parameters"].values
    expected = torch.cat([p.detach().flatten() for p in published.parameters()]).numpy()
    head = 1280 * 10 + 10
    assert np.array_equal(first[:-head], expected[: -1280 * 1000 - 1000])
    assert not np.array_equal(first, last)
