"""Whether points as they are evaluated, by a traced graph, have the losses of the model called eagerly."""

import time

import numpy as np
import tensorflow as tf

from lossatlas.backends.tensorflow.batchnorm import statistics
from lossatlas.backends.tensorflow.network import to_numpy
from lossatlas.backends.tensorflow.protocols import Evaluator
from lossatlas.backends.tensorflow.subspace_loss import Restriction
from lossatlas.errors import LossAtlasError
from lossatlas.problem.agreement import PointAgreement

MULTIPLE, FLOOR = 32.0, 256
"""What may be between two ways: so many times the measured rounding, and so many units in the last place."""

SECONDS = 1.0
"""After which no further point is compared."""


def compare(restriction: Restriction, points: np.ndarray) -> PointAgreement:
    """Return how the losses at some points (point, k) agree on the last chunk of samples.

    Compared are the chunk's mean loss, the mean of its samples' losses and their mean square, each relative to itself.

    Raises:
        LossAtlasError: they differ by more than rounding.
    """
    problem, started = restriction.problem, time.perf_counter()
    chunk, last = problem.chunks[-1], len(problem.metric_names)
    eps = np.finfo(problem.network.device.dtype).eps
    difference, rounding, compared = 0.0, 0.0, 0
    for point in points[::-1]:
        if compared and time.perf_counter() - started > SECONDS:
            break
        theta, buffers = restriction.at(point)
        found = to_numpy(problem.sums(theta, buffers, *chunk))[[0, last - 1, last]]
        exact = problem.network.vector(restriction.exactly(point))
        plain = _losses(problem, exact, buffers, *chunk)
        gap = _apart(plain, found)
        around = _apart(plain, _losses(problem, moved(exact), moved(buffers), moved(chunk[0]), chunk[1]))
        difference, rounding, compared = max(difference, gap), max(rounding, around), compared + 1
        if gap > MULTIPLE * around + FLOOR * eps:
            raise LossAtlasError(
                f"planes: losses of the traced model differ from those of the model called eagerly by {gap:.1e} of "
                f"their size, where rounding is {around:.1e}; does a layer or the loss compute something outside "
                "TensorFlow, in Python or NumPy?"
            )
    return PointAgreement("graph", compared, len(chunk[0]), difference, rounding)


def _losses(
    problem: Evaluator, theta: tf.Tensor, buffers: tf.Tensor, inputs: tf.Tensor, targets: tf.Tensor
) -> np.ndarray:
    """Return mean loss, mean of the samples' own losses and their mean square, eagerly."""
    network = problem.network
    with statistics(network.model, problem.batchnorm):
        outputs = network.outputs(network.parts(theta), buffers, inputs)
    each = np.array([float(problem.loss(outputs[i : i + 1], targets[i : i + 1])) for i in range(len(targets))])
    return np.array([float(problem.loss(outputs, targets)), each.mean(), np.square(each).mean()])


def moved(tensor: tf.Tensor) -> tf.Tensor:
    """Return floating-point numbers larger or smaller by their rounding, at random."""
    if not tensor.dtype.is_floating:
        return tensor
    signs = np.random.default_rng(0).choice([-1.0, 1.0], tensor.shape) * np.finfo(tensor.dtype.as_numpy_dtype).eps
    return tensor * tf.constant(1 + signs, tensor.dtype)


def _apart(plain: np.ndarray, others: np.ndarray) -> float:
    """Return the largest relative difference; what is not finite must be alike."""
    same = (plain == others) | (np.isnan(plain) & np.isnan(others))
    with np.errstate(invalid="ignore", over="ignore"):
        gaps = np.where(same, 0.0, np.abs(plain - others) / np.maximum(np.abs(plain), np.finfo(np.float64).tiny))
    return float(np.where(np.isfinite(gaps), gaps, np.inf).max())
