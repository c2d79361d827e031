"""Negative gradients: the steepest descent at a checkpoint, over all samples or over batches of them."""

import numpy as np

from lossatlas import rng
from lossatlas.data import Subset
from lossatlas.errors import LossAtlasError
from lossatlas.geometry.directions.unnormalized import RawDirections
from lossatlas.io.trajectory import Trajectory
from lossatlas.problem import Problem, batchnorm_note


def batches(subset: Subset, spec: dict) -> dict[str, Subset]:
    """Return the samples of each gradient by label: all of them, or batches drawn without replacement.

    Args:
        subset: the training samples of the evaluation subset.
        spec: keys ``count``, ``seed`` and, for batches, ``samples``; batch k is keyed by (seed, k).

    Raises:
        LossAtlasError: a batch is to be larger than the subset.
    """
    size = spec.get("samples")
    if size is None:
        return {"negative gradient": subset}
    if size > len(subset):
        raise LossAtlasError(
            f"directions.samples: {size}, but the evaluation subset has {len(subset)} training samples"
        )
    found = {}
    for k in range(spec["count"]):
        chosen = np.sort(rng.generator(spec["seed"], "gradient batch", k).permutation(len(subset))[:size])
        part = subset.samples.of(chosen)
        found[f"negative gradient, batch {k + 1}"] = Subset(part, subset.index[chosen], part.digest, False)
    return found


def gradient(problems: dict[str, Problem], trajectory: Trajectory, center: int, spec: dict) -> RawDirections:
    """Return minus the gradient of the loss of each problem, labelled by its name.

    Args:
        problems: of one network, as ``batches`` names their samples.
        center: row of the checkpoint at which gradients are taken.
        spec: the choices; ``batchnorm`` and ``batch_size`` are noted.

    Raises:
        LossAtlasError: a gradient is NaN or infinite.
    """
    theta, buffers = trajectory.parameters(center), trajectory.buffers(center)
    iteration = int(trajectory.iterations[center])
    vectors = -np.stack([problem.gradient(theta, buffers) for problem in problems.values()])
    if not np.isfinite(vectors).all():
        raise LossAtlasError(f"directions: the gradient at iteration {iteration} is NaN or infinite")
    notes = {
        "batchnorm": batchnorm_note(spec, "frozen: running statistics of the checkpoint"),
        "iteration": iteration,
        "samples": next(iter(problems.values())).samples,
    }
    return RawDirections(vectors, list(problems), notes=notes)
