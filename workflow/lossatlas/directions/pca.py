"""Principal components of the path: PCA of M = [theta_0 - theta_c, ..., theta_n - theta_c] (Li et al. 2018)."""

import numpy as np
from scipy.linalg import eigh

from lossatlas import rng
from lossatlas.directions.raw import RawDirections
from lossatlas.errors import LossAtlasError
from lossatlas.trajectory import Trajectory

_ROUNDING = 1e-13
"""Eigenvalues of the Gram matrix below this share of the largest are rounding, not directions."""


def pca(trajectory: Trajectory, center: int, count: int, center_rows: bool, solver: str, seed: int) -> RawDirections:
    """Return the ``count`` leading unit principal directions of the path.

    The rows of M are all recorded checkpoints but the centre's own, minus theta_center. With ``center_rows``
    their mean is subtracted, as sklearn does, and shares are shares of the variance; without it they are
    shares of the second moment about theta_center. The sign makes the largest entry positive (sklearn's).

    Raises:
        LossAtlasError: the path has too few checkpoints or spans too few directions.
    """
    rows = len(trajectory) - 1
    if rows - center_rows < count:
        raise LossAtlasError(
            f"directions: {count} principal components need at least {count + center_rows + 1} recorded "
            f"checkpoints, {trajectory.path} has {len(trajectory)}"
        )
    solve = {"gram": _gram, "randomized": _randomized, "incremental": _incremental}[solver]
    vectors, moments, total = solve(trajectory, center, count, center_rows, seed)
    if not moments[count - 1] > _ROUNDING * moments[0]:
        raise LossAtlasError(
            f"directions: the path of {trajectory.path} spans fewer than {count} directions "
            f"(component {count} holds a share of {moments[count - 1] / max(total, 1e-300):.1e})"
        )
    largest = np.abs(vectors).argmax(axis=1)
    vectors *= np.sign(vectors[np.arange(count), largest])[:, None]
    return RawDirections(
        vectors,
        [f"PCA {k + 1}" for k in range(count)],
        {"explained_variance_ratio": moments / total},
        {"share_of": "variance" if center_rows else "second moment about theta_c", "rows": rows},
    )


def _block(block: np.ndarray, center: int, center_rows: bool) -> np.ndarray:
    """Return some columns of M, float64, from the same columns of the trajectory."""
    differences = np.delete(block, center, axis=0) - block[center]
    return differences - differences.mean(axis=0) if center_rows else differences


def _gram(trajectory: Trajectory, center: int, count: int, center_rows: bool, seed: int) -> tuple:
    """Solve through the n x n matrix M M^T, streamed over column blocks: memory n^2 + n * block."""
    rows = len(trajectory) - 1
    gram = np.zeros((rows, rows))
    for _, block in trajectory.column_blocks():
        m = _block(block, center, center_rows)
        gram += m @ m.T
    values, u = eigh(gram, subset_by_index=[rows - count, rows - 1])
    values, u = np.maximum(values[::-1], 0.0), u[:, ::-1]
    vectors = np.empty((count, trajectory.layout.size))
    for columns, block in trajectory.column_blocks():
        vectors[:, columns] = u.T @ _block(block, center, center_rows)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return vectors, values, np.trace(gram)


def _randomized(trajectory: Trajectory, center: int, count: int, center_rows: bool, seed: int) -> tuple:
    """Solve by sklearn's randomized range finder; holds M in memory once, as float64."""
    from sklearn.utils.extmath import randomized_svd

    m = _whole(trajectory, center, center_rows)
    _, singular, vectors = randomized_svd(m, count, n_iter=7, random_state=rng.key(seed, "randomized PCA") % 2**32)
    return vectors, singular**2, np.square(m).sum()


def _incremental(trajectory: Trajectory, center: int, count: int, center_rows: bool, seed: int) -> tuple:
    """Solve by sklearn's incremental PCA over blocks of rows; it always centres."""
    from sklearn.decomposition import IncrementalPCA

    rows = [row for row in range(len(trajectory)) if row != center]
    origin = trajectory.parameters(center).astype(np.float64)
    # Each block truncates to the components kept; keeping more than asked for makes the leading ones accurate.
    kept = min(4 * count + 8, len(rows))
    size = max(kept, trajectory.store["parameters"].chunks[0])
    model = IncrementalPCA(n_components=kept)
    blocks = [rows[i : i + size] for i in range(0, len(rows), size)]
    if len(blocks) > 1 and len(blocks[-1]) < kept:
        blocks[-2:] = [blocks[-2] + blocks[-1]]
    for block in blocks:
        model.partial_fit(np.stack([trajectory.parameters(row) for row in block]).astype(np.float64) - origin)
    total = model.var_.sum() * len(rows)
    return model.components_[:count].copy(), model.singular_values_[:count] ** 2, total


def _whole(trajectory: Trajectory, center: int, center_rows: bool) -> np.ndarray:
    m = np.empty((len(trajectory) - 1, trajectory.layout.size))
    for columns, block in trajectory.column_blocks():
        m[:, columns] = _block(block, center, center_rows)
    return m
