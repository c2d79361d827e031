"""Names of the user's own metrics: they become names of arrays, beside all others in stores of planes and curves."""

import re
from collections import Counter
from collections.abc import Iterable

from lossatlas.drivers import landscape, line_scans
from lossatlas.drivers.evaluation import UNITS
from lossatlas.errors import LossAtlasError
from lossatlas.geometry.projection import other_arrays

BESIDE = ("work", "row", "direction", "batch_loss", "eigenvalue", "residual", "converged")
"""Names in these stores, and in the datasets that notebooks get, that are in no schema."""


def check(names: Iterable[str], where: str) -> None:
    """Check the names of metrics.

    Raises:
        LossAtlasError: a name is none in lower case, or is that of another array; ``where`` names the config key.
    """
    metrics = dict.fromkeys([*UNITS, *names], "")
    plane = [*landscape.arrays(metrics, ("train", "test"), adaptive=True, moving=True), *other_arrays(metrics)]
    curves = [line_scans.arrays(course, metrics) for course in (line_scans.Along, line_scans.Between)]
    found = [Counter(array.name for array in schema) for schema in (plane, *curves)]
    for name in names:
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise LossAtlasError(f"{where}: {name!r} must be of lower-case letters, digits and _, a letter first")
        if name in (*UNITS, *BESIDE) or any(counts[name] > 1 for counts in found):
            raise LossAtlasError(f"{where}: {name!r} is an array of the stores already; choose another name")
