"""Random sums of the losses of single samples: by how much means over the same samples differ by chance.

With independent signs r_i the sum of r_i x_i has the variance of the sum of independent x_i of mean zero. A few such
sums, over the same signs at every point of a curve, tell the standard error of any difference of two points' losses
without keeping the losses of all samples (a random projection, as of Johnson and Lindenstrauss).
"""

import numpy as np

from lossatlas import rng


def random_signs(samples: int, columns: int) -> np.ndarray:
    """Return signs 1 and -1, float64 (sample, column)."""
    return rng.generator(0, "signs of losses").integers(0, 2, (samples, columns)) * 2.0 - 1


def sketches(signed: np.ndarray, mean: np.ndarray, balance: np.ndarray, counted: int) -> np.ndarray:
    """Return the columns of ``ProblemBase.sketch`` (..., column); their root mean square is the standard error.

    Args:
        signed: means over the samples of their losses times signs (..., column).
        mean: the mean loss (...).
        balance: means of the samples' weights, 1 on average, times signs (column,).
        counted: how many samples have a weight.
    """
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # what is not finite stays so
        return (signed - mean[..., None] * balance) * np.sqrt(np.float64(counted) / (counted - 1))


def standard_error(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the standard error of the difference of two losses from their sketches (..., column)."""
    return np.sqrt(np.square(one - other).mean(axis=-1))
