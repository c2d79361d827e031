"""States of long units on disk: saved every so many minutes and when the job is told to stop, resumed bit for bit.

A state lies beside its store, in a folder of the store's fingerprint. Two attempts at one unit write the same numbers.
"""

import os
import shutil
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from lossatlas.io import owner
from lossatlas.parallel import signals
from lossatlas.parallel.process_group import ALONE, Team


def states_beside(store: Path, fingerprint: str) -> Path:
    """Return the folder of the states of a store's units."""
    return store.with_name(f"{store.name}.states-{fingerprint[:12]}")


class Saves:
    """Where the units of one store save their states.

    Args:
        folder: the units' folder, made when first needed.
        seconds: from one save of a unit to the next.
        team: ranks that compute each unit together; each saves its part.
    """

    def __init__(self, folder: Path, seconds: float, team: Team = ALONE):
        self.folder, self.seconds, self.team = folder, seconds, team
        self._last: Path | None = None

    def unit(self, number: int) -> "State":
        """Return the state of a unit that begins; the rows of the one before are in the store, its state can go."""
        if self._last is not None and self.team.rank == 0:
            shutil.rmtree(self._last, ignore_errors=True)
        self._last = self.folder / str(number)
        return State(self._last, self.seconds, self.team)

    def clear(self) -> None:
        """Remove all states."""
        shutil.rmtree(self.folder, ignore_errors=True)


class State:
    """The state of one unit, or of a part of it: named arrays, and rows that are only ever added.

    The ranks of a team save and load together, each the arrays that it was given.
    """

    def __init__(self, folder: Path, seconds: float, team: Team = ALONE):
        self.folder, self.seconds, self.team = folder, seconds, team
        self._saved, self._stop, self._number = time.monotonic(), False, 0
        self._rows: dict[int, int] = {}
        self._sums: dict[int, int] = {}

    def part(self, number: int) -> "State":
        """Return the state of a part."""
        return State(self.folder / str(number), self.seconds, self.team)

    def load(self) -> dict[str, np.ndarray] | None:
        """Return the arrays that were saved last, None when there are none.

        Nor are there any when ranks were killed while they saved, so that some have an older state than others.
        """
        try:
            with np.load(self._file("state.npz")) as file:
                found = {name: file[name] for name in file.files}
            self._check_tables(found.pop(_TABLES))
        except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile):
            found = {}  # none, or damaged: the unit begins anew
        numbers = self.team.everyone(int(found.pop(_NUMBER, 0)))
        if 0 in numbers or len(set(numbers)) > 1:
            return None
        self._number = numbers[0]
        return found

    def rows(self, index: int, into: np.ndarray, count: int) -> None:
        """Read the first ``count`` rows of table ``index``, checked by ``load``, into an array (rows, N)."""
        into[:count] = np.memmap(self._table(index), into.dtype, "r", shape=into.shape)[:count]
        self._rows[index] = count
        self._sums[index] = _checksum(into[:count])

    def _check_tables(self, tables: np.ndarray) -> None:
        """Raise ValueError unless the tables begin with what was saved; (index, bytes, CRC-32C) of each is given."""
        for index, size, checksum in tables.tolist():
            saved = np.memmap(self._table(index), np.uint8, "r", shape=(size,)) if size else np.zeros(0, np.uint8)
            if _checksum(saved) != checksum:
                raise ValueError(f"{self._table(index)}: torn")

    def due(self) -> bool:
        """Return whether to save: the time has come, or the job was told to stop, for any rank of the team."""
        late = time.monotonic() - self._saved >= self.seconds
        self._stop, late = self.team.any(signals.requested(), late)
        return self._stop or late

    def save(self, arrays: dict[str, Any], tables: Sequence[tuple[np.ndarray, int]] = ()) -> None:
        """Save arrays, and of every table (rows, n) the rows below ``count`` that are new; then end if told to.

        A disk that is full costs the save, not the unit.

        Raises:
            Dropped: the job was told to stop, as ``due`` found.
        """
        self._number += 1
        temporary, failed = self._file(f"new-{owner.mark()}.npz"), None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for index, (table, count) in enumerate(tables):
                self._add_rows(index, table, count)
            sums = [(index, table[:count].nbytes, self._sums[index]) for index, (table, count) in enumerate(tables)]
            about = {_NUMBER: self._number, _TABLES: np.array(sums, np.int64).reshape(-1, 3)}
            np.savez(temporary, **{**arrays, **about})
        except OSError as error:
            failed = error
        if not any(self.team.any(failed)):  # all ranks have come so far, which leaves little time between their states
            os.replace(temporary, self._file("state.npz"))
        elif failed:
            print(f"the state of a unit could not be saved: {failed}", flush=True)
        self._saved = time.monotonic()
        if self._stop:
            raise signals.Dropped

    def _add_rows(self, index: int, table: np.ndarray, count: int) -> None:
        with self._table(index).open("ab") as file:
            file.truncate(table.nbytes)  # what another attempt may have mapped is never cut
        start = self._rows.get(index, 0)
        on_disk = np.memmap(self._table(index), table.dtype, "r+", shape=table.shape)
        on_disk[start:count] = table[start:count]
        on_disk.flush()
        self._rows[index] = count
        self._sums[index] = _checksum(table[start:count], self._sums.get(index, 0))

    def _table(self, index: int) -> Path:
        return self._file(f"rows-{index}.bin")

    def _file(self, name: str) -> Path:
        """Return a file of this rank; a team of another size saves other parts."""
        return self.folder / (name if self.team.size == 1 else f"{self.team.rank}-of-{self.team.size}-{name}")


_NUMBER = "save"
"""Array that counts the saves of a unit."""

_TABLES = "tables"
"""Array that holds (index, bytes, CRC-32C) of each table's saved rows."""


def _checksum(rows: np.ndarray, before: int = 0) -> int:
    """Return the CRC-32C of rows after those with checksum ``before``."""
    return google_crc32c.extend(before, np.ascontiguousarray(rows))
