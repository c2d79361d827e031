"""Hessian eigenvectors at a checkpoint: GradVis's proposal for planes that show real curvature (section 3.2)."""

import numpy as np

from lossatlas.directions.raw import RawDirections
from lossatlas.krylov import check_deterministic, eigenpairs
from lossatlas.problem import Problem, batchnorm_note
from lossatlas.trajectory import Trajectory


def eigen(problem: Problem, trajectory: Trajectory, center: int, spec: dict) -> RawDirections:
    """Return unit eigenvectors of the ``largest`` and then the ``smallest`` eigenvalues, in descending order.

    Args:
        center: row of the checkpoint at which the Hessian is taken.
        spec: keys ``largest``, ``smallest``, ``tolerance``, ``max_products``, ``seed``, ``memory_gb``.
    """
    theta, buffers = trajectory.parameters(center), trajectory.buffers(center)
    check_deterministic(lambda: problem.linearize(theta, buffers, memory_gb=0))
    operator = problem.linearize(theta, buffers, memory_gb=spec["memory_gb"])
    pairs = eigenpairs(
        operator, spec["largest"], spec["smallest"], spec["tolerance"], spec["max_products"], spec["seed"]
    )
    iteration = trajectory.iterations[center]
    labels = [f"eigenvector λ = {value:.3g}" for value in pairs.values]
    values = {"eigenvalue": pairs.values, "residual": pairs.residuals, "converged": pairs.converged.astype(np.int8)}
    batchnorm = batchnorm_note(spec, "frozen: running statistics of the checkpoint")
    notes = {
        "batchnorm": batchnorm,
        "iteration": int(iteration),
        "products": pairs.products,
        "samples": problem.samples,
    }
    return RawDirections(pairs.vectors, labels, values, notes)
