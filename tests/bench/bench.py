"""`make bench`: speed of what users wait for, into results/bench.json. Timed on this machine, two threads."""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))

from lossatlas import backends
from lossatlas.backends.torch.device import keep_freed_memory
from lossatlas.data import load_dataset
from lossatlas.drivers.training import record_training, recorded_iterations
from lossatlas.io import store
from lossatlas.render import video
from lossatlas.render.frame import FrameRenderer
from lossatlas.render.style import style

from tests.bench import adaptive, curvature, grid, pca, products_keras, spectra
from tests.bench.table import Row, interleaved, report, row
from tests.conftest import BIN, ROOT, environment
from tests.unit.test_render import CHOICES, datasets


def dry_run() -> Row:
    """`snakemake -n` on the unbuilt demo against a budget of five seconds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            BIN / "snakemake",
            "--snakefile",
            ROOT / "Snakefile",
            "-n",
            "--configfile",
            ROOT / "config/config.yaml",
        ]
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True)
        seconds = time.perf_counter() - start
    return row("snakemake -n, unbuilt demo, of a budget of 5 s", seconds, 5.0, 1.0, "lower", "plans", True)


def large_plan() -> Row:
    """`snakemake -n --profile slurm` for 10 runs x 200 iterations x 3 planes against a budget of 15 seconds."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    run = config["runs"]["lenet"]
    run["train"] |= {"batch_size": 20}  # 200 iterations of one epoch
    config["runs"] = {f"run{k}": {**run, "seed": k} for k in range(10)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.yaml").write_text(yaml.safe_dump(config))
        command = [BIN / "snakemake", "--snakefile", ROOT / "Snakefile", "--profile", ROOT / "slurm", "-n"]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--configfile", "config.yaml"], cwd=folder, env=environment(), capture_output=True, text=True
        )
        seconds = time.perf_counter() - start
    planned = re.search(r"^total +(\d+)", done.stdout + done.stderr, re.MULTILINE)
    agrees = bool(planned) and int(planned[1]) == 171
    return row("snakemake -n --profile slurm, 10 runs, of 15 s", seconds, 15.0, 1.0, "lower", "171 jobs", agrees)


def frames_per_second() -> Row:
    """A video of 120 frames end to end against a budget of 60 frames a second; checked against a redraw."""
    landscape, trajectory = datasets(iterations=120)
    renderer = FrameRenderer(landscape, trajectory, CHOICES, "bench")
    blitted = renderer.render(60)[:, :, :3].copy()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        renderer = FrameRenderer(landscape, trajectory, CHOICES, "bench")
        video.write_video(Path(folder) / "v.mp4", (renderer.render(i) for i in range(120)), fps=15)
        seconds = (time.perf_counter() - start) / 120
    for _, artist in renderer._moving:
        artist.set_animated(False)
    renderer._place(60)
    with style():
        start = time.perf_counter()
        renderer.canvas.draw()
        redraw = time.perf_counter() - start
    anew = np.asarray(renderer.canvas.buffer_rgba())[:, :, :3]
    differing = (np.abs(blitted.astype(int) - anew) > 60).any(axis=2).mean()
    print(f"video: {1 / seconds:.0f} frames/s end to end; redrawing everything: {1 / redraw:.1f} frames/s")
    return row(
        "video 1280 x 720, per frame, of a budget of 1/60 s",
        seconds,
        1 / 60,
        1.0,
        "lower",
        f"pixels differ {differing:.1e}",
        differing < 2e-3,
    )


def recording() -> Row:
    """Training LeNet at batch 128 with every iteration recorded against training without."""
    torch_backend = backends.backend("torch")
    device = torch_backend.set_up("cpu", "float32", threads=2)
    data = load_dataset({"name": "fashion-mnist-mini", "kwargs": {}})
    spec = {
        "optimizer": "SGD",
        "optimizer_kwargs": {"momentum": 0.9},
        "learning_rate": 0.01,
        "batch_size": 128,
        "epochs": 12,
    }
    loss = torch_backend.build_loss({"name": "cross-entropy"})
    ends = {}

    def trainer():
        network = torch_backend.FlatNetwork(torch_backend.build_module({"name": "lenet", "kwargs": {}}, 0), device)
        return torch_backend.TorchTrainer(network, loss, data.train, spec, 0)

    def plain():
        made = trainer()
        for iteration in range(made.steps):
            made.step(iteration)
        ends["plain"] = made.network.parameters()

    def recorded():
        with tempfile.TemporaryDirectory() as folder:
            made, link = trainer(), Path(folder) / "trajectory.zarr"
            (Path(folder) / ".stores").mkdir()
            recording = made.network.recording(recorded_iterations(made.steps, 1), made.steps_per_epoch)
            record_training(
                made, store.create(link, Path(folder), store.Fingerprint("trajectory", {}), recording.build), "bench"
            )
            ends["recorded"] = made.network.parameters()

    ours, peer = interleaved(recorded, plain, rounds=5)
    same = np.array_equal(ends["plain"], ends["recorded"])
    return row(
        "train LeNet, every iteration recorded : not recorded", ours, peer, 1.12, "lower", f"bitwise {same}", same
    )


GROUPS = {
    "workflow": lambda: [dry_run(), large_plan(), frames_per_second(), recording()],
    "pca": pca.rows,
    "curvature": curvature.rows,
    "grid": grid.rows,
    "adaptive": adaptive.rows,
    "tensorflow": products_keras.rows,
}
"""Rows by what they are about; `python tests/bench/bench.py grid pca` times some only."""


if __name__ == "__main__":
    torch.set_num_threads(2)
    keep_freed_memory()  # as in every job, and for the peers in this process alike
    chosen = sys.argv[1:] or list(GROUPS)
    passed = report([row for name in chosen for row in GROUPS[name]()], ROOT / "results" / "bench.json")
    if "curvature" in chosen:
        distance = spectra.draw(ROOT / "results" / "bench_spectra.png")
        print(
            f"results/bench_spectra.png: ResNet-20, PyHessian and ours {distance:.1e} of the largest |node| apart (W1)"
        )
    sys.exit(not passed)
