"""Published weights to begin training with: files under ``data_root``, checked by the hash that their names hold."""

import hashlib
import re
import shutil
from pathlib import Path
from urllib.request import urlopen

from lossatlas.errors import LossAtlasError

URLS = {
    ("mobilenet-v2", "imagenet1k-v1"): "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
    ("mobilenet-v2", "imagenet1k-v2"): "https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth",
}
"""Where torchvision's weights are, by network and name; the end of a file's name begins its SHA-256."""


def locate(network: str, name: str, root: Path) -> Path:
    """Return the file of some weights under ``root``, checked; never touches the network.

    Raises:
        LossAtlasError: it is missing or its hash is another one; the message says what to do.
    """
    url = URLS[network, name]
    file = root / url.rsplit("/", 1)[1]
    remedy = f"put {url} there, or run `snakemake --cores 1 {root}/.{network}-{name}.ready` where there is a network"
    if not file.is_file():
        raise LossAtlasError(f"model.pretrained: no file {file.resolve()}; {remedy}")
    try:
        _check(file, url)
    except LossAtlasError as error:
        raise LossAtlasError(f"model.pretrained: {file.resolve()}: {error}; delete it, then {remedy}") from error
    return file


def fetch(network: str, name: str, root: Path) -> None:
    """Put the file of some weights under ``root`` and check it; downloads only what is missing.

    Raises:
        LossAtlasError: it is neither there nor to be had, or its hash is another one.
    """
    url = URLS[network, name]
    file = root / url.rsplit("/", 1)[1]
    if not file.exists():
        root.mkdir(parents=True, exist_ok=True)
        partial = root / f".{file.name}.part"
        try:
            with urlopen(url, timeout=60) as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target)
            _check(partial, url)
        except (OSError, LossAtlasError) as error:
            partial.unlink(missing_ok=True)
            reason = str(error).split("\n")[0]
            raise LossAtlasError(
                f"model.pretrained: downloading {url} failed ({reason}); put the file into {root.resolve()}"
            ) from error
        partial.replace(file)
    locate(network, name, root)


def _check(file: Path, url: str) -> None:
    (published,) = re.findall(r"-([0-9a-f]{8,})\.\w+$", url)
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(published):
        raise LossAtlasError(f"its SHA-256 begins with {found[: len(published)]}, the published one with {published}")
