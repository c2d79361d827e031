"""What users read when a workflow ends, from logs as jobs and Snakemake write them."""

import os

import pytest
from lossatlas.config import load
from lossatlas.config.run import Run
from lossatlas.render.outcome import failures, jobs, summary

SNAKEMAKE = """\
Error in rule {rule}:
    message: None
    jobid: 20
    log: {log} (check log file(s) for error details)
"""


@pytest.fixture
def run(tmp_path) -> Run:
    (tmp_path / "a/logs/landscape").mkdir(parents=True)
    return Run("a", load({"results": str(tmp_path), "runs": {"a": {"model": {"name": "lenet"}}}}))


def test_the_summary_lists_stages_as_they_ended_and_what_there_is(run, tmp_path):
    for age, (name, seconds) in enumerate((("landscape/pca", "12.34"), ("train", "3.21"))):
        file = tmp_path / f"a/logs/{name}.benchmark.tsv"
        file.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:12\t{'NA' if age else 496.93}\n")
        os.utime(file, (1e9 - age, 1e9 - age))
    (tmp_path / "a/report.html").touch()
    lines = summary([run]).splitlines()
    assert [line.split() for line in lines[2:4]] == [["a/train", "3.2"], ["a/landscape/pca", "12.3"]]
    assert jobs(run) == [("train", 3.2, 0), ("landscape/pca", 12.3, 497)]
    assert lines[4:] == ["", f"report: {tmp_path}/a/report.html"], "there are no videos yet"


def test_failures_are_the_last_word_of_each_job_that_ran(run, tmp_path):
    logs = tmp_path / "a/logs"
    (logs / "train.log").write_text("begins\na/train: error: first\na/train: error: the loss is NaN\nends\n")
    (logs / "old.log").write_text("a/old: error: yesterday\n")
    os.utime(logs / "old.log", (1e9, 1e9))
    (logs / "fine.log").write_text("all is well\n")
    (logs / "killed.log").write_text("began\n")
    record = tmp_path / "snakemake.log"
    record.write_text("".join(SNAKEMAKE.format(rule=r, log=logs / f"{r}.log") for r in ("train", "killed")))
    assert failures([run], [str(record)], since=1e9 + 1).splitlines() == [
        "",
        "What failed:",
        f"  a/train: error: the loss is NaN  ({logs}/train.log)",
        f"  killed: ended without a word; it was killed, perhaps for lack of memory  ({logs}/killed.log)",
    ]
    record.write_text("")
    (logs / "train.log").unlink()
    assert failures([run], [str(record)], since=1e9 + 1) == ""
