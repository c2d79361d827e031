"""Gather one run's videos, figures, numbers, settings and timings in one self-contained page."""

import lossatlas.parallel.listen  # noqa: F401

import argparse
import json
from pathlib import Path

from lossatlas.config.models import Config
from lossatlas.config.run import Run
from lossatlas.drivers import command_line
from lossatlas.io import owner
from lossatlas.io.store import open_dataset
from lossatlas.render import outcome, report, targets


def main(args, _world) -> None:
    run = Run(args.run, Config.model_validate(args.settings))
    logs, names = Path(run.folder, "logs"), {kind: run.names(kind) for kind in targets.REPORTED}
    materials = report.Materials(
        run=run,
        datasets={kind: {name: open_dataset(Path(run.store(kind, name))) for name in names[kind]} for kind in names},
        jobs=outcome.jobs(run),
        timings=[json.loads(file.read_text()) for file in sorted(logs.rglob("*.timing.json"))],
    )
    owner.write(args.output, report.render(materials).encode())
    print(f"{args.run}/report: {args.output.stat().st_size / 1e6:.1f} MB, open it in any browser: {args.output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", type=json.loads, required=True, help="a config of this run, as JSON")
    parser.add_argument("--output", type=Path, required=True)
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world), label=f"{parsed.run}/report")
