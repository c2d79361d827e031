"""The loss surface of a training run as data, pictures and video.

Commands work in any folder; paths in a config are relative to the present one.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import webbrowser
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import yaml

from lossatlas import __version__, backends, config
from lossatlas.config.run import runs_of
from lossatlas.drivers.checkpoint_import import build_network, recorded_by_user
from lossatlas.errors import LossAtlasError
from lossatlas.io.trajectory import Trajectory

SITES = 10
"""Spectra along training, about."""

TEMPLATE = """\
# Made by `lossatlas init`. All keys and their defaults: config/README.md. `lossatlas plan {file}` checks it and says
# what it will take; `lossatlas run {file}` runs it.
results: results
python_path: ["."]  # where your modules are found
runs:
  {name}:
    # {about}
    checkpoints: {{files: {trajectory}}}
    # A function that returns the network, as it was when recording began: what is trained and what is frozen must be
    # the same. Keyword arguments of it: `kwargs: {{...}}`.
    model: {{import: {model}}}
    # A function that returns {{"train": (inputs, targets), "test": (inputs, targets)}}; "test" may be missing.
    data: {{import: {data}}}
    # `name: cross-entropy`, `name: mse`, or `import: module:function` of (outputs, targets).
    loss: {loss}
    backend: {backend}  # torch or tensorflow
    dtype: {dtype}
    evaluation: {{train_samples: 1000}}  # surfaces and spectra are means over these; more is slower and more exact
{planes}
    # The Hessian's spectrum at every {nth}recorded iteration; costs probes x steps products each.
    spectra: {{stride: {stride}, probes: 2, steps: {steps}}}
    # The loss on the line from the first to the last iteration and beyond.
    curves:
      training: {{from: first, to: {{iteration: last}}}}
"""

PCA = """\
    directions:
      pca: {kind: pca, normalize: none, ignore: []}  # the two directions in which the path varies most
    planes:
      pca: {x: pca/1, y: pca/2}"""

RANDOM = """\
    planes:
      random: {x: random/1, y: random/2}  # with four recorded iterations: {x: pca/1, y: pca/2}"""

CLONE = Path(__file__).parents[2]
"""Where the workflow lies beside this package; a wheel holds the package alone."""

PROFILE = Path("workflow", "profiles", "local")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status, 2 after an error of one line."""
    args = parser().parse_args(arguments)
    try:
        return args.command(args) or 0
    except LossAtlasError as error:
        print(f"lossatlas: error: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(prog="lossatlas", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    top.add_argument("--version", action="version", version=f"lossatlas {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, does: str, function: Callable[[argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=does, description=does)
        made.set_defaults(command=function)
        return made

    init = command("init", "write a config from a recorded trajectory", write_config)
    init.add_argument("trajectory", type=Path, help="what lossatlas.record wrote, .../trajectory.zarr")
    init.add_argument("--model", default="my_code:build", help="module:function that returns the network")
    init.add_argument("--data", default="my_code:data", help="module:function that returns the samples")
    init.add_argument("--loss", default="cross-entropy", help="cross-entropy, mse, or module:function")
    init.add_argument("--backend", choices=["torch", "tensorflow"], default="torch")
    init.add_argument("--output", type=Path, default=Path("config.yaml"), help="the config to write")
    for name, does, function in (
        ("plan", "check a config; list its jobs, and the files and disk of its stores; compute nothing", plan),
        ("run", "compute and draw all that a config asks for, on this machine", run),
    ):
        made = command(name, does, function)
        made.add_argument("config", type=Path, metavar="CONFIG", help="the config, such as config.yaml")
        told = "of snakemake, passed on: --cores 2, --profile workflow/profiles/slurm, a file to make, ..."
        made.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help=told)
    shown = command("open", "open the report of a run in a browser, and print where it lies", open_report)
    shown.add_argument("run", type=Path, metavar="RUN", help="the folder of the run, such as results/lenet")
    return top


def run(args: argparse.Namespace) -> None:
    """Become snakemake, on a config.

    Raises:
        LossAtlasError: there is no such config, no snakemake, or no workflow.
    """
    command = snakemake(args)
    sys.stdout.flush()
    os.execv(command[0], command)  # signals reach it alone


def plan(args: argparse.Namespace) -> int:
    """Say which jobs a config asks for, and how much disk its stores will take; return the exit status.

    Raises:
        LossAtlasError: as for ``run``.
    """
    command = snakemake(args)
    tried = subprocess.run([*command, "--dry-run"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if tried.returncode:
        print(tried.stdout, end="", file=sys.stderr)
        return tried.returncode
    jobs = re.search(r"^Job stats:\n((?:.+\n)+)", tried.stdout, re.M)
    print(jobs[1] if jobs else "Everything is there already; nothing is to be computed.\n", flush=True)
    return subprocess.run([*command, "--quiet", "all", "--", "plan"], stderr=subprocess.DEVNULL).returncode


def snakemake(args: argparse.Namespace) -> list[str]:
    """Return the command that runs a config, here and in the local profile.

    Raises:
        LossAtlasError: there is no such config, it is no YAML, or there is no snakemake or no workflow.
    """
    if not args.config.is_file():
        raise LossAtlasError(f"{args.config}: no such config; `lossatlas init` writes one from a recorded trajectory")
    try:
        yaml.safe_load(args.config.read_text())
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark
        place = f", line {at.line + 1}, column {at.column + 1}" if at else ""
        raise LossAtlasError(f"{args.config}{place}: not valid YAML: {error.problem}") from error
    if find_spec("snakemake") is None:
        raise LossAtlasError("snakemake is not installed; pip install 'lossatlas[workflow]'")
    folder = next((folder for folder in (CLONE, Path.cwd()) if (folder / PROFILE).is_dir()), None)
    if folder is None:
        raise LossAtlasError(
            "the workflow is not in the installed package: clone the repository, and call this in the clone or "
            "install it from there, pip install -e '.[workflow]'"
        )
    where = ["--snakefile", str(folder / "Snakefile"), "--profile", str(folder / PROFILE)]
    return [sys.executable, "-m", "snakemake", *where, *args.options, "--configfile", str(args.config)]


def open_report(args: argparse.Namespace) -> None:
    """Open the report of a run.

    Raises:
        LossAtlasError: there is none.
    """
    file = args.run if args.run.suffix == ".html" else args.run / "report.html"
    if not file.is_file():
        raise LossAtlasError(f"{file}: no such report; `lossatlas run CONFIG` makes it when all else is there")
    print(file.absolute())
    webbrowser.open(file.absolute().as_uri())


def write_config(args: argparse.Namespace) -> None:
    """Write the config, and say what is still wrong with it, also where the model is not what was recorded.

    Raises:
        LossAtlasError: there is a config already, or no recorded trajectory.
    """
    if args.output.exists():
        raise LossAtlasError(f"{args.output} is there already; name another file with --output")
    text = config_text(args)
    args.output.write_text(text)
    print(f"{args.output}: written")
    try:
        (run,) = runs_of(config.load(yaml.safe_load(text))).values()
        recorded_by_user([args.trajectory], build_network(backends.backend(args.backend), run.problem))
    except LossAtlasError as error:
        print(f"to be filled in: {error}")
    else:
        print(f"next: lossatlas run {shlex.quote(str(args.output))}")


def config_text(args: argparse.Namespace) -> str:
    """Return the config of a trajectory.

    Raises:
        LossAtlasError: there is no recorded trajectory.
    """
    trajectory = Trajectory(args.trajectory)
    size, rows = trajectory.layout.size, len(trajectory)
    if rows == 0:
        raise LossAtlasError(f"{args.trajectory}: nothing is recorded yet")
    frozen = f", {trajectory.frozen.size:,} frozen" if trajectory.frozen.size else ""
    first, last = trajectory.iterations[[0, -1]]
    stride = max(1, rows // SITES)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", args.trajectory.absolute().parent.name).strip("-_") or "mine"
    return TEMPLATE.format(
        file=shlex.quote(str(args.output)),
        name=name if yaml.safe_load(name) == name else json.dumps(name),  # YAML takes 12 and on for something else
        about=f"{rows} recorded iterations, {first} to {last}, of {size:,} trained parameters{frozen}.",
        trajectory=json.dumps(str(args.trajectory)),
        model=args.model,
        data=args.data,
        loss=f"{{import: {args.loss}}}" if ":" in args.loss else f"{{name: {args.loss}}}",
        backend=args.backend,
        dtype=trajectory.thetas.dtype,
        planes=PCA if rows >= 4 else RANDOM,
        stride=stride,
        nth="" if stride == 1 else f"{stride}th ",
        steps=min(40, size),
    )
