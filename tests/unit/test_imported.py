"""Imported checkpoints are known by path, order and content: a change of any of them is computed anew."""

import json
import re
import subprocess
import sys

import pytest
import torch
from lossatlas.io.trajectory import Trajectory

from tests.conftest import ROOT, environment

SPEC = {"seed": 0, "backend": "torch", "dtype": "float32", "model": {"import": "net:make", "kwargs": {}}}


def test_order_folder_and_content_of_checkpoints_count(tmp_path):
    (tmp_path / "net.py").write_text("from torch import nn\n\ndef make():\n    return nn.Linear(2, 1, bias=False)\n")
    spec = {**SPEC, "model": {**SPEC["model"], "python_path": [str(tmp_path)]}}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for k in (1, 2):
            torch.save({"weight": torch.full((1, 2), float(k))}, tmp_path / folder / f"{k}.pt")

    def imported(*files):
        command = [sys.executable, str(ROOT / "scripts" / "import_checkpoints.py"), "--label", "t", "--files", *files]
        command += ["--output", "run/trajectory.zarr", "--run-dir", "run", "--spec", json.dumps(spec)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr
        rows = Trajectory(tmp_path / "run" / "trajectory.zarr").store["parameters"][:, 0].tolist()
        return rows, "found finished" in done.stdout

    assert imported("a/1.pt", "a/2.pt") == ([1, 2], False)
    assert imported("a/1.pt", "a/2.pt") == ([1, 2], True)
    assert imported("a/2.pt", "a/1.pt") == ([2, 1], False)
    assert imported("a/1.pt", "b/2.pt") == ([1, 2], False)
    torch.save({"weight": torch.full((1, 2), 5.0)}, tmp_path / "b" / "2.pt")
    assert imported("a/1.pt", "b/2.pt") == ([1, 5], False)


CIFAR = """from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10, bias=False))
"""


@pytest.mark.parametrize(("gigabytes", "batchnorm", "status"), [(0.001, "frozen", 2), (1.0, "batch", 0)])
def test_too_little_memory_for_products_is_said_before_the_import(tmp_path, gigabytes, batchnorm, status):
    """Of a dataset that is not there yet the shapes are known."""
    (tmp_path / "net.py").write_text(CIFAR)
    torch.save({"1.weight": torch.ones(10, 3072)}, tmp_path / "1.pt")
    spec = {**SPEC, "model": {**SPEC["model"], "python_path": [str(tmp_path)]}, "loss": {"name": "cross-entropy"}}
    spec["data"] = {"name": "cifar10", "kwargs": {}, "data_root": "nowhere"}
    need = {"operator": "hessian", "parameters": ["*"], "strategy": "auto", "batch_size": 50, "batchnorm": batchnorm}
    command = [sys.executable, str(ROOT / "scripts" / "import_checkpoints.py"), "--label", "t", "--files", "1.pt"]
    command += ["--output", "run/trajectory.zarr", "--run-dir", "run", "--spec", json.dumps(spec)]
    command += ["--needs", json.dumps({"runs.t.spectra": {**need, "memory_gb": gigabytes}})]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert done.returncode == status, done.stderr
    assert (tmp_path / "run/trajectory.zarr").exists() == (status == 0)
    said = r"^t: error: runs\.t\.spectra\.memory_gb: 0\.001 is too little: at least about 0\.\d+ for one vector"
    assert bool(re.search(said, done.stderr)) == (status == 2), done.stderr
