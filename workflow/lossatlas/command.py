"""The command ``lossatlas``: ``init`` writes the config of a run from a recorded trajectory."""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from lossatlas import backends, config
from lossatlas.config.run import runs_of
from lossatlas.drivers.checkpoint_import import build_network, recorded_by_user
from lossatlas.errors import LossAtlasError
from lossatlas.io.trajectory import Trajectory

SITES = 10
"""Spectra along training, about."""

TEMPLATE = """\
# Made by `lossatlas init`. All keys and their defaults: config/README.md. Run it with
# `{command}`; `-n` besides only checks it.
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
    # The Hessian's spectrum at one of {stride} recorded iterations; costs probes x steps products each.
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

SNAKEFILE = Path(__file__).parents[2] / "Snakefile"
"""That of the clone in which this package lies; a wheel has none."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status, 2 after an error of one line."""
    parser = argparse.ArgumentParser(prog="lossatlas", description=__doc__)
    init = parser.add_subparsers(required=True).add_parser("init", help="write a config from a recorded trajectory")
    init.add_argument("trajectory", type=Path, help="what lossatlas.record wrote, .../trajectory.zarr")
    init.add_argument("--model", default="my_code:build", help="module:function that returns the network")
    init.add_argument("--data", default="my_code:data", help="module:function that returns the samples")
    init.add_argument("--loss", default="cross-entropy", help="cross-entropy, mse, or module:function")
    init.add_argument("--backend", choices=["torch", "tensorflow"], default="torch")
    init.add_argument("--output", type=Path, default=Path("config.yaml"), help="the config to write")
    try:
        write_config(parser.parse_args(arguments))
    except LossAtlasError as error:
        print(f"lossatlas: error: {error}", file=sys.stderr)
        return 2
    return 0


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
        print(f"next: {run_command(args.output)}")


def run_command(file: Path) -> str:
    """Return the command that runs a config, as it is typed in the present folder."""
    known = Path("Snakefile").exists() or not SNAKEFILE.exists()
    where = [] if known else ["--snakefile", str(SNAKEFILE)]
    return shlex.join(["snakemake", *where, "--configfile", str(file), "--cores", "2"])


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
    return TEMPLATE.format(
        command=run_command(args.output),
        name=re.sub(r"[^A-Za-z0-9_-]+", "-", args.trajectory.absolute().parent.name).strip("-_") or "mine",
        about=f"{rows} recorded iterations, {first} to {last}, of {size:,} trained parameters{frozen}.",
        trajectory=json.dumps(str(args.trajectory)),
        model=args.model,
        data=args.data,
        loss=f"{{import: {args.loss}}}" if ":" in args.loss else f"{{name: {args.loss}}}",
        backend=args.backend,
        dtype=trajectory.thetas.dtype,
        planes=PCA if rows >= 4 else RANDOM,
        stride=stride,
        steps=min(40, size),
    )
