"""Hessian eigenvectors at a checkpoint: GradVis's proposal for planes that show real curvature (section 3.2)."""

from typing import Any

import numpy as np

from lossatlas.geometry.directions.unnormalized import RawDirections
from lossatlas.io.trajectory import Trajectory
from lossatlas.krylov import Eigenpairs, NearestPairs, SymmetricOperator, eigenpairs, nearest_eigenpairs
from lossatlas.parallel.progress import Watched
from lossatlas.problem import Problem, batchnorm_note, choices_of
from lossatlas.problem.readiness import Remembered, choose_products


def eigen(
    problem: Problem, trajectory: Trajectory, center: int, spec: dict, remembered: Remembered | None = None
) -> RawDirections:
    """Return unit eigenvectors of the ``largest`` and then the ``smallest`` eigenvalues, in descending order.

    With a key ``near`` they are ``count`` eigenvectors of the eigenvalues nearest to it, the nearest first.

    Args:
        center: row of the checkpoint at which the Hessian is taken.
        spec: keys ``largest`` and ``smallest``, or ``near`` and ``count``; ``tolerance``, ``max_products``, ``seed``,
            ``memory_gb`` and ``strategy``.
        remembered: choices of other jobs of the run.
    """
    theta, buffers = trajectory.parameters(center), trajectory.buffers(center)
    choice = choose_products(problem, (theta, buffers), 1, spec, remembered, spec["max_products"])
    choices: dict[str, Any] = {**choices_of(spec), "strategy": choice.strategy}
    operator = problem.linearize(theta, buffers, **choices)
    pairs = _search(operator, spec)
    iteration = trajectory.iterations[center]
    values = {"eigenvalue": pairs.values, "residual": pairs.residuals, "converged": pairs.converged.astype(np.int8)}
    nearest = {}
    labels = [f"eigenvector λ = {value:.3g}" for value in pairs.values]
    if isinstance(pairs, NearestPairs):
        labels = [f"eigenvector λ = {as_known(*pair)}" for pair in zip(pairs.values, pairs.residuals, strict=True)]
        values["isolated"] = pairs.isolated.astype(np.int8)
        nearest = {
            "near": spec["near"],
            "none_nearer": pairs.none_nearer,
            "none_nearer_note": f"by more than {spec['tolerance'] * pairs.norm:.2g}, the tolerance times ||H||",
            "norm": pairs.norm,
        }
    batchnorm = batchnorm_note(spec, "frozen: running statistics of the checkpoint")
    notes = {
        "batchnorm": batchnorm,
        "strategy": choice.strategy,
        "strategy_note": choice.told,
        "product_bytes": choice.peak,
        "agreement": choice.agreement,
        "iteration": int(iteration),
        "products": pairs.products,
        "samples": problem.samples,
        **nearest,
    }
    return RawDirections(pairs.vectors, labels, values, notes)


def as_known(value: float, residual: float) -> str:
    """Return an eigenvalue with the digits that its residual leaves, and the residual: "0.0012 ± 0.0004"."""
    if not 0 < residual < np.inf:
        return f"{value:.3g}"
    place = int(np.floor(np.log10(float(f"{residual:.1g}"))))
    rounded = round(float(value), -place) + 0.0  # no negative zero
    digits = int(np.floor(np.log10(abs(rounded)) + 1e-9)) - place + 1 if rounded else 1
    text = f"{rounded:#.{digits}g}".replace(".e", "e").rstrip(".")  # zeros at the end are known digits, too
    return f"{text} ± {residual:.1g}"


def _search(operator: SymmetricOperator, spec: dict) -> Eigenpairs:
    limits = spec["tolerance"], spec["max_products"], spec["seed"]
    watched = Watched(operator, "eigenpairs", spec["max_products"])
    if "near" in spec:
        pairs: Eigenpairs = nearest_eigenpairs(watched, spec["near"], spec["count"], *limits)
    else:
        pairs = eigenpairs(watched, spec["largest"], spec["smallest"], *limits)
    watched.close()
    return pairs
