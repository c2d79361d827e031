"""Make images.npz: a fixed stratified subset of Fashion-MNIST.

    python make.py FOLDER    # FOLDER holds the four original .gz files, e.g. /usr/share/datasets/fashion-mnist

400 training and 100 test images per class. Which ones: the first of a permutation of each class drawn from
NumPy's Philox generator with the key 20260101 + class, then sorted by original index.
"""

import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 10
PER_CLASS = {"train": 400, "t10k": 100}


def read_idx(file: Path) -> np.ndarray:
    """Read one gzipped IDX file of unsigned bytes."""
    raw = gzip.decompress(file.read_bytes())
    dims = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(tuple(dims))


def main(folder: Path) -> None:
    """Choose the images of both splits and write images.npz beside this file."""
    arrays: dict[str, Any] = {}
    for split, count in PER_CLASS.items():
        images = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
        chosen = []
        for label in range(CLASSES):
            rng = np.random.Generator(np.random.Philox(key=20260101 + label))
            chosen.append(rng.permutation(np.flatnonzero(labels == label))[:count])
        index = np.sort(np.concatenate(chosen))
        name = {"train": "train", "t10k": "test"}[split]
        arrays |= {f"{name}_images": images[index], f"{name}_labels": labels[index], f"{name}_index": index.astype(np.uint16)}
    np.savez_compressed(Path(__file__).with_name("images.npz"), **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
