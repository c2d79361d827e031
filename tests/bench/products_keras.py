"""Speed of the TensorFlow backend: products against eager nested tapes and PyTorch's rebuilding; points of a plane.

Each framework has a process of its own: `python -m tests.bench.products_keras FRAMEWORK` prints its numbers as JSON.
"""

import json
import statistics
import subprocess
import sys
import time

import numpy as np
from lossatlas import backends
from lossatlas.data import Split, load_dataset

from tests.bench.table import Row, interleaved, row
from tests.conftest import ROOT, environment

SAMPLES, CHUNK, POINTS = 500, 250, 4


def rows() -> list[Row]:
    """Return all comparisons."""
    ours, torch = (_measured(name) for name in ("tensorflow", "torch"))
    gap, planes = ours["agreement"], ours["planes_agreement"]
    what = f"LeNet, {SAMPLES} samples, TensorFlow"
    eager, points = (ours["product"], ours["eager"]), (ours["points"], ours["forward"])
    return [
        row(f"product, {what} : eager tapes", *eager, 2.0, "higher", f"relative {gap:.0e}", gap < 1e-4),
        # For information: there is no target.
        row(f"product, {what} : PyTorch rebuilding", ours["product"], torch["product"], 0.0, "higher", "-", True),
        row(f"plane, {what} : compiled forward", *points, 1.3, "lower", f"relative {planes:.0e}", planes < 1e-5),
    ]


def _measured(framework: str) -> dict:
    command = [sys.executable, "-m", "tests.bench.products_keras", framework]
    done = subprocess.run(command, cwd=ROOT, env=environment(), check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _problem(framework: str):
    backend = backends.backend(framework)
    device = backend.set_up("cpu", "float32", threads=2)
    data = load_dataset({"name": "fashion-mnist-mini"}).train
    split = Split(data.inputs[:SAMPLES], data.targets[:SAMPLES])
    network = backend.FlatNetwork(backend.build_module({"name": "lenet", "kwargs": {}}, 0), device)
    maker = backend.KerasProblem if framework == "tensorflow" else backend.TorchProblem
    return maker(network, backend.build_loss({"name": "cross-entropy"}), split, CHUNK)


def torch() -> dict:
    """Return seconds of a product by PyTorch."""
    problem = _problem("torch")
    network = problem.network
    operator = problem.linearize(network.parameters(), network.buffers(), strategy="rebuild")
    vector = np.random.default_rng(0).standard_normal(operator.size)
    operator.matvec(vector)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        operator.matvec(vector)
        times.append(time.perf_counter() - start)
    return {"product": statistics.median(times)}


def tensorflow() -> dict:
    """Return seconds of products and of points of a plane, and of what they are compared with."""
    import tensorflow as tf

    problem, found = _problem("tensorflow"), {}
    network, matrix = problem.network, problem.matrix()
    theta, buffers = network.parameters(), network.buffers()
    operator = problem.linearize(theta, buffers)
    vector = np.random.default_rng(0).standard_normal(operator.size)
    at = network.vector(theta), network.vector(buffers)

    def eagerly() -> None:
        v = network.vector(vector)
        parts = [matrix._nested(*at, *chunk, v).numpy() * len(chunk[0]) for chunk in problem.chunks]
        found["eager"] = sum(parts) / SAMPLES

    product, eager = interleaved(lambda: found.update(ours=operator.matvec(vector)), eagerly, rounds=7)

    @tf.function
    def forward(inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        return problem.loss(network.model(inputs, training=False), targets)

    plane = problem.restrict(theta, np.stack([theta, vector]), buffers)
    places = np.zeros((POINTS, 2))

    def plainly() -> None:
        for _ in range(POINTS):
            losses = [float(forward(*chunk)) for chunk in problem.chunks]
        found["forward"] = np.mean(losses)

    points, plain = interleaved(lambda: found.update(plane=plane.metrics(places)[0, 0]), plainly, rounds=15)
    gap = np.abs(found["ours"] - found["eager"]).max() / np.abs(found["eager"]).max()
    planes = abs(found["plane"] - found["forward"]) / found["forward"]
    seconds = {"product": product, "eager": eager, "points": points / POINTS, "forward": plain / POINTS}
    return {**seconds, "agreement": float(gap), "planes_agreement": float(planes)}


if __name__ == "__main__":
    print(json.dumps({"torch": torch, "tensorflow": tensorflow}[sys.argv[1]]()))
