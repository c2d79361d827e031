"""The command `lossatlas`: commented configs that are checked, Snakemake's own options, mistakes of one line."""

import re
import subprocess
import sys
import webbrowser
from itertools import pairwise

import lossatlas
import pytest
import torch
import yaml
from lossatlas import command, config
from lossatlas.config.run import runs_of
from torch import nn

from tests.conftest import ROOT, environment

CODE = """
import torch
from torch import nn

def build(width=2):
    made = nn.Linear(3, width)
    made.bias.requires_grad_(False)
    return made

def trained():
    return nn.Linear(3, 2)

def wide():
    return build(4)

def data():
    return {"train": (torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64))}
"""


def recorded(path, steps=30):
    module = nn.Linear(3, 2)
    module.bias.requires_grad_(False)
    with lossatlas.record(module, path) as tape:
        for _ in range(steps):
            with torch.no_grad():
                module.weight += 0.1
            tape.step(1.0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "net", raising=False)  # that of another test
    return tmp_path


@pytest.mark.parametrize(("name", "steps", "plane", "stride"), [("my run", 30, "pca", 3), ("12", 2, "random", 1)])
def test_the_config_is_valid_and_fits_the_trajectory(folder, capsys, name, steps, plane, stride):
    path = f"{name}/trajectory.zarr"
    recorded(path, steps)
    (folder / "net.py").write_text(CODE)
    words = ["init", path, "--model", "net:build", "--data", "net:data", "--loss", "mse"]
    assert command.main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "next: lossatlas run config.yaml"
    written = yaml.safe_load((folder / "config.yaml").read_text())
    run = written["runs"][name.replace(" ", "-")]
    assert run["checkpoints"] == {"files": path}
    assert [run[key] for key in ("model", "data", "loss")] == [
        {"import": "net:build"}, {"import": "net:data"}, {"name": "mse"},
    ]  # fmt: skip
    assert list(run["planes"]) == [plane]
    assert run["spectra"] == {"stride": stride, "probes": 2, "steps": 6}
    (told,) = runs_of(config.load(written)).values()
    assert told.iterations == [*range(steps + 1)]
    text = (folder / "config.yaml").read_text()
    assert f"# {steps + 1} recorded iterations, 0 to {steps}, of 6 trained parameters, 2 frozen." in text
    lines = [line.strip() for line in text.splitlines()]
    for key in ("checkpoints:", "model:", "data:", "loss:", "spectra:"):
        assert any(one.startswith("#") for one, other in pairwise(lines) if other.startswith(key)), key


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("trained", "parameter 'bias' is frozen (2,) there and (2,) here"),
        ("wide", "parameter 'weight' is (2, 3) there and (4, 3) here"),
    ],
)
def test_a_model_that_is_not_what_was_recorded_is_told(folder, capsys, model, told):
    recorded("mine/trajectory.zarr", 4)
    (folder / "net.py").write_text(CODE)
    assert command.main(["init", "mine/trajectory.zarr", "--model", f"net:{model}", "--data", "net:data"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == (
        f"to be filled in: model: mine/trajectory.zarr was recorded from another network than it builds: {told}"
    )


def test_what_is_missing_is_told(folder, capsys):
    recorded("mine/trajectory.zarr")
    assert command.main(["init", "mine/trajectory.zarr"]) == 0
    assert "to be filled in: config: runs.mine.model.import: no module 'my_code'" in capsys.readouterr().out
    assert command.main(["init", "mine/trajectory.zarr"]) == 2
    assert (
        capsys.readouterr().err == "lossatlas: error: config.yaml is there already; name another file with --output\n"
    )
    assert command.main(["init", "nowhere.zarr", "--output", "other.yaml"]) == 2
    assert "nowhere.zarr: no such store" in capsys.readouterr().err
    assert not (folder / "other.yaml").exists()


def lossatlas_command(*words, cwd, **extra):
    """Run the command in a process of its own."""
    code = "import sys; from lossatlas.command import main; sys.exit(main())"
    python = [sys.executable, "-c", code, *words]
    return subprocess.run(python, cwd=cwd, env=environment(**extra), capture_output=True, text=True)


def test_plan_and_run_pass_on_to_the_workflow_from_any_folder(folder):
    planned = lossatlas_command("plan", str(ROOT / "config/test.yaml"), cwd=folder)
    assert planned.returncode == 0, planned.stderr
    assert re.search(r"^landscape +3$", planned.stdout, re.M)
    assert re.search(r"^tiny/trajectory +13 +\d+\.\d$", planned.stdout, re.M)
    assert not (folder / "results/test/tiny").exists()
    listed = lossatlas_command("run", str(ROOT / "config/test.yaml"), "--summary", cwd=folder)
    assert "results/test/tiny/report.html" in listed.stdout


def test_a_mistake_in_a_config_is_one_line(folder):
    (folder / "bad.yaml").write_text("runs: {a: {model: {name: lenett}}}")
    done = lossatlas_command("run", "bad.yaml", "-n", cwd=folder)
    assert done.returncode == 1
    assert "config: runs.a.model.name: 'lenett' is not one of" in done.stdout


def test_a_config_that_is_no_yaml_is_told_with_its_line(folder):
    (folder / "bad.yaml").write_text("runs:\n\ta: 1\n")
    told = lossatlas_command("plan", "bad.yaml", cwd=folder).stderr
    assert told.startswith("lossatlas: error: bad.yaml, line 2, column 1: not valid YAML: ")
    assert told.count("\n") == 1


def test_the_report_of_a_run_is_opened(folder, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    (folder / "mine").mkdir()
    assert command.main(["open", "mine"]) == 2
    assert "mine/report.html: no such report; `lossatlas run CONFIG` makes it" in capsys.readouterr().err
    (folder / "mine/report.html").write_text("<p>")
    assert command.main(["open", "mine"]) == 0
    assert capsys.readouterr().out == f"{folder}/mine/report.html\n"
    assert opened == [(folder / "mine/report.html").as_uri()]


def test_what_is_not_installed_is_said(folder, monkeypatch, capsys):
    assert command.main(["run", "none.yaml"]) == 2
    assert "none.yaml: no such config; `lossatlas init` writes one" in capsys.readouterr().err
    (folder / "config.yaml").write_text("runs: {}")
    monkeypatch.setattr(command, "CLONE", folder)
    assert command.main(["run", "config.yaml"]) == 2
    assert "the workflow is not in the installed package: clone" in capsys.readouterr().err
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert command.main(["plan", "config.yaml"]) == 2
    assert "snakemake is not installed; pip install 'lossatlas[workflow]'" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit):
        command.main(["--version"])
    assert capsys.readouterr().out == f"lossatlas {lossatlas.__version__}\n"
