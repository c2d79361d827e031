"""Samples as NumPy arrays, made of pairs, dicts and batches as people hand them over."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lossatlas.errors import LossAtlasError

EXACT = 2**24
"""Up to here float32 holds every whole number."""

TARGETS = ("labels", "label", "label_ids", "targets", "target", "y")
"""Keys under which a dict holds the targets; the first that is there counts, and the rest are inputs."""


class Part(NamedTuple):
    """One of several tensors that a network takes: by name, or by place where that is empty."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Split:
    """Samples along the first axis of both arrays.

    Where the network takes several tensors the inputs are their numbers side by side, (sample, number), and ``parts``
    says which are whose.
    """

    inputs: np.ndarray
    targets: np.ndarray
    parts: tuple[Part, ...] = ()

    def of(self, index: Any) -> "Split":
        """Return some of the samples, contiguous."""
        inputs, targets = (np.ascontiguousarray(array[index]) for array in (self.inputs, self.targets))
        return Split(inputs, targets, self.parts)

    def whole(self) -> "Split":
        """Return all samples as arrays, which these are."""
        return self

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def classes(self) -> np.ndarray | None:
        """The class of each sample, None where targets are not one whole number each."""
        return self.targets if self.targets.ndim == 1 and self.targets.dtype.kind in "iu" else None

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.inputs.nbytes + self.targets.nbytes

    @property
    def digest(self) -> str:
        """Digest of shapes, types and contents."""
        digest = hashlib.sha256()
        for array in (self.inputs, self.targets):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update(repr(self.parts).encode() if self.parts else b"")
        return digest.hexdigest()


def as_array(value: Any) -> np.ndarray:
    """Return numbers, an array or a tensor (of any device) as an array.

    Raises:
        TypeError: it holds something else, such as an image or text.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value  # NumPy has none
    elif not (isinstance(value, Sequence | int | float) or hasattr(value, "__array__")):
        raise TypeError(f"{type(value).__name__} is neither a number, an array nor a tensor; transform it into one")
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{array.dtype} is no type of numbers")
    return array


def is_pair(given: Any) -> bool:
    """Return whether something is (inputs, targets), and not two batches or samples."""
    if not isinstance(given, tuple | list) or len(given) != 2 or isinstance(given[1], tuple | Mapping):
        return False
    return not (isinstance(given[1], list) and given[1] and hasattr(given[1][0], "shape"))


def as_split(batch: Any, where: str) -> Split:
    """Return (inputs, targets), or a dict with one of ``TARGETS`` among its keys, as samples.

    Inputs are an array, or several by the names of the network's arguments (dict) or by their places (tuple). Of a
    dict that is a whole batch a single input is the network's first argument, whatever its name.

    Raises:
        LossAtlasError: it is neither, or inputs and targets are no numbers or differ in length; ``where`` names it.
    """
    parts: tuple[Part, ...] = ()
    try:
        inputs, targets = _of_dict(batch, where) if isinstance(batch, Mapping) else _of_pair(batch)
        if isinstance(inputs, Mapping | tuple) or _are_several(inputs, targets):
            inputs, parts = side_by_side(inputs, where)
        inputs, targets = as_array(inputs), as_array(targets)
    except (TypeError, ValueError, IndexError) as error:
        raise LossAtlasError(f"{where} must be a pair (inputs, targets) of arrays: {error}") from error
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets) or len(inputs) == 0:
        counts = [len(array) if array.ndim else "no axis of" for array in (inputs, targets)]
        raise LossAtlasError(f"{where} has {counts[0]} inputs and {counts[1]} targets")
    return Split(inputs, targets, parts)


def _are_several(inputs: Any, targets: Any) -> bool:
    """Return whether a list holds several inputs, as PyTorch's loaders make them of tuples, and not the samples."""
    return isinstance(inputs, list) and len(inputs) != len(targets) and hasattr(inputs[0], "shape")


def _of_pair(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise TypeError(f"got {type(batch).__name__}{size}; several inputs are ((a, b), targets)")
    inputs, targets = batch
    return inputs, targets


def _of_dict(batch: Mapping, where: str) -> tuple[Any, Any]:
    key = next((name for name in TARGETS if name in batch), None)
    rest = {name: value for name, value in batch.items() if name != key}
    if key is None or not rest:
        raise LossAtlasError(
            f"{where} has the keys {', '.join(map(str, batch))}; targets are one of {', '.join(TARGETS)}, inputs the rest"
        )
    return (rest if len(rest) > 1 else next(iter(rest.values()))), batch[key]


def side_by_side(given: Mapping[str, Any] | Sequence, where: str) -> tuple[np.ndarray, tuple[Part, ...]]:
    """Return several inputs as one array (sample, number), and what its columns are.

    Raises:
        LossAtlasError: they have different numbers of samples, or integers beside floating-point numbers are too large
            for float32; ``where`` names the samples.
    """
    named = given.items() if isinstance(given, Mapping) else (("", part) for part in given)
    arrays = [(name, as_array(part)) for name, part in named]
    counts = {len(array) for _, array in arrays}
    if len(counts) != 1:
        told = ", ".join(f"{name or number}: {len(array)}" for number, (name, array) in enumerate(arrays))
        raise LossAtlasError(f"{where}: inputs have different numbers of samples ({told})")
    whole = not any(array.dtype.kind == "f" for _, array in arrays)
    largest = max((int(np.abs(a).max()) for _, a in arrays if a.dtype.kind in "iu" and a.size), default=0)
    if not whole and largest > EXACT:
        raise LossAtlasError(f"{where}: {largest} beside floating-point inputs is more than float32 holds, {EXACT}")
    flat = [array.reshape(len(array), -1).astype(np.int64 if whole else np.float64) for _, array in arrays]
    return np.concatenate(flat, 1), tuple(Part(name, array.shape[1:], str(array.dtype)) for name, array in arrays)
