"""Full Fashion-MNIST, CIFAR-10 and CIFAR-100 through torchvision: files under ``data_root``, checked by checksum."""

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


def read(name: str, root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read both splits from ``root`` as {split: (uint8 images, labels)}; never touches the network.

    Raises:
        LossAtlasError: files are missing or fail their checksum.
    """
    return _open(name, root, download=False)


def fetch(name: str, root: Path) -> None:
    """Put the files of a dataset under ``root``, unpack and check them; downloads only what is missing.

    Raises:
        LossAtlasError: they are neither there nor to be had; the message names the folder to fill.
    """
    _open(name, root, download=True)


def _open(name: str, root: Path, download: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    from lossatlas.backends.torch.vision import torchvision

    dataset = getattr(torchvision().datasets, CLASSES[name])
    root.mkdir(parents=True, exist_ok=True)
    try:
        parts = {split: dataset(root, train=split == "train", download=download) for split in ("train", "test")}
    except Exception as error:
        raise LossAtlasError(
            f"data {name}: not complete in {root.resolve()} ({_first_line(error)}); put {FILES[name]} there, or run "
            f"`snakemake --cores 1 {root}/.{name}.ready` where there is a network"
        ) from error
    return {split: (np.asarray(part.data), np.asarray(part.targets)) for split, part in parts.items()}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
