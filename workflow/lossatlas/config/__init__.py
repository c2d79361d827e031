"""The config: defaults filled in, each mistake named in one line. Knows no framework, and of stores attributes."""

from lossatlas.config.document import document
from lossatlas.config.frameworks import BY_FRAMEWORK, SCHEDULES_OF_BOTH
from lossatlas.config.references import axes_of, check_metrics, count, split_axis
from lossatlas.config.resolve import check, check_plain, load, resolve, schema

__all__ = [
    "BY_FRAMEWORK",
    "SCHEDULES_OF_BOTH",
    "axes_of",
    "check",
    "check_metrics",
    "check_plain",
    "count",
    "document",
    "load",
    "resolve",
    "schema",
    "split_axis",
]
