"""Say how many files and how much disk the runs of a config will take, before anything is computed."""

import lossatlas.parallel.listen  # noqa: F401

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from lossatlas import backends, config
from lossatlas.config.model import Model
from lossatlas.config.models import Config
from lossatlas.config.run import Run
from lossatlas.config.sizes import training_steps
from lossatlas.data import training_samples
from lossatlas.drivers import (
    command_line,
    curvature_map,
    landscape,
    line_scans,
    overlaps,
    perturbations,
    spectra,
    tracking,
)
from lossatlas.drivers.training import recorded_iterations
from lossatlas.geometry import random_walk
from lossatlas.geometry.directions import direction_set
from lossatlas.geometry.segments import AlongTraining, Line
from lossatlas.io.arrays import store_size
from lossatlas.io.trajectory import Recording


def main(args, _world) -> None:
    total_files = total_bytes = 0
    print(f"{'store':<48}{'files':>12}{'MB':>12}")
    asked = Config.model_validate(args.config)
    runs = {name: Run(name, asked) for name in asked.runs}
    frameworks = {run.settings.backend for run in runs.values()}
    # Frameworks do not share a process.
    apart = {name: ProcessPoolExecutor(1, mp_context=get_context("spawn")) for name in frameworks}
    found = [(name, apart[run.settings.backend].submit(stores, run)) for name, run in runs.items()]
    for run, made in found:
        for name, files, size in made.result():
            print(f"{run + '/' + name:<48}{files:>12}{size / 1e6:>12.1f}")
            total_files, total_bytes = total_files + files, total_bytes + size
    for executor in apart.values():
        executor.shutdown()
    print(f"{'together (figures and videos come on top)':<48}{total_files:>12}{total_bytes / 1e6:>12.1f}")


def stores(run: Run) -> list[tuple[str, int, int]]:
    """Return (name, files, bytes at most) of every store of one run."""
    return list(_stores(run))


def _stores(run: Run) -> Iterator[tuple[str, int, int]]:
    """Yield them."""
    recording, settings = record(run), run.settings
    yield "trajectory", *store_size(recording.schema, recording.sizes)
    rows = len(recording.iterations)
    counts = {name: config.count(directions) or 2 for name, directions in settings.directions.items()}

    def along(entry: Model) -> int:
        return sum(counts[axis] if "/" not in axis else 1 for axis in config.axes_of(entry))

    for name, count in counts.items():
        walk = random_walk.ARRAYS if settings.directions[name].kind == "pca" else ()
        sizes = recording.sizes | {"direction": count, "other_direction": count, "component": random_walk.COMPONENTS}
        yield f"directions/{name}", *store_size([*direction_set.arrays(), *walk], sizes)
    splits = ["train"] if settings.evaluation.test_samples == 0 else ["train", "test"]
    for name, plane in settings.planes.items():
        shown = run.others("planes", name) if plane.paths_losses else []
        others = sum(len(record(Run(other, run.config)).iterations) for other in shown)
        yield f"landscape/{name}", *landscape.planned_size(plane.plain(), splits, rows, others)
        if plane.curvature:
            yield f"curvature/{name}", *curvature_map.planned_size(plane.curvature.plain())
    for name, curve in settings.curves.items():
        yield f"curves/{name}", *line_scans.planned_size(curve.plain(), along(curve), len(splits))
    for name, overlap in settings.overlaps.items():
        yield f"overlaps/{name}", *overlaps.planned_size(overlap.plain(), along(overlap))
    for name, perturbed in settings.perturbations.items():
        yield f"perturbations/{name}", *perturbations.planned_size(perturbed.plain())
    if chosen := settings.spectra:
        count = len(range(0, rows, chosen.stride)) + 1
        for name in ["", *chosen.variants]:
            yield f"spectra/{name}".removesuffix("/"), *spectra.planned_size(AlongTraining, count, chosen.plain())
    for name, line in settings.spectra_between.items():
        yield f"spectra_between/{name}", *spectra.planned_size(Line, line.points, line.plain())
    if tracked := settings.tracking:
        yield "tracking", *tracking.planned_size(tracked.plain(), len(range(0, rows, tracked.stride)) + 1)


def record(run: Run) -> Recording:
    """Return what the trajectory will hold, from the network itself."""
    spec = run.trajectory_spec()
    backend = backends.backend(spec["backend"])
    device = backend.set_up("cpu", spec["dtype"], threads=1)
    network = backend.FlatNetwork(backend.build_module(spec["model"], spec["seed"]), device)
    if not run.is_trained:
        return network.recording(run.iterations or range(len(run.checkpoints)))
    how = spec["train"]
    steps, per_epoch = training_steps(training_samples(spec["data"]), how["batch_size"], how["epochs"])
    return network.recording(recorded_iterations(steps, how["record_every"]), per_epoch)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=json.loads, required=True, help="the config with its defaults, as JSON")
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world), label="plan")
