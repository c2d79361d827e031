"""Jobs that are killed, told to stop, run twice at once or on other numbers of ranks end with the same stores.

The command lines are those of the workflow, ranks and signals are real; the loss is in closed form. What only
snakemake can do wrong is shown through it, at the end.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr

from tests.conftest import BIN, ROOT, contents, environment, snakemake
from tests.helpers.closed_form.bowl import loss, second
from tests.helpers.jobs import CLOSED_FORM, DRAWING, run_together, said
from tests.workflow.conftest import all_contents, closed_form_config, run_config, test_config, write_config

pytestmark = [pytest.mark.workflow, pytest.mark.mpi]

KINDS = {
    "train": "trajectory",
    "import_checkpoints": "imported",
    "pca": "directions/pca",
    "directions": "directions/random",
    "derivatives": "directions/eigen",
    "mined": "directions/mined",
    "overlaps": "overlaps/ends",
    "landscape": "landscape/random",
    "curves": "curves/gaussian",
    "perturbations": "perturbations/end",
    "spectra": "spectra",
    "curvature": "curvature/random",
    "tracking": "tracking",
}
"""A job of each script that makes stores."""

IN_UNITS = ("landscape", "curves", "perturbations", "spectra", "curvature", "tracking")
FOUND = r"(\d+) of \d+ chunks found finished"


def test_every_script_that_makes_stores_is_killed_below(closed_form):
    assert {name: closed_form.jobs[name].script for name in KINDS.values()} == {n: kind for kind, n in KINDS.items()}
    assert {job.script for job in closed_form.jobs.values()} == set(KINDS)


def test_stores_in_closed_form_hold_the_closed_form(closed_form):
    """What all stores below are compared with is right."""
    run = closed_form.folder / "results/tiny"
    path = xr.open_zarr(run / "trajectory.zarr", chunks=None)["parameters"].values.astype(float)
    plane = xr.open_zarr(run / "landscape/pca.zarr", chunks=None)
    expected = [loss(theta) for theta in path]
    assert np.allclose(plane["path_true_loss"].sel(split="train").values - 1, expected, rtol=1e-12)
    spectra = xr.open_zarr(run / "spectra.zarr", chunks=None)
    for i, at in enumerate(spectra["iteration"].values):
        diagonal, found = second(path[int(at)]), spectra.isel(iteration=i)
        spread = np.sqrt(2 * np.square(diagonal).sum() / found.sizes["probe"])  # of Gaussian probes
        assert abs(found["trace"] - diagonal.sum()) < 4 * spread
        assert diagonal.max() - 0.1 < found["largest"] < diagonal.max() + 1e-5
        assert diagonal.min() - 1e-5 < found["smallest"] < diagonal.min() + 0.3
    eigen = xr.open_zarr(run / "directions/eigen.zarr", chunks=None)["eigenvalue"].values
    assert np.allclose(eigen, [second(path[-1]).max(), second(path[-1]).min()], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_oracle_19_each_kind_of_job_is_killed_half_way_and_before_its_link(closed_form, tmp_path, kind):
    """The first attempt dies before a rank writes its second unit, or its third chunk of rows; the second finishes
    the store and dies."""
    job = closed_form.jobs[KINDS[kind]]
    folder = closed_form.copy(tmp_path, [job.name])
    rows = kind in ("train", "import_checkpoints")
    when = "all unit 2" if kind in IN_UNITS else "0 unit 3" if rows else "0 any 100"
    said_first = job.run(folder, check=False, EVENTS_KILL=when, **CLOSED_FORM)
    assert "Traceback" not in said_first
    assert not job.link(folder).exists()
    said_second = job.run(folder, check=False, EVENTS_KILL="0 os.symlink 1", **CLOSED_FORM)
    if kind in IN_UNITS:
        assert int(re.search(FOUND, said_second)[1]) >= 1, "what was computed is kept"
    if kind == "train":
        assert int(re.search(r"resuming at iteration (\d+) of 80", said_second)[1]) >= 50
    assert not job.link(folder).exists()
    assert contents(job.store(folder)) == closed_form.contents[f"results/tiny/{job.name}.zarr"]
    assert "found finished, nothing to compute" in job.run(folder, **CLOSED_FORM)
    assert all_contents(folder) == closed_form.contents


@pytest.mark.full
@pytest.mark.parametrize("seed", range(int(os.environ.get("LOSSATLAS_KILL_ROUNDS", "1"))))
def test_oracle_19_fifty_random_kills_change_nothing(closed_form, tmp_path, seed):
    """Each at a random event, an evaluation or a change of a file, of a random rank of a job."""
    rng, kills = random.Random(seed), 0
    counts = {name: events_of(closed_form, job, tmp_path / "counts") for name, job in closed_form.jobs.items()}
    folder = closed_form.copy(tmp_path / "killed", list(closed_form.jobs))
    while kills < 50:
        for name, job in closed_form.jobs.items():  # in an order in which each finds its inputs
            for _ in range(4):
                rank = rng.choice([r for r, count in enumerate(counts[name]) if count])
                when = f"{rank} any {rng.randint(1, counts[name][rank])}"
                status = job.start(folder, EVENTS_KILL=when, **CLOSED_FORM).wait(timeout=300)
                kills += status != 0
            job.run(folder, **CLOSED_FORM)
        assert all_contents(folder) == closed_form.contents
        shutil.rmtree(folder / "results")
    assert "Traceback" not in said(folder)


def events_of(run, job, folder) -> list[int]:
    """Return how many events each rank of an undisturbed job has."""
    made = run.copy(folder / job.name.replace("/", "-"), [job.name])
    (made / "events").mkdir()
    job.run(made, EVENTS_COUNT=str(made / "events"), **CLOSED_FORM)
    return [int(file.read_text()) for file in sorted((made / "events").iterdir())]


def test_two_attempts_that_overlap_do_no_harm(closed_form, tmp_path, wait_until):
    """As after a requeue, or when a job outlives a killed snakemake: both compute the same units of one store."""
    job = closed_form.jobs["spectra"]
    folder = closed_form.copy(tmp_path, [job.name])
    attempts = []
    for number in (1, 2):  # the ranks of each wait within their first unit until all are there
        hold = f"all evaluate 5 {tmp_path}/{number}"
        attempts.append(job.start(folder, EVENTS_HOLD=hold, **CLOSED_FORM))
        wait_until(lambda n=number: len(list(tmp_path.glob(f"{n}-?"))) == 2, attempts[-1])
    for mark in tmp_path.glob("?-?"):
        mark.unlink()
    assert 0 in [attempt.wait(timeout=300) for attempt in attempts], said(folder)
    job.run(folder, **CLOSED_FORM)
    assert all_contents(folder) == closed_form.contents


@pytest.mark.parametrize(
    ("kind", "name", "data_ranks"),
    [
        ("spectra", "SIGTERM", "1"),
        ("spectra", "SIGUSR1", "2"),
        ("tracking", "SIGTERM", "2"),
        ("landscape", "SIGUSR1", "auto"),
        ("curves", "SIGTERM", "auto"),
        ("curvature", "SIGUSR1", "auto"),
    ],
)
def test_a_job_that_is_told_to_stop_keeps_its_units_and_goes_on(
    closed_form, tmp_path, wait_until, kind, name, data_ranks
):
    job = closed_form.jobs[KINDS[kind]]
    folder, marks = closed_form.copy(tmp_path, [job.name]), [tmp_path / f"mark-{rank}" for rank in (0, 1)]
    changes = {"data-ranks": data_ranks, "save-minutes": "0.001"}
    process = job.start(folder, changes=changes, EVENTS_HOLD=f"all evaluate 7 {tmp_path}/mark", **CLOSED_FORM)
    wait_until(lambda: all(mark.exists() for mark in marks), process)  # both are within their first units
    process.send_signal(getattr(signal, name))
    assert process.wait(timeout=300) != 0
    assert re.search(rf"{job.name}: stopped by {name}, \d+ chunks missing; run the same command again", said(folder))
    job.run(folder, changes=changes, **CLOSED_FORM)
    assert all_contents(folder) == closed_form.contents
    assert not list(folder.glob("results/tiny/.stores/*.states-*")), "states of long units were left behind"


SOON, LATER = (1, 12), (3, 30, 60, 100)
"""Events at which jobs are stopped: changes of their files and evaluations, counted from 1."""


@pytest.mark.parametrize("event", [*SOON, *(pytest.param(number, marks=pytest.mark.full) for number in LATER)])
@pytest.mark.parametrize("kind", [*KINDS, *DRAWING])
def test_each_kind_of_job_ends_with_75_when_it_is_stopped(closed_form, tmp_path, kind, event):
    """The signal goes to all processes of a job, its shell too, as clusters send it."""
    job = closed_form.jobs[KINDS[kind]] if kind in KINDS else closed_form.drawing[kind]
    folder, mark = closed_form.copy(tmp_path, [job.name] if kind in KINDS else []), tmp_path / "mark-0"
    if kind == "report":  # of what is there: neither videos nor figures
        words, place = list(job.words), job.words.index("--settings") + 1
        settings = json.loads(words[place])
        kept = {key: value for key, value in settings["runs"]["tiny"].items() if key not in ("spectra", "tracking")}
        settings["runs"]["tiny"] = {**kept, "planes": {}, "curves": {}, "overlaps": {}, "spectra_between": {}}
        settings["runs"]["tiny"]["perturbations"] = {}
        words[place] = json.dumps(settings)
        job = replace(job, words=tuple(words))
    (folder / "results/tiny/video").mkdir()
    (folder / "results/tiny/figures").mkdir()
    process = job.start_in_shell(folder, EVENTS_HOLD=f"0 any {event} {tmp_path}/mark", **CLOSED_FORM)
    while process.poll() is None and not mark.exists():
        time.sleep(0.02)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    status, told = process.wait(timeout=300), said(folder)
    assert status == 75 if event == 1 else status in (0, 75), told
    assert mark.exists() or status == 0, told
    assert not re.search("Traceback|error|torn", told), told
    assert ("stopped by SIGTERM" in told) == (status == 75), told


def test_training_that_is_told_to_stop_saves_its_state(closed_form, tmp_path, wait_until):
    job, mark = closed_form.jobs["trajectory"], tmp_path / "mark-0"
    process = job.start(tmp_path, EVENTS_HOLD=f"0 evaluate 37 {tmp_path}/mark", **CLOSED_FORM)
    wait_until(mark.exists, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 75
    assert "stopped by SIGTERM at iteration 37; run the same command again" in said(tmp_path)
    assert "resuming at iteration 37 of 80; 37 of 81 rows found finished" in job.run(tmp_path, **CLOSED_FORM)
    assert contents(job.store(tmp_path)) == closed_form.contents["results/tiny/trajectory.zarr"]


@pytest.mark.parametrize(
    ("ranks", "data_ranks", "queue"),
    [(1, "auto", "counter"), pytest.param(3, "3", "counter", marks=pytest.mark.full), (4, "2", "static")],
)
def test_oracle_14_stores_are_equal_bit_for_bit_on_any_number_of_ranks(closed_form, tmp_path, ranks, data_ranks, queue):
    """All jobs; there are two probes, so three and four ranks are more than there are.

    Fixed shares give every rank at least two units. The counter promises one: a rank that gets no processor on a busy
    machine leaves the others to the rest, which is what the counter is for.
    """
    changes = {"data-ranks": data_ranks, "queue": queue}
    run_together(list(closed_form.jobs.values()), tmp_path, ranks, changes)
    for folder, size, how in ((tmp_path, ranks, queue), (closed_form.folder, 2, "counter")):
        for job in ("landscape/pca", "landscape/random", "spectra"):
            timing = json.loads((folder / f"results/tiny/logs/{job}.timing.json").read_text())
            assert len(timing["ranks"]) == size
            assert all(rank["units"] >= (2 if how == "static" else 1) for rank in timing["ranks"]), timing
    assert all_contents(tmp_path) == closed_form.contents


def test_settings_that_return_bring_their_store_back(closed_form, tmp_path):
    folder, job = closed_form.copy(tmp_path), closed_form.jobs["landscape/pca"]
    other = job.with_spec(evaluation={"train_samples": 60, "test_samples": 0, "batch_size": 40, "seed": 0})
    assert "set aside" in other.run(folder, **CLOSED_FORM)
    assert "brought back" in job.run(folder, **CLOSED_FORM)
    assert all_contents(folder) == closed_form.contents


def test_fresh_recomputes_and_gets_the_same(closed_form, tmp_path):
    folder, job = closed_form.copy(tmp_path), closed_form.jobs["landscape/pca"]
    told = replace(job, words=(*job.words, "--fresh")).run(folder, **CLOSED_FORM)
    assert "asked to compute afresh" in told
    assert re.search(FOUND, told)[1] == "0"
    assert all_contents(folder) == closed_form.contents


def test_a_torn_store_is_named_and_mended_by_deleting_it(closed_form, tmp_path):
    plane, pca = closed_form.jobs["landscape/pca"], closed_form.jobs["directions/pca"]
    folder = closed_form.copy(tmp_path, [plane.name])
    (pca.store(folder) / "used/c/1/0").unlink()
    told = plane.run(folder, check=False, **CLOSED_FORM)
    assert "Traceback" not in told
    there, written = re.search(
        r"directions/pca\.zarr: torn, (\d+) of (\d+) chunk files are there; delete", told
    ).groups()
    assert int(there) == int(written) - 1
    shutil.rmtree(pca.store(folder))
    pca.run(folder, **CLOSED_FORM)
    plane.run(folder, **CLOSED_FORM)
    assert all_contents(folder) == closed_form.contents


def start_workflow(folder: Path, *arguments: str, **extra: str) -> subprocess.Popen:
    """Start snakemake in the background, as a session of its own."""
    command = [str(BIN / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), "--configfile", "config.yaml"]
    command += ["--cores", "2", "--rerun-incomplete", *arguments]
    with (folder / "output.log").open("a") as log:
        how = {"cwd": folder, "env": environment(**extra), "stdout": log, "stderr": log, "start_new_session": True}
        return subprocess.Popen(command, **how)


def victim(controller: psutil.Process, target: str) -> psutil.Process:
    """Return a process of a kind that runs below the controller."""
    if target == "controller":
        return controller
    for process in controller.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            program, *rest = process.cmdline() or [""]
            name = os.path.basename(program)
            is_rank = name.startswith("python") and rest and re.search(r"scripts/\w+\.py$", rest[0])
            if is_rank if target == "rank" else name.startswith("mpiexec"):
                return process
    raise AssertionError(f"no {target} is running")


def test_oracle_19_snakemake_goes_on_after_kills_of_ranks_jobs_and_itself(closed_form, tmp_path, wait_until):
    kill_through_snakemake(tmp_path, closed_form_config(), closed_form.contents, wait_until, **CLOSED_FORM)


@pytest.mark.full
def test_oracle_19_a_network_goes_on_after_kills_of_ranks_jobs_and_snakemake(undisturbed, tmp_path, wait_until):
    extra = CLOSED_FORM | {"REAL_NETWORK": "1"}
    kill_through_snakemake(tmp_path, test_config(), all_contents(undisturbed), wait_until, **extra)


def kill_through_snakemake(tmp_path: Path, config: dict, expected: dict, wait_until, **extra: str) -> None:
    """First training dies between finishing and linking; then a job that is held in its units loses one process after
    the other, and is told to stop; the stores are those expected."""
    write_config(tmp_path, config)
    stores = ("--until", "landscape", "spectra")
    assert start_workflow(tmp_path, *stores, EVENTS_KILL="0 os.symlink 1", **extra).wait(timeout=300) != 0
    for target in ("rank", "job", "controller", "told to stop"):
        process = start_workflow(tmp_path, *stores, EVENTS_HOLD=f"1 unit 2 {tmp_path}/{target.split()[0]}", **extra)
        mark, controller = tmp_path / f"{target.split()[0]}-1", psutil.Process(process.pid)
        wait_until(mark.exists, process)
        children = controller.children(recursive=True)
        victim(controller, target).send_signal(signal.SIGTERM if target == "told to stop" else signal.SIGKILL)
        if target != "told to stop":
            mark.unlink(missing_ok=True)  # what has lost its controller goes on
        assert process.wait(timeout=300) != 0
        psutil.wait_procs(children, timeout=300)
        if target == "controller":
            snakemake("--unlock", "--configfile", "config.yaml", cwd=tmp_path)
    done = run_config(tmp_path, config, "--rerun-incomplete", *stores, **extra)
    found, text = all_contents(tmp_path), said(tmp_path) + done.stdout + done.stderr
    assert found == {name: expected[name] for name in found}
    assert {Path(name).stem for name in found} == {"trajectory", "spectra", "training", "pca", "random", "eigen"}
    assert "train: found finished, nothing to compute" in text
    assert re.search(r"What failed:\n  tiny/\S+: stopped by SIGTERM", text)
    assert max(int(n) for n in re.findall(FOUND, text)) > 0
