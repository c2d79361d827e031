# Config, paths and what all rules share. No framework is ever imported here, so that a dry run stays fast.

import json
import os
import shlex
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError

from lossatlas import config as config_module
from lossatlas.config import profile, value_checks
from lossatlas.config.run import Run, runs_of
from lossatlas.errors import LossAtlasError
from lossatlas.render import outcome, registry, targets


class Mistake(WorkflowError):
    """What a user can mend. Without a traceback Snakemake shows no lines of these rules, which are not to blame."""

    __traceback__ = None


def checked(function, *arguments):
    """Return what a function says; every mistake in the config ends the workflow with one line."""
    try:
        return function(*arguments)
    except LossAtlasError as error:
        raise Mistake(str(error)) from None


# Not `workflow.basedir`: that is the folder of the other project's Snakefile when one uses these rules as a module.
PROJECT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
SCRIPTS = PROJECT / "scripts"


def check_module():
    """Refuse what a project cannot ask of these rules as a module."""
    paths = workflow.modifier.path_modifier
    if paths.prefix or paths.modifies_prefixes:
        raise Mistake("module: prefix and replace_prefix are not supported; set `results` in the module's config")
    if not SCRIPTS.is_dir():
        raise Mistake(f"module: no scripts in {SCRIPTS}; let snakefile: name workflow/Snakefile of a local copy")


def loaded(given):
    """Return the config, checked."""
    value_checks.check_folder(str(PROJECT), "the project's own folder")
    for file in workflow.configfiles:
        value_checks.check_file(file)
    return config_module.load(given)


def check_own_metrics(runs):
    """Refuse names of metrics that other arrays have; importing what knows these takes half a second."""
    for name, run in runs.items():
        if run.settings.metrics:
            from lossatlas.drivers import own_metrics

            checked(own_metrics.check, run.settings.metrics, f"config: runs.{name}.metrics")


# `--configfile` replaces the demo's config; merged, the demo's runs would come along.
if "runs" not in config:

    configfile: "config/config.yaml"


check_module()
CONFIG = checked(loaded, config)
RESULTS = value_checks.plain_path(CONFIG.results)
DATA_ROOT = value_checks.plain_path(CONFIG.data_root)
RUNS = checked(runs_of, CONFIG)
check_own_metrics(RUNS)
RUN, LOGS = f"{RESULTS}/{{run}}", f"{RESULTS}/{{run}}/logs"
TRAJECTORY = f"{RUN}/trajectory.zarr"
STARTED = time.time()
# The package comes from here, whichever is installed. conda or a container brings the programs; otherwise they are those
# of the environment that runs snakemake, activated or not. Figures are drawn without a display.
programs = f"export MPLBACKEND=Agg PYTHONPATH={shlex.quote(f'{PROJECT}/workflow')}"
if not workflow.deployment_settings.deployment_method:
    programs += f'"${{PYTHONPATH:+:$PYTHONPATH}}" PATH={shlex.quote(os.path.dirname(sys.executable))}:"$PATH"'
# The shell and `tee` outlive the signals on which a program ends in good order, with status 75. One that a signal finds
# before its first line dies of it (138 and 143; 10 and 15 as MPICH's launcher tells it), and loses nothing either.
prefix = (
    f"set -euo pipefail; trap : TERM USR1; trap 'case $? in 10|15|138|143) exit 75;; esac' EXIT; {programs}; "
    """logged() { (trap '' TERM USR1 INT; exec tee "$1"); }; """
)
shell.prefix(prefix.replace("{", "{{").replace("}", "}}"))  # snakemake formats it


wildcard_constraints:
    run="|".join(RUNS),
    plane=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    directions=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    line=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    curve=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    overlap=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    perturbation=r"[A-Za-z0-9][A-Za-z0-9_-]*",


def of_run(method, *names):
    """Return a function of wildcards: what a function of a run and of those that are named says; a dict becomes JSON."""

    def told(wildcards):
        result = checked(method, RUNS[wildcards.run], *(wildcards.get(name, "") for name in names))
        return as_json(result) if isinstance(result, dict) else result

    return told


def run_dir(wildcards):
    return RUNS[wildcards.run].folder


def trajectories_of(section, name):
    """Return a function of wildcards: the trajectories of the other runs that something in a run leads to."""
    return of_run(lambda run, name: [*run.others(section, name).values()], name)


def direction_stores_of(section, name):
    """Return a function of wildcards: the direction sets that something in a run lies in."""
    return of_run(lambda run, name: run.direction_stores(section, name), name)


def as_json(spec):
    return json.dumps(spec, sort_keys=True)


def growing(minutes):
    """Return a runtime that grows when a job is tried again."""
    return lambda wildcards, attempt: minutes * attempt


def ranks(memory, minutes):
    """Return the resources of an MPI job: MB, and minutes, which grow when it is tried again."""
    size = {"tasks": CONFIG.mpi.ranks, "cpus_per_task": CONFIG.mpi.threads_per_rank}
    return {"mpi": "mpiexec", **size, "mem_mb": memory, "runtime": growing(minutes)}


def job_of(wildcards, output):
    """Return the name of a job within its run: that of the store that it makes."""
    return os.path.relpath(output[0], run_dir(wildcards)).removesuffix(".zarr")


def reported(file, kind, group):
    """Mark a file for `snakemake --report`; each kind has its caption, which `make docs` writes."""
    labels = {"picture": kind, "where": group}
    return report(file, caption=f"../report/{kind}.rst", category="{run}", subcategory=group, labels=labels)


def runs_that(are_trained):
    """Return a pattern of the names of runs that are trained here, or that are not."""
    return "|".join(name for name, run in RUNS.items() if run.is_trained == are_trained) or "(?!)"


def sets_of_kind(*kinds, other_than=()):
    """Return a pattern of the names of direction sets of these kinds, or of all ``other_than`` some."""
    named = [(n, d.kind) for run in RUNS.values() for n, d in run.settings.directions.items()]
    fitting = {name for name, kind in named if kind in kinds or (other_than and kind not in other_than)}
    return "|".join(sorted(fitting)) or "(?!)"


def needs(wildcards, output):
    """Return ``product_needs`` as JSON; what takes ``output`` is none of the params whose change reruns a job.

    They decide whether a trajectory is made, not what it holds.
    """
    return as_json(RUNS[wildcards.run].product_needs())


def fresh():
    return "--fresh" if CONFIG.fresh else ""


def check_profile():
    """Refuse mistakes in the `set-resources` of a profile; called when all rules are there."""
    given, rules = workflow.resource_settings.overwrite_resources, [one.name for one in workflow.rules]
    if not workflow.modifier.is_main_snakefile():  # the others are rules of the project that uses this module
        given = {name: given[name] for name in given if name in rules}
    plain = {name: {resource: value.raw for resource, value in named.items()} for name, named in given.items()}
    checked(profile.check, plain, rules, CONFIG.mpi)


def check_submission():
    """Refuse folders that the plugins of schedulers, which put them between double quotes, would hand to a shell."""
    for path in (os.getcwd(), PROJECT, *workflow.configfiles) if not workflow.local_exec else ():
        checked(value_checks.check_submitted, os.path.abspath(path))


def environment(wildcards):
    """Return the conda environment of a run's framework."""
    return f"../../envs/{RUNS[wildcards.run].settings.backend}.yaml"
