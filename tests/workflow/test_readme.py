"""The Python of README.md and docs/ runs as it stands, and its pictures of the config are valid configs."""

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

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*/*.md"))]


def blocks(language: str) -> dict[str, str]:
    """Return all blocks of a language by their page's path below the root and their number there."""
    return {
        f"{page.relative_to(ROOT)}:{number}": text
        for page in PAGES
        for number, text in enumerate(re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S))
    }


PYTHON = blocks("python")
YAML = {name: text for name, text in blocks("yaml").items() if text.startswith("runs:")}


def run(name: str, folder: Path, monkeypatch, **names) -> dict:
    """Run an example in a folder that holds the results of config/test.yaml in place of the demo's."""
    monkeypatch.chdir(folder)
    exec(PYTHON[name].replace("results/lenet", "results/tiny"), names)
    plt.close("all")
    return names


def test_examples_are_found():
    pages = {name.partition(":")[0] for name in PYTHON}
    assert pages == {"README.md", *(f"docs/tutorials/{name}.md" for name in ("demo", "notebook", "pytorch"))}
    assert len(PYTHON) == 8  # one test each below
    assert len(YAML) >= 7


def test_a_plane_is_read(undisturbed, monkeypatch):
    assert run("docs/tutorials/demo.md:0", undisturbed, monkeypatch)["plane"]["loss"].dims == ("split", "y", "x")


@pytest.mark.parametrize("page", ["README.md", "docs/tutorials/pytorch.md"])
def test_a_loop_of_ones_own_is_recorded(tmp_path, monkeypatch, page):
    model = torch.nn.Linear(3, 1)
    loader = [(torch.ones(2, 3), torch.ones(2, 1))] * 6
    run(f"{page}:0", tmp_path, monkeypatch, lossatlas=lossatlas, model=model, loader=loader, loss=torch.tensor(0.5))
    assert xr.open_zarr(tmp_path / "mine/trajectory.zarr", chunks=None)["parameters"].shape[1] == 4


def test_spectra_are_read(undisturbed, monkeypatch):
    names = run("docs/tutorials/notebook.md:3", undisturbed, monkeypatch)
    assert 0 <= names["share"].low <= names["share"].value <= names["share"].high <= 1


def test_the_readmes_notebook_is_right(tmp_path, monkeypatch):
    data = torch.eye(8), torch.arange(8) % 4
    names = run("README.md:1", tmp_path, monkeypatch, model=torch.nn.Linear(8, 4), data=data)
    assert names["spectrum"].nodes.shape[0] == 4
    assert names["plane"]["loss"].shape == (1, 9, 9)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory) -> tuple[Path, dict]:
    """What the first block of the page makes, and a folder for what the others write."""
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        return folder, run("docs/tutorials/notebook.md:0", folder, patch)


def test_the_notebook_example_is_right(notebook):
    _, names = notebook
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


def test_results_show_themselves(notebook, monkeypatch):
    folder, names = notebook
    again = run("docs/tutorials/notebook.md:1", folder, monkeypatch, **names)["again"]
    assert np.array_equal(again["loss"], names["plane"]["loss"])


def test_a_path_becomes_a_video(notebook, monkeypatch):
    folder, names = notebook
    names = run("docs/tutorials/notebook.md:2", folder, monkeypatch, **names)
    assert (folder / "descent.mp4").stat().st_size > 5000
    assert names["tracking"].sizes["iteration"] == 3


def test_the_version_to_cite_is_this_one():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == lossatlas.__version__
    assert f"version = {{{lossatlas.__version__}}}" in (ROOT / "docs/citing.md").read_text()


@pytest.mark.parametrize("name", YAML)
def test_configs_are_valid(name):
    assert config.resolve(yaml.safe_load(YAML[name]))["runs"]
