"""Two undisturbed runs, shared by all tests that read them or copy them: of config/test.yaml, and in closed form."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml

from tests.conftest import ROOT, contents, snakemake
from tests.helpers.closed_form.bowl import MINIMUM, N
from tests.helpers.jobs import Job, planned_jobs, run_together


def test_config(**changes) -> dict:
    """Return config/test.yaml with some top-level keys or keys of its run changed."""
    config = yaml.safe_load((ROOT / "config/test.yaml").read_text())
    config["results"] = "results"
    for key, value in changes.items():
        (config["runs"]["tiny"] if key not in ("mpi", "fresh", "python_path") else config)[key] = value
    return config


test_config.__test__ = False


def write_config(folder: Path, config: dict, name: str = "config.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(yaml.safe_dump(config))
    return folder / name


def run_config(folder: Path, config: dict, *arguments: str, check: bool = True, **environment: str):
    file = write_config(folder, config)
    return snakemake("--configfile", str(file), "--cores", "2", *arguments, cwd=folder, check=check, **environment)


def all_contents(folder: Path) -> dict[str, dict[str, bytes]]:
    """Return the contents of every linked store below a folder, by name."""
    links = sorted(p for p in folder.rglob("*.zarr") if p.is_symlink())
    return {str(link.relative_to(folder)): contents(link) for link in links}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Path:
    """The folder of a run by two ranks that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_config(folder, test_config())
    return folder


class ClosedForm(NamedTuple):
    """A run on the loss in closed form: its folder, its jobs by the names of their stores, and what the stores hold.

    One job of each script that draws has not run; it is named as the script.
    """

    folder: Path
    jobs: dict[str, Job]
    drawing: dict[str, Job]
    contents: dict[str, dict[str, bytes]]

    def copy(self, to: Path, without: tuple[str, ...] | list[str] = ()) -> Path:
        """Copy the folder, where the stores of some jobs are still to be made."""
        shutil.copytree(self.folder, to, symlinks=True, dirs_exist_ok=True)
        for name in without:
            self.jobs[name].link(to).unlink()
            shutil.rmtree(self.jobs[name].store(to))
        return to


def closed_form_config(**changes) -> dict:
    """Return config/test.yaml with enough to do for every job, where evaluations cost next to nothing."""
    config = test_config(**changes)
    tiny = config["runs"]["tiny"]
    tiny["train"] |= {"epochs": 2, "record_every": 1}  # four chunks of rows
    tiny["planes"]["random"] |= {"points": [21, 21], "grid": {"mode": "adaptive", "tolerance": 0.001}}
    tiny["directions"]["mined"] = {"kind": "mined", "algorithm": "w-peak", "count": 3, "epochs": 40}
    derivatives = {"at": [-1, 0, 0.25], "strategy": "split"}
    tiny["curves"]["mined"] = {"x": "mined", "points": 5, "strategy": "eager", "second_order": derivatives}
    tiny["perturbations"] = {"end": {"draws": 12, "probes": 3, "steps": 5, "strategy": "split"}}
    tiny["overlaps"] = {"ends": {"x": ["random", "eigen"], "gaussians": 5}}
    tiny["spectra"] |= {"stride": 16, "steps": 12}
    tiny["tracking"] |= {"stride": 8}
    tiny["planes"]["random"]["curvature"]["points"] = [3, 3]
    return config


def import_job(training: Job, folder: Path) -> Job:
    """Write 60 checkpoints and return the job that makes a trajectory of them."""
    files = [folder / f"checkpoint{number}.npy" for number in range(60)]
    for number, file in enumerate(files):
        np.save(file, np.float32(MINIMUM + np.random.default_rng(number).standard_normal(N)))
    options = {"output": "results/tiny/imported.zarr", "run-dir": "results/tiny", "label": "tiny/checkpoints"}
    options["spec"] = training.words[training.words.index("--spec") + 1]
    words = [word for option, value in options.items() for word in (f"--{option}", value)]
    script = str(ROOT / "scripts/import_checkpoints.py")
    return Job("import_checkpoints", "imported", (script, *words, "--files", *map(str, files)))


@pytest.fixture(scope="session")
def closed_form(tmp_path_factory) -> ClosedForm:
    """A run in closed form by two ranks that nothing disturbed; do not write into its folder."""
    folder = tmp_path_factory.mktemp("closed_form")
    jobs, drawing = planned_jobs(write_config(folder, closed_form_config()), folder)
    jobs["imported"] = import_job(jobs["trajectory"], folder)
    run_together(list(jobs.values()), folder)
    return ClosedForm(folder, jobs, drawing, all_contents(folder))


@pytest.fixture
def wait_until() -> Callable:
    """Return a function that waits for a state of a process that runs, which must not end before."""

    def wait(state: Callable[[], bool], process, limit: float = 300.0) -> None:
        deadline = time.monotonic() + limit
        while not state():
            assert process.poll() is None, "the process ended before"
            assert time.monotonic() < deadline, "a state was never reached"
            time.sleep(0.02)

    return wait
