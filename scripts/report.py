"""Gather one run's videos, figures, numbers, settings and timings in one self-contained page."""

import lossatlas.parallel.listen  # noqa: F401

import argparse
import csv
import json
from collections.abc import Iterable
from pathlib import Path

import yaml
from lossatlas.drivers import command_line
from lossatlas.io.store import open_dataset
from lossatlas.render import report

KINDS, METRIC_KINDS = ("contour", "surface", "loss"), ("metrics",)
LINE_KINDS, CURVATURE_KINDS, CURVE_KINDS, NULL_KINDS = ("between",), ("curvature",), ("curve",), ("null",)


def main(args, _world) -> None:
    planes, directory = args.planes, args.run_dir

    def pictures(stem: str, kinds: Iterable[str]) -> list[Path]:
        return [directory / "figures" / f"{stem}_{kind}.png" for kind in kinds]

    figures = {plane: pictures(plane, KINDS) for plane in planes} | {"spectra": pictures("spectra", args.spectra)}
    for plane in planes if args.metrics else []:
        figures[plane] += pictures(plane, METRIC_KINDS)
    for plane in args.curvature:
        figures[plane] += pictures(plane, CURVATURE_KINDS)
    figures |= {f"spectra_between/{line}": pictures(line, LINE_KINDS) for line in args.lines}
    figures |= {f"curves/{curve}": pictures(curve, CURVE_KINDS) for curve in args.curves}
    figures["tracking"] = pictures("spectra", ["tracking"] if args.tracking else [])
    figures |= {f"directions/{name}": pictures(name, NULL_KINDS) for name in args.nulls}
    materials = report.Materials(
        run=args.run,
        settings=args.settings["runs"][args.run],
        settings_text=yaml.safe_dump(
            args.settings, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None
        ),
        trajectory=open_dataset(directory / "trajectory.zarr"),
        landscapes={plane: open_dataset(directory / "landscape" / f"{plane}.zarr") for plane in planes},
        directions={name: open_dataset(directory / "directions" / f"{name}.zarr") for name in args.directions},
        videos={plane: directory / "video" / f"{plane}.mp4" for plane in planes},
        figures=figures,
        spectra=open_dataset(directory / "spectra.zarr") if args.spectra else None,
        curvatures={plane: open_dataset(directory / "curvature" / f"{plane}.zarr") for plane in args.curvature},
        curves={curve: open_dataset(directory / "curves" / f"{curve}.zarr") for curve in args.curves},
        lines={line: open_dataset(directory / "spectra_between" / f"{line}.zarr") for line in args.lines},
        tracking=open_dataset(directory / "tracking.zarr") if args.tracking else None,
        jobs=jobs(directory / "logs"),
        timings=[json.loads(file.read_text()) for file in sorted((directory / "logs").rglob("*.timing.json"))],
    )
    report.write(args.output, report.render(materials))
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
    parser.add_argument("--run-dir", type=Path, required=True, help="results/<run>")
    parser.add_argument("--settings", type=json.loads, required=True, help="a config with this run alone, as JSON")
    parser.add_argument("--planes", nargs="*", default=[])
    parser.add_argument("--directions", nargs="*", default=[], help="sets that planes and curves use")
    parser.add_argument("--spectra", nargs="*", default=[], help="kinds of figures, none without spectra")
    parser.add_argument("--curves", nargs="*", default=[], help="curves, the loss on straight lines")
    parser.add_argument("--lines", nargs="*", default=[], help="lines with spectra between two checkpoints")
    parser.add_argument("--curvature", nargs="*", default=[], help="planes with extreme eigenvalues")
    parser.add_argument("--metrics", action="store_true", help="planes have pictures of the user's own metrics")
    parser.add_argument("--tracking", action="store_true", help="the run has eigenvectors along training")
    parser.add_argument("--nulls", nargs="*", default=[], help="PCA sets that were compared with a random walk")
    parser.add_argument("--output", type=Path, required=True)
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world), label=f"{parsed.run}/report")
