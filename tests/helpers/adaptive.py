"""Landscape stores of surfaces in closed form; run by MPI ranks: adaptive.py FOLDER RANKS QUEUE [FILE]."""

import itertools
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from lossatlas.data import Split, Subset
from lossatlas.drivers import command_line, landscape
from lossatlas.drivers.base import Order
from lossatlas.geometry.directions.direction_set import Axes
from lossatlas.io import store
from lossatlas.parallel import Timing, World, signals

from tests.conftest import make_trajectory


def cliff(u, v):
    """A bowl that is NaN beyond a circle and inf in a corner."""
    bowl = 1 + u**2 + 2 * v**2
    return np.where(np.hypot(u - 1.5, v) < 0.8, np.nan, np.where(u + v < -2.4, np.inf, bowl))


SURFACES = {
    "bowl": lambda u, v: 0.3 + u**2 + 3 * v**2,
    "saddle": lambda u, v: 6 + u**2 - v**2 + 0.3 * u * v,
    "banana": lambda u, v: 0.15 + 0.1 * (1 - u) ** 2 + 2 * (v - u**2 / 2 + 0.5) ** 2,
    "cliff": cliff,
}
"""Losses of the first two parameters, over [-2, 2] x [-1.5, 1.5]."""


def blobs(seed: int):
    """Return a sum of eight Gaussian hills and hollows of many widths."""
    rng = np.random.default_rng(seed)
    centers, widths = rng.uniform(-1.5, 1.5, (8, 2)), rng.uniform(0.25, 1.5, 8)
    signs = rng.choice([-1.0, 1.0], 8)

    def surface(u, v):
        hills = zip(centers, widths, signs, strict=True)
        return 10 + sum(s * np.exp(-((u - a) ** 2 + (v - b) ** 2) / w**2) for (a, b), w, s in hills)

    return surface


def drawn(kind: str, seed: int):
    """Return a surface drawn at random: a step, a disc or a ring, or a bowl or a narrow valley, turned."""
    rng = np.random.default_rng(seed)
    angle, (a, b), size = rng.uniform(0, 2 * np.pi), rng.uniform(-0.6, 0.6, 2), rng.uniform(0.3, 1.0)

    def turned(u, v):
        return np.cos(angle) * u + np.sin(angle) * v - a, np.cos(angle) * v - np.sin(angle) * u - b

    def surface(u, v):
        along, across = turned(u, v)
        far, plain = np.hypot(u - a, v - b), 1 + 0.1 * (u**2 + v**2)
        return {
            "step": lambda: plain + 2 * size * (along > 0),
            "disc": lambda: plain + (far < 0.5 + size / 2),
            "ring": lambda: plain + np.exp(-(((far - 0.5 - size / 2) / 0.12) ** 2)),
            "bowl": lambda: size * along**2 + 2 * across**2 + 0.1,
            "valley": lambda: 1.2 + 0.1 * along**2 - np.exp(-((across / (0.3 + size / 4)) ** 2)),
        }[kind]()

    return surface


class ClosedForm:
    """A problem whose loss is a function of the first two parameters."""

    samples, metric_names = 4, ("loss", "accuracy")

    def __init__(self, surface):
        self.surface = surface

    @staticmethod
    def accuracy(loss):
        """Shares fall with the loss."""
        return np.exp(-np.where(np.isfinite(loss), loss, 0.0))

    def metrics(self, theta, _buffers):
        loss = self.surface(*np.float64(theta[:2])[:, None])[0]
        return np.array([loss, self.accuracy(loss)])

    def restrict(self, center, directions, buffers):
        problem = self

        class Plane:
            def metrics(self, points):
                return np.stack([problem.metrics(center + point @ directions, buffers) for point in points])

        return Plane()


def adaptive_store(folder: Path, surface, points: tuple[int, int], grid: dict):
    """Find or create a landscape store, and return it with its job."""
    thetas = np.zeros((5, 6))
    thetas[:, :2] = [[0.9, 0.2], [0.5, 0.1], [0.3, 0.3], [0.1, -0.4], [0.0, 0.0]]
    trajectory = make_trajectory(folder, thetas)
    axes = Axes(np.eye(6)[:2], ["u", "v"], np.array([0.5, 0.3]), {})
    subset = Subset(Split(np.zeros((4, 1)), np.zeros(4)), np.arange(4), "digest", False)
    spec = {"center": "last", "points": list(points), "border": 0.4, "range": {"x": [-2, 2], "y": [-1.5, 1.5]}}
    spec["grid"] = grid
    problems = {"train": ClosedForm(surface)}
    job = landscape.Landscape({"plane": spec}, axes, trajectory, problems, {"train": subset})
    link, fingerprint = folder / "landscape" / "p.zarr", store.Fingerprint("landscape", spec)
    made = store.find(link, folder, fingerprint) or store.create(link, folder, fingerprint, job.build)
    return made, job


def truth(surface, made) -> np.ndarray:
    """Return the closed form at all points of a store's grid (y, x), point by point."""
    x, y = made["x"][:], made["y"][:]
    return np.array([[surface(*np.float64([u, v])[:, None])[0] for u in x] for v in y])


def main(everyone: World, folder: Path, queue: str, mark: Path | None) -> None:
    """Compute a store by all ranks, which the first one creates and finishes.

    Args:
        mark: rank 0 makes this file at its 150th evaluation, and goes on when it has been told to stop.
    """
    evaluations = itertools.count(1)

    def held(u, v):
        if mark and everyone.rank == 0 and next(evaluations) == 150:
            mark.touch()
            while not signals.requested():
                time.sleep(0.01)
        return SURFACES["banana"](u, v)

    arguments = folder, held, (41, 31), {"mode": "adaptive", "tolerance": 0.01}
    first = adaptive_store(*arguments) if everyone.rank == 0 else None
    everyone.barrier()
    made, job = first or adaptive_store(*arguments)
    timing = Timing()
    missing = job.compute(made, Order(folder, folder, "test", queue=queue), everyone, timing)
    shares = everyone.gather(timing.units)
    if missing:
        sys.exit(signals.STATUS)
    if everyone.rank == 0:
        assert min(shares) >= 2, shares
        landscape.Landscape.finish(made, {})


if __name__ == "__main__":
    path, ranks, kind, *marks = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], *map(Path, sys.argv[4:])
    command_line.run(lambda everyone: main(everyone, path, kind, *(marks or [None])), ranks=ranks, label="test")
