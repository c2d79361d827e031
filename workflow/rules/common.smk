# Config, paths and the helpers of all rules. No framework is ever imported here, so that a dry run stays fast.

import json
import os
import re
import shlex
import sys
import time
from glob import glob
from pathlib import Path

from snakemake.exceptions import WorkflowError

from lossatlas import config as config_module
from lossatlas.config import imports, profile, sizes, value_checks
from lossatlas.errors import LossAtlasError


def checked(function, *arguments):
    """Return what a function says; every mistake in the config ends the workflow with one line."""
    try:
        return function(*arguments)
    except LossAtlasError as error:
        raise WorkflowError(str(error))


# Not `workflow.basedir`: that is the folder of the other project's Snakefile when one uses these rules as a module.
PROJECT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
SCRIPTS = PROJECT / "scripts"


def check_module():
    """Refuse what a project cannot ask of these rules as a module."""
    paths = workflow.modifier.path_modifier
    if paths.prefix or paths.modifies_prefixes:
        raise WorkflowError("module: prefix and replace_prefix are not supported; set `results` in the module's config")
    if not SCRIPTS.is_dir():
        raise WorkflowError(f"module: no scripts in {SCRIPTS}; let snakefile: name workflow/Snakefile of a local copy")


def resolved(given):
    """Return the config with defaults."""
    value_checks.check_folder(str(PROJECT), "the project's own folder")
    for file in workflow.configfiles:
        value_checks.check_file(file)
    return config_module.resolve(given)


# `--configfile` replaces the demo's config; merged, the demo's runs would come along.
if "runs" not in config:

    configfile: "config/config.yaml"


check_module()
CONFIG = checked(resolved, config)
RESULTS = value_checks.plain_path(CONFIG["results"])
DATA_ROOT = value_checks.plain_path(CONFIG["data_root"])
RUNS = CONFIG["runs"]
MPI = CONFIG["mpi"]
TRAINED = [run for run, settings in RUNS.items() if "train" in settings]
IMPORTED = [run for run in RUNS if run not in TRAINED]
FAILED = r": error: |stopped by |rank \d+ of \d+ failed|task \d+: |EXIT STRING"
FAILED_JOB = r"^Error in [r]ule (\w+):\n(?:    .*\n)*?    log: (.+?) \(check log"
STARTED = time.time()
# The package comes from here, whichever is installed. conda or a container brings the programs; otherwise they are those
# of the environment that runs snakemake, activated or not.
programs = f"export PYTHONPATH={shlex.quote(f'{PROJECT}/workflow')}"
if not workflow.deployment_settings.deployment_method:
    programs += f'"${{PYTHONPATH:+:$PYTHONPATH}}" PATH={shlex.quote(os.path.dirname(sys.executable))}:"$PATH"'
# The shell and `tee` outlive the signals on which a program ends in good order, with status 75. One that a signal finds
# before its first line dies of it (138 and 143; 10 and 15 as MPICH's launcher tells it), and loses nothing either.
prefix = (
    f"set -euo pipefail; trap : TERM USR1; trap 'case $? in 10|15|138|143) exit 75;; esac' EXIT; {programs}; "
    """logged() { (trap '' TERM USR1 INT; exec tee "$1"); }; """
)
shell.prefix(prefix.replace("{", "{{").replace("}", "}}"))  # snakemake formats it


PLANE_FIGURES = ("contour", "surface", "loss")
METRIC_FIGURES = ("metrics",)
SPECTRA_FIGURES = ("density", "distribution", "evolution")
LINE_FIGURES = ("between",)
CURVATURE_FIGURES = ("curvature",)
NULL_FIGURES = ("null",)
CURVE_FIGURES = ("curve",)


wildcard_constraints:
    run="|".join(RUNS),
    plane=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    directions=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    line=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    curve=r"[A-Za-z0-9][A-Za-z0-9_-]*",


def everything():
    """Return the targets of `all`: each file that a user may look at, so that what was deleted is made again.

    Snakemake does not miss the inputs of a report that is there.
    """
    targets = []
    for run, settings in RUNS.items():
        shown = [*reported(run), *variant_stores(run)]
        beside = [file.removesuffix(".png") + ".pdf" for file in shown if file.endswith(".png")]
        beside += [file.removesuffix(".mp4") + ".html" for file in shown if file.endswith(".mp4")]
        targets += [f"{RESULTS}/{run}/report.html", *shown, *beside]
        if settings["video"]["frames"]:
            targets += [f"{RESULTS}/{run}/video/{plane}_frames" for plane in settings["planes"]]
    return targets


def reported(run):
    """Return what the report of a run shows: its stores, videos and figures."""
    planes, figures = RUNS[run]["planes"], [("spectra", spectra_figures(run))]
    figures += [(plane, PLANE_FIGURES) for plane in planes]
    return [
        *trajectories([run]),
        *(f"{RESULTS}/{run}/{store}.zarr" for store in spectra_stores(run)[:1]),
        *videos(run),
        *(f"{RESULTS}/{run}/landscape/{plane}.zarr" for plane in planes),
        *(f"{RESULTS}/{run}/directions/{name}.zarr" for name in sets_in_use(run)),
        *(file for stem, kinds in figures for file in expand(figure_files(stem, kinds, "png"), run=run)),
        *curve_results(run),
        *line_results(run),
        *curvature_results(run),
        *metric_figures(run),
        *tracking_files(run),
        *null_results(run),
    ]


def videos(run):
    return [f"{RESULTS}/{run}/video/{plane}.mp4" for plane in RUNS[run]["planes"]]


def figure_files(stem, kinds, suffix):
    return [f"{RESULTS}/{{run}}/figures/{stem}_{kind}.{suffix}" for kind in kinds]


def reported_figures(stem, kinds, group):
    """Return the PNG files of a rule, marked for `snakemake --report`; each kind has its caption."""
    files = zip(figure_files(stem, kinds, "png"), kinds)
    return [report(file, **report_entry(kind, group)) for file, kind in files]


def report_entry(picture, group):
    """Return where `snakemake --report` shows a picture, and with what caption."""
    labels = {"picture": picture, "where": group}
    return {"caption": f"../report/{picture}.rst", "category": "{run}", "subcategory": group, "labels": labels}


def own_code(where, choice):
    """Return a model, data or loss entry with the digest of the user's source where it has one."""
    if "import" not in choice:
        return choice
    digest = checked(imports.source_digest, choice["import"], CONFIG["python_path"], f"config: {where}")
    return {**choice, "python_path": CONFIG["python_path"], "source": digest}


def problem_spec(run):
    """Return what determines the loss of a run as a function of theta."""
    settings = RUNS[run]
    spec = {key: settings[key] for key in ("seed", "backend", "dtype")}
    for key in ("model", "data", "loss"):
        spec[key] = own_code(f"runs.{run}.{key}.import", settings[key])
    if spec["data"].get("name", "fashion-mnist-mini") != "fashion-mnist-mini":
        spec["data"] = {**spec["data"], "data_root": CONFIG["data_root"]}
    if "pretrained" in spec["model"]:
        spec["model"] = {**spec["model"], "data_root": CONFIG["data_root"]}
    return spec


def measured(run):
    """Return what determines the metrics of a run as functions of theta."""
    names = RUNS[run]["metrics"]
    own = {name: own_code(f"runs.{run}.metrics.{name}", {"import": path}) for name, path in names.items()}
    return {**PROBLEMS[run], "evaluation": RUNS[run]["evaluation"], **({"metrics": own} if own else {})}


def check_profile():
    """Refuse mistakes in the `set-resources` of a profile; called when all rules are there."""
    given, rules = workflow.resource_settings.overwrite_resources, [one.name for one in workflow.rules]
    if not workflow.modifier.is_main_snakefile():  # the others are rules of the project that uses this module
        given = {name: given[name] for name in given if name in rules}
    plain = {name: {resource: value.raw for resource, value in named.items()} for name, named in given.items()}
    checked(profile.check, plain, rules, MPI)


def check_submission():
    """Refuse folders that the plugins of schedulers, which put them between double quotes, would hand to a shell."""
    for path in (os.getcwd(), PROJECT, *workflow.configfiles) if not workflow.local_exec else ():
        checked(value_checks.check_submitted, os.path.abspath(path))


def growing(minutes):
    """Return a runtime that grows when a job is tried again."""
    return lambda wildcards, attempt: minutes * attempt


def as_json(spec):
    return json.dumps(spec, sort_keys=True)


def dataset_ready(wildcards):
    """Return the marker of a downloaded dataset, nothing for embedded and own data."""
    name = RUNS[wildcards.run]["data"].get("name")
    return [] if name in (None, "fashion-mnist-mini") else [f"{DATA_ROOT}/.{name}.ready"]


def weights_ready(wildcards):
    """Return the marker of downloaded weights, nothing where training begins with seeded ones."""
    model = RUNS[wildcards.run]["model"]
    return [f"{DATA_ROOT}/.{model['name']}-{model['pretrained']}.ready"] if "pretrained" in model else []


def fresh():
    return "--fresh" if CONFIG["fresh"] else ""


def training_spec(run):
    return {**PROBLEMS[run], "train": RUNS[run]["train"]}


def natural(name):
    """Sort key by which epoch10 comes after epoch9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def checkpoint_files(run):
    """Return the files of a run's `checkpoints`, a glob in natural order."""
    wanted = RUNS[run]["checkpoints"]["files"]
    found = sorted(glob(wanted, recursive=True), key=natural) if isinstance(wanted, str) else wanted
    found = [os.path.join(".", file) if file.startswith("-") else file for file in found]
    if not found:
        raise WorkflowError(f"config: runs.{run}.checkpoints.files: no file matches {wanted!r}")
    for file in found:
        require_file(f"runs.{run}.checkpoints.files", file)
    return found


def known_checkpoints():
    """Return how many checkpoints each run reads, where they are files of one each."""
    return {run: len(files) for run, files in CHECKPOINTS.items() if not any(f.endswith(".zarr") for f in files)}


def require_file(where, file):
    if not (os.path.isfile(file) or (file.endswith(".zarr") and os.path.isdir(file))):
        raise WorkflowError(f"config: {where}: no file {file!r}")


def directions_spec(wildcards):
    try:
        return RUNS[wildcards.run]["directions"][wildcards.directions]
    except KeyError:
        raise WorkflowError(f"config: runs.{wildcards.run}.directions: no {wildcards.directions!r}")


def other_runs(wildcards):
    """Return the runs at the other ends of differences."""
    ends = directions_spec(wildcards).get("to", [])
    return sorted({end["run"] for end in ends if "run" in end})


def plane_settings(wildcards):
    try:
        return RUNS[wildcards.run]["planes"][wildcards.plane]
    except KeyError:
        raise WorkflowError(f"config: runs.{wildcards.run}.planes: no {wildcards.plane!r}")


def plane_paths(wildcards):
    """Return the other runs whose paths a plane shows."""
    return plane_settings(wildcards).get("paths", [])


def plane_spec(wildcards):
    settings = {key: value for key, value in plane_settings(wildcards).items() if key != "curvature"}
    return {**measured(wildcards.run), "plane": settings}


def curvature_spec(wildcards):
    """Return what determines the curvature on a plane: where the plane lies, and the search of eigenvalues."""
    spec, settings = plane_spec(wildcards), plane_settings(wildcards)
    spec.pop("metrics", None)
    if "curvature" not in settings:
        raise WorkflowError(f"config: runs.{wildcards.run}.planes.{wildcards.plane}: no key 'curvature'")
    left_out = ("points", "points_per_chunk", "paths_losses", "grid", "strategy", "precision")
    plane = {key: value for key, value in spec["plane"].items() if key not in left_out}
    return {**spec, "plane": plane, "curvature": settings["curvature"]}


def curved_planes(run):
    """Return the planes on which the curvature is asked for."""
    return [plane for plane, settings in RUNS[run]["planes"].items() if "curvature" in settings]


def metric_figures(run):
    """Return the pictures of a run's own metrics on its planes."""
    planes = RUNS[run]["planes"] if RUNS[run]["metrics"] else []
    return [file for plane in planes for file in expand(figure_files(plane, METRIC_FIGURES, "png"), run=run)]


def curvature_results(run):
    """Return the stores and pictures of the curvature on a run's planes."""
    figures = [file for p in curved_planes(run) for file in expand(figure_files(p, CURVATURE_FIGURES, "png"), run=run)]
    return [*(f"{RESULTS}/{run}/curvature/{plane}.zarr" for plane in curved_planes(run)), *figures]


def curve_settings(wildcards):
    try:
        return RUNS[wildcards.run]["curves"][wildcards.curve]
    except KeyError:
        raise WorkflowError(f"config: runs.{wildcards.run}.curves: no {wildcards.curve!r}")


def curve_spec(wildcards):
    """Return what determines a store of curves; what its figure shows is no part of it."""
    settings = {key: value for key, value in curve_settings(wildcards).items() if key != "view"}
    return {**measured(wildcards.run), "curve": settings}


def curve_stores(wildcards):
    """Return the direction sets of a curve, nothing between checkpoints."""
    names = {config_module.split_axis(axis)[0] for axis in config_module.axes_of(curve_settings(wildcards))}
    return [f"{RESULTS}/{wildcards.run}/directions/{name}.zarr" for name in sorted(names)]


def curve_arguments(wildcards):
    """Return the arguments that hand a script the directions of a curve."""
    axes = [config_module.split_axis(axis) for axis in config_module.axes_of(curve_settings(wildcards))]
    paths = [(f"{RESULTS}/{wildcards.run}/directions/{name}.zarr", number) for name, number in axes]
    return [f"--x={path}:{'all' if number is None else number + 1}" for path, number in paths]


def curve_end(wildcards):
    """Return the other run at the end of a curve, if it is another one."""
    end = curve_settings(wildcards).get("to", {})
    return [end["run"]] if "run" in end else []


def curve_results(run):
    """Return the stores and pictures of a run's curves."""
    curves = RUNS[run]["curves"]
    figures = [file for curve in curves for file in expand(figure_files(curve, CURVE_FIGURES, "png"), run=run)]
    return [*(f"{RESULTS}/{run}/curves/{curve}.zarr" for curve in curves), *figures]


def spectra_spec(wildcards):
    """Return what determines the spectra `spectra.zarr`, `spectra/<variant>.zarr` or `spectra_between/<line>.zarr`."""
    if wildcards.spectra.startswith("spectra_between/"):
        return line_spec(wildcards)
    settings, variant = RUNS[wildcards.run], wildcards.spectra.removeprefix("spectra").removeprefix("/")
    chosen = {key: value for key, value in settings["spectra"].items() if key != "variants"}
    try:
        chosen |= settings["spectra"]["variants"][variant] if variant else {}
    except KeyError:
        raise WorkflowError(f"config: runs.{wildcards.run}.spectra.variants: no {variant!r}")
    return {**PROBLEMS[wildcards.run], "evaluation": settings["evaluation"], "spectra": chosen}


def line_settings(wildcards):
    """Return the config of the line that a spectra store lies on, nothing for spectra along training."""
    folder, _, line = wildcards.spectra.partition("/")
    if folder != "spectra_between":
        return {}
    try:
        return RUNS[wildcards.run]["spectra_between"][line]
    except KeyError:
        raise WorkflowError(f"config: runs.{wildcards.run}.spectra_between: no {line!r}")


def line_spec(wildcards):
    """Return what determines the spectra on a line: where it lies, and the quadrature."""
    settings = line_settings(wildcards)
    line = {key: settings[key] for key in ("from", "to", "points", "extend", "buffers")}
    chosen = {key: value for key, value in settings.items() if key not in line}
    evaluation = RUNS[wildcards.run]["evaluation"]
    return {**PROBLEMS[wildcards.run], "evaluation": evaluation, "spectra": chosen, "line": line}


def line_end(wildcards):
    """Return the other run at the end of a line, if it is another one."""
    end = line_settings(wildcards).get("to", {})
    return [end["run"]] if "run" in end else []


def line_results(run):
    """Return the stores and pictures of a run's lines."""
    lines = RUNS[run]["spectra_between"]
    figures = [file for line in lines for file in expand(figure_files(line, LINE_FIGURES, "png"), run=run)]
    return [*(f"{RESULTS}/{run}/spectra_between/{line}.zarr" for line in lines), *figures]


def trajectories(runs):
    return [f"{RESULTS}/{run}/trajectory.zarr" for run in runs]


def other_arguments(runs):
    """Return the arguments that hand a script the trajectories of other runs."""
    return [f"--other={run}={RESULTS}/{run}/trajectory.zarr" for run in runs]


def variant_stores(run):
    return [f"{RESULTS}/{run}/{name}.zarr" for name in spectra_stores(run)[1:]]


def spectra_stores(run):
    """Return the names of a run's spectra stores."""
    variants = RUNS[run].get("spectra", {}).get("variants", {})
    return ["spectra", *(f"spectra/{name}" for name in variants)] if "spectra" in RUNS[run] else []


def spectra_figures(run):
    """Return the kinds of figures of a run's spectra."""
    if "spectra" not in RUNS[run]:
        return []
    return [*SPECTRA_FIGURES, *(["variants"] if variant_stores(run) else [])]


def spectra_store(wildcards):
    return f"{RESULTS}/{wildcards.run}/spectra.zarr" if "spectra" in RUNS[wildcards.run] else []


def tracking_spec(wildcards):
    try:
        chosen = {key: RUNS[wildcards.run][key] for key in ("evaluation", "tracking")}
    except KeyError:
        raise WorkflowError(f"config: runs.{wildcards.run}: no tracking")
    return {**PROBLEMS[wildcards.run], **chosen}


def tracking_files(run):
    """Return what the report shows of a run's tracking: its store and its figure."""
    made = [f"{RESULTS}/{run}/tracking.zarr", f"{RESULTS}/{run}/figures/spectra_tracking.png"]
    return made if "tracking" in RUNS[run] else []


def derivatives_spec(wildcards):
    """Return what determines directions that need the network: eigenvectors and gradients."""
    spec = {**PROBLEMS[wildcards.run], "evaluation": RUNS[wildcards.run]["evaluation"]}
    return {**spec, "directions": directions_spec(wildcards)}


def pca_sets(run):
    """Return the sets of principal components of a run that its planes lie in."""
    return [name for name in sets_in_use(run) if RUNS[run]["directions"][name]["kind"] == "pca"]


def null_results(run):
    """Return the pictures of a run's principal components beside a random walk."""
    return [file for name in pca_sets(run) for file in expand(figure_files(name, NULL_FIGURES, "png"), run=run)]


def sets_of_kind(*kinds):
    """Return a pattern of the names of direction sets of these kinds."""
    named = [(n, d["kind"]) for settings in RUNS.values() for n, d in settings["directions"].items()]
    return "|".join(sorted({name for name, kind in named if kind in kinds})) or "(?!)"


def axis_store(wildcards, axis):
    name, _ = config_module.split_axis(plane_settings(wildcards)[axis])
    return f"{RESULTS}/{wildcards.run}/directions/{name}.zarr"


def axis_argument(wildcards, axis):
    _, index = config_module.split_axis(plane_settings(wildcards)[axis])
    return f"{axis_store(wildcards, axis)}:{index + 1}"


def sets_in_use(run):
    """Return the direction sets that a run's planes and curves lie in."""
    axes = [plane[axis] for plane in RUNS[run]["planes"].values() for axis in ("x", "y")]
    axes += [axis for curve in RUNS[run]["curves"].values() for axis in config_module.axes_of(curve)]
    return sorted({config_module.split_axis(axis)[0] for axis in axes})


def product_needs(run):
    """Return what tells how much memory the Hessian products of a run take, by key of the config."""
    settings = RUNS[run]
    spectra = settings.get("spectra", {})
    found = {"spectra": spectra} if spectra else {}
    found |= {f"spectra.variants.{name}": {**spectra, **own} for name, own in spectra.get("variants", {}).items()}
    found |= {f"spectra_between.{name}": line for name, line in settings["spectra_between"].items()}
    found |= {"tracking": settings["tracking"]} if "tracking" in settings else {}
    sets = {name: settings["directions"].get(name, {}) for name in sets_in_use(run)}
    found |= {f"directions.{name}": chosen for name, chosen in sets.items() if chosen.get("kind") == "eigen"}
    found |= {f"planes.{name}.curvature": settings["planes"][name]["curvature"] for name in curved_planes(run)}
    keys = ("operator", "parameters", "memory_gb", "strategy", "batch_size", "batchnorm")
    chosen = {f"runs.{run}.{name}": {key: one[key] for key in keys if key in one} for name, one in found.items()}
    return {name: {"operator": "hessian", "parameters": ["*"], **one} for name, one in chosen.items()}


def needs(wildcards, output):
    """Return ``product_needs`` as JSON; what takes ``output`` is none of the params whose change reruns a job.

    They decide whether a trajectory is made, not what it holds.
    """
    return as_json(product_needs(wildcards.run))


def leads_to(run):
    """Return the other runs that a run's differences, lines and planes name."""
    ends = [end for d in RUNS[run]["directions"].values() for end in d.get("to", [])]
    ends += [line["to"] for line in RUNS[run]["spectra_between"].values()]
    ends += [curve["to"] for curve in RUNS[run]["curves"].values() if "to" in curve]
    shown = [other for plane in RUNS[run]["planes"].values() for other in plane.get("paths", [])]
    return {*(end["run"] for end in ends if "run" in end), *shown}


def reported_settings(run):
    """Return a config by which this run alone, and those that it leads to, can be made again."""
    names, found = [run], leads_to(run)
    while more := sorted(found - {*names}):
        names += more
        found = {other for name in more for other in leads_to(name)}
    kept = {key: value for key, value in CONFIG.items() if key not in ("runs", "fresh")}
    return {**kept, "runs": {name: RUNS[name] for name in names}}


def planned_stores(run):
    """Return what the size of a run's stores depends on."""
    settings = RUNS[run]
    counts = {name: config_module.count(d) or 2 for name, d in settings["directions"].items()}
    how = {"train": settings["train"]} if run in TRAINED else {"checkpoints": len(CHECKPOINTS[run])}
    return {
        **PROBLEMS[run],
        **how,
        "directions": counts,
        "pca": [name for name, directions in settings["directions"].items() if directions["kind"] == "pca"],
        "planes": settings["planes"],
        "curves": {name: {**c, "axes": config_module.axes_of(c)} for name, c in settings["curves"].items()},
        "spectra": settings.get("spectra"),
        "spectra_stores": spectra_stores(run),
        "spectra_between": settings["spectra_between"],
        "tracking": settings.get("tracking"),
        "splits": ["train"] if settings["evaluation"].get("test_samples") == 0 else ["train", "test"],
    }


def title(wildcards):
    return f"{wildcards.run}: plane {wildcards.plane}"


def summary():
    """Return what was made and how long each stage took the last time that it ran."""
    lines = ["", "stage                                             seconds"]
    for run in RUNS:
        for file in sorted(Path(RESULTS, run, "logs").rglob("*.benchmark.tsv"), key=lambda f: f.stat().st_mtime):
            stage = f"{run}/{file.relative_to(Path(RESULTS, run, 'logs'))}".removesuffix(".benchmark.tsv")
            seconds = float(file.read_text().splitlines()[1].split()[0])
            lines.append(f"{stage:<48}{seconds:>9.1f}")
    made = [("video", file) for run in RUNS for file in videos(run)]
    made += [("report", f"{RESULTS}/{run}/report.html") for run in RUNS]
    lines += ["", *(f"{what}: {file}" for what, file in made if Path(file).exists())]
    return "\n".join(lines)


def failures(records):
    """Return what the jobs of this run said when they failed, a line each, out of their logs.

    Jobs that were killed say nothing; that they failed stands in snakemake's own records.
    """
    lines = []
    for run in RUNS:
        for file in sorted(Path(RESULTS, run, "logs").rglob("*.log")):
            if file.stat().st_mtime >= STARTED:
                said = [line for line in file.read_text(errors="replace").splitlines() if re.search(FAILED, line)]
                lines += [f"  {line}  ({file})" for line in said[-1:]]
    told = "\n".join(lines)
    for rule, file in re.findall(FAILED_JOB, "".join(Path(record).read_text() for record in records), re.M):
        if f"({file})" not in told:
            lines.append(f"  {rule}: ended without a word; it was killed, perhaps for lack of memory  ({file})")
    return "\n".join(["", "What failed:", *lines]) if lines else ""


def environment(wildcards):
    """Return the conda environment of a run's framework."""
    return f"../../envs/{RUNS[wildcards.run]['backend']}.yaml"


def run_dir(wildcards):
    return f"{RESULTS}/{wildcards.run}"


# What the config refers to must be there before any job starts.
PROBLEMS = {run: problem_spec(run) for run in RUNS}
CHECKPOINTS = {run: checkpoint_files(run) for run in IMPORTED}
checked(sizes.check_sizes, CONFIG, known_checkpoints())
for run, settings in RUNS.items():
    for name, directions in settings["directions"].items():
        if "path" in directions:
            require_file(f"runs.{run}.directions.{name}.path", directions["path"])
    measured(run)
