"""The examples, as their README tells to run them: each ends in a video and a spectrum."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests.conftest import ROOT, environment, snakemake

pytestmark = pytest.mark.workflow

ROWS = {"gpt": 61, "timm": 41, "lora": 61, "lightning": 81, "keras": 81}
"""Recorded iterations: steps, by how many are recorded, and the last."""


def copied(folder: Path, name: str) -> Path:
    """Copy an example and the texts it reads; return its folder."""
    for text in ("README.md", "LICENSE"):
        shutil.copy(ROOT / text, folder)
    files = shutil.ignore_patterns("__pycache__", "recorded", "results", ".snakemake", "trainer")
    return Path(shutil.copytree(ROOT / "examples" / name, folder / "examples" / name, ignore=files))


@pytest.mark.parametrize("name", ROWS)
def test_examples_end_in_a_video_and_a_spectrum(tmp_path, name):
    folder = copied(tmp_path, name)
    subprocess.run([sys.executable, "train.py"], cwd=folder, env=environment(), check=True, capture_output=True)
    snakemake("--configfile", "config.yaml", "--cores", "2", cwd=folder)
    run = folder / "results" / name
    plane, spectra = (xr.open_zarr(run / f"{store}.zarr", chunks=None) for store in ("landscape/pca", "spectra"))
    loss = plane["path_true_loss"].sel(split="train").values
    assert len(loss) == ROWS[name]
    assert loss[-1] < loss[0]
    assert np.isfinite(plane["loss"].values).all()
    assert (spectra["largest"].values > 0).all()
    for file in ("video/pca.mp4", "figures/spectra_density.png", "report.html"):
        assert (run / file).stat().st_size > 5000, file
