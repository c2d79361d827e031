"""Folders of images, in ImageNet's layout and that of CUB-200-2011, decoded when they are asked for."""

from pathlib import Path
from typing import Any

import numpy as np

from lossatlas.data.streams import Items
from lossatlas.errors import LossAtlasError

IMAGES = {".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
"""How the names of images end, in small letters."""

TEST_FOLDERS = ("val", "test")


def load(spec: dict, memory_gb: float) -> dict[str, Items]:
    """Return the images below a folder by split: "train", and "test" where there are some.

    ImageNet's layout is ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG`` (or ``test``), classes numbered in the
    order of their names; CUB-200-2011's (Wah et al. 2011) the lists ``images.txt``, ``image_class_labels.txt`` and
    ``train_test_split.txt`` beside ``images/``.

    Args:
        spec: ``folder``, and ``resize``, ``crop``, ``mean`` and ``std`` as for ``ImageFiles``.

    Raises:
        LossAtlasError: it has neither layout.
    """
    folder = Path(spec["folder"])
    where = f"data.kwargs.folder: {spec['folder']!r}"
    files = _of_lists(folder, where) if (folder / "images.txt").is_file() else _of_folders(folder, where)
    if not files.get("train"):
        raise LossAtlasError(f"{where} holds no images for training: neither train/<class>/ nor images.txt")
    how = {key: spec[key] for key in ("resize", "crop", "mean", "std")}
    return {name: Items(ImageFiles(found, **how), f"{where}: {name}", memory_gb) for name, found in files.items() if found}


class ImageFiles:
    """Images as torchvision's ``Resize``, ``CenterCrop``, ``ToTensor`` and ``Normalize`` make them of files.

    A sample is (float32 (3, crop, crop), class). ``targets`` are the classes of all.

    Args:
        files: (file, class) of each image.
        resize: pixels that the shorter side is scaled to, bilinearly and antialiased.
        crop: width and height of what is cut out of the middle; black is added around smaller images.
        mean, std: of the three colours, which are in [0, 1] before.
    """

    def __init__(self, files: list[tuple[Path, int]], resize: int, crop: int, mean: list[float], std: list[float]):
        self.files, self.targets = [file for file, _ in files], [number for _, number in files]
        self._resize, self._crop = resize, crop
        self._mean, self._std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (mean, std))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        """Return an image and its class.

        Raises:
            LossAtlasError: the file cannot be decoded.
        """
        from PIL import Image

        try:
            with Image.open(self.files[place]) as image:
                pixels = self._cut(_resized(image.convert("RGB"), self._resize))
        except (OSError, ValueError, SyntaxError) as error:  # which Pillow raises for broken PNG
            raise LossAtlasError(f"{self.files[place]}: cannot be decoded as an image: {error}") from error
        scaled = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        return (scaled - self._mean) / self._std, self.targets[place]

    def _cut(self, image: Any) -> np.ndarray:
        """Return the middle of an image, (crop, crop, 3) uint8."""
        pixels, size = np.asarray(image), self._crop
        missing = [max(size - length, 0) for length in pixels.shape[:2]]
        pixels = np.pad(pixels, [*((m // 2, (m + 1) // 2) for m in missing), (0, 0)])
        top, left = (round((length - size) / 2) for length in pixels.shape[:2])
        return pixels[top : top + size, left : left + size]


def _resized(image: Any, shorter: int) -> Any:
    """Return an image of Pillow's scaled so that its shorter side has so many pixels."""
    from PIL import Image

    width, height = image.size
    least = min(width, height)
    size = (shorter, shorter * height // least) if width <= height else (shorter * width // least, shorter)
    return image if size == (width, height) else image.resize(size, Image.Resampling.BILINEAR)


def _of_folders(folder: Path, where: str) -> dict[str, list[tuple[Path, int]]]:
    """Return the files of ImageNet's layout by split, in the order of classes and names."""
    names = {"train": "train", "test": next((name for name in TEST_FOLDERS if (folder / name).is_dir()), "")}
    classes: dict[str, int] = {}
    files: dict[str, list[tuple[Path, int]]] = {}
    for split, name in names.items():
        if not name or not (folder / name).is_dir():
            continue
        found = sorted(part for part in (folder / name).iterdir() if part.is_dir())
        classes = classes or {part.name: number for number, part in enumerate(found)}
        if foreign := [part.name for part in found if part.name not in classes]:
            raise LossAtlasError(f"{where}: {name}/{foreign[0]} is no class of train/")
        files[split] = [
            (file, classes[part.name])
            for part in found
            for file in sorted(part.rglob("*"))
            if file.suffix.lower() in IMAGES
        ]
    return files


def _of_lists(folder: Path, where: str) -> dict[str, list[tuple[Path, int]]]:
    """Return the files of CUB-200-2011 by split, in the order of its lists; classes count from 0."""
    try:
        lists = [_listed(folder / name) for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt")]
        images, labels, trained = lists
        files: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
        for number, name in images.items():
            split = "train" if trained[number] == "1" else "test"
            files[split].append((folder / "images" / name, int(labels[number]) - 1))
    except (OSError, ValueError, KeyError) as error:
        raise LossAtlasError(f"{where}: images.txt without its lists of classes and splits: {error}") from error
    return files


def _listed(file: Path) -> dict[str, str]:
    """Return what a list of CUB-200-2011 says of each image, by its number."""
    pairs = (line.split(maxsplit=1) for line in file.read_text().splitlines() if line.strip())
    return {number: value.strip() for number, value in pairs}
