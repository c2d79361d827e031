"""PCA from the trajectory store against sklearn's of the same store: equal threads, reading counted for both."""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from lossatlas import rng
from lossatlas.io import store
from lossatlas.io.layout import ParameterLayout, ParameterSlot
from lossatlas.io.trajectory import Recording, RowWriter

from tests.bench.table import Row, row
from tests.conftest import ROOT, environment

BLOCK = 2**18


def wave(size: int, number: int) -> np.ndarray:
    """Return one of the ways in which the path moves: repeated blocks of Gaussian numbers, float32."""
    block = rng.generator(0, "bench way", number).standard_normal(BLOCK, dtype=np.float32)
    return np.resize(block, size) * np.float32(1 + 0.1 * number)


def checkpoints(rows: int, size: int) -> Iterator[np.ndarray]:
    """Yield a curved path of three dimensions plus noise."""
    ways = [wave(size, k) for k in range(3)]
    noise = rng.generator(0, "bench noise").standard_normal(4 * BLOCK, dtype=np.float32) * np.float32(0.01)
    noise = np.resize(noise, size + rows)  # each row takes it from another place on
    for k, t in enumerate(np.linspace(0, 1, rows, dtype=np.float32)):
        yield t * ways[0] + np.sin(3 * t) * ways[1] + np.float32(0.3) * np.cos(6 * t) * ways[2] + noise[k : k + size]


@contextmanager
def trajectory(rows: int, size: int) -> Iterator[Path]:
    """Write a trajectory under results/ and remove it afterwards."""
    (ROOT / "results").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "results", prefix="bench-") as name:
        folder = Path(name)
        (folder / ".stores").mkdir()
        layout = ParameterLayout((ParameterSlot("w", (size,), 0, "weight", None),))
        build = Recording(layout, np.arange(rows), "float32").build
        made = store.create(folder / "trajectory.zarr", folder, store.Fingerprint("trajectory", {}), build)
        writer = RowWriter(made)
        for theta in checkpoints(rows, size):
            writer.append(parameters=theta, buffers=np.zeros(0), batch_loss=1.0, learning_rate=0.1)
        writer.flush()
        made.finish({})
        yield made.path


def measured(who: str, path: Path, result: Path | None = None) -> dict:
    """Run one PCA in a process of its own."""
    command = [sys.executable, ROOT / "tests/helpers/peak_pca.py", who, path, *([result] if result else [])]
    done = subprocess.run([*map(str, command)], env=environment(OMP_NUM_THREADS="2"), check=True, capture_output=True)
    return json.loads(done.stdout.splitlines()[-1])


def distance(ours: Path, peer: Path) -> float:
    """Return how far vectors, signs aligned, and shares are apart at most; vectors relative to their largest entry."""
    (one, shares), (two, others) = ((found["vectors"], found["shares"]) for found in map(np.load, (ours, peer)))
    two = two * np.sign((one * two).sum(axis=1))[:, None]
    return max(float(np.abs(one - two).max() / np.abs(two).max()), float(np.abs(shares / others - 1).max()))


def against_sklearn(rows: int = 196, size: int = 10**6, rounds: int = 3) -> list[Row]:
    """Seconds and peak memory."""
    with trajectory(rows, size) as path:
        files = {who: path.parent / f"{who}.npz" for who in ("ours", "sklearn")}
        measured("ours", path)  # the store is in the file system's cache for both
        found = {who: [measured(who, path, files[who])] for who in files}
        for _ in range(rounds - 1):
            for who in files:
                found[who].append(measured(who, path))
        apart = distance(files["ours"], files["sklearn"])
    seconds = {who: statistics.median(one["seconds"] for one in several) for who, several in found.items()}
    peaks = {who: max(one["peak"] for one in several) / 2**30 for who, several in found.items()}
    what, said, agrees = f"PCA {rows} x {size / 1e6:.0f}M from the store", f"relative {apart:.0e}", apart < 1e-4
    return [
        row(f"{what} : sklearn", seconds["ours"], seconds["sklearn"], 9.0, "higher", said, agrees),
        row(f"peak GB, {what} : sklearn", peaks["ours"], peaks["sklearn"], 1 / 3, "lower", said, agrees),
    ]


def large(rows: int, size: int = 25 * 10**6, budget_gb: float = 2.0) -> list[Row]:
    """Peak memory of the whole process, against a budget; nothing where the disk has no room for 1.5 times the store.

    The agreement is the angle between the first vector and the path's own ways, in which all but noise lies.
    """
    need = 6 * rows * size
    free = shutil.disk_usage(ROOT).free
    if free < max(need, 4e10 if need > 1e10 else 0):
        print(f"PCA {rows} x {size / 1e6:.0f}M: left out, {free / 1e9:.0f} GB of disk are free")
        return []
    with trajectory(rows, size) as path:
        result = path.parent / "ours.npz"
        found = measured("ours", path, result)
        vectors, ways = np.load(result)["vectors"], np.stack([wave(size, k) for k in range(3)])
    inside = np.linalg.lstsq(ways @ ways.T, ways @ vectors[0].astype(np.float32), rcond=None)[0] @ ways
    outside = float(np.linalg.norm(vectors[0] - inside))
    print(f"PCA {rows} x {size / 1e6:.0f}M from the store: {found['seconds']:.1f} s")
    said, what = f"{outside:.0e} outside the ways", f"peak GB, PCA {rows} x {size / 1e6:.0f}M, of {budget_gb:.0f}"
    return [row(what, found["whole"] / 1e9, budget_gb, 1.0, "lower", said, outside < 0.02)]


def rows() -> list[Row]:
    """Return all comparisons."""
    return [*against_sklearn(), *large(50), *large(196)]
