"""The config: defaults filled in, each mistake named in one line. Knows no framework, and of stores attributes."""

from lossatlas.config.document import document
from lossatlas.config.frameworks import BY_FRAMEWORK, SCHEDULES_OF_BOTH
from lossatlas.config.references import axes_of, count, split_axis
from lossatlas.config.resolve import check, load, resolve, schema
