"""What a random walk's PCA looks like, beside the run's: Antognini & Sohl-Dickstein, NeurIPS 2018.

In many dimensions the steps of a random walk are orthogonal to each other, so its Gram matrix is known in closed form,
and with it its principal components: cosines of time (Lissajous curves), with most of the variance in the first.
The walk here takes steps of the run's own lengths; it is exact for many more parameters than checkpoints.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh, eigvalsh

from lossatlas.io.arrays import Array

COMPONENTS = 10
"""Components that are compared where the solver offers them."""

_ROUNDING = 1e-13
"""Moments below this share of the largest are rounding."""


@dataclass
class Principal:
    """Principal components of a path of n + 1 points of which the rows of M are some.

    ``axes`` (row, component) are unit eigenvectors of M M^T, ``moments`` (component,) its eigenvalues in descending
    order, ``total`` its trace, and ``coordinates`` (point, component) those of all points in the components.
    """

    axes: np.ndarray
    moments: np.ndarray
    total: float
    coordinates: np.ndarray


def principal(gram: np.ndarray, rows: np.ndarray, center_rows: bool, count: int) -> Principal:
    """Return the leading components of a path from the products of its points, taken about theta_center.

    Args:
        gram: products (point, point).
        rows: the points that are rows of M.
        center_rows: subtract the mean row.
    """
    inner, mean = gram[np.ix_(rows, rows)], 0.0
    if center_rows:
        inner = centred(inner)
    values, axes = eigh(inner, subset_by_index=[len(rows) - count, len(rows) - 1])
    values, axes = np.maximum(values[::-1], 0.0), axes[:, ::-1]
    if center_rows:
        axes = axes - axes.mean(axis=0)  # zero but for rounding
        mean = (gram[np.ix_(rows, rows)] @ axes).mean(axis=0)
    along = gram[:, rows] @ axes - mean
    real = values > _ROUNDING * values[0]
    coordinates = np.divide(along, np.sqrt(values), out=np.zeros_like(along), where=real)
    return Principal(axes, values, float(np.trace(inner)), coordinates)


def centred(gram: np.ndarray) -> np.ndarray:
    """Return the products of points minus their mean."""
    gram = gram - gram.mean(axis=0)
    return gram - gram.mean(axis=1, keepdims=True)


def walk_factor(step_squares: np.ndarray, center: int) -> np.ndarray:
    """Return L (point, step) with the Gram matrix L L^T of a walk of orthogonal steps, about its point ``center``.

    Args:
        step_squares: squared lengths (n,) of the steps between n + 1 points.
    """
    done = np.tri(len(step_squares) + 1, len(step_squares), k=-1) * np.sqrt(step_squares)
    return done - done[center]


def similarity(gram: np.ndarray, factor: np.ndarray, rows: np.ndarray, center_rows: bool) -> float:
    """Return how alike two paths are up to rotation and scale: 1 for equal shapes, 0 for orthogonal ones.

    It is the largest inner product that a rotation of one path onto the other reaches (orthogonal Procrustes), both
    having unit norm; of the Gram matrices G and L L^T it is tr sqrt(L^T G L) / sqrt(tr G tr L L^T).
    """
    gram, factor = gram[np.ix_(rows, rows)], factor[rows]
    if center_rows:
        gram, factor = centred(gram), factor - factor.mean(axis=0)
    overlap = np.sqrt(np.maximum(eigvalsh(factor.T @ gram @ factor), 0.0)).sum()
    return float(overlap / np.sqrt(np.trace(gram) * np.square(factor).sum()))


_PATH, _PER = ("iteration", "component"), ("component",)
ARRAYS = (
    Array("iteration", _PATH[:1], "iteration", dtype="int64"),
    Array("component", _PER, "principal component", dtype="int64"),
    Array("path_coordinate", _PATH, "coordinate of the path"),
    Array("walk_coordinate", _PATH, "coordinate of a random walk with steps as long"),
    Array("path_share", _PER, "explained variance ratio of the path"),
    Array("walk_share", _PER, "explained variance ratio of the random walk"),
    Array("walk_correlation", _PER, "correlation of the coordinates of path and random walk"),
)
"""What the store of principal components has of a random walk."""


@dataclass
class Comparison:
    """A run's principal components beside those of a random walk of the same step lengths.

    ``path`` and ``walk`` (iteration, component) are coordinates, ``share`` and ``walk_share`` (component,) explained
    variance; ``correlation`` (component,) is between the coordinates, and ``similarity`` is of the whole paths, NaN
    where only some components of the path are known. ``spread`` is the path's standard deviation in units of the
    walk's: 1 for a walk, more where steps go on in one direction.
    """

    path: np.ndarray
    walk: np.ndarray
    share: np.ndarray
    walk_share: np.ndarray
    correlation: np.ndarray
    similarity: float
    spread: float

    def turn(self, signs: np.ndarray) -> None:
        """Turn the leading components' coordinates with their vectors, in place."""
        self.path[:, : len(signs)] *= signs
        self.walk[:, : len(signs)] *= signs

    def arrays(self, iterations: np.ndarray) -> dict[Array, np.ndarray]:
        """Return the values of ``ARRAYS``."""
        numbers, coordinates = np.arange(1, len(self.share) + 1), (self.path, self.walk)
        values = iterations, numbers, *coordinates, self.share, self.walk_share, self.correlation
        return dict(zip(ARRAYS, values, strict=True))


def compare(
    path: np.ndarray,
    share: np.ndarray,
    step_squares: np.ndarray,
    center: int,
    center_rows: bool,
    gram: np.ndarray | None = None,
) -> Comparison:
    """Compare a path with a random walk.

    Args:
        path, share: coordinates (iteration, component) and explained variance (component,) of the run.
        step_squares: squared lengths of the steps between neighbouring checkpoints.
        center: the checkpoint theta_c, which is no row of M.
        gram: products of the checkpoints about theta_c, where they are known.
    """
    rows, factor = np.delete(np.arange(len(path)), center), walk_factor(step_squares, center)
    walk = principal(factor @ factor.T, rows, center_rows, path.shape[1])
    products = (path[rows] * walk.coordinates[rows]).sum(axis=0)
    norms = np.linalg.norm(path[rows], axis=0) * np.linalg.norm(walk.coordinates[rows], axis=0)
    correlation = np.divide(np.abs(products), norms, out=np.zeros_like(norms), where=norms > 0)
    alike = similarity(gram, factor, rows, center_rows) if gram is not None else np.nan
    walked = walk.coordinates * np.where(products < 0, -1, 1)
    spread = np.sqrt(np.square(path[rows, 0]).sum() / share[0] / walk.total)
    return Comparison(path, walked, share, walk.moments / walk.total, correlation, alike, float(spread))
