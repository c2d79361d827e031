"""What planes and curves share: their metrics, what BatchNorm normalises by, and how their points are evaluated."""

from typing import Any

import numpy as np

from lossatlas import config
from lossatlas.drivers.base import Plan
from lossatlas.problem import Problem
from lossatlas.problem.protocol import Place

MAX_CHUNKS = 2000
"""Chunk files that the results of one store take at most, about."""

UNITS = {
    "loss": "mean per sample",
    "accuracy": "share of samples",
    "loss_standard_error": "standard deviation over samples / sqrt(samples)",
}

BATCHNORM = {
    "frozen": "frozen: running statistics of theta_c on the plane",
    "recompute": "recompute: at each point of the plane mean and unbiased variance over all training samples of the "
    "evaluation subset, layer by layer",
    "interpolate": "interpolate: running statistics move along with the parameters on the plane, clipped at zero",
}
"""What BatchNorm normalises by, by policy, as stores say it."""

EVALUATED_BY = ("strategy", "precision")
"""Keys of a plane's spec, and of its store's attributes, that say how its points are evaluated."""


def evaluated_by(values: dict) -> dict[str, Any]:
    """Return what ``restrict`` takes of a plane's spec or of its store's attributes; what is missing has a default."""
    return {key: values[key] for key in EVALUATED_BY if key in values}


def points_per_chunk(spec: dict, points: int) -> int:
    """Return how many points a rank claims at once."""
    return spec.get("points_per_chunk", max(4, -(-points // MAX_CHUNKS)))


def metrics(problems: dict[str, Problem]) -> dict[str, str]:
    """Return the metrics that all splits offer, name -> units; those of the user's own are means as well."""
    return {name: UNITS.get(name, "mean over samples") for name in next(iter(problems.values())).metric_names}


def one_by_one(spec: dict, where: str) -> Plan:
    """Plan for running statistics that change from point to point, which only one strategy can do.

    Raises:
        LossAtlasError: ``spec`` asks for another strategy or precision.
    """
    config.check({**evaluated_by(spec), "batchnorm": "recompute"}, "points", where)
    note = "eager: running statistics change from point to point"
    return Plan({"strategy": "eager", "strategy_note": note, "precision": "full"})


def choose(problems: dict[str, Problem], place: Place, points: np.ndarray, count: int, spec: dict) -> Plan:
    """Choose how points are evaluated; a store says so, and how well it agreed with the plain way.

    Args:
        problems: by split. The choice is made on the first one; it must agree with plain evaluation on all.
        points: some points (point, k) at which ways are compared.
        count: points that are ahead.
        spec: has the keys of ``EVALUATED_BY``, where they were given.
    """
    first, *others = problems.values()
    chosen = first.choose_evaluation(*place, points, count, **evaluated_by(spec))
    elsewhere = [p.choose_evaluation(*place, points, count, strategy=chosen.strategy) for p in others]
    for other in elsewhere:
        if other.strategy != chosen.strategy:  # a plainer one, for all
            return choose(problems, place, points, count, {**spec, "strategy": other.strategy})
    attributes: dict[str, Any] = {"strategy": chosen.strategy, "strategy_note": chosen.told}
    attributes |= {"precision": spec.get("precision", "full")}
    if chosen.agreement is not None:
        attributes |= {"agreement": _agreement([one.agreement for one in (chosen, *elsewhere)])}
    if chosen.error is not None:
        attributes |= {"precision_error": chosen.error, "precision_error_points": points.tolist()}
    return Plan(attributes, f"points are evaluated by strategy {chosen.told}")


def _agreement(splits: list) -> dict[str, Any]:
    """Return what a store says of how its strategy agreed with plain evaluation, from what each split says."""
    return {
        "strategy": splits[0].strategy,
        "points": max(one.points for one in splits),
        "samples": sum(one.samples for one in splits),
        "difference": max(one.difference for one in splits),
        "rounding": max(one.rounding for one in splits),
        "summary": "difference: largest one of any output of the network from plain evaluation, as a share of the "
        "sample's largest output; rounding: the same where samples, parameters and buffers change by their rounding",
    }
