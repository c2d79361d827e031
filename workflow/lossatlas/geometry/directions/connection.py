"""Curves of low loss between two minima (Garipov et al. 2018): quadratic Bezier curves and polygonal chains.

All run through the plane of three points, the two ends and the bend, as t goes from 0 to 1.
"""

from collections.abc import Sequence

import numpy as np

from lossatlas.geometry.directions.mined import Gradient, Save, Vein, descend

BEND = "the bend"
"""How the middle one of the three points is called."""

KINDS = {"bezier": "Bezier curve", "chain": "polygonal chain"}


def shares(curve: str, t: np.ndarray) -> np.ndarray:
    """Return how much of the end and of the bend a curve holds at t; the rest is its beginning.

    They are the coordinates of the curve along (end - beginning, bend - beginning).

    Args:
        curve: ``bezier``, (1-t)^2 beginning + 2t(1-t) bend + t^2 end (Garipov et al., Eq. 4), or ``chain``, at equal
            speed in t straight to the bend and straight on to the end (Eq. 3).
        t: any shape; beyond 0 and 1 the formula goes on.

    Returns:
        Shape (..., 2).
    """
    t = np.asarray(t, np.float64)
    if curve == "bezier":
        return np.stack([t**2, 2 * t * (1 - t)], axis=-1)
    return np.stack([np.maximum(2 * t - 1, 0), np.minimum(2 * t, 2 - 2 * t)], axis=-1)


def train(
    curve: str, beginning: np.ndarray, end: np.ndarray, gradients: Sequence[Gradient], spec: dict, save: Save
) -> np.ndarray:
    """Return the bend, float64 (N,), that makes the mean loss over uniform t in [0, 1] small (Garipov et al., Eq. 2).

    It starts halfway between the ends, where the curve is the straight line.

    Args:
        beginning, end: the two minima, shape (N,).
        gradients, spec, save: as for ``mined.mine``.

    Raises:
        LossAtlasError: the bend left the numbers.
    """

    def change(bend: np.ndarray, gradient: Gradient, where: float, _: float) -> np.ndarray:
        of_end, of_bend = shares(curve, np.array((1 + where) / 2))
        return of_bend * gradient((1 - of_end - of_bend) * beginning + of_end * end + of_bend * bend)

    return descend(Vein(BEND, 0), (beginning + end) / 2, gradients, change, spec, save)


def arc_length(curve: str, t: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the Euclidean length of a curve from t = 0 on, below 0 negative.

    That of a Bezier curve is found by 32 chords from each t to the next.

    Args:
        t: ascending, with 0 among them, shape (point,).
        vectors: end and bend as seen from the beginning, shape (2, N).

    Returns:
        Shape (point,).
    """
    if curve == "chain":
        first, second = np.linalg.norm(vectors[1]), np.linalg.norm(vectors[0] - vectors[1])
        return np.minimum(2 * t, 1) * first + np.maximum(2 * t - 1, 0) * second
    finer = np.interp(np.arange(32 * (len(t) - 1) + 1) / 32, np.arange(len(t)), t)
    steps = np.diff(shares(curve, finer), axis=0)
    squares = np.einsum("ij,jk,ik->i", steps, vectors @ vectors.T, steps)
    length = np.append(0.0, np.cumsum(np.sqrt(np.maximum(squares, 0))))[::32]
    return length - length[t == 0]
