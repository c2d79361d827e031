"""A trajectory that grows while somebody trains: rows are appended, and a killed process leaves those written so far.

The arrays have room for more rows than there are. The attribute ``rows`` says how many are whole; it is written after
them, so that readers see complete rows only.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lossatlas.errors import LossAtlasError
from lossatlas.io import owner, store
from lossatlas.io.deltas import HalfRows, theta_rows
from lossatlas.io.layout import ParameterLayout
from lossatlas.io.plain_chunks import write_rows
from lossatlas.io.store import Store
from lossatlas.io.trajectory import Recording

BLOCK_ROWS = 1024
"""By how many rows the arrays are enlarged."""

CHUNK_BYTES = 8 * 2**20
"""Of a chunk, at most: it is written anew for every row that is added to it."""

Row = dict[str, Any]
"""``iteration``, ``parameters``, ``buffers``, ``batch_loss`` and ``learning_rate`` of one recorded iteration."""


class GrowingTrajectory:
    """The store at ``path`` (``.../trajectory.zarr``), begun or gone on with.

    ``start`` is the iteration at which training goes on.

    Args:
        recording: of which network; its iterations do not count.
        theta: the parameters where training goes on.
        start: the iteration at which training goes on; rows from there on are dropped, and with 0 the whole store is
            set aside. None is the last row's, which must hold ``theta``.

    Raises:
        LossAtlasError: something else lies at the path, it was recorded from another model, or another process is
            recording there; it is left as it was.
    """

    def __init__(self, path: Path, recording: Recording, theta: np.ndarray, start: int | None = None):
        self.path, self._steps_per_epoch = path, recording.steps_per_epoch
        self._began = time.monotonic()
        recording.iterations = np.full(BLOCK_ROWS, -1)
        recording.chunk_bytes = CHUNK_BYTES
        told = {"layout": recording.layout.to_json(), "buffers": recording.buffers, "dtype": recording.dtype}
        told |= {} if recording.precision is None else {"precision": recording.precision}
        fingerprint = store.Fingerprint("trajectory", {"recorded": json.loads(json.dumps(told))})
        real = store.hidden_path(path, path.parent)
        if path.exists() and not (path.is_symlink() and path.resolve() == real.resolve()):
            raise LossAtlasError(f"record: {path} is there already, and no recording; choose another path")
        if start == 0 or not path.exists():
            store.find(path, path.parent, fingerprint, fresh=True)
            store.create(path, path.parent, fingerprint, recording.build)
        found = Store(real)
        _check_same(path, found, fingerprint, recording)
        iterations = found["iteration"][: found.attrs.get("rows", 0)]
        last = int(iterations[-1]) if len(iterations) else 0
        self.start = last if start is None else start
        self.rows = int(np.searchsorted(iterations, self.start))  # the row of ``start`` lacks the loss of its step
        if start is None and len(iterations) and not _holds(found, self.rows, theta):
            raise LossAtlasError(
                f"record: {path} ends at iteration {last}, and the model is not what was recorded there; give start=, "
                "the iteration at which training goes on (0 begins anew), or another path"
            )
        self._open(real, found.finished)
        store.publish(path, path.parent)

    def _open(self, real: Path, finished: bool) -> None:
        """Open the store for writing."""
        if finished:
            _forget_sizes(real / "zarr.json")
        self._store = Store(real, writable=True)
        self._store.update(rows=self.rows, writer=owner.mark())
        names = ("parameters", "buffers", "batch_loss", "learning_rate", "iteration", "epoch")
        self._arrays = {name: self._store[name] for name in names[1:]} | {"parameters": theta_rows(self._store)}
        self._room = self._arrays["iteration"].shape[0]

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows; they count once all is written.

        Raises:
            LossAtlasError: the disk has no room.
        """
        end = self.rows + len(rows)
        if end > self._room:
            self._enlarge(end)
        epochs = [row["iteration"] / (self._steps_per_epoch or np.nan) for row in rows]
        self._write([row["parameters"] for row in rows])
        for name, array in self._arrays.items():
            if array.size and name != "parameters":
                array[self.rows : end] = epochs if name == "epoch" else np.stack([row[name] for row in rows])
        self.rows = end
        self._store.update(rows=end)

    def _write(self, thetas: list[np.ndarray]) -> None:
        """Write theta of the next rows."""
        array = self._arrays["parameters"]
        if isinstance(array, HalfRows):
            array.write(self.rows, thetas)
        else:
            write_rows(self._store.path / "parameters", array, self.rows, thetas)

    def _enlarge(self, rows: int) -> None:
        """Make room for at least so many rows."""
        before, self._room = self._room, -(-rows // BLOCK_ROWS) * BLOCK_ROWS
        self._resize(self._room)
        for name in ("iteration", "epoch"):  # their chunks count as given, and are all there
            self._arrays[name][before:] = -1

    def _resize(self, rows: int) -> None:
        for array in self._arrays.values():
            array.resize((rows, *array.shape[1:]))

    def close(self) -> None:
        """Cut the arrays to the rows that there are, and mark the store finished."""
        self._resize(self.rows)
        self._store.update(iterations=self._arrays["iteration"][:].tolist())  # for who reads no arrays
        self._store.finish({"ranks": 1, "wall_seconds": time.monotonic() - self._began})


def _holds(found: Store, row: int, theta: np.ndarray) -> bool:
    """Return whether a row is these parameters, as they are kept."""
    thetas = theta_rows(found)
    return np.array_equal(thetas[row], thetas.as_kept(row, theta) if isinstance(thetas, HalfRows) else theta)


def _check_same(path: Path, found: Store, fingerprint: store.Fingerprint, recording: Recording) -> None:
    """Refuse the store of another network, and one that somebody else writes."""
    if found.fingerprint != fingerprint.digest:
        raise LossAtlasError(
            f"record: {path} holds another model: {_difference(found, recording)}; choose another path"
        )
    mark = [] if found.finished else str(found.attrs.get("writer", "")).split("-")
    others = len(mark) == 3 and mark[0] == owner.host() and mark != owner.mark().split("-")
    if others and owner.alive(*mark[1:]):
        raise LossAtlasError(f"record: process {mark[1]} is recording into {path}; choose another path")
    frozen = found["frozen"][:] if found["frozen"].size else np.zeros(0, recording.dtype)
    if not np.array_equal(frozen, np.asarray(recording.frozen, recording.dtype)):
        raise LossAtlasError(f"record: {path} was recorded with other frozen parameters; choose another path")


def _forget_sizes(metadata: Path) -> None:
    """Take from the root's metadata what it gathered of the arrays when the store was finished."""
    content = json.loads(metadata.read_text())
    del content["consolidated_metadata"]
    content["attributes"]["finished"] = False
    temporary = metadata.with_name(f"zarr.json.{owner.mark()}")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, metadata)


def _difference(found: Store, recording: Recording) -> str:
    """Return the first difference between the network of a store and another one."""
    if "layout" not in found.attrs:
        return "it is no trajectory"
    frozen = found.attrs["frozen_layout"], recording.frozen_shapes
    difference = ParameterLayout.from_json(found.attrs["layout"]).difference(recording.layout, *frozen)
    return difference or "its buffers or its precision differ"
