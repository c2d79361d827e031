"""Chunks that are written beside zarr are what zarr reads and writes itself, checksums included."""

import numpy as np
import pytest
import zarr
from lossatlas.io.arrays import Array
from lossatlas.io.plain_chunks import write_rows


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16"])
def test_rows_are_those_that_zarr_writes_byte_for_byte(tmp_path, dtype):
    rows = list((np.random.default_rng(0).standard_normal((11, 23)) * 100).astype(dtype))
    schema = Array("p", ("row", "column"), "p", dtype=dtype, chunks=(4, 10), compress=False)
    arrays = []
    for name in ("ours", "theirs"):
        group = zarr.open_group(tmp_path / name, mode="w")
        schema.create(group, {"row": 12, "column": 23})
        arrays.append(group["p"])
    ours, theirs = arrays
    for first, last in ((0, 3), (3, 4), (4, 11), (6, 9)):
        write_rows(tmp_path / "ours/p", ours, first, rows[first:last])
        theirs[first:last] = np.stack(rows[first:last])
        assert np.array_equal(ours[:last], np.stack(rows[:last])), "zarr checks each chunk's checksum"
    for file in (tmp_path / "theirs/p/c").glob("[01]/*"):  # of the last chunk zarr keeps rows after those written
        assert (tmp_path / "ours/p/c" / file.relative_to(tmp_path / "theirs/p/c")).read_bytes() == file.read_bytes()
    assert not list(tmp_path.rglob("*.partial"))
