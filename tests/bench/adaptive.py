"""Adaptive 51 x 51 surfaces against bicubic interpolation of uniform grids, on real planes evaluated in full once."""

import tempfile
import time
from pathlib import Path

import numpy as np
from lossatlas import backends
from lossatlas.data import Split, Subset, load_dataset
from lossatlas.drivers import landscape
from lossatlas.drivers.base import Order, Plan
from lossatlas.drivers.training import record_training, recorded_iterations
from lossatlas.geometry.directions.direction_set import Axes, make_directions
from lossatlas.io import store
from lossatlas.io.trajectory import Trajectory
from lossatlas.parallel import Timing, World
from lossatlas.problem import Problem
from scipy.interpolate import RectBivariateSpline

from tests.bench.table import Row

POINTS, TOLERANCE = 51, 0.01
QUARTER = POINTS**2 // 4 + 1
PLANES = {
    "pca": ({"normalize": "none", "ignore": []}, {"border": 0.4}),
    "random": ({"normalize": "filter", "ignore": ["bias", "norm"]}, {"range": {"x": [-1, 1], "y": [-1, 1]}}),
}
TRAININGS = {"lenet": (200, 2, 32, 0.01), "resnet20": (16, 1, 64, 0.05)}
"""Samples that surfaces are evaluated on; epochs, batch size and learning rate of the training before."""
SCALES = {"lenet": ["linear"], "resnet20": ["linear", "log"]}
"""The surface as it is, and as figures draw it where it spans more than a factor of 30."""


def trained(name: str, folder: Path) -> tuple[Trajectory, Problem]:
    """Train a network briefly, every other iteration recorded."""
    samples, epochs, batch_size, rate = TRAININGS[name]
    torch = backends.backend("torch")
    network = torch.FlatNetwork(
        torch.build_module({"name": name, "kwargs": {}}, 0), torch.set_up("cpu", "float32", threads=2)
    )
    loss, data = torch.build_loss({"name": "cross-entropy"}), load_dataset({"name": "fashion-mnist-mini"}).train
    spec = {"optimizer": "SGD", "optimizer_kwargs": {"momentum": 0.9}, "learning_rate": rate}
    trainer = torch.TorchTrainer(network, loss, data, spec | {"batch_size": batch_size, "epochs": epochs}, 0)
    (folder / ".stores").mkdir(parents=True)
    recording = network.recording(recorded_iterations(trainer.steps, 2), trainer.steps_per_epoch)
    made = store.create(folder / "trajectory.zarr", folder, store.Fingerprint("trajectory", {}), recording.build)
    record_training(trainer, made, f"bench: {name}")
    made.finish({})
    return Trajectory(made.path), torch.TorchProblem(
        network, loss, Split(data.inputs[:samples], data.targets[:samples]), 250
    )


class Replay:
    """A problem that was evaluated at all points of a grid, and at the path."""

    samples, metric_names = 1, ("loss",)

    def __init__(self, x: np.ndarray, y: np.ndarray, surface: np.ndarray):
        self.x, self.y, self.surface = x, y, surface

    def metrics(self, _theta: np.ndarray, _buffers: np.ndarray) -> np.ndarray:
        return np.full(1, np.nan)  # the checkpoints, which are no part of the surface

    def restrict(self, _center: np.ndarray, _directions: np.ndarray, _buffers: np.ndarray) -> "Replay.Plane":
        return Replay.Plane(self)

    class Plane:
        """The surface; points between those of the grid, which only the path has, are NaN."""

        def __init__(self, whole: "Replay"):
            self.whole = whole

        def metrics(self, points: np.ndarray) -> np.ndarray:
            columns, rows = np.searchsorted(self.whole.x, points[:, 0]), np.searchsorted(self.whole.y, points[:, 1])
            columns, rows = np.minimum(columns, POINTS - 1), np.minimum(rows, POINTS - 1)
            on = (self.whole.x[columns] == points[:, 0]) & (self.whole.y[rows] == points[:, 1])
            return np.where(on, self.whole.surface[rows, columns], np.nan)[:, None]


def whole(plane: landscape.Landscape, folder: Path) -> Replay:
    """Evaluate all points of a plane."""
    evaluator = plane.evaluator(made := plane.create(Order(folder / "whole.zarr", folder, "bench"), Plan({})))
    x, y = made["x"][:], made["y"][:]
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    blocks = np.array_split(points, POINTS)
    losses = np.concatenate([evaluator.planes[0].metrics(block)[:, 0] for block in blocks])
    return Replay(x, y, losses.reshape(POINTS, POINTS))


def adapted(plane: landscape.Landscape, folder: Path, grid: dict) -> store.Store:
    """Make the adaptive surface of a plane, as a job does."""
    plane.spec = {"plane": {**plane.spec["plane"], "grid": {"mode": "adaptive", "tolerance": TOLERANCE, **grid}}}
    order = Order(folder / f"{grid['scale']}.zarr", folder, "bench")
    made = plane.create(order, Plan({}))
    plane.compute(made, order, World(), Timing())
    plane.finish(made, {})
    return made


def bicubic(heights: np.ndarray, least: int) -> tuple[int, float]:
    """Return how many points the smallest uniform grid of at least so many has, and the largest error between them."""
    lines = np.unique(np.linspace(0, POINTS - 1, int(np.ceil(np.sqrt(least)))).round().astype(int))
    spline = RectBivariateSpline(lines, lines, heights[np.ix_(lines, lines)], kx=3, ky=3, s=0)
    every = np.arange(POINTS)
    return len(lines) ** 2, float(np.abs(spline(every, every) - heights).max() / np.ptp(heights))


def compared(name: str, kind: str, plane: landscape.Landscape, replay: Replay, folder: Path, scale: str) -> Row:
    """An adaptive surface: its largest error against that of the uniform grid, which has at least as many points."""
    drawn = {"linear": np.asarray, "log": np.log10}[scale]
    plane.problems = {"train": replay}
    made = adapted(plane, folder, {"scale": scale})
    heights, count = drawn(replay.surface), int(made["evaluated"][:].sum())
    error = float(np.abs(drawn(made["loss"][0]) - heights).max() / np.ptp(heights))
    uniform, theirs = bicubic(heights, count)
    stated = float(made["error"][0])
    kept = error <= min(stated, TOLERANCE) and (scale == "log" or count <= QUARTER)
    what = f"error, {name} {kind} plane, {scale} : bicubic {uniform} points"
    told = f"{count} points, stated {stated:.4f}"
    return Row(what, error, theirs, round(theirs / error, 3), 1.0, "higher", told, bool(kept and theirs >= error))


def rows() -> list[Row]:
    """Return all comparisons; the errors stand where others have seconds."""
    found = []
    for name in TRAININGS:
        with tempfile.TemporaryDirectory() as temporary:
            folder, start = Path(temporary), time.perf_counter()
            trajectory, problem = trained(name, folder / "run")
            for kind, (choices, where) in PLANES.items():
                spec = {"kind": kind, "center": "last", "count": 2, "seed": 0, "center_rows": True, "solver": "gram"}
                made = make_directions({**spec, **choices}, trajectory, {})
                axes = Axes(made.used, made.raw.labels, made.variance_share, {})
                spec = {"center": "last", "points": [POINTS, POINTS], "border": 0.4, **where}
                subset = Subset(Split(np.zeros((1, 1)), np.zeros(1)), np.arange(1), "digest", False)
                plane = landscape.Landscape({"plane": spec}, axes, trajectory, {"train": problem}, {"train": subset})
                (folder / kind / ".stores").mkdir(parents=True)
                replay = whole(plane, folder / kind)
                found += [compared(name, kind, plane, replay, folder / kind, scale) for scale in SCALES[name]]
            print(f"{name}: full surfaces and adaptive ones in {time.perf_counter() - start:.0f} s", flush=True)
    return found


if __name__ == "__main__":
    import sys

    from tests.bench.table import report

    sys.exit(not report(rows(), Path("results/bench_adaptive.json")))
