"""Hessian eigenvectors at a checkpoint: GradVis's proposal for planes that show real curvature (section 3.2)."""

import numpy as np

from lossatlas.geometry.directions.unnormalized import RawDirections
from lossatlas.io.trajectory import Trajectory
from lossatlas.krylov import check_deterministic, eigenpairs
from lossatlas.problem import Choice, Problem, batchnorm_note, choices_of
from lossatlas.problem.readiness import Remembered


def eigen(
    problem: Problem, trajectory: Trajectory, center: int, spec: dict, remembered: Remembered | None = None
) -> RawDirections:
    """Return unit eigenvectors of the ``largest`` and then the ``smallest`` eigenvalues, in descending order.

    Args:
        center: row of the checkpoint at which the Hessian is taken.
        spec: keys ``largest``, ``smallest``, ``tolerance``, ``max_products``, ``seed``, ``memory_gb`` and ``strategy``.
        remembered: choices of other jobs of the run.
    """
    theta, buffers = trajectory.parameters(center), trajectory.buffers(center)
    choices = choices_of(spec)

    def checked() -> Choice:
        choice = problem.choose_strategy(theta, buffers, 1, **choices, count=spec["max_products"])
        check_deterministic(lambda: problem.linearize(theta, buffers, **{**choices, "strategy": choice.strategy}))
        return choice

    chunks = {key: spec[key] for key in ("batch_size", "batchnorm") if key in spec}
    ahead = spec["max_products"]
    choice = remembered.choice(checked, 1, ahead, **choices, **chunks) if remembered else checked()
    choices["strategy"] = choice.strategy
    operator = problem.linearize(theta, buffers, **choices)
    pairs = eigenpairs(
        operator, spec["largest"], spec["smallest"], spec["tolerance"], spec["max_products"], spec["seed"]
    )
    iteration = trajectory.iterations[center]
    labels = [f"eigenvector λ = {value:.3g}" for value in pairs.values]
    values = {"eigenvalue": pairs.values, "residual": pairs.residuals, "converged": pairs.converged.astype(np.int8)}
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
    }
    return RawDirections(pairs.vectors, labels, values, notes)
