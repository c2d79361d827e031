"""The profiles: what they ask schedulers for."""

import os
import re
import shutil

import pytest
import yaml
from lossatlas.config.profile import MPI_RULES

from tests.conftest import BIN, ROOT, snakemake
from tests.helpers.jobs import CLOSED_FORM
from tests.workflow.conftest import test_config, write_config

pytestmark = pytest.mark.workflow


def commands(profile, *arguments: str) -> str:
    done = snakemake("--profile", str(profile), "-n", "-p", "--forceall", *arguments)
    return done.stdout + done.stderr


def test_the_slurm_profile_plans_mpi_jobs_from_the_projects_root():
    text = commands("slurm")
    assert text.count("srun --mpi=pmi2 --kill-on-bad-exit=1 -n 4 python") == 5
    assert text.count("--ranks 4 --threads 1") == 5


def test_ranks_threads_and_gpus_are_edited_in_the_profile_alone(tmp_path):
    profile = yaml.safe_load((ROOT / "slurm/config.yaml").read_text())
    gpus = {"gpu": 8, "tasks_per_gpu": 1, "tasks": 8, "cpus_per_task": 6, "mpi": "srun --mpi=pmix"}
    profile["set-resources"]["spectra"] |= gpus
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(profile))
    text = commands(tmp_path, "results/lenet/spectra.zarr")
    assert "srun --mpi=pmix -n 8 python" in text
    assert "--ranks 8 --threads 6" in text
    assert "SRUN_CPUS_PER_TASK=6" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"landscpae": {"tasks": 3}}, "set-resources.landscpae: no such rule; did you mean 'landscape'?"),
        (
            {"spectra": {"mpi": "srun", "tasks": 0}},
            "spectra.tasks: 0 is not a whole number of at least 2",
        ),
        (
            {"spectra": {"mpi": "srun", "tasks": 1}},
            "spectra.tasks: 1 is not a whole number of at least 2",
        ),
        ({"spectra": {"mpi": "srun", "tasks": "four"}}, "set-resources.spectra.tasks: 'four' is not a whole number"),
        ({"train": {"cpu_per_task": 8}}, "unknown resource 'cpu_per_task'; did you mean 'cpus_per_task'?"),
        ({"landscape": {"tasks": 8}}, "set-resources.landscape: 'mpi' is missing, though pca has 'srun"),
    ],
)
def test_mistakes_in_a_profile_are_named(tmp_path, change, message):
    profile = yaml.safe_load((ROOT / "slurm/config.yaml").read_text())
    profile["set-resources"] |= change
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(profile))
    done = snakemake("--profile", str(tmp_path), "-n", check=False)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["slurm-cpus", "slurm-gpus"])
def test_the_worked_profiles_differ_from_the_plain_one_in_resources_alone(name):
    folder = ROOT / "workflow/profiles" / name
    example, profile = (yaml.safe_load((one / "config.yaml").read_text()) for one in (folder, ROOT / "slurm"))
    resources = {"default-resources", "set-resources"}
    assert example == profile | {key: example[key] for key in resources}
    assert example["set-resources"].keys() == profile["set-resources"].keys()
    planned = commands(folder)
    for rule in MPI_RULES:
        tasks, threads = (example["set-resources"][rule][name] for name in ("tasks", "cpus_per_task"))
        found = re.findall(
            rf"(srun .*) -n {tasks} python \S+/{rule}.py .* --ranks {tasks} --threads {threads} ", planned
        )
        expected = {"pca": 1, "landscape": 3, "curves": 0, "spectra": 1, "curvature": 0, "tracking": 0}
        assert len(found) == expected[rule], "not in the demo"


@pytest.mark.full
@pytest.mark.mpi
def test_the_pbs_profile_submits_and_finishes(tmp_path):
    """Stand-ins for qsub and qstat run the jobs here, on the loss in closed form; MPI is real."""
    shutil.copytree(ROOT / "workflow/profiles/pbs", tmp_path / "workflow/profiles/pbs")
    (tmp_path / "pbs").mkdir()
    profile = tmp_path / "workflow/profiles/pbs"
    settings = yaml.safe_load((profile / "config.yaml").read_text())
    settings["set-resources"]["landscape"]["tasks"] = 2
    settings["latency-wait"] = 5
    (profile / "config.yaml").write_text(yaml.safe_dump(settings))
    file = write_config(tmp_path, test_config())
    target = "results/tiny/landscape/random.zarr"
    path = f"{ROOT}/tests/helpers/pbs:{BIN}:{os.environ['PATH']}"
    arguments = (target, "--profile", str(profile), "--configfile", str(file))
    snakemake(*arguments, cwd=tmp_path, PATH=path, PBS_STAND_IN=str(tmp_path / "pbs"), **CLOSED_FORM)
    assert (tmp_path / target).is_symlink()
    calls = (tmp_path / "pbs/calls").read_text().splitlines()
    assert len(calls) == 3
    assert re.search(r"-N lossatlas_train .*-l walltime=02:00:00 -l select=1:ncpus=2:mpiprocs=1:mem=8000mb", calls[0])
    assert re.search(r"-N lossatlas_landscape .*walltime=04:00:00 -l select=2:ncpus=1:mpiprocs=1:mem=2000mb", calls[2])


def test_the_plan_counts_what_a_run_really_takes(undisturbed):
    file = write_config(undisturbed, test_config())
    done = snakemake("plan", "--cores", "1", "--configfile", str(file), cwd=undisturbed)
    planned = dict(re.findall(r"^tiny/(\S+) +(\d+) +[\d.]+$", done.stdout + done.stderr, re.MULTILINE))
    for name in (
        "trajectory",
        "directions/pca",
        "landscape/pca",
        "spectra",
        "spectra_between/training",
        "curvature/random",
        "tracking",
        "curves/gaussian",
        "curves/training",
    ):
        store = (undisturbed / f"results/tiny/{name}.zarr").resolve()
        files = [file for file in store.rglob("*") if file.is_file() and file.name != ".snakemake_timestamp"]
        assert int(planned[name]) == pytest.approx(len(files), abs=3), name
    assert "together" in done.stdout + done.stderr
