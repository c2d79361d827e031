"""Helpers shared by all tests: small trajectories, real MPI ranks, real snakemake runs."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

# Tests compute with small arrays: a second thread gains nothing, and on a busy machine the threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where Slurm is installed and its controller does not run, Snakemake's plugin waits ten seconds for it at each start.
os.environ["SLURM_CONF"] = os.devnull

import numpy as np
import pytest
from lossatlas.io import store, trajectory
from lossatlas.io.layout import ParameterLayout, ParameterSlot

from tests.costly import COSTLY

ORACLES = {
    1: "closed forms: linear, logistic and softmax regression",
    2: "products against a dense Hessian",
    3: "all strategies agree; central differences of the gradient",
    4: "symmetry and linearity of products",
    5: "ragged batches give what one batch gives",
    6: "scaling and shifting the loss",
    7: "orthogonality of the Lanczos basis",
    8: "the Lanczos relation HQ - QT",
    9: "moments up to 2m - 1, and not beyond",
    10: "weights and nodes are in range",
    11: "Ritz residuals",
    12: "one copy of the top eigenvalue",
    13: "known spectra; stops at the degree",
    14: "any number of ranks, bit for bit",
    15: "PyTorch and Keras with the same weights",
    16: "curvlinops, PyHessian, scipy eigsh, sklearn PCA",
    17: "bowl, planted saddle, planted path",
    18: "the model is untouched, nothing leaks",
    19: "interrupted and resumed, bit for bit",
}


def pytest_terminal_summary(terminalreporter):
    """Print which oracles the tests of this run held; a test's name says its oracles."""
    counts: dict[int, list[int]] = {}
    for outcome, column in (("passed", 0), ("failed", 1)):
        for entry in terminalreporter.stats.get(outcome, []):
            named = re.search(r"::test_oracles?_((?:\d+_)+)", entry.nodeid)
            for number in named[1].strip("_").split("_") if named else []:
                counts.setdefault(int(number), [0, 0])[column] += 1
    if counts:
        terminalreporter.section("oracles")
        for number, (passed, failed) in sorted(counts.items()):
            terminalreporter.line(f"{number:>3}  {ORACLES[number]:<62}{passed:>4} passed{failed:>4} failed")


ONE_RUN = ("test_profiles.py", "test_readme.py", "test_report.py", "test_workflow.py")
"""Files whose tests share the run ``undisturbed``."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Let each file be run by one worker, for its tests share what takes long to make; so do the files above."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "undisturbed" if Path(file).name in ONE_RUN else file

    return ByFile(config, log)


def pytest_collection_modifyitems(items):
    """Mark what `make test` leaves out, see tests/costly.py."""
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        if name in COSTLY or name.split("[")[0] in COSTLY:
            item.add_marker(pytest.mark.full)


ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def environment(**extra: str) -> dict:
    """Return the environment of a process that finds this project's programs."""
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", **extra}


def mpiexec(
    ranks: int, *command: str, cwd: Path = ROOT, check: bool = True, **extra: str
) -> subprocess.CompletedProcess:
    """Run a command on real MPI ranks."""
    return _run([str(BIN / "mpiexec"), "-n", str(ranks), *command], cwd, check, extra)


def snakemake(*arguments: str, cwd: Path = ROOT, check: bool = True, **extra: str) -> subprocess.CompletedProcess:
    """Run snakemake on this project's workflow with ``cwd`` as working directory."""
    command = [str(BIN / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), *arguments]
    return _run(command, cwd, check, extra)


def _run(command: list[str], cwd: Path, check: bool, extra: dict) -> subprocess.CompletedProcess:
    done = subprocess.run(command, cwd=cwd, env=environment(**extra), capture_output=True, text=True, timeout=1800)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)[:300]}\nexit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def flat_layout(size: int) -> ParameterLayout:
    """Return a layout of one weight vector without filters."""
    return ParameterLayout((ParameterSlot("w", (size,), 0, "weight", None),))


def make_trajectory(
    run_dir: Path, thetas: np.ndarray, layout: ParameterLayout | None = None, name: str = "trajectory"
) -> trajectory.Trajectory:
    """Write a planted trajectory (rows are checkpoints) and open it."""
    link = run_dir / f"{name}.zarr"
    layout = layout or flat_layout(thetas.shape[1])
    recording = trajectory.Recording(layout, np.arange(len(thetas)), str(thetas.dtype), steps_per_epoch=10)
    (run_dir / ".stores").mkdir(parents=True, exist_ok=True)
    made = store.create(link, run_dir, store.Fingerprint("trajectory", {"planted": name}), recording.build)
    writer = trajectory.RowWriter(made)
    for theta in thetas:
        writer.append(parameters=theta, buffers=np.zeros(0), batch_loss=1.0, learning_rate=0.1)
    writer.flush()
    made.finish({"ranks": 1})
    store.publish(link, run_dir)
    return trajectory.Trajectory(link)


@pytest.fixture(autouse=True)
def seeded():
    """Begin every test at the same random numbers: what it shows depends neither on chance nor on the tests before."""
    random.seed(0)  # Keras draws the seeds of its initialisers from it
    if torch := sys.modules.get("torch"):  # tests that need no framework do not load one
        torch.manual_seed(0)


@pytest.fixture
def random_path() -> np.ndarray:
    """A random walk with drift: 30 checkpoints of 500 parameters, float64."""
    rng = np.random.default_rng(3)
    return np.cumsum(rng.standard_normal((30, 500)) + 0.3 * rng.standard_normal(500), axis=0)


def contents(path: Path) -> dict[str, bytes]:
    """Return all chunk files of a store by name: what must be equal bit for bit."""
    return {str(file.relative_to(path)): file.read_bytes() for file in store.chunk_files(path)}
