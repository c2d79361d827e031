"""The evaluation subset: stratified, fixed by seed, hashed, in one order for every point and every rank."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lossatlas import rng
from lossatlas.data.dataset import Dataset
from lossatlas.data.samples import Split
from lossatlas.data.streams import Items, read
from lossatlas.errors import LossAtlasError


@dataclass(frozen=True)
class Subset:
    """Some samples of one split: ``index`` into the split, ascending, and the digest of what they hold."""

    samples: Split
    index: np.ndarray
    digest: str
    stratified: bool

    def __len__(self) -> int:
        return len(self.index)


def evaluation_subsets(dataset: Dataset, spec: dict) -> dict[str, Subset]:
    """Return {"train": ..., "test": ...} for the config's ``evaluation``; ``test`` only where it has samples.

    Raises:
        LossAtlasError: test samples are asked for of a dataset without a test set.
    """
    subsets = {"train": choose(dataset.train, spec["train_samples"], spec["seed"], "evaluation/train")}
    test_samples = spec.get("test_samples", 500 if dataset.test is not None else 0)
    if test_samples > 0:
        if dataset.test is None:
            raise LossAtlasError(
                f"evaluation.test_samples: {test_samples}, but the dataset has no test set; set it to 0"
            )
        subsets["test"] = choose(dataset.test, test_samples, spec["seed"], "evaluation/test")
    return subsets


def choose(split: Split | Items, samples: int, seed: int, purpose: str) -> Subset:
    """Choose ``samples`` of a split, with every class represented by its share (largest remainders), and read them.

    Where targets are not one integer per sample, or a data set does not tell them without reading its samples, the
    choice is uniform. Of a stream the first samples are taken.
    """
    if isinstance(split, Items) and split.is_stream:
        part = split.first(samples)
        return Subset(part, np.arange(len(part)), part.digest, False)
    total, known = len(split), split.classes
    samples = min(samples, total)
    classes = np.zeros(total, np.int64) if known is None else known
    labels, counts = np.unique(classes, return_counts=True)
    chosen = []
    for number, (label, take) in enumerate(zip(labels, _shares(counts, samples), strict=True)):
        members = np.flatnonzero(classes == label)
        chosen.append(rng.generator(seed, purpose, number).permutation(members)[:take])
    index = np.sort(np.concatenate(chosen))
    part = split.of(index)
    return Subset(part, index, part.digest, known is not None)


def sample(data: Any, count: int, seed: int = 0) -> Split:
    """Return some samples of data for a notebook, read once: as many of each class as its share, chosen by ``seed``.

    ::

        some = lossatlas.sample(dataset, 1000)
        lossatlas.plane(model, "cross-entropy", some)
        lossatlas.hessian(model, "cross-entropy", some).spectrum()

    Args:
        data: a map-style data set (``torch.utils.data.Dataset``, Hugging Face's) or a ``DataLoader``, of which the
            data set and the collate function are used: only what is chosen is read. Of a stream the first samples are
            taken. Or arrays: a pair (inputs, targets), a dict with ``labels``, or batches of these.
        count: how many, capped at what there is.

    Raises:
        LossAtlasError: it is none of these, samples differ each time they are read, or they take more than 8 GB.
    """
    if not isinstance(count, int) or count < 1:
        raise LossAtlasError(f"sample: count={count!r} must be a whole number, at least 1")
    return choose(read(data, "data"), count, seed, "evaluation/train").samples


def _shares(counts: np.ndarray, samples: int) -> np.ndarray:
    """Return how many of each class to take; they sum to ``samples``."""
    exact = counts * samples / counts.sum()
    shares = np.floor(exact).astype(int)
    order = np.argsort(shares - exact, kind="stable")
    shares[order[: samples - shares.sum()]] += 1
    return shares

