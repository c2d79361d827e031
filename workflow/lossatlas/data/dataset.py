"""Loading: the embedded images, torchvision's datasets, folders of images, or the user's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lossatlas.config import imports
from lossatlas.config.sizes import TRAINING_SAMPLES
from lossatlas.data import downloaded, image_folder
from lossatlas.data.samples import Split
from lossatlas.data.streams import MEMORY_GB, Items, read
from lossatlas.errors import LossAtlasError

EMBEDDED = Path(__file__).parent / "fashion_mnist_mini" / "images.npz"


@dataclass(frozen=True)
class Dataset:
    """A training set and perhaps a test set."""

    train: Split | Items
    test: Split | Items | None = None


def load_dataset(spec: dict, where: str = "data") -> Dataset:
    """Load the dataset that ``spec`` describes (keys ``name`` or ``import``, ``kwargs``, ``data_root``).

    Images come as float32 (sample, 3, 32, 32), normalised; labels as int64. Those of ``image-folder`` have the size of
    their crop. The user's data sets are read when their samples are asked for.

    Raises:
        LossAtlasError: it cannot be loaded; the message says what to do.
    """
    memory_gb = spec.get("memory_gb", MEMORY_GB)
    if "import" in spec:
        load = imports.load(spec["import"], spec["python_path"], f"{where}.import")
        return _own_dataset(load(**spec["kwargs"]), f"{where}.import", memory_gb)
    if spec["name"] == "image-folder":
        return Dataset(**image_folder.load(spec["kwargs"], memory_gb))
    if spec["name"] == "fashion-mnist-mini":
        return _embedded()
    return _from_images(spec["name"], downloaded.read(spec["name"], Path(spec["data_root"])))


def training_samples(spec: dict) -> int:
    """Return the size of a training set; those that are downloaded need not be there yet."""
    return TRAINING_SAMPLES.get(spec.get("name", "")) or len(load_dataset(spec).train)


def sample_split(spec: dict, count: int) -> Split:
    """Return training samples by which a network can be tried; for a dataset that may not be there yet, noise.

    Args:
        count: at least how many; arrays are returned whole.
    """
    if spec.get("name") not in downloaded.MOMENTS:
        train = load_dataset(spec).train
        return train.spread(count) if isinstance(train, Items) else train
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


def _own_dataset(splits: Any, where: str, memory_gb: float) -> Dataset:
    if not isinstance(splits, Mapping) or "train" not in splits:
        raise LossAtlasError(f'{where}: must return a dict with "train" and perhaps "test", got {type(splits).__name__}')
    given = {name: splits[name] for name in ("train", "test") if splits.get(name) is not None}
    return Dataset(**{name: read(split, f"{where}: {name!r}", memory_gb) for name, split in given.items()})
