"""Folders and files may have any name: nothing of it reaches a shell, and what Snakemake cannot take is refused."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import BIN, ROOT, _run

CRUEL = 'r e\'s "ü" `touch PWNED`;$(touch PWNED) & *'
OWN_CODE = """
import torch

def loss(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
"""
LIST = 'python() { printf \'%s\\0\' "$@"; }; mpiexec() { python "$@"; }; logged() { cat; python "$@"; }; '


def write(folder: Path, settings: dict) -> Path:
    """Write a config, and the code that it imports."""
    folder.mkdir(parents=True, exist_ok=True)
    for own in settings.get("python_path", ["."]):
        (folder / own).mkdir(exist_ok=True)
        (folder / own / "own_loss.py").write_text(OWN_CODE)
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


def snakemake(project: Path, folder: Path, *arguments: str, check: bool = True):
    """Run snakemake on a copy of the project."""
    command = [str(BIN / "snakemake"), "--snakefile", str(project / "Snakefile"), "--cores", "2", *arguments]
    return _run(command, folder, check, {"PYTHONPATH": str(project / "workflow")})


def test_folders_of_any_name(project, tmp_path):
    """A run to its report with cruel names of the project, of the working directory, of results, code and config."""
    folder, results = tmp_path / f"work {CRUEL}", f"-{CRUEL}/sub"
    tiny = {
        "model": {"name": "lenet"},
        "loss": {"import": "own_loss:loss"},
        "train": {"epochs": 0.05, "batch_size": 50},
        "evaluation": {"train_samples": 20, "test_samples": 0},
        "planes": {"random": {"x": "random/1", "y": "random/2", "points": [3, 3], "strategy": "eager"}},
        "video": {"hold_seconds": 0},
    }
    settings = {"results": results, "python_path": [f"own {CRUEL}"], "mpi": {"ranks": 1}, "runs": {"tiny": tiny}}
    file = write(folder, settings)
    snakemake(project, folder, "--configfile", str(file))
    made = folder / results / "tiny"
    for name in ("report.html", "video/random.mp4", "figures/random_contour.png", "logs/landscape/random.log"):
        assert (made / name).stat().st_size > 100, name
    assert not [*tmp_path.rglob("PWNED"), *project.parent.rglob("PWNED")]
    assert "Nothing to be done" in snakemake(project, folder, "--configfile", str(file), "-n").stdout


def every_rule(folder: Path) -> dict:
    """Return a config that needs every rule, with cruel names wherever a name is free."""
    config = yaml.safe_load((ROOT / "config/test.yaml").read_text())
    config |= {"results": CRUEL, "data_root": f"--data {CRUEL}", "python_path": [f"own {CRUEL}"]}
    tiny = config["runs"]["tiny"]
    for number in range(3):
        (folder / f"-{number} {CRUEL}.pt").touch()
    np.save(folder / f"{CRUEL}.npy", np.zeros((1, 1)))
    tiny["data"] = {"name": "cifar10"}
    tiny["metrics"] = {"mine": "own_loss:loss"}
    tiny["spectra"]["variants"] = {"ggn": {"operator": "ggn"}}
    tiny["video"]["frames"] = True
    tiny["directions"] |= {
        "gradient": {"kind": "gradient"},
        "difference": {"kind": "difference", "to": [{"run": "imported"}]},
        "file": {"kind": "file", "path": f"{CRUEL}.npy"},
        "mined": {"kind": "mined", "algorithm": "vvv-basin", "to": [{"run": "imported"}]},
        "bend": {"kind": "connection", "to": {"run": "imported"}},
    }
    tiny["overlaps"] = {"all": {"x": ["gradient", "mined"]}}
    tiny["perturbations"] = {"all": {}}
    tiny["curves"]["all"] = {"x": ["gradient", "difference", "file"]}
    tiny["curves"]["bend"] = {"connection": "bend"}
    imported = {"model": {"name": "lenet"}, "checkpoints": {"files": "-*.pt"}, "planes": {}}
    pretrained = {"model": {"name": "mobilenet-v2", "pretrained": "imagenet1k-v1"}, "planes": {}}
    config["runs"] |= {"imported": imported, "pretrained": pretrained}
    return config


def test_every_command_is_quoted(project, tmp_path):
    """A shell takes every command of a dry run apart into arguments in which each name is whole."""
    file = write(tmp_path, every_rule(tmp_path))
    said = snakemake(project, tmp_path, "--configfile", str(file), "-n", "-p", "all", "plan").stdout
    commands = [c for c in re.findall(r"^Shell command: (.*)$", said, re.MULTILINE) if c != "None"]
    rules = "".join(smk.read_text() for smk in (ROOT / "workflow/rules").glob("*.smk"))
    scripts = {*re.findall(r'SCRIPTS / "(\w+\.py)"', rules), "plan.py"}
    for command in commands:
        done = subprocess.run(["bash", "-c", LIST + command], cwd=tmp_path, capture_output=True, text=True, check=True)
        arguments = done.stdout.split("\0")
        script = next(Path(argument).name for argument in arguments if argument.endswith(".py"))
        scripts.discard(script)
        named = [argument for argument in arguments if "PWNED" in argument]
        assert len(named) >= 2, f"{script}: neither script nor folders are named"
        for argument in named:
            unescaped = argument.replace('\\"', '"').replace("\\u00fc", "ü")
            assert unescaped.count("touch PWNED") == 2 * unescaped.count(CRUEL), f"{script}: {argument}"
    assert not scripts, "these scripts were not called"
    assert not list(tmp_path.rglob("PWNED"))


def test_keys_given_twice_are_refused(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("runs:\n  a: {model: {name: lenet}, seed: 1}\n  b: {model: {name: lenet}}\n  a: {seed: 2}\n")
    done = snakemake(ROOT, tmp_path, "--configfile", str(file), "-n", check=False)
    assert f"config: runs.a: given twice in {file}, lines 2 and 4; keep one" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
