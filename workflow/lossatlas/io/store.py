"""Stores: self-describing Zarr v3 groups that survive every kill and never mix settings.

The protocol, in full:

1. The real store lives at ``<run>/.stores/<name>.zarr``; the path that the workflow knows,
   ``<run>/<name>.zarr``, is a relative symbolic link, made last and atomically. Whoever deletes the link
   loses nothing: the next attempt finds the store, computes what is missing and links again.
2. A store is born complete with metadata: it is built under a temporary name and renamed. The name tells the host, the
   process and when that began, for several nodes may share the file system. A node sweeps away what its own dead
   processes left under construction. Another host's it leaves alone until the store itself is finished: construction
   comes before all units, so that one which outlasts them was abandoned. Clocks are not compared. Should it live
   nevertheless, its attempt takes the finished store.
3. It carries the *fingerprint* of all that determines its numbers. A store with another fingerprint is set
   aside (renamed), never mixed, and brought back should its settings return.
4. A unit of work is one chunk, written atomically and deterministically, so two attempts that overlap write
   the same bytes.
5. A finished store carries the digest of its contents, and the number of its chunk files, by which a torn
   copy is noticed.
6. Every chunk ends with its CRC-32C, which is checked whenever the chunk is read (``CheckedFiles``). In an unfinished
   store a damaged result is computed again, and with a damaged input the store is begun anew.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from lossatlas import __version__
from lossatlas.errors import LossAtlasError, room_for
from lossatlas.io import owner

if TYPE_CHECKING:
    import xarray as xr

FORMAT = 2
"""Version of the stores' structure; part of every fingerprint."""

ALGORITHMS = {
    "trajectory": 2,
    "directions": 5,
    "landscape": 3,
    "curves": 4,
    "overlaps": 1,
    "perturbations": 1,
    "spectra": 4,
    "curvature": 2,
    "tracking": 1,
}
"""Version of each kind's numbers; raise it when an algorithm changes, and its stores are computed anew."""

_PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "tensorflow", "keras", "zarr", "mpi4py")


@dataclass(frozen=True)
class Fingerprint:
    """All that determines the numbers of one store.

    ``spec`` is the relevant part of the config (with seeds, dtype and digests of user code), ``inputs`` maps
    each input store to its (fingerprint, content digest).
    """

    kind: str
    spec: dict
    inputs: dict = field(default_factory=dict)

    @property
    def provenance(self) -> dict:
        return {
            "kind": self.kind,
            "format": FORMAT,
            "algorithm": ALGORITHMS[self.kind],
            "spec": self.spec,
            "inputs": self.inputs,
        }

    @property
    def digest(self) -> str:
        text = json.dumps(self.provenance, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class CheckedFiles(LocalStore):
    """The files of a store; a chunk that is damaged, or missing though it was written, is an error that names it.

    ``given`` names the arrays whose chunks must all be there; None stands for all arrays.
    """

    given: tuple[str, ...] | None = ()

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        """Return the bytes of a file, None for a chunk that is not written yet.

        Raises:
            LossAtlasError: the chunk is damaged or lost.
        """
        found = await super().get(key, *args, **kwargs)
        array, is_chunk, _ = key.partition("/c/")
        if not is_chunk:
            return found
        if found is None:
            if self.given is None or array in self.given:
                raise LossAtlasError(_torn(self.root / key, "is missing"))
        elif not _whole(found.to_bytes()):
            raise LossAtlasError(_torn(self.root / key, "is damaged (its checksum differs)"))
        return found

    async def set(self, key: str, value: Any) -> None:
        """Write a file.

        Raises:
            LossAtlasError: the disk has no room for it.
        """
        with room_for(self.root / key, len(value)):
            await super().set(key, value)


def _whole(chunk: bytes) -> bool:
    """Return whether the last four bytes are the CRC-32C of those before."""
    if len(chunk) < 4:
        return False
    numbers = np.frombuffer(chunk, np.uint8)  # a view; the checksum takes no memoryview
    return google_crc32c.value(numbers[:-4]).to_bytes(4, "little") == chunk[-4:]


def _torn(file: Path, how: str) -> str:
    store = next(folder for folder in file.parents if folder.suffix == ".zarr")
    return f"{file}: torn, this chunk {how}; delete {store.resolve()} and run again"


def check_chunk(file: Path) -> None:
    """Check the checksum of one chunk file.

    Raises:
        LossAtlasError: it is missing or damaged.
    """
    if not file.exists():
        raise LossAtlasError(_torn(file, "is missing"))
    if not _whole_file(file):
        raise LossAtlasError(_torn(file, "is damaged (its checksum differs)"))


def _whole_file(file: Path) -> bool:
    """Do as ``_whole``, piece by piece: a chunk of a trajectory has up to 256 MiB."""
    left, checksum = max(0, file.stat().st_size - 4), 0
    with file.open("rb", buffering=0) as stream:
        while left and (piece := stream.read(min(left, 2**20))):
            left, checksum = left - len(piece), google_crc32c.extend(checksum, piece)
        return stream.read() == checksum.to_bytes(4, "little")


class Store:
    """One store on disk, at its real path."""

    def __init__(self, path: Path, writable: bool = False):
        self.path = path
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                files = CheckedFiles(path, read_only=not writable)
                self.group = zarr.open_group(files, mode="r+" if writable else "r", zarr_format=3)
            self.attrs = dict(self.group.attrs)
            self.group.store.given = None if self.finished else tuple(self.attrs.get("given", ()))
        except Exception as error:
            raise LossAtlasError(
                f"{path}: not a readable Zarr store ({type(error).__name__}); "
                "it is torn or foreign: move it away and run again"
            ) from error
        if "fingerprint" not in self.attrs:
            raise LossAtlasError(
                f"{path}: a Zarr store without a LossAtlas fingerprint; it is foreign: move it away and run again"
            )

    @property
    def fingerprint(self) -> str:
        return self.attrs["fingerprint"]

    @property
    def finished(self) -> bool:
        return bool(self.attrs.get("finished"))

    @property
    def identity(self) -> list[str]:
        """[fingerprint, content digest]: what a store downstream records of this one."""
        return [self.fingerprint, self.attrs["content"] if self.finished else content_digest(self.path)[0]]

    def __getitem__(self, name: str) -> zarr.Array:
        # Every chunk is written, as by ``add_array``: one that is missing is not one of zeros.
        return self.group[name].with_config({"write_empty_chunks": True})

    def update(self, **attrs: Any) -> None:
        """Add attributes; the metadata file is replaced atomically."""
        self.attrs.update(attrs)
        self.group.attrs.update(attrs)

    def finish(self, attempt: dict) -> None:
        """Mark the store finished, recording its contents' digest and what the last attempt did."""
        digest, files = content_digest(self.path)
        attempts = [*self.attrs.get("attempts", []), {**attempt, "software": software()}]
        self.update(content=digest, chunk_files=files, attempts=attempts, finished=True)
        consolidate(self.path)
        _sweep(self.path, finished=True)


def software() -> dict[str, str]:
    """Return the versions of all that computes."""
    found = {"lossatlas": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def hidden_path(link: Path, run_dir: Path) -> Path:
    """Return where the real store of the declared output ``link`` lies."""
    return run_dir / ".stores" / link.relative_to(run_dir)


def find(
    link: Path,
    run_dir: Path,
    fingerprint: Fingerprint,
    fresh: bool = False,
    log: Callable[[str], None] = print,
) -> Store | None:
    """Return the writable store for ``fingerprint``, finished or not; None when it has yet to be created.

    A store with other settings that lies in its place is set aside.

    Args:
        link: the path that the workflow knows, inside ``run_dir``.
        fresh: set an existing store aside in any case.

    Raises:
        LossAtlasError: what lies at the real path is torn or foreign.
    """
    path = hidden_path(link, run_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    if path.exists():
        store = Store(path, writable=True)
        if store.fingerprint == fingerprint.digest and not fresh:
            return store if store.finished else _repaired(store, log)
        aside = _aside(path, store.fingerprint)
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)
        why = "asked to compute afresh" if fresh else "its settings or inputs differ"
        log(f"{path.name}: the store found was set aside as {aside.name} ({why})")
    former = _aside(path, fingerprint.digest)
    if fresh or not former.exists():
        return None
    os.rename(former, path)
    log(f"{path.name}: brought back {former.name}, computed earlier with these settings")
    store = Store(path, writable=True)
    return store if store.finished else _repaired(store, log)


def _repaired(store: Store, log: Callable[[str], None]) -> Store | None:
    """Return an unfinished store without its damaged results; None, and no store, when its inputs are damaged.

    Inputs are the chunks that it was created with. In stores of units all others are results; rows of a trajectory are
    no units, and cannot be computed one by one.
    """
    path = store.path
    lost = {str(file.relative_to(path)): file for file in chunk_files(path) if not _whole_file(file)}
    given = store.attrs.get("given_chunks", [])
    inputs = given if "work" in store.group else [*given, *lost]
    for name in inputs:
        if name in lost or not (path / name).exists():
            what = "damaged" if name in lost else "missing"
            log(f"{path.name}: {path / name} is {what}; the store is begun anew")
            path.with_suffix(".resume").unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
            return None
    for file in lost.values():
        log(f"{path.name}: {file} is damaged; it is computed again")
        file.unlink(missing_ok=True)  # another attempt may have found it too
    return store


def create(link: Path, run_dir: Path, fingerprint: Fingerprint, build: Callable[[zarr.Group], None]) -> Store:
    """Create the store for ``fingerprint`` and return it; ``build`` fills the empty group with its arrays.

    When another attempt at the same store is quicker, its store is returned.
    """
    path = hidden_path(link, run_dir)
    temporary, built = path.with_name(f".{path.name}.new-{owner.mark()}"), False
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _construct(temporary, fingerprint, build)
        built = True
        os.rename(temporary, path)
    except Exception:
        # Another attempt at the same store was quicker, its store is as good as ours; finished, it swept ours away.
        beaten = path.exists() and (built or not (temporary / "zarr.json").exists())
        shutil.rmtree(temporary, ignore_errors=True)
        if not beaten:
            raise
    return Store(path, writable=True)


def _construct(temporary: Path, fingerprint: Fingerprint, build: Callable[[zarr.Group], None]) -> None:
    group = zarr.open_group(CheckedFiles(temporary), mode="w", zarr_format=3)
    group.attrs.update(
        {
            "fingerprint": fingerprint.digest,
            "provenance": fingerprint.provenance,
            "finished": False,
            "attempts": [],
        }
    )
    build(group)
    chunks = [file.relative_to(temporary) for file in chunk_files(temporary)]
    given = sorted({str(file)[: str(file).index("/c/")] for file in chunks if "/c/" in str(file)})
    group.attrs.update(given=given, given_chunks=[str(file) for file in chunks])


def _aside(path: Path, digest: str) -> Path:
    return path.with_name(f"{path.name}.aside-{digest[:12]}")


def _sweep(path: Path, finished: bool = False) -> None:
    """Remove what dead attempts left under construction; of other hosts only once the store is ``finished``."""
    for leftover in path.parent.glob(f".{path.name}.new-*"):
        host, *process = leftover.name.rpartition(".new-")[2].split("-")
        if finished if host != owner.host() else not owner.alive(*process):
            shutil.rmtree(leftover, ignore_errors=True)


def publish(link: Path, run_dir: Path) -> None:
    """Make the declared output a relative link to its real store; atomic and idempotent."""
    target = os.path.relpath(hidden_path(link, run_dir), link.parent)
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_dir() and not link.is_symlink():
        raise LossAtlasError(f"{link}: a real folder is in the way of the link to {target}; move it away")
    temporary = link.with_name(f".{link.name}.link-{owner.mark()}")
    temporary.unlink(missing_ok=True)
    os.symlink(target, temporary)
    os.replace(temporary, link)


def open_finished(path: Path) -> Store:
    """Open a finished store for reading, or a trajectory that its recorder has not closed.

    Raises:
        LossAtlasError: it is missing, foreign, unfinished or torn.
    """
    path = Path(path)
    if not path.exists():
        raise LossAtlasError(f"{path}: no such store; make it with `snakemake {path}`")
    store = Store(path)
    made_as = store.attrs.get("provenance", {}).get("format")
    if made_as != FORMAT:
        raise LossAtlasError(
            f"{path}: a store of format {made_as}, made by another version; this one reads format {FORMAT}; "
            "make or record it again"
        )
    if "rows" in store.attrs and not store.finished:
        return store
    if not store.finished:
        raise LossAtlasError(f"{path}: the store is not finished; make it with `snakemake {path}`")
    files = sum(1 for _ in chunk_files(path))
    if files != store.attrs["chunk_files"]:
        raise LossAtlasError(
            f"{path}: torn, {files} of {store.attrs['chunk_files']} chunk files are there; "
            f"delete {path.resolve()} and run again"
        )
    return store


def open_dataset(path: Path) -> "xr.Dataset":
    """Open a finished store as a labelled dataset, after the checks of ``open_finished``."""
    import xarray as xr  # every job would wait a quarter of a second for it

    return xr.open_zarr(open_finished(path).group.store, chunks=None)


def chunk_files(path: Path) -> Iterator[Path]:
    """Yield every chunk file of a store in a fixed order; metadata and foreign files are left out."""
    for folder, folders, files in sorted(os.walk(path)):
        folders.sort()
        if "c" in Path(folder).relative_to(path).parts:
            yield from (Path(folder) / name for name in sorted(files) if name.isdigit())


def content_digest(path: Path) -> tuple[str, int]:
    """Return the digest of all chunk files with their names, and how many there are."""
    digest, count = hashlib.sha256(), 0
    for file in chunk_files(path):
        with file.open("rb") as stream:
            inner = hashlib.file_digest(stream, "sha256")
        digest.update(str(file.relative_to(path)).encode() + b"\0" + inner.digest())
        count += 1
    return digest.hexdigest(), count


def consolidate(path: Path) -> None:
    """Gather all metadata in the root's file, so that readers open one file."""
    with warnings.catch_warnings():
        # Zarr warns that the v3 specification does not yet describe what zarr-python and xarray both use.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(path)


def add_array(
    group: zarr.Group,
    name: str,
    dims: tuple[str, ...],
    *,
    shape: tuple[int, ...] | None = None,
    data: np.ndarray | list | None = None,
    dtype: Any = "float64",
    chunks: tuple[int, ...] | None = None,
    compress: bool = True,
    fill_value: Any = 0,
    **attrs: Any,
) -> zarr.Array:
    """Create one labelled array, empty or holding ``data``; every chunk is written, fill values too.

    ``attrs`` should hold ``long_name`` and ``units`` (or ``description``), for readers and axis labels.
    """
    if data is not None:
        text = len(data) > 0 and isinstance(data[0], str)
        data = np.asarray(data, dtype=object if text else None)
        shape, dtype = data.shape, str if text else data.dtype
    array = group.create_array(
        name,
        shape=shape,
        chunks=chunks or tuple(max(1, n) for n in shape or ()),
        dtype=dtype,
        compressors=[*([ZstdCodec(level=0)] if compress else []), Crc32cCodec()],
        dimension_names=dims,
        attributes=attrs,
        fill_value="" if dtype is str else fill_value,
        config={"write_empty_chunks": True},
    )
    if data is not None and data.size:
        array[...] = data
    return array
