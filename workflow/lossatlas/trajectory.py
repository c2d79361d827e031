"""The trajectory store: theta at every recorded iteration, with all that is needed to evaluate it."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import zarr

from lossatlas.errors import LossAtlasError
from lossatlas.layout import ParameterLayout
from lossatlas.store import Store, add_array, open_finished

CHUNK_COLUMNS = 2**20
CHUNK_BYTES = 256 * 2**20
CHUNK_ROWS = 25


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
        iterations = np.asarray(self.iterations, np.int64)
        add_array(group, "iteration", ("iteration",), data=iterations, long_name="iteration")
        self._add_rows(group, "parameters", "parameter", self.layout.size, "layout", "flat parameter vector theta")
        self._add_rows(group, "buffers", "buffer", self.columns - self.layout.size, "buffers", "floating-point buffers")
        add_array(
            group,
            "frozen",
            ("frozen_parameter",),
            data=np.asarray(self.frozen, self.dtype),
            chunks=(max(1, min(self.frozen.size, CHUNK_COLUMNS)),),
            long_name="parameters that are not trained",
            description="order and shapes: attribute 'frozen_layout' of the store",
        )
        for name, text in (
            (
                "batch_loss",
                "loss of the mini-batch of the step that starts here, without weight decay (NaN: no step)",
            ),
            ("learning_rate", "learning rate of the step that starts here (NaN: no step)"),
        ):
            shape, chunks = iterations.shape, (self._rows_per_chunk(),)
            add_array(group, name, ("iteration",), shape=shape, chunks=chunks, long_name=text)
        epochs = iterations / (self.steps_per_epoch or np.nan)
        add_array(group, "epoch", ("iteration",), data=epochs, long_name="passes over the training set")

    def _add_rows(self, group: zarr.Group, name: str, dim: str, columns: int, order: str, text: str) -> None:
        """Create one array of rows; raw, for weights hardly compress."""
        add_array(
            group,
            name,
            ("iteration", dim),
            shape=(len(self.iterations), columns),
            chunks=(self._rows_per_chunk(), max(1, min(columns, CHUNK_COLUMNS))),
            dtype=self.dtype,
            compress=False,
            long_name=text,
            description=f"order and shapes: attribute '{order}' of the store",
        )

    def _rows_per_chunk(self) -> int:
        """Return how many iterations are buffered and written at once."""
        row = max(1, self.layout.size * np.dtype(self.dtype).itemsize)
        return max(1, min(CHUNK_ROWS, CHUNK_BYTES // row))


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


_ROW_ARRAYS = ("parameters", "buffers", "batch_loss", "learning_rate")


class Trajectory:
    """A finished trajectory, read row by row or in column blocks."""

    def __init__(self, path: Path):
        self.store = open_finished(path)
        self.path = Path(path)
        if "layout" not in self.store.attrs:
            raise LossAtlasError(
                f"{path}: a store of kind {self.store.attrs['provenance']['kind']!r}, not a trajectory"
            )
        self.layout = ParameterLayout.from_json(self.store.attrs["layout"])
        self.iterations = self.store["iteration"][:]
        self._parameters = self.store["parameters"]

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
        return self._parameters[row]

    def buffers(self, row: int) -> np.ndarray:
        """Return the flat buffers of one row."""
        return self.store["buffers"][row] if self.store["buffers"].size else np.zeros(0)

    @property
    def frozen(self) -> np.ndarray:
        """The flat parameters that are not trained."""
        return self.store["frozen"][:] if self.store["frozen"].size else np.zeros(0)

    def column_blocks(self, max_bytes: int = 128 * 2**20) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (columns, float64 block of shape (rows, columns)) over all of theta in bounded memory."""
        width = max(1, min(CHUNK_COLUMNS, max_bytes // (8 * len(self))))
        for start in range(0, self.layout.size, width):
            columns = slice(start, min(start + width, self.layout.size))
            yield columns, self._parameters[:, columns].astype(np.float64)
