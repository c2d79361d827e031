"""The trajectory store: theta at every recorded iteration, with all that is needed to evaluate it."""

import math
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import DTypeLike

from lossatlas.errors import LossAtlasError
from lossatlas.io.arrays import Array, create_arrays
from lossatlas.io.deltas import BLOCK_ROWS, theta_rows
from lossatlas.io.layout import ParameterLayout
from lossatlas.io.store import Store, check_chunk, open_finished

CHUNK_COLUMNS = 2**20
CHUNK_BYTES = 256 * 2**20
CHUNK_ROWS = 25
BLOCK_BYTES = 8 * 2**20
"""Of a block of columns in float64: what a processor's cache holds."""


@dataclass
class Recording:
    """What a trajectory will hold: of which network, at which iterations.

    ``buffers`` and ``frozen_shapes`` list (name, shape) of floating-point buffers and of parameters that are
    not trained; ``frozen`` holds the latter's values, flat.
    """

    layout: ParameterLayout
    iterations: np.ndarray
    dtype: str
    steps_per_epoch: float | None = None
    buffers: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    frozen: np.ndarray = field(default_factory=lambda: np.zeros(0))
    frozen_shapes: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    chunk_bytes: int = CHUNK_BYTES
    precision: str | None = None
    """Of ``deltas.PRECISIONS``, where rows are kept so."""

    @property
    def columns(self) -> int:
        """Numbers per recorded iteration."""
        return self.layout.size + sum(math.prod(shape) for _, shape in self.buffers)

    def build(self, group: zarr.Group) -> None:
        """Create the arrays of a trajectory in an empty group."""
        group.attrs.update(
            {
                "title": "Training trajectory",
                "summary": "Row i holds the flat parameter vector theta and the buffers of recorded iteration i.",
                "layout": self.layout.to_json(),
                "buffers": [[name, list(shape)] for name, shape in self.buffers],
                "frozen_layout": [[name, list(shape)] for name, shape in self.frozen_shapes],
            }
        )
        if self.precision is not None:
            told = f"Row i is reference[i // {BLOCK_ROWS}] + delta_scale[i] * parameters_delta[i]."
            group.attrs.update({"precision": self.precision, "summary": told})
        iterations = np.asarray(self.iterations, np.int64)
        known = {"iteration": iterations, "frozen": np.asarray(self.frozen, self.dtype)}
        known["epoch"] = iterations / (self.steps_per_epoch or np.nan)
        create_arrays(group, self.schema, known, **self.sizes)

    @property
    def sizes(self) -> dict[str, int]:
        """The lengths of the dimensions of the store."""
        size = self.layout.size
        columns = {"parameter": size, "buffer": self.columns - size, "frozen_parameter": self.frozen.size}
        return {"iteration": len(self.iterations), "block": -(-len(self.iterations) // BLOCK_ROWS), **columns}

    @property
    def schema(self) -> list[Array]:
        """The arrays of the store; what hardly compresses lies there raw."""
        along, rows, order = ("iteration",), self._rows_per_chunk(), "order and shapes: attribute '{}' of the store"
        layout, buffers, frozen = map(order.format, ("layout", "buffers", "frozen_layout"))
        weights = partial(Array, dtype=self.dtype, chunks=(rows, CHUNK_COLUMNS), compress=False)
        loss = "loss of the mini-batch of the step that starts here, without weight decay (NaN: no step)"
        rate = "learning rate of the step that starts here (NaN: no step)"
        text = "parameters that are not trained"
        return [
            Array("iteration", along, "iteration", dtype="int64"),
            *self._theta(weights, layout),
            weights("buffers", (*along, "buffer"), "floating-point buffers", description=buffers),
            Array("frozen", ("frozen_parameter",), text, "", frozen, self.dtype, chunks=(CHUNK_COLUMNS,)),
            Array("batch_loss", along, loss, chunks=(rows,)),
            Array("learning_rate", along, rate, chunks=(rows,)),
            Array("epoch", along, "passes over the training set"),
        ]

    def _theta(self, weights: Callable[..., Array], layout: str) -> list[Array]:
        """Return the arrays that hold theta; see ``deltas.HalfRows``."""
        along, text = ("iteration",), "flat parameter vector theta"
        if self.precision is None:
            return [weights("parameters", (*along, "parameter"), text, description=layout)]
        kept = {"dtype": "float16" if self.precision == "float16" else "uint16"}
        told = f"theta less the reference of its block of {BLOCK_ROWS} rows, divided by delta_scale"
        told += "" if self.precision == "float16" else "; bits of bfloat16"
        error = "||row - theta|| / ||theta|| of the row as it is read again"
        return [
            weights(
                "reference", ("block", "parameter"), f"{text}, whole", description=layout, chunks=(1, CHUNK_COLUMNS)
            ),
            weights("parameters_delta", (*along, "parameter"), "differences of theta", description=told, **kept),
            Array("delta_scale", along, "scale of the differences"),
            Array("parameters_error", along, "error of half precision", "1", error),
        ]

    def _rows_per_chunk(self) -> int:
        """Return how many iterations are buffered and written at once."""
        row = max(1, self.layout.size * np.dtype(self.dtype).itemsize)
        return max(1, min(CHUNK_ROWS, self.chunk_bytes // row))


def check_disk(folder: Path, recording: Recording) -> str:
    """Return one line that says how much disk a trajectory needs.

    Raises:
        LossAtlasError: the file system has less room.
    """
    rows, columns = len(recording.iterations), recording.columns
    need = rows * columns * np.dtype(recording.dtype).itemsize
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    text = f"trajectory: {rows} rows x {columns} numbers need {need / 1e6:.1f} MB; {free / 1e9:.1f} GB are free"
    if need > free:
        raise LossAtlasError(f"{text} at {folder}; raise train.record_every or free some room")
    return text


class RowWriter:
    """Writes rows of a trajectory, as a rule a whole chunk at a time. ``written`` counts the rows on disk."""

    def __init__(self, store: Store):
        self._arrays = {name: store[name] for name in _ROW_ARRAYS}  # opening one takes milliseconds
        self._per_chunk = self._arrays["parameters"].chunks[0]
        self._rows = {n: np.empty((self._per_chunk, *a.shape[1:]), a.dtype) for n, a in self._arrays.items()}
        self._pending = 0
        self.written = 0

    def append(self, **row: np.ndarray | float) -> None:
        """Take one row (parameters, buffers, batch_loss, learning_rate); write at the end of a chunk."""
        for name in _ROW_ARRAYS:
            self._rows[name][self._pending] = row[name]
        self._pending += 1
        if (self.written + self._pending) % self._per_chunk == 0:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows."""
        rows = slice(self.written, self.written + self._pending)
        for name, array in self._arrays.items():
            if self._pending and array.size:
                array[rows] = self._rows[name][: self._pending]
        self.written += self._pending
        self._pending = 0


def rows_on_disk(store: Store, rows: int) -> bool:
    """Return whether every chunk that holds some of the first rows of an unfinished trajectory is there."""
    arrays = [(name, store[name]) for name in _ROW_ARRAYS]
    return all(
        (store.path / name / "c" / "/".join(map(str, chunk))).exists()
        for name, array in arrays
        if array.size
        for chunk in np.ndindex(-(-rows // array.chunks[0]), *array.cdata_shape[1:])
    )


_ROW_ARRAYS = ("parameters", "buffers", "batch_loss", "learning_rate")


class Trajectory:
    """A trajectory, read row by row or in column blocks: finished, or one that grows, as far as it has got.

    ``thetas`` is theta of all rows (row, parameter).
    """

    def __init__(self, path: Path):
        self.store = open_finished(path)
        self.path = Path(path)
        if "layout" not in self.store.attrs:
            raise LossAtlasError(
                f"{path}: a store of kind {self.store.attrs['provenance']['kind']!r}, not a trajectory"
            )
        self.layout = ParameterLayout.from_json(self.store.attrs["layout"])
        self.iterations = self.store["iteration"][: self.store.attrs.get("rows")]
        self.thetas = theta_rows(self.store)
        # Uncompressed chunks are files of plain numbers and a checksum; any columns can be read without the rest.
        codecs = self.thetas.metadata.codecs if isinstance(self.thetas, zarr.Array) else ()
        self._plain = len(codecs) == 2 and sys.byteorder == "little"
        self._checked: set[tuple[int, int]] = set()

    def __len__(self) -> int:
        return len(self.iterations)

    def every(self, stride: int) -> np.ndarray:
        """Return every ``stride``-th row and the last."""
        return np.unique(np.append(np.arange(0, len(self), stride), len(self) - 1))

    def row_of(self, iteration: int | str, where: str) -> int:
        """Return the row of a recorded iteration, ``first`` or ``last``.

        Raises:
            LossAtlasError: the iteration was not recorded; ``where`` names the config key.
        """
        if iteration in ("first", "last"):
            return 0 if iteration == "first" else len(self) - 1
        rows = np.flatnonzero(self.iterations == iteration)
        if rows.size == 0:
            nearest = self.iterations[np.abs(self.iterations - iteration).argmin()]
            raise LossAtlasError(
                f"{where}: iteration {iteration} was not recorded in {self.path}; the nearest is {nearest}"
            )
        return int(rows[0])

    def parameters(self, row: int) -> np.ndarray:
        """Return theta, shape (N,), of one row."""
        return self.thetas[row]

    @property
    def precision(self) -> dict[str, str | float]:
        """In which precision rows are kept, where it is half, and the largest relative error of a row."""
        if "precision" not in self.store.attrs:
            return {}
        largest = float(self.store["parameters_error"][: len(self)].max(initial=0.0))
        return {"recorded_precision": self.store.attrs["precision"], "largest_parameters_error": largest}

    def buffers(self, row: int) -> np.ndarray:
        """Return the flat buffers of one row."""
        return self.store["buffers"][row] if self.store["buffers"].size else np.zeros(0)

    @property
    def frozen(self) -> np.ndarray:
        """The flat parameters that are not trained."""
        return self.store["frozen"][:] if self.store["frozen"].size else np.zeros(0)

    def column_blocks(
        self, within: slice | None = None, max_bytes: int = BLOCK_BYTES, dtype: DTypeLike = np.float64
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (columns, block of shape (rows, columns)) over theta, or ``within`` it, in bounded memory.

        The next block overwrites the last one, which may be changed.
        """
        first, last, _ = (within or slice(None)).indices(self.layout.size)
        width = max(1, min(last - first, CHUNK_COLUMNS, max_bytes // (np.dtype(dtype).itemsize * len(self))))
        raw = np.empty((len(self), width), self.thetas.dtype)
        blocks = raw if raw.dtype == dtype else np.empty(raw.shape, dtype)
        for start in range(first, last, width):
            columns = slice(start, min(start + width, last))
            block, found = blocks[:, : columns.stop - start], self._columns(columns, raw)
            if found.base is not blocks:
                block[...] = found
            yield columns, block

    def _columns(self, columns: slice, out: np.ndarray) -> np.ndarray:
        """Return some columns of all rows, read into ``out`` where their chunks are plain files."""
        if not self._plain:
            return self.thetas[: len(self), columns]
        rows, width = self.thetas.chunks
        for row in range(0, len(self), rows):
            for chunk in range(columns.start // width, (columns.stop - 1) // width + 1):
                begin, end = max(columns.start, chunk * width), min(columns.stop, (chunk + 1) * width)
                part = out[row : row + rows, begin - columns.start : end - columns.start]
                self._read(row // rows, chunk, begin - chunk * width, part)
        return out[:, : columns.stop - columns.start]

    def _read(self, i: int, j: int, first: int, out: np.ndarray) -> None:
        """Read columns from ``first`` on of the chunk (i, j), whose last rows may lie beyond the array."""
        file, width = self.store.path / f"parameters/c/{i}/{j}", self.thetas.chunks[1]
        if (i, j) not in self._checked:  # once per process, for blocks of columns come back to each chunk many times
            check_chunk(file)
            self._checked.add((i, j))
        with file.open("rb", buffering=0) as stream:
            for k, row in enumerate(out):
                stream.seek((k * width + first) * row.itemsize)
                if stream.readinto(row.data) != row.nbytes:
                    raise LossAtlasError(f"{file}: torn, it is too short; delete {self.path.resolve()} and run again")
