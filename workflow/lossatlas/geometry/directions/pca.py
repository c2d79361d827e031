"""Principal components of the path: PCA of M = [theta_0 - theta_c, ..., theta_n - theta_c] (Li et al. 2018)."""

import numpy as np

from lossatlas import rng
from lossatlas.errors import LossAtlasError
from lossatlas.geometry import random_walk
from lossatlas.geometry.directions.streams import column_sum, map_columns
from lossatlas.geometry.directions.unnormalized import RawDirections, Source
from lossatlas.io.trajectory import Trajectory

FLOAT64_UP_TO = 10**8
"""Numbers of a float32 trajectory up to which products are taken in float64."""

_ROUNDING = 1e-13
"""Eigenvalues of the Gram matrix below this share of the largest are rounding, not directions."""


def make(spec: dict, source: Source) -> RawDirections:
    """Return the ``count`` leading unit principal directions of the path, and what a random walk's would be.

    The rows of M are all recorded checkpoints but the centre's own, minus theta_center. With ``center_rows``
    their mean is subtracted, as sklearn does, and shares are shares of the variance; without it they are
    shares of the second moment about theta_center. The sign makes the largest entry positive (sklearn's).

    Args:
        spec: keys ``count``, ``center_rows``, ``seed`` and ``solver``: ``gram``, which gives the same bits however many
            threads and ranks share the columns of M, or sklearn's ``randomized`` or ``incremental``, which every rank
            computes on its own.

    Raises:
        LossAtlasError: the path has too few checkpoints or spans too few directions.
    """
    trajectory, count, center_rows, solver = source.trajectory, spec["count"], spec["center_rows"], spec["solver"]
    rows = len(trajectory) - 1
    if rows - center_rows < count:
        raise LossAtlasError(
            f"directions: {count} principal components need at least {count + center_rows + 1} recorded "
            f"checkpoints, {trajectory.path} has {len(trajectory)}"
        )
    if solver == "gram":
        vectors, moments, total, walk = _gram(source, count, center_rows)
    else:
        solve = {"randomized": _randomized, "incremental": _incremental}[solver]
        vectors, moments, total = solve(trajectory, source.center, count, center_rows, spec["seed"])
        _check(trajectory, moments, total)
        walk = _compare(source, center_rows, vectors, moments / total)
    largest = np.abs(vectors).argmax(axis=1)
    signs = np.sign(vectors[np.arange(count), largest])
    vectors *= signs[:, None]
    walk.turn(signs)
    return RawDirections(
        vectors,
        [f"PCA {k + 1}" for k in range(count)],
        {"explained_variance_ratio": moments / total},
        {
            "share_of": "variance" if center_rows else "second moment about theta_c",
            "rows": rows,
            "arithmetic": str(_arithmetic(trajectory)) if solver == "gram" else "float64",
            "walk_similarity": walk.similarity,
            "walk_spread": walk.spread,
        },
        walk.arrays(trajectory.iterations),
    )


def _arithmetic(trajectory: Trajectory) -> np.dtype:
    """Return the type in which the Gram matrix's products are taken; sums over blocks are in float64 always.

    In float32, for 196 x 1 million, shares of the variance above 1e-3 were off by 4e-8 relative, those of 2.5e-6 by
    2e-4, and the vectors by 8e-7 of their largest entry; it takes half the time.
    """
    thetas = trajectory.thetas
    return thetas.dtype if thetas.size > FLOAT64_UP_TO else np.dtype(np.float64)


def _check(trajectory: Trajectory, moments: np.ndarray, total: float) -> None:
    if not moments[-1] > _ROUNDING * moments[0]:
        raise LossAtlasError(
            f"directions: the path of {trajectory.path} spans fewer than {len(moments)} directions "
            f"(component {len(moments)} holds a share of {moments[-1] / max(total, 1e-300):.1e})"
        )


def _gram(
    source: Source, count: int, center_rows: bool
) -> tuple[np.ndarray, np.ndarray, float, random_walk.Comparison]:
    """Solve through the n x n matrix M M^T, streamed over column blocks: memory n^2 + n * block.

    The mean row is subtracted in the n x n matrix; the vectors are sums of rows whose weights then sum to zero. Their
    own squared norms are the moments, to second order in the matrix's error.
    """
    trajectory, center, shared = source.trajectory, source.center, (source.threads, source.team)

    def products(_: slice, block: np.ndarray) -> np.ndarray:
        block -= block[center].copy()
        return block @ block.T

    dtype = _arithmetic(trajectory)
    gram = column_sum(trajectory, products, *shared, dtype)
    rows = np.delete(np.arange(len(trajectory)), center)
    found = random_walk.principal(
        gram, rows, center_rows, min(max(count, random_walk.COMPONENTS), len(rows) - center_rows)
    )
    weights = np.zeros((count, len(trajectory)), dtype)
    weights[:, rows] = found.axes[:, :count].T

    def combine(_: slice, block: np.ndarray) -> np.ndarray:
        block -= block[center].copy()
        return weights @ block

    vectors = map_columns(trajectory, combine, count, *shared, dtype)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    moments = norms[:, 0] ** 2
    _check(trajectory, moments, found.total)
    vectors /= norms
    steps = np.diag(gram)[1:] + np.diag(gram)[:-1] - 2 * np.diag(gram, 1)
    share = found.moments / found.total
    walk = random_walk.compare(found.coordinates, share, np.maximum(steps, 0), center, center_rows, gram)
    return vectors, moments, found.total, walk


def _compare(source: Source, center_rows: bool, vectors: np.ndarray, share: np.ndarray) -> random_walk.Comparison:
    """Compare with a random walk what is known without the n x n matrix."""
    center = source.center

    def measure(columns: slice, block: np.ndarray) -> np.ndarray:
        steps = np.square(np.diff(block, axis=0, prepend=block[:1])).sum(axis=1)
        block -= block[center].copy()
        return np.column_stack([block @ vectors[:, columns].T, steps])

    found = column_sum(source.trajectory, measure, source.threads, source.team)
    path, steps = found[:, :-1], found[1:, -1]
    mean = np.delete(path, center, axis=0).mean(axis=0) if center_rows else 0.0
    return random_walk.compare(path - mean, share, steps, center, center_rows)


def _randomized(trajectory: Trajectory, center: int, count: int, center_rows: bool, seed: int) -> tuple:
    """Solve by sklearn's randomized range finder; holds M in memory once, as float64."""
    from sklearn.utils.extmath import randomized_svd

    m = np.empty((len(trajectory) - 1, trajectory.layout.size))
    for columns, block in trajectory.column_blocks():
        m[:, columns] = np.delete(block, center, axis=0) - block[center]
    if center_rows:
        m -= m.mean(axis=0)
    _, singular, vectors = randomized_svd(m, count, n_iter=7, random_state=rng.key(seed, "randomized PCA") % 2**32)
    return vectors, singular**2, np.square(m).sum()


def _incremental(trajectory: Trajectory, center: int, count: int, center_rows: bool, seed: int) -> tuple:
    """Solve by sklearn's incremental PCA over blocks of rows; it always centres."""
    from sklearn.decomposition import IncrementalPCA

    rows = [row for row in range(len(trajectory)) if row != center]
    origin = trajectory.parameters(center).astype(np.float64)
    # Each block truncates to the components kept; keeping more than asked for makes the leading ones accurate.
    kept = min(4 * count + 8, len(rows))
    size = max(kept, trajectory.thetas.chunks[0])
    model = IncrementalPCA(n_components=kept)
    blocks = [rows[i : i + size] for i in range(0, len(rows), size)]
    if len(blocks) > 1 and len(blocks[-1]) < kept:
        blocks[-2:] = [blocks[-2] + blocks[-1]]
    for block in blocks:
        model.partial_fit(np.stack([trajectory.parameters(row) for row in block]).astype(np.float64) - origin)
    total = model.var_.sum() * len(rows)
    return model.components_[:count].copy(), model.singular_values_[:count] ** 2, total
