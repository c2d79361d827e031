"""Theta in half precision: most rows of a trajectory as differences from one that is kept whole."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr

from lossatlas.io.plain_chunks import write_rows
from lossatlas.io.store import Store

PRECISIONS = ("float16", "bfloat16")

BLOCK_ROWS = 32
"""The first of so many rows is whole."""


def theta_rows(store: Store) -> "zarr.Array | HalfRows":
    """Return theta of all rows of a trajectory (row, parameter), however it is kept."""
    return HalfRows(store) if "precision" in store.attrs else store["parameters"]


class HalfRows:
    """Rows of theta that are kept in half precision, read as an array (row, parameter).

    Row r is ``reference[r // BLOCK_ROWS] + delta_scale[r] * parameters_delta[r]``. Scales are the powers of two next to
    the largest entry, so that float16 does not overflow: it keeps entries near the largest to 2^-11, bfloat16 entries
    of any size to 2^-8. ``parameters_error`` is measured: ||row - theta|| / ||theta||.
    """

    def __init__(self, store: Store):
        names = ("reference", "parameters_delta", "delta_scale", "parameters_error")
        self._reference, self._delta, self._scale, self._error = (store[name] for name in names)
        self._folder = store.path
        self._precision, self.dtype = store.attrs["precision"], self._reference.dtype
        self._held: tuple[int, np.ndarray] = (-1, np.zeros(0))  # the latest block and its whole row

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and parameters."""
        return self._delta.shape

    @property
    def size(self) -> int:
        """Rows times parameters."""
        return self._delta.size

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of the pieces that differences are read in."""
        return self._delta.chunks

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return a row, or rows that follow each other, of all parameters or some columns."""
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        alone = not isinstance(rows, slice)
        first, last = (int(rows), int(rows) + 1) if alone else rows.indices(self.shape[0])[:2]
        blocks = np.arange(first, last) // BLOCK_ROWS
        whole = self._reference[first // BLOCK_ROWS : -(-last // BLOCK_ROWS), columns][blocks - first // BLOCK_ROWS]
        found = self._restored(whole, self._scale[first:last][:, None], self._delta[first:last, columns])
        return found[0] if alone else found

    def write(self, first: int, thetas: Sequence[np.ndarray]) -> None:
        """Write rows that follow each other."""
        made = []
        for row, theta in enumerate(thetas, first):
            if row % BLOCK_ROWS == 0:
                self._reference[row // BLOCK_ROWS], self._held = theta, (row // BLOCK_ROWS, theta.copy())
            made.append(self._made(row, theta))
        deltas, scales, errors = zip(*made, strict=True)
        write_rows(self._folder / "parameters_delta", self._delta, first, deltas)
        self._scale[first : first + len(made)], self._error[first : first + len(made)] = map(np.array, (scales, errors))

    def as_kept(self, row: int, theta: np.ndarray) -> np.ndarray:
        """Return what a row would be that is written and read again."""
        delta, scale, _ = self._made(row, theta)
        return self._restored(self._whole(row), scale, delta)

    def resize(self, shape: tuple[int, ...]) -> None:
        """Make room for other numbers of rows, or cut them."""
        self._reference.resize((-(-shape[0] // BLOCK_ROWS), *shape[1:]))
        self._delta.resize(shape)
        for array in (self._scale, self._error):
            array.resize(shape[:1])

    def _whole(self, row: int) -> np.ndarray:
        if self._held[0] != row // BLOCK_ROWS:
            self._held = row // BLOCK_ROWS, self._reference[row // BLOCK_ROWS]
        return self._held[1]

    def _made(self, row: int, theta: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Return difference, scale and error of a row."""
        difference = theta - self._whole(row)
        largest = float(np.abs(difference).max(initial=0.0))
        scale = float(2.0 ** np.frexp(largest)[1]) if 0 < largest < np.inf else 1.0
        difference /= self.dtype.type(scale)
        delta = difference.astype(np.float16) if self._precision == "float16" else _as_bfloat16(difference)
        error = np.linalg.norm(self._restored(self._whole(row), scale, delta) - theta)
        return delta, scale, float(error / max(np.linalg.norm(theta), np.finfo(self.dtype).tiny))

    def _restored(self, whole: np.ndarray, scale: float | np.ndarray, delta: np.ndarray) -> np.ndarray:
        if self._precision == "bfloat16":
            delta = (delta.astype(np.uint32) << 16).view(np.float32)
        found = delta.astype(self.dtype)
        found *= np.asarray(scale, self.dtype)
        found += whole
        return found


def _as_bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the upper halves of float32 numbers, rounded to even, as NumPy has no such type."""
    single = np.ascontiguousarray(values, np.float32)
    bits = single.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    rounded[np.isnan(single)] = 0x7FC0  # the NaN of GPUs, all of whose bits are set, would be rounded to zero
    return rounded.astype(np.uint16)
