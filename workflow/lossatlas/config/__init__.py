"""The config: defaults filled in, every mistake named in one line. Knows no framework and no file format of ours."""

from lossatlas.config.resolve import (
    SCHEDULES_OF_BOTH,
    axes_of,
    check,
    check_metrics,
    check_plain,
    count,
    document,
    resolve,
    schema,
    split_axis,
)

__all__ = [
    "SCHEDULES_OF_BOTH",
    "axes_of",
    "check",
    "check_metrics",
    "check_plain",
    "count",
    "document",
    "resolve",
    "schema",
    "split_axis",
]
