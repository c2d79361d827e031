"""The README's examples run as they stand, and its pictures of the config are valid configs."""

import re
from pathlib import Path

import lossatlas
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from lossatlas import config

from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
YAML = [text for text in re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL) if "runs:" in text]


def run(code: str, folder: Path, monkeypatch, **names) -> dict:
    """Run an example in a folder that holds the results of config/test.yaml in place of the demo's."""
    monkeypatch.chdir(folder)
    exec(code.replace("results/lenet", "results/tiny"), names)
    plt.close("all")
    return names


def test_examples_are_found():
    assert len(PYTHON) == 4  # one test each below
    assert len(YAML) >= 1


def test_a_plane_is_read(undisturbed, monkeypatch):
    assert run(PYTHON[0], undisturbed, monkeypatch)["plane"]["loss"].dims == ("split", "y", "x")


def test_a_loop_of_ones_own_is_recorded(tmp_path, monkeypatch):
    model = torch.nn.Linear(3, 1)
    loader = [(torch.ones(2, 3), torch.ones(2, 1))] * 6
    run(PYTHON[1], tmp_path, monkeypatch, lossatlas=lossatlas, model=model, loader=loader, loss=torch.tensor(0.5))
    assert xr.open_zarr(tmp_path / "mine/trajectory.zarr", chunks=None)["parameters"].shape[1] == 4


def test_spectra_are_read(undisturbed, monkeypatch):
    names = run(PYTHON[2], undisturbed, monkeypatch)
    assert 0 <= names["share"].low <= names["share"].value <= names["share"].high <= 1


def test_the_notebook_example_is_right(undisturbed, monkeypatch):
    names = run(PYTHON[3], undisturbed, monkeypatch)
    hessian, pairs = names["hessian"], names["pairs"]
    assert pairs.converged.all()
    assert pairs.values[0] == pytest.approx(
        float(names["eigsh"](hessian.linear_operator(), k=1, which="LA")[0][0]), rel=1e-3
    )
    assert np.allclose(
        hessian.matmat(pairs.vectors), pairs.values[:, None] * pairs.vectors, atol=1e-3 * pairs.values[0]
    )
    assert names["trace"].low < names["trace"].value < names["trace"].high
    assert names["plane"]["loss"].shape == (1, 9, 9)


@pytest.mark.parametrize("number", range(len(YAML)))
def test_configs_are_valid(number):
    assert config.resolve(yaml.safe_load(YAML[number]))["runs"]
