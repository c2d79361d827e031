"""Schemas of stores: which arrays one has, along which dimensions, and what they hold.

A driver says it once; builders, the sizes that are planned, and the documentation of stores come from it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from lossatlas.io.store import add_array


@dataclass(frozen=True)
class Array:
    """One array of a store: its name, its labelled dimensions, and what it holds.

    ``dtype`` and ``fill_value`` are those of an array that is filled in later; ``chunks`` is the largest shape of a
    chunk, that of the whole array where it is left out.
    """

    name: str
    dims: tuple[str, ...]
    long_name: str
    units: str = ""
    description: str = ""
    dtype: Any = "float64"
    fill_value: Any = 0
    chunks: tuple[int, ...] = ()
    compress: bool = True

    def chunk(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a chunk where the array has this one."""
        return tuple(max(1, min(sizes)) for sizes in zip(shape, self.chunks or shape, strict=True))

    def create(self, group: zarr.Group, sizes: Mapping[str, int], data: np.ndarray | list | None = None) -> None:
        """Create it in a group: holding ``data``, or to be filled in, of the ``sizes`` of its dimensions."""
        told = {"long_name": self.long_name, "description": self.description, "units": self.units}
        about: dict[str, Any] = {key: text for key, text in told.items() if text}
        shape = tuple(sizes[dim] for dim in self.dims) if data is None else np.shape(data)
        about |= {"chunks": self.chunk(shape), "compress": self.compress}
        if data is None:
            about |= {"shape": shape, "dtype": self.dtype, "fill_value": self.fill_value}
        add_array(group, self.name, self.dims, data=data, **about)


def create_arrays(
    group: zarr.Group, schema: Iterable[Array], data: Mapping[str, np.ndarray | list], **sizes: int
) -> None:
    """Create all arrays of a store.

    Args:
        data: by name, of those that are known at once; the others are to be filled in.
        sizes: of the dimensions that no ``data`` lie along.
    """
    schema = list(schema)
    known = {array.name: np.shape(data[array.name]) for array in schema if array.name in data}
    for array in schema:
        sizes |= dict(zip(array.dims, known.get(array.name, ()), strict=False))
    for array in schema:
        array.create(group, sizes, data.get(array.name))


def store_size(schema: Iterable[Array], sizes: Mapping[str, int]) -> tuple[int, int]:
    """Return how many files a store has, and its bytes before compression, text left out.

    Every array and group has a file of metadata, every array its chunks.

    Args:
        sizes: of the dimensions, 1 where it is not known.
    """
    files = held = 0
    for array in schema:
        shape = [sizes.get(dim, 1) for dim in array.dims]
        chunk = array.chunk(shape)
        count = math.prod(-(-n // part) for n, part in zip(shape, chunk, strict=True))
        files += 1 + count
        held += count * math.prod(chunk) * np.dtype(array.dtype).itemsize
    return files + 1, held


def unit_store_size(schema: Iterable[Array], sizes: Mapping[str, int], columns: int, per_unit: int) -> tuple[int, int]:
    """Return ``store_size`` of a store of units, which has an array of results with a chunk for each unit.

    Args:
        sizes: of the dimensions, 1 where it is not known; ``row`` is that of the results.
        columns: of the results, with the one that says that a unit is done.
        per_unit: rows of a unit.
    """
    (files, held), rows = store_size(schema, sizes), sizes["row"]
    return files + 2 + -(-rows // per_unit), held + 8 * rows * columns
