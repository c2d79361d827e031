"""Loading: the embedded images, torchvision's datasets, or the user's own."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lossatlas.config import imports
from lossatlas.config.sizes import TRAINING_SAMPLES
from lossatlas.data import downloaded
from lossatlas.errors import LossAtlasError

EXACT = 2**24
"""Up to here float32 holds every whole number."""

EMBEDDED = Path(__file__).parent / "fashion_mnist_mini" / "images.npz"


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

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def digest(self) -> str:
        """Digest of shapes, types and contents."""
        digest = hashlib.sha256()
        for array in (self.inputs, self.targets):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update(repr(self.parts).encode() if self.parts else b"")
        return digest.hexdigest()


@dataclass(frozen=True)
class Dataset:
    """A training set and perhaps a test set."""

    train: Split
    test: Split | None = None


def load_dataset(spec: dict, where: str = "data") -> Dataset:
    """Load the dataset that ``spec`` describes (keys ``name`` or ``import``, ``kwargs``, ``data_root``).

    Images come as float32 (sample, 3, 32, 32), normalised; labels as int64.

    Raises:
        LossAtlasError: it cannot be loaded; the message says what to do.
    """
    if "import" in spec:
        load = imports.load(spec["import"], spec["python_path"], f"{where}.import")
        return _own_dataset(load(**spec["kwargs"]), f"{where}.import")
    if spec["name"] == "fashion-mnist-mini":
        return _embedded()
    return _from_images(spec["name"], downloaded.read(spec["name"], Path(spec["data_root"])))


def training_samples(spec: dict) -> int:
    """Return the size of a training set; those that are downloaded need not be there yet."""
    return TRAINING_SAMPLES.get(spec.get("name", "")) or len(load_dataset(spec).train)


def sample_split(spec: dict, count: int) -> Split:
    """Return training samples by which a network can be tried; for a dataset that may not be there yet, noise.

    Args:
        count: at least how many; the embedded and the user's own data are returned whole.
    """
    if spec.get("name") not in downloaded.MOMENTS:
        return load_dataset(spec).train
    rng, classes = np.random.default_rng(0), 100 if spec["name"] == "cifar100" else 10
    return Split(rng.standard_normal((count, 3, 32, 32), np.float32), rng.integers(classes, size=count))


def _embedded() -> Dataset:
    with np.load(EMBEDDED) as file:
        splits = {name: (file[f"{name}_images"], file[f"{name}_labels"]) for name in ("train", "test")}
    return _from_images("fashion-mnist", splits)


def _from_images(name: str, splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> Dataset:
    mean, std = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in downloaded.MOMENTS[name])
    ready = {}
    for split, (images, labels) in splits.items():
        scaled = (as_colour(images).astype(np.float32) / 255 - mean) / std
        ready[split] = Split(np.ascontiguousarray(scaled), labels.astype(np.int64))
    return Dataset(**ready)


def as_colour(images: np.ndarray) -> np.ndarray:
    """Return images as (sample, 3, 32, 32): grey 28 x 28 ones padded with black and repeated thrice."""
    if images.ndim == 3:
        padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
        return np.repeat(padded[:, None], 3, axis=1)
    return images.transpose(0, 3, 1, 2)


def _own_dataset(splits: Any, where: str) -> Dataset:
    if not isinstance(splits, dict) or "train" not in splits:
        raise LossAtlasError(f'{where}: must return a dict with "train" and perhaps "test", got {type(splits).__name__}')
    ready = {}
    for name in ("train", "test"):
        if splits.get(name) is None:
            continue
        parts: tuple[Part, ...] = ()
        try:
            inputs, targets = splits[name]
            if isinstance(inputs, Mapping | tuple):
                inputs, parts = side_by_side(inputs, f"{where}: {name!r}")
            inputs, targets = np.asarray(inputs), np.asarray(targets)
        except (TypeError, ValueError) as error:
            raise LossAtlasError(f"{where}: {name!r} must be a pair (inputs, targets) of arrays: {error}") from error
        if len(inputs) != len(targets) or len(inputs) == 0:
            raise LossAtlasError(f"{where}: {name!r} has {len(inputs)} inputs and {len(targets)} targets")
        ready[name] = Split(inputs, targets, parts)
    return Dataset(**ready)


def side_by_side(given: Mapping[str, Any] | tuple, where: str) -> tuple[np.ndarray, tuple[Part, ...]]:
    """Return several inputs as one array (sample, number), and what its columns are.

    Raises:
        LossAtlasError: they have different numbers of samples, or integers beside floating-point numbers are too large
            for float32; ``where`` names the samples.
    """
    named = given.items() if isinstance(given, Mapping) else (("", part) for part in given)
    arrays = [(name, np.asarray(part)) for name, part in named]
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
