"""States of long units on disk: saved every so many minutes and when the job is told to stop, resumed bit for bit.

A state lies beside its store, in a folder of the store's fingerprint. Two attempts at one unit write the same numbers.
"""

import os
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np

from lossatlas import interrupt


class Saves:
    """Where the units of one store save their states.

    Args:
        folder: the units' folder, made when first needed.
        seconds: from one save of a unit to the next.
    """

    def __init__(self, folder: Path, seconds: float):
        self.folder, self.seconds = folder, seconds
        self._last: Path | None = None

    def unit(self, number: int) -> "State":
        """Return the state of a unit that begins; the rows of the one before are in the store, its state can go."""
        if self._last is not None:
            shutil.rmtree(self._last, ignore_errors=True)
        self._last = self.folder / str(number)
        return State(self._last, self.seconds)

    def clear(self) -> None:
        """Remove all states."""
        shutil.rmtree(self.folder, ignore_errors=True)


class State:
    """The state of one unit, or of a part of it: named arrays, and rows that are only ever added."""

    def __init__(self, folder: Path, seconds: float):
        self.folder, self.seconds = folder, seconds
        self._saved = time.monotonic()
        self._rows: dict[int, int] = {}

    def part(self, number: int) -> "State":
        """Return the state of a part."""
        return State(self.folder / str(number), self.seconds)

    def load(self) -> dict[str, np.ndarray] | None:
        """Return the arrays that were saved last, None when there are none."""
        try:
            with np.load(self.folder / "state.npz") as file:
                return {name: file[name] for name in file.files}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def rows(self, index: int, into: np.ndarray, count: int) -> None:
        """Read the first ``count`` rows of table ``index`` into an array (rows, N)."""
        into[:count] = np.memmap(self._table(index), into.dtype, "r", shape=into.shape)[:count]
        self._rows[index] = count

    def due(self) -> bool:
        """Return whether to save: the time has come, or the job was told to stop."""
        return bool(interrupt.requested()) or time.monotonic() - self._saved >= self.seconds

    def save(self, arrays: dict[str, np.ndarray], tables: list[tuple[np.ndarray, int]] = ()) -> None:
        """Save arrays, and of every table (rows, N) the rows below ``count`` that are new; then end if told to.

        A disk that is full costs the save, not the unit.

        Raises:
            Dropped: the job was told to stop.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for index, (table, count) in enumerate(tables):
                self._add_rows(index, table, count)
            temporary = self.folder / f".state-{os.getpid()}.npz"
            np.savez(temporary, **arrays)
            os.replace(temporary, self.folder / "state.npz")
        except OSError as error:
            print(f"the state of a unit could not be saved: {error}", flush=True)
        self._saved = time.monotonic()
        if interrupt.requested():
            raise interrupt.Dropped

    def _add_rows(self, index: int, table: np.ndarray, count: int) -> None:
        with self._table(index).open("ab") as file:
            file.truncate(table.nbytes)  # what another attempt may have mapped is never cut
        start = self._rows.get(index, 0)
        on_disk = np.memmap(self._table(index), table.dtype, "r+", shape=table.shape)
        on_disk[start:count] = table[start:count]
        on_disk.flush()
        self._rows[index] = count

    def _table(self, index: int) -> Path:
        return self.folder / f"rows-{index}.bin"
