"""What is said when a workflow ends: where the results are and how long they took, or what failed."""

import re
from collections.abc import Iterable
from pathlib import Path

from lossatlas.config.run import Run
from lossatlas.render.targets import videos

FAILED = r": error: |stopped by |rank \d+ of \d+ failed|task \d+: |EXIT STRING"
"""Lines of a log that say why a job failed."""

FAILED_JOB = r"^Error in [r]ule (\w+):\n(?:    .*\n)*?    log: (.+?) \(check log"
"""A failed job in Snakemake's own records: its rule and its log."""


def jobs(run: Run) -> list[tuple[str, float, int]]:
    """Return (job, seconds, peak MB) of each job's last attempt, from Snakemake's benchmark files, in order.

    Jobs that end at once have no peak; it counts as 0.
    """
    logs, found = Path(run.folder, "logs"), []
    for file in sorted(logs.rglob("*.benchmark.tsv"), key=lambda file: file.stat().st_mtime):
        head, values = (line.split("\t") for line in file.read_text().splitlines()[:2])
        row, job = dict(zip(head, values, strict=True)), str(file.relative_to(logs)).removesuffix(".benchmark.tsv")
        peak = row["max_rss"]
        found.append((job, round(float(row["s"]), 1), 0 if peak in ("NA", "-", "") else round(float(peak))))
    return found


def summary(runs: Iterable[Run]) -> str:
    """Return what was made and how long each stage took the last time that it ran."""
    runs = list(runs)
    lines = [f"{f'{run.name}/{job}':<48}{seconds:>9.1f}" for run in runs for job, seconds, _ in jobs(run)]
    lines = ["", "stage                                             seconds", *lines] if lines else []
    made = [("video", file) for run in runs for file in videos(run).values()]
    made += [("report", f"{run.folder}/report.html") for run in runs]
    return "\n".join([*lines, "", *(f"{what}: {file}" for what, file in made if Path(file).exists())])


def failures(runs: Iterable[Run], records: Iterable[str], since: float) -> str:
    """Return what jobs said when they failed, a line each, out of their logs; nothing where none failed.

    Jobs that were killed say nothing; that they failed stands in Snakemake's own records.

    Args:
        records: Snakemake's log files.
        since: when the workflow began, in seconds since 1970; older logs are not read.
    """
    lines = []
    for run in runs:
        for file in sorted(Path(run.folder, "logs").rglob("*.log")):
            if file.stat().st_mtime >= since:
                said = [line for line in file.read_text(errors="replace").splitlines() if re.search(FAILED, line)]
                lines += [f"  {line}  ({file})" for line in said[-1:]]
    told = "\n".join(lines)
    for rule, file in re.findall(FAILED_JOB, "".join(Path(record).read_text() for record in records), re.M):
        if f"({file})" not in told:
            lines.append(f"  {rule}: ended without a word; it was killed, perhaps for lack of memory  ({file})")
    return "\n".join(["", "What failed:", *lines]) if lines else ""
