"""All stores in one table, config/STORES.md: their arrays, from the schemas, and what attributes say."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from lossatlas.drivers import (
    curvature_map,
    evaluation,
    landscape,
    line_scans,
    overlaps,
    perturbations,
    spectra,
    tracking,
)
from lossatlas.geometry import random_walk
from lossatlas.geometry.directions import direction_set
from lossatlas.geometry.projection import other_arrays
from lossatlas.geometry.segments import AlongTraining, Line
from lossatlas.io.arrays import Array
from lossatlas.io.layout import ParameterLayout
from lossatlas.io.trajectory import Recording

HEAD = """\
# Stores

Generated from the schemas of arrays by `make docs`; a test fails when the two differ, another one compares them with
the stores of a run. Each store is a folder below `<results>/<run>/` and opens by
`xarray.open_zarr("results/<run>/<store>.zarr")`; its arrays lie along named dimensions. Those marked * are there only
where the config asks for what they hold. `float32` stands for the run's `dtype`. The user's own `metrics` have the
arrays of `loss` by their names. `work/rows` holds what is computed, unit by unit.
"""

ATTRIBUTES = {
    "title, summary": "what the store holds, in words",
    "fingerprint, provenance": "a digest of all that determines the numbers, and all of that: settings and inputs",
    "finished": "whether all is computed",
    "attempts": "ranks, threads, device, seconds, memory and versions of software of each attempt at the store",
    "content, chunk_files, given, given_chunks": "a digest of the files and how many there are, by which torn stores "
    "are found",
    "layout": "name, shape, offset, kind and filter axis of each parameter tensor in theta, as JSON",
    "buffers, frozen_layout": "name and shape of running statistics, and of parameters that are not trained, in order",
    "kind, normalize, ignore": "of directions, as in the config",
    "center, iteration": "the checkpoint theta_c, as asked for and as recorded",
    "samples, subset_digest, subset_stratified": "how many samples were evaluated, a digest of which, and whether "
    "they are stratified by class",
    "batchnorm, plane_batchnorm": "what BatchNorm normalises by; the policy of the plane",
    "strategy, strategy_note, precision": "how products or points were computed, and why so",
    "precision_error, precision_error_points": "in bfloat16: how far the loss is off, and where that was tried",
    "agreement": "how well that agreed with the plain way when it was tried",
    "product_bytes": "memory of Hessian products",
    "products, max_products, tolerance, near, none_nearer, norm, device": "of a search for eigenpairs",
    "operator, parameters, parameter_patterns": "which matrix, of how many parameters, and by which names",
    "distribution, accuracy, short_runs": "of probes; the density's error in words; Lanczos runs that broke down",
    "from, to, length, ends": "of a line: its checkpoints, their distance, and where they lie",
    "subspace, subspace_dimension": "which eigenvectors span the tracked subspace",
    "grid, rounds, nonfinite_points, unconverged_points": "which points were evaluated, and how many are no numbers",
    "x_label, y_label, angle, angle_given, direction_norm, variance_share, end_names, end_points": "of a plane's axes",
    "other_evaluations": "evaluations of other runs' checkpoints",
    "families, random_guess, clipped_points": "of curves: names of `family`, the loss of a random guess, and points "
    "where interpolated variances were clipped",
    "second_order": "how Hessian products of a curve's derivatives were computed",
    "sigma, draws, probes, steps, seed": "of perturbations, as in the config",
    "loss, gradient_norm, trace, trace_error, trace_of_square, trace_of_square_error": "of perturbations: at theta_c, "
    "and estimates of tr H and tr H² with standard errors",
    "share_of, rows, arithmetic": "of principal components: what shares are of, how many checkpoints, and the type of "
    "products; `rows` of a recorded trajectory counts its iterations",
    "walk_similarity, walk_spread": "how alike the path is to a random walk",
    "iterations, writer, files": "of a recorded trajectory, and of checkpoints that were read",
    "algorithm": "by which directions were mined",
}
"""Attributes of stores, those that belong together in one row."""


def stores() -> dict[str, list[tuple[Array, bool]]]:
    """Return the arrays of each store, and whether every store of the kind has them."""
    metrics, splits = evaluation.UNITS, ("train", "test")
    whole = [*landscape.arrays(metrics, splits, adaptive=True, moving=True), *other_arrays(metrics)]
    some = [*direction_set.arrays(moves=True), *direction_set.VALUES, *random_walk.ARRAYS]
    kinds = line_scans.Along, line_scans.Between, line_scans.Connected
    curves = (line_scans.arrays(course, metrics, derived) for course in kinds for derived in (False, True))
    return {
        "trajectory": _merged(Recording(ParameterLayout(()), np.zeros(0), "float32").schema),
        "directions/<name>": _merged(direction_set.arrays(), some),
        "landscape/<name>": _merged(landscape.arrays(metrics, splits), whole),
        "curvature/<plane>": _merged(curvature_map.arrays()),
        "curves/<name>": _merged(*curves),
        "overlaps/<name>": _merged(overlaps.SCHEMA),
        "perturbations/<name>": _merged(perturbations.SCHEMA),
        "spectra": _merged(spectra.arrays(AlongTraining)),
        "spectra_between/<name>": _merged(spectra.arrays(Line)),
        "tracking": _merged(tracking.ARRAYS),
    }


def _merged(*schemas: Iterable[Array]) -> list[tuple[Array, bool]]:
    """Return all arrays of some stores of a kind, and whether all of these have them."""
    by_name = [{array.name: array for array in schema} for schema in schemas]
    return [
        (next(known[name] for known in by_name if name in known), all(name in known for known in by_name))
        for name in dict.fromkeys(itertools.chain(*by_name))
    ]


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(itertools.chain(*(_section(*store) for store in stores().items()), _attributes()))


def _section(name: str, arrays: list[tuple[Array, bool]]) -> Iterator[str]:
    yield f"\n## `{name}.zarr`\n\n| array | dimensions | dtype | units | meaning |\n|---|---|---|---|---|\n"
    for array, always in arrays:
        meaning = "; ".join(filter(None, (array.long_name, array.description))).replace("|", "\\|")
        dtype, dims = np.dtype(array.dtype).name, ", ".join(array.dims)
        yield f"| `{array.name}`{'' if always else ' *'} | {dims} | {dtype} | {array.units} | {meaning} |\n"


def _attributes() -> Iterator[str]:
    yield "\n## Attributes\n\n| attributes | meaning |\n|---|---|\n"
    for names, meaning in ATTRIBUTES.items():
        yield f"| {', '.join(f'`{name}`' for name in names.split(', '))} | {meaning} |\n"


if __name__ == "__main__":  # python -m lossatlas.drivers.store_docs > config/STORES.md
    print(page(), end="")
