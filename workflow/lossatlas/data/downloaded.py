"""Full Fashion-MNIST, CIFAR-10 and CIFAR-100: files under ``data_root``, fetched and checked through torchvision."""

import hashlib
import pickle
from pathlib import Path

import numpy as np

from lossatlas.errors import LossAtlasError

MOMENTS = {
    "fashion-mnist": ([0.2860], [0.3530]),
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    "cifar100": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
}
"""Mean and standard deviation of each channel of the training images, scaled to [0, 1]."""

CLASSES = {"fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}

FILES = {
    "fashion-mnist": "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz",
    "cifar10": "cifar-10-python.tar.gz (or its folder cifar-10-batches-py)",
    "cifar100": "cifar-100-python.tar.gz (or its folder cifar-100-python)",
}

MD5 = {
    "cifar10": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    "cifar100": {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
}
"""Published digests of the pickled files: unpickling runs code, so that no other file is ever unpickled."""


def read(name: str, root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read both splits from ``root`` as {split: (uint8 images, labels)}; knows no framework.

    Pickled files are checked anew: they may have changed since ``fetch`` unpacked them.

    Raises:
        LossAtlasError: files are missing, unreadable or other ones than those that were published.
    """
    try:
        return _fashion_mnist(root) if name == "fashion-mnist" else _cifar(root, name)
    except (OSError, ValueError, KeyError, pickle.UnpicklingError, EOFError) as error:
        raise _incomplete(name, root, error) from error


def _fashion_mnist(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder = root / "FashionMNIST" / "raw"
    kinds = {"images-idx3": (16, (-1, 28, 28)), "labels-idx1": (8, (-1,))}
    parts = {}
    for split, name in (("train", "train"), ("test", "t10k")):
        files = {kind: (folder / f"{name}-{kind}-ubyte").read_bytes() for kind in kinds}
        images, labels = (
            np.frombuffer(content, np.uint8, offset=kinds[kind][0]).reshape(kinds[kind][1])
            for kind, content in files.items()
        )
        parts[split] = images, labels
    return parts


def _cifar(root: Path, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read the pickled batches (sample, 3072); images are (sample, 32, 32, 3)."""
    folder, files, key = {
        "cifar10": ("cifar-10-batches-py", ([f"data_batch_{k}" for k in range(1, 6)], ["test_batch"]), "labels"),
        "cifar100": ("cifar-100-python", (["train"], ["test"]), "fine_labels"),
    }[name]
    parts = {}
    for split, batches in zip(("train", "test"), files, strict=True):
        found = [pickle.loads(_published(root / folder / batch, name), encoding="latin1") for batch in batches]
        images = np.concatenate([batch["data"] for batch in found]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        parts[split] = images, np.concatenate([batch[key] for batch in found])
    return parts


def _published(file: Path, name: str) -> bytes:
    """Return the content of a file; ValueError unless it is the published one."""
    content = file.read_bytes()
    found, published = hashlib.md5(content).hexdigest(), MD5[name][file.name]
    if found != published:
        raise ValueError(f"{file}: damaged or foreign, its MD5 is {found}, the published one {published}; delete it")
    return content


def fetch(name: str, root: Path) -> None:
    """Put the files of a dataset under ``root``, unpack and check them; downloads only what is missing.

    Raises:
        LossAtlasError: they are neither there nor to be had; the message names the folder to fill.
    """
    from lossatlas.vision import torchvision

    dataset = getattr(torchvision().datasets, CLASSES[name])
    root.mkdir(parents=True, exist_ok=True)
    try:
        for split in ("train", "test"):
            dataset(root, train=split == "train", download=True)
    except Exception as error:
        raise _incomplete(name, root, error) from error


def _incomplete(name: str, root: Path, error: Exception) -> LossAtlasError:
    return LossAtlasError(
        f"data {name}: not complete in {root.resolve()} ({_first_line(error)}); put {FILES[name]} there, or run "
        f"`snakemake --cores 1 {root}/.{name}.ready` where there is a network"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
