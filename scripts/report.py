"""Gather one run's videos, figures, numbers, settings and timings in one self-contained page."""

import lossatlas.parallel.listen  # noqa: F401

import argparse
import csv
import json
from pathlib import Path

from lossatlas.config.run import Run
from lossatlas.drivers import command_line
from lossatlas.io import owner
from lossatlas.io.store import open_dataset
from lossatlas.render import report, targets


def main(args, _world) -> None:
    run = Run(args.run, args.settings)
    logs, names = Path(run.folder, "logs"), {kind: run.names(kind) for kind in targets.REPORTED}
    materials = report.Materials(
        run=run,
        datasets={kind: {name: open_dataset(Path(run.store(kind, name))) for name in names[kind]} for kind in names},
        jobs=jobs(logs),
        timings=[json.loads(file.read_text()) for file in sorted(logs.rglob("*.timing.json"))],
    )
    owner.write(args.output, report.render(materials).encode())
    print(f"{args.run}/report: {args.output.stat().st_size / 1e6:.1f} MB, open it in any browser: {args.output}")


def jobs(logs: Path) -> list[tuple[str, float, float]]:
    """Return (job, seconds, peak MB) of each job's last attempt, from Snakemake's benchmark files, in order."""
    found = []
    for file in sorted(logs.rglob("*.benchmark.tsv"), key=lambda file: file.stat().st_mtime):
        with file.open() as lines:
            row = next(csv.DictReader(lines, delimiter="\t"))
        job = str(file.relative_to(logs)).removesuffix(".benchmark.tsv")
        found.append((job, round(float(row["s"]), 1), number(row["max_rss"])))
    return found


def number(text: str) -> float:
    """Return peak memory in MB; jobs that end at once have none."""
    return round(float(text)) if text not in ("NA", "-", "") else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", type=json.loads, required=True, help="a config of this run, as JSON")
    parser.add_argument("--output", type=Path, required=True)
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world), label=f"{parsed.run}/report")
