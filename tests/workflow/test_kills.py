"""`kill -9` at random instants: the same command goes on, nothing computed is lost, stores end up equal."""

import os
import random
import re
import signal
import subprocess
import time
from functools import cache

import psutil
import pytest

from tests.conftest import BIN, ROOT, environment, snakemake
from tests.workflow.conftest import all_contents, run_config, test_config, write_config

pytestmark = [pytest.mark.workflow, pytest.mark.mpi]
TARGETS = ["rank", "job", "controller"]
STORES = ("--until", "landscape", "spectra")
EVERY_STORE = (*STORES, "curves", "curvature", "tracking")


def long_config() -> dict:
    """The test run with finer grids, so that there is something to interrupt."""
    config = test_config()
    tiny = config["runs"]["tiny"]
    tiny["train"] |= {"epochs": 8, "record_every": 4}
    tiny["planes"]["pca"]["points"] = [31, 21]
    tiny["planes"]["random"] |= {"points": [41, 41], "grid": {"mode": "adaptive", "tolerance": 0.001}}
    tiny["tracking"]["stride"] = 9
    return config


def spectra_config(data_ranks: int = 2) -> dict:
    """A short training with enough spectra to be killed ten times, whose units save their state all the time."""
    often = {"save_minutes": 1e-3, "data_ranks": data_ranks}
    spectra = {"stride": 1, "probes": 4, "steps": 30, "batch_size": 50, "strategy": "split"}
    return test_config(spectra=spectra, planes={}, mpi=often)


CASES = {
    "landscape and spectra": (long_config, STORES),
    "spectra": (spectra_config, ("--until", "spectra")),
    "every store": (test_config, EVERY_STORE),
}
USUAL_SECONDS = {"landscape and spectra": 40.0, "spectra": 20.0}
"""What undisturbed runs take on two quiet cores; on a slower machine the random instants are later."""


def start(folder, *arguments, **extra):
    """Start snakemake in the background, as a process group of its own."""
    command = [str(BIN / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), "--configfile", "config.yaml"]
    command += ["--cores", "2", "--rerun-incomplete", *arguments]
    log = (folder / "output.log").open("a")
    return subprocess.Popen(
        command, cwd=folder, env=environment(**extra), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )


def victims(controller: psutil.Process, target: str) -> list[psutil.Process]:
    """Return the processes of a kind that run below the controller."""
    if target == "controller":
        return [controller]
    found = []
    for process in controller.children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        is_rank = (
            re.search(r"scripts/(landscape|curves|spectra|curvature|tracking)\.py", line)
            and "python" in line.split()[0]
        )
        is_job = line.split()[:1] and os.path.basename(line.split()[0]) in ("mpiexec", "mpiexec.hydra")
        is_training = "scripts/train.py" in line and "python" in line.split()[0]
        if {"rank": is_rank, "job": is_job, "train": is_training}[target]:
            found.append(process)
    return found


def has_begun_a_store(folder) -> bool:
    """Return whether a store that is not finished holds results of a unit."""
    finished = {link.resolve() for link in folder.glob("results/**/*.zarr") if link.is_symlink()}
    chunks = folder.glob("results/*/.stores/**/work/rows/c/**/*")
    return any(chunk.is_file() and not finished & set(chunk.parents) for chunk in chunks)


def kill_once(folder, target: str, rng: random.Random, pace: float, *arguments: str, begun: bool = False) -> bool:
    """Start the workflow, kill one process of a kind at a random instant; return whether one was there.

    ``pace`` is how much slower than usual this machine is now. ``begun`` waits until there is something to lose, and
    then kills at once.
    """
    process = start(folder, *arguments)
    controller = psutil.Process(process.pid)
    deadline = time.monotonic() + pace * (rng.uniform(0.5, 3.0) + (4.0 if target == "controller" else 0.0))
    while time.monotonic() < deadline or target != "controller":
        if process.poll() is not None:
            return False
        if begun and has_begun_a_store(folder) and victims(controller, target):
            break
        if not begun and target != "controller" and victims(controller, target):
            time.sleep(pace * rng.uniform(0.0, 5.0))
            break
        time.sleep(0.05)
    found = victims(controller, target) if process.poll() is None else []
    if not found:
        process.wait(timeout=300)
        return False
    os.kill(rng.choice(found).pid, signal.SIGKILL)
    process.wait(timeout=600)
    assert process.returncode != 0
    return True


def unlock(folder) -> None:
    snakemake("--unlock", "--configfile", "config.yaml", cwd=folder)


@pytest.fixture(scope="module")
def expected_of(tmp_path_factory):
    """A function from a case to the stores of a run that nothing disturbed, and the seconds that it took."""

    @cache
    def contents_of(case: str) -> tuple[dict, float]:
        make_config, stores = CASES[case]
        folder, begun = tmp_path_factory.mktemp("expected"), time.monotonic()
        run_config(folder, make_config(), *stores)
        return all_contents(folder), time.monotonic() - begun

    return contents_of


@pytest.mark.parametrize(("case", "kills"), [("landscape and spectra", 10), ("spectra", 5)])
@pytest.mark.parametrize("seed", range(int(os.environ.get("LOSSATLAS_KILL_ROUNDS", "1"))))
def test_oracle_19_random_kills_change_nothing(tmp_path, expected_of, case, kills, seed):
    make_config, stores = CASES[case]
    write_config(tmp_path, make_config())
    expected, seconds = expected_of(case)
    rng, killed, pace = random.Random(seed), [], max(1.0, seconds / USUAL_SECONDS[case])
    while len(killed) < kills:
        target = TARGETS[len(killed) % 3]
        last = len(killed) == kills - 1
        if kill_once(tmp_path, target, rng, pace, *stores, begun=last):
            killed.append(target)
            if target == "controller":
                unlock(tmp_path)
        else:  # it was quicker: begin anew, so that there is something to kill
            subprocess.run(["rm", "-rf", str(tmp_path / "results")], check=True)
    done = run_config(tmp_path, make_config(), "--rerun-incomplete", *stores)
    assert all_contents(tmp_path) == expected
    said = (tmp_path / "output.log").read_text() + done.stdout + done.stderr
    found = [int(n) for n in re.findall(r"(\d+) of \d+ chunks found finished", said)]
    assert max(found) > 0, "the attempt after the last kill found finished chunks"


def test_two_attempts_that_overlap_do_no_harm(tmp_path, expected_of):
    """As after a requeue, or when a job outlives a killed snakemake: both compute the same units of one store."""
    make_config, stores = CASES["spectra"]
    write_config(tmp_path, make_config())
    run_config(tmp_path, make_config(), "--until", "train")
    attempts = [start(tmp_path, *stores, "--nolock") for _ in range(2)]
    for attempt in attempts:
        attempt.wait(timeout=400)
    assert 0 in [attempt.returncode for attempt in attempts], (tmp_path / "output.log").read_text()[-5000:]
    run_config(tmp_path, make_config(), "--rerun-incomplete", *stores)
    assert all_contents(tmp_path) == expected_of("spectra")[0]


@pytest.mark.parametrize(("name", "data_ranks"), [("SIGTERM", 1), ("SIGUSR1", 2)])
def test_a_job_that_is_told_to_stop_keeps_its_units_and_goes_on(tmp_path, expected_of, name, data_ranks):
    config = spectra_config(data_ranks)
    write_config(tmp_path, config)
    process = start(tmp_path, "--until", "spectra")
    log = tmp_path / "results/tiny/logs/spectra.log"
    while not (log.exists() and "chunks found finished" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    (launcher,) = victims(psutil.Process(process.pid), "job")
    launcher.send_signal(getattr(signal, name))
    process.wait(timeout=60)
    assert process.returncode != 0
    assert re.search(rf"spectra: stopped by {name}, \d+ chunks missing; run the same command again", log.read_text())
    assert f"What failed:\n  tiny/spectra: stopped by {name}" in (tmp_path / "output.log").read_text()
    run_config(tmp_path, config, "--rerun-incomplete", "--until", "spectra")
    assert all_contents(tmp_path) == expected_of("spectra")[0]
    assert not list(tmp_path.glob("results/tiny/.stores/*.states-*")), "states of long units were left behind"


def test_training_that_is_told_to_stop_saves_its_state(tmp_path, expected_of):
    config = long_config()
    config["runs"]["tiny"]["train"]["epochs"] = 20
    write_config(tmp_path, config)
    process = start(tmp_path, "--until", "train")
    log = tmp_path / "results/tiny/logs/train.log"
    while not (log.exists() and " iterations, " in log.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    (trainer,) = victims(psutil.Process(process.pid), "train")
    trainer.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    stopped = int(re.search(r"stopped by SIGTERM at iteration (\d+)", log.read_text())[1])
    done = run_config(tmp_path, config, "--rerun-incomplete", "--until", "train")
    assert f"resuming at iteration {stopped} of 800" in done.stdout + done.stderr
    fresh = tmp_path / "fresh"
    run_config(fresh, config, "--until", "train")
    assert all_contents(tmp_path / "results") == all_contents(fresh / "results")


def test_kills_between_finishing_and_linking(tmp_path, expected_of):
    """Every store is killed once between its last write and its link; each attempt then goes one store further."""
    write_config(tmp_path, test_config())
    marks = tmp_path / "marks"
    marks.mkdir()
    extra = {
        "PYTHONPATH": str(ROOT / "tests/helpers/kill_before_link"),
        "KILL_BEFORE_LINK_MARKS": str(marks),
    }
    attempts = 0
    while attempts < 18:
        attempts += 1
        arguments = ("--rerun-incomplete", *EVERY_STORE)
        done = run_config(tmp_path, test_config(), *arguments, check=False, **extra)
        if done.returncode == 0:
            break
    stores = (
        "trajectory",
        *["directions"] * 3,
        *["landscape"] * 3,
        *["curves"] * 2,
        "curvature",
        "spectra",
        "line",
        "tracking",
    )
    assert len(list(marks.iterdir())) == len(stores), stores
    assert 4 <= attempts <= len(stores) + 2
    assert "found finished, nothing to compute" in done.stdout + done.stderr
    assert all_contents(tmp_path) == expected_of("every store")[0]
