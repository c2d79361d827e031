"""Say how many files and how much disk the runs of a config will take, before anything is computed."""

import lossatlas.parallel.listen  # noqa: F401

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import zarr
from lossatlas import backends
from lossatlas.data import training_samples
from lossatlas.drivers import command_line, curvature_map, landscape, line_scans, spectra, tracking
from lossatlas.drivers.training import recorded_iterations
from lossatlas.geometry.segments import AlongTraining, Line
from lossatlas.io.trajectory import CHUNK_COLUMNS, Recording


def main(args, _world) -> None:
    total_files = total_bytes = 0
    print(f"{'store':<48}{'files':>12}{'MB':>12}")
    frameworks = {spec["backend"] for spec in args.runs.values()}
    # Frameworks do not share a process.
    apart = {name: ProcessPoolExecutor(1, mp_context=get_context("spawn")) for name in frameworks}
    found = {run: apart[spec["backend"]].submit(stores, spec, args.runs) for run, spec in args.runs.items()}
    for run in args.runs:
        for name, files, size in found[run].result():
            print(f"{run + '/' + name:<48}{files:>12}{size / 1e6:>12.1f}")
            total_files, total_bytes = total_files + files, total_bytes + size
    print(f"{'together (figures and videos come on top)':<48}{total_files:>12}{total_bytes / 1e6:>12.1f}")


def stores(spec: dict, runs: dict) -> list[tuple[str, int, int]]:
    """Return (name, files, bytes at most) of every store of one run."""
    return list(_stores(spec, runs))


def _stores(spec: dict, runs: dict):
    """Yield them; every array and group has a file of metadata."""
    recording = record(spec)
    group = zarr.open_group(zarr.storage.MemoryStore(), mode="w", zarr_format=3)
    recording.build(group)
    arrays = [array for _, array in group.arrays()]
    whole = [array.nchunks * math.prod(array.chunks) * array.dtype.itemsize for array in arrays]
    yield "trajectory", sum(array.nchunks for array in arrays) + len(arrays) + 1, sum(whole)
    size, rows = recording.layout.size, len(recording.iterations)
    for name, count in spec["directions"].items():
        walk = 14 if name in spec["pca"] else 0  # files of the random walk beside principal components
        yield f"directions/{name}", 2 * count * -(-size // CHUNK_COLUMNS) + 19 + walk, 2 * 8 * count * size
    for name, plane in spec["planes"].items():
        shown = plane.get("paths", []) if plane["paths_losses"] else []
        others = sum(len(record(runs[other]).iterations) for other in shown)
        yield f"landscape/{name}", *landscape.planned_size(plane, spec["splits"], rows, others)
        if "curvature" in plane:
            yield f"curvature/{name}", *curvature_map.planned_size(plane["curvature"])
    for name, curve in spec["curves"].items():
        count = sum(spec["directions"][axis] if "/" not in axis else 1 for axis in curve["axes"])
        yield f"curves/{name}", *line_scans.planned_size(curve, count, len(spec["splits"]))
    for name in spec["spectra_stores"]:
        count = len(range(0, rows, spec["spectra"]["stride"])) + 1
        yield name, *spectra.planned_size(AlongTraining, count, spec["spectra"])
    for name, line in spec["spectra_between"].items():
        yield f"spectra_between/{name}", *spectra.planned_size(Line, line["points"], line)
    if spec["tracking"]:
        count = len(range(0, rows, spec["tracking"]["stride"])) + 1
        yield "tracking", *tracking.planned_size(spec["tracking"], count)


def record(spec: dict) -> Recording:
    """Return what the trajectory will hold, from the network itself."""
    backend = backends.backend(spec["backend"])
    device = backend.set_up("cpu", spec["dtype"], threads=1)
    network = backend.FlatNetwork(backend.build_module(spec["model"], spec["seed"]), device)
    if "checkpoints" in spec:
        return network.recording(range(spec["checkpoints"]))
    steps, steps_per_epoch = backend.training_steps(training_samples(spec["data"]), spec["train"])
    return network.recording(recorded_iterations(steps, spec["train"]["record_every"]), steps_per_epoch)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=json.loads, required=True, help="what determines each run, as JSON")
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world), label="plan")
