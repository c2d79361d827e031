"""One private cluster for all tests, and one local run that nothing disturbed to compare with."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.slurm.cluster import Cluster, install
from tests.workflow.conftest import all_contents, run_config, test_config, write_config


@pytest.fixture(scope="session", autouse=True)
def cluster():
    os.environ.pop("SLURM_CONF", None)  # other tests are to find no Slurm, see tests/conftest.py
    install()
    with Cluster() as running:
        yield running


def disturbed_config() -> dict:
    """One plane and spectra that take long enough to be disturbed half-way."""
    tiny = test_config()["runs"]["tiny"]
    planes = {"pca": {**tiny["planes"]["pca"], "points": [61, 51]}}
    spectra = {"stride": 1, "probes": 2, "steps": 16, "batch_size": 50, "strategy": "split"}
    train = {**tiny["train"], "epochs": 1.5, "record_every": 1}
    return test_config(planes=planes, spectra=spectra, train=train)


STORES = ("results/tiny/landscape/pca.zarr", "results/tiny/spectra.zarr")


@pytest.fixture(scope="session")
def local(tmp_path_factory) -> Path:
    """The folder of a run of ``disturbed_config`` by two local ranks."""
    folder = tmp_path_factory.mktemp("local")
    run_config(folder, disturbed_config(), *STORES)
    return folder


@pytest.fixture(scope="session")
def expected(local) -> dict:
    return all_contents(local)


@pytest.fixture
def project(local, tmp_path) -> Path:
    """A copy of the project that has the trajectory and directions of ``local``; landscape and spectra are to do."""
    made = copy_project(tmp_path / "project")
    write_config(made, disturbed_config())
    shutil.copytree(local / "results", made / "results", symlinks=True, dirs_exist_ok=True)
    for store in STORES:
        (made / store).unlink()
        shutil.rmtree(made / store.replace("tiny/", "tiny/.stores/"))
    shutil.rmtree(made / "results/tiny/logs")
    return made


def copy_project(folder: Path) -> Path:
    """Copy the project's own files and edit the profile as its documentation tells a user to."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    command = ["xargs", "-0", "cp", "--parents", "--no-dereference", "-t", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, input=listed)
    file = folder / "workflow/profiles/slurm/config.yaml"
    profile = yaml.safe_load(file.read_text())
    for rule in ("landscape", "spectra"):
        profile["set-resources"][rule]["tasks"] = 3
    profile |= {"slurm-status-command": "squeue", "latency-wait": 5, "slurm-init-seconds-before-status-checks": 3}
    file.write_text(yaml.safe_dump(profile))
    return folder
