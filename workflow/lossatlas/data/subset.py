"""The evaluation subset: stratified, fixed by seed, hashed, in one order for every point and every rank."""

from dataclasses import dataclass

import numpy as np

from lossatlas import rng
from lossatlas.data.dataset import Dataset, Split
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


def choose(split: Split, samples: int, seed: int, purpose: str) -> Subset:
    """Choose ``samples`` of a split, with every class represented by its share (largest remainders).

    Targets that are not one integer per sample have no classes; the choice is then uniform.
    """
    total = len(split)
    samples = min(samples, total)
    stratified = split.targets.ndim == 1 and np.issubdtype(split.targets.dtype, np.integer)
    classes = split.targets if stratified else np.zeros(total, np.int64)
    labels, counts = np.unique(classes, return_counts=True)
    chosen = []
    for number, (label, take) in enumerate(zip(labels, _shares(counts, samples), strict=True)):
        members = np.flatnonzero(classes == label)
        chosen.append(rng.generator(seed, purpose, number).permutation(members)[:take])
    index = np.sort(np.concatenate(chosen))
    part = split.of(index)
    return Subset(part, index, part.digest, bool(stratified))


def _shares(counts: np.ndarray, samples: int) -> np.ndarray:
    """Return how many of each class to take; they sum to ``samples``."""
    exact = counts * samples / counts.sum()
    shares = np.floor(exact).astype(int)
    order = np.argsort(shares - exact, kind="stable")
    shares[order[: samples - shares.sum()]] += 1
    return shares

