"""`snakemake --profile slurm` on a real Slurm: MPI jobs, and what clusters do to jobs."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import BIN, environment
from tests.slurm.conftest import STORES, copy_project
from tests.workflow.conftest import all_contents

DEADLINE = 400.0
ACTIVITIES = {"start-up", "read", "compute", "communication", "write", "idle", "other"}
RULES = {"landscape": "landscape/pca", "spectra": "spectra"}


def start(project: Path, *arguments: str) -> subprocess.Popen:
    """Start the literal `snakemake --profile slurm` in the project's root."""
    log = (project / "output.log").open("a")
    command = [str(BIN / "snakemake"), "--profile", "slurm", *arguments]
    return subprocess.Popen(command, cwd=project, env=environment(), stdout=log, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen, project: Path) -> None:
    """Wait for the workflow's good end."""
    process.wait(timeout=DEADLINE)
    assert process.returncode == 0, (project / "output.log").read_text()[-6000:]


def log_of(project: Path, rule: str) -> str:
    file = project / f"results/tiny/logs/{RULES[rule]}.log"
    return file.read_text() if file.exists() else ""


def chunks_written(project: Path, rule: str) -> int:
    folder = project / f"results/tiny/.stores/{RULES[rule]}.zarr/work/rows/c"
    return len(list(folder.iterdir())) if folder.exists() else 0


def wait_until(what, process: subprocess.Popen | None, said: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not what():
        assert process is None or process.poll() is None, f"the workflow ended before: {said}"
        assert time.monotonic() < deadline, said
        time.sleep(0.05)


def running_job(rule: str) -> str:
    """Return Slurm's number of the rule's job."""
    listed = subprocess.run(["squeue", "-h", "-o", "%i %T %k"], check=True, capture_output=True, text=True).stdout
    jobs = [line.split()[0] for line in listed.splitlines() if f"rule_{rule}" in line and " RUNNING " in line]
    assert len(jobs) == 1, listed
    return jobs[0]


def send_term(project: Path, rule: str) -> None:
    subprocess.run(["scancel", "--signal=TERM", running_job(rule)], check=True)


def requeue(project: Path, rule: str) -> None:
    """Requeue a job one of whose ranks no longer answers, so that Slurm kills them all."""
    job = running_job(rule)
    os.kill(rank_process(project, rule), signal.SIGSTOP)
    subprocess.run(["scontrol", "requeue", job], check=True)

    def starts() -> bool:
        # Slurm holds a requeued job back for two minutes; an administrator may let it start.
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True)
        shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True).stdout
        return "JobState=RUNNING" in shown and "Restarts=1" in shown

    wait_until(starts, None, f"job {job} starts again")


def rank_process(project: Path, rule: str) -> int:
    """Return the process of rank 1."""
    places = re.findall(r"(\d) = process (\d+) on", log_of(project, rule).splitlines()[0])
    return int(dict(places)["1"])


def kill_rank(project: Path, rule: str) -> None:
    os.kill(rank_process(project, rule), signal.SIGKILL)


def test_the_whole_test_config_runs_with_three_ranks(tmp_path):
    project = copy_project(tmp_path / "project")
    finish(start(project, "--configfile", "config/test.yaml"), project)
    run = project / "results/test/tiny"
    assert (run / "report.html").stat().st_size > 10**6
    for job in ("landscape/pca", "landscape/eigen", "spectra"):
        timing = json.loads((run / f"logs/{job}.timing.json").read_text())
        assert [rank["rank"] for rank in timing["ranks"]] == [0, 1, 2]
        assert all(
            {"start-up", "compute", "communication", "write", "idle"} <= r["seconds"].keys() for r in timing["ranks"]
        )
        log = (run / f"logs/{job}.log").read_text()
        assert re.search(r"ranks: 0 = process \d+ on \S+, 1 = process \d+ on \S+, 2 = process \d+ on", log)
        done = [int(n) for n in re.findall(r"rank \d did (\d+) chunks", log)]
        assert len(done) == 3
        assert sum(done) > 0
    print((run / "logs/spectra.log").read_text())


@pytest.mark.parametrize("disturb", [send_term, requeue, kill_rank])
def test_disturbed_jobs_go_on_by_themselves(project, expected, disturb):
    process, logs = start(project, *STORES, "--configfile", "config.yaml"), []
    try:
        for rule in RULES:
            wait_until(lambda rule=rule: chunks_written(project, rule) >= 4, process, f"{rule} half-way")
            disturb(project, rule)
            logs.append(log_of(project, rule))
        finish(process, project)
    finally:
        process.kill()
    assert all_contents(project) == expected
    for rule in RULES:
        found = re.findall(r"(\d+) of (\d+) chunks found finished", log_of(project, rule))
        assert 4 <= int(found[-1][0]) < int(found[-1][1]), "the last attempt went on where the first one stopped"


def test_a_killed_controller_with_jobs_running(project, expected):
    arguments = (*STORES, "--configfile", "config.yaml")
    process = start(project, *arguments)
    wait_until(lambda: all(chunks_written(project, rule) >= 4 for rule in RULES), process, "both half-way")
    process.kill()
    process.wait()
    unlock = start(project, "--unlock", *arguments)
    unlock.wait(timeout=60)
    finish(start(project, *arguments), project)
    assert all_contents(project) == expected


def test_a_dead_rank_is_named_in_the_log_and_nothing_hangs(project):
    process = start(project, STORES[0], "--retries", "0", "--configfile", "config.yaml")
    wait_until(lambda: chunks_written(project, "landscape") >= 4, process, "half-way")
    kill_rank(project, "landscape")
    process.wait(timeout=120)
    assert process.returncode != 0
    assert re.search(r"task 1: Killed", log_of(project, "landscape"))


def test_a_mismatch_of_launcher_and_library_is_refused(project):
    """Without PMI each rank believes that it is alone; three worlds of one must not write one store."""
    profile = project / "workflow/profiles/slurm/config.yaml"
    profile.write_text(profile.read_text().replace("--mpi=pmi2", "--mpi=none"))
    process = start(project, STORES[0], "--retries", "0", "--configfile", "config.yaml")
    process.wait(timeout=DEADLINE)
    assert process.returncode != 0
    assert "mpi.ranks asks for 3 rank(s), but this MPI world has 1" in log_of(project, "landscape")
    assert chunks_written(project, "landscape") == 0
