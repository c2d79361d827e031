"""Folders and files may have any name: nothing of it reaches a shell, and what Snakemake cannot take is refused."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from tests.conftest import BIN, ROOT, _run, snakemake

CRUEL = "r e's \"ü\" `touch PWNED`;$(touch PWNED) & *"
OWN_CODE = '''
import torch

def loss(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets)
'''


def config(**changes) -> dict:
    """Return a run of every kind of job that hands names on, as small as it can be."""
    products = {"probes": 2, "steps": 2, "batch_size": 20, "strategy": "split"}
    plane = {"points": [3, 3], "strategy": "eager"}
    tiny = {
        "model": {"name": "lenet"},
        "loss": {"import": "own_loss:loss"},
        "train": {"epochs": 0.05, "batch_size": 50},
        "evaluation": {"train_samples": 20, "test_samples": 0},
        "directions": {"random": {"kind": "random"}, "pca": {"kind": "pca", "count": 2}},
        "planes": {"random": {"x": "random/1", "y": "pca/2", **plane}},
        "curves": {"lines": {"x": ["random/1", "pca"], "points": 3, "strategy": "eager"}},
        "spectra": {**products, "variants": {"ggn": {"operator": "ggn"}}},
        "video": {"hold_seconds": 0},
    }
    return {"runs": {"tiny": tiny}, **changes}


def write(folder: Path, settings: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"my {CRUEL} config.yaml"
    file.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project in a folder with a cruel name."""
    folder = tmp_path_factory.mktemp("names") / f"prö jekt {CRUEL}"
    for name in ("workflow", "scripts", "envs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder / "Snakefile")
    return folder


def in_project(project: Path, folder: Path, *arguments: str, check: bool = True):
    """Run snakemake on a copy of the project."""
    command = [str(BIN / "snakemake"), "--snakefile", str(project / "Snakefile"), "--cores", "2", *arguments]
    return _run(command, folder, check, {"PYTHONPATH": str(project / "workflow")})


def test_any_name_of_folders(project, tmp_path):
    folder = tmp_path / f"work {CRUEL}"
    own = folder / f"own {CRUEL}"
    own.mkdir(parents=True)
    (own / "own_loss.py").write_text(OWN_CODE)
    results = f"-{CRUEL}/sub"
    file = write(folder, config(results=results, python_path=[own.name]))
    in_project(project, folder, "--configfile", str(file))
    made = folder / results / "tiny"
    pictures = ["random_contour", "lines_curve", "spectra_density", "spectra_variants", "pca_null"]
    for name in ("report.html", "video/random.mp4", *(f"figures/{picture}.png" for picture in pictures)):
        assert (made / name).stat().st_size > 1000, name
    assert (made / "logs/landscape/random.log").stat().st_size > 0
    assert not [*tmp_path.rglob("PWNED"), *project.parent.rglob("PWNED")]
    again = in_project(project, folder, "--configfile", str(file))
    assert "Nothing to be done" in again.stderr
