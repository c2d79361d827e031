"""Speed of Hessian products and spectra against PyHessian and curvlinops: equal threads, dtype, samples and vectors."""

import json
import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import curvlinops
import numpy as np
import pyhessian
import torch
from lossatlas import zoo
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem
from lossatlas.backends.torch.device import keep_freed_memory
from lossatlas.data import Split, load_dataset
from lossatlas.krylov import Spectrum, lanczos
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.bench.table import Row, interleaved, row
from tests.conftest import ROOT, environment
from tests.helpers import transformers
from tests.numerics.test_peers import rademacher, stand_in_for_eig


def setting(name: str, samples: int) -> tuple[nn.Module, FlatNetwork, TorchProblem]:
    """A network with initial weights, and its problem in chunks of 100, float32: on images, or on text."""
    torch.manual_seed(0)
    build = {"vit": transformers.ViT, "gpt": transformers.GPT}.get(name) or zoo.builder(name)
    module, data = build(), load_dataset({"name": "fashion-mnist-mini"}).train
    if name == "gpt":
        data = Split(*np.random.default_rng(0).integers(0, 65, (2, samples, 32)))
    module.train()(torch.as_tensor(data.inputs[:200]))
    module.eval()
    network = FlatNetwork(module, Device(torch.device("cpu"), torch.float32))
    split = Split(data.inputs[:samples], data.targets[:samples])
    return module, network, TorchProblem(network, functional.cross_entropy, split, 100)


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def products_against_curvlinops(name: str, samples: int, target: float) -> Row:
    """A block of ten products."""
    module, network, problem = setting(name, samples)
    vectors = np.random.default_rng(0).standard_normal((10, problem.layout.size))
    columns = torch.as_tensor(vectors.T, dtype=torch.float32).contiguous()
    operator = problem.linearize(network.parameters(), network.buffers())
    parameters, found = list(module.parameters()), {}
    peer = curvlinops.HessianLinearOperator(
        module, nn.CrossEntropyLoss(), parameters, problem.chunks, check_deterministic=False, num_data=samples
    )
    ours_s, peer_s = interleaved(
        lambda: found.update(ours=operator.matmat(vectors)), lambda: found.update(peer=peer @ columns), rounds=3
    )
    gap = distance(found["ours"], found["peer"].detach().numpy().T)
    what = f"block of 10 products, {name}, {samples} samples : curvlinops"
    return row(what, ours_s, peer_s, target, "higher", f"relative {gap:.0e}", gap < 1e-3)


def products_against_rebuilding(name: str, samples: int, target: float) -> Row:
    """Two single products, by the strategy that is fastest, against a forward and two backward passes each."""
    module, network, problem = setting(name, samples)
    vectors = np.random.default_rng(0).standard_normal((2, problem.layout.size))
    at = network.parameters(), network.buffers()
    operator = problem.linearize(*at, strategy=problem.choose_strategy(*at, 1).strategy)
    peer, found = pyhessian.hessian(module, functional.cross_entropy, dataloader=problem.chunks, cuda=False), {}

    @sdpa_kernel(SDPBackend.MATH)  # the others have no second derivative
    def theirs() -> None:
        found["peer"] = [flat(peer.dataloader_hv_product(unflat(module, v))[1]) for v in vectors]

    ours_s, peer_s = interleaved(
        lambda: found.update(ours=np.stack([operator.matvec(v) for v in vectors])), theirs, rounds=3
    )
    gap = distance(found["ours"], np.stack(found["peer"]))
    what = f"single products, {name}, {samples} samples : rebuilding"
    return row(what, ours_s / 2, peer_s / 2, target, "higher", f"relative {gap:.0e}", gap < 1e-3)


def spectrum_against_pyhessian(samples: int = 2000, steps: int = 80) -> Row:
    """SLQ of LeNet with ten probes, one of the peer's: seconds of a probe's step, the linearisation included.

    Each runs as its users run it: the peer in a process of its own, without our settings of the C library.
    """
    module, network, problem = setting("lenet", samples)
    torch.manual_seed(5)
    probes, found = np.stack([rademacher(module) for _ in range(10)]), {}

    def ours(count: int = steps) -> None:
        operator = problem.linearize(network.parameters(), network.buffers())
        found["ours"] = Spectrum.of(lanczos(operator, probes, count), problem.layout.size)

    threads = torch.get_num_threads()
    fresh = {"mp_context": multiprocessing.get_context("spawn"), "initializer": torch.set_num_threads}
    with ProcessPoolExecutor(1, **fresh, initargs=(threads,)) as other:

        def theirs(count: int = steps) -> None:
            found["peer"] = other.submit(density_of_pyhessian, samples, count).result()

        # Nodes are compared after few steps: later ones repeat converged eigenvalues in PyHessian, and not in ours.
        ours(6), theirs(6)
        nodes = np.sort(np.array(found["peer"][0][0]))
        gap = np.abs(nodes - found["ours"].nodes[0]).max() / np.abs(nodes).max()
        ours_s, peer_s = interleaved(ours, theirs, rounds=1, warm_up=False)
    what = f"SLQ LeNet, {samples} samples, per probe-step : PyHessian"
    return row(what, ours_s / (10 * steps), peer_s / steps, 4.0, "higher", f"nodes {gap:.0e}", gap < 5e-3)


@cache
def lenet_of_pyhessian(samples: int) -> pyhessian.hessian:
    torch.eig = stand_in_for_eig
    module, _, problem = setting("lenet", samples)
    return pyhessian.hessian(module, functional.cross_entropy, dataloader=problem.chunks, cuda=False)


def density_of_pyhessian(samples: int, steps: int) -> tuple[list, list]:
    """Return nodes and weights of one probe."""
    peer = lenet_of_pyhessian(samples)
    torch.manual_seed(5)
    return peer.density(iter=steps, n_v=1)


def memory_of_products(samples: int = 1000, memory_gb: float = 0.1) -> Row:
    """Memory at the peak of two blocks of ten products, in GB, in a process of its own, against the budget."""
    command = [sys.executable, ROOT / "tests/helpers/peak.py", "lenet", samples, memory_gb, "split", 10]
    done = subprocess.run([*map(str, command)], env=environment(), check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    peak, predicted = found["peak"] / 2**30, found["predicted"] / 2**30
    what = f"peak GB, 10 products, LeNet, {samples} samples : budget"
    return row(what, peak, memory_gb, 1.0, "lower", f"predicted {predicted:.3f} GB", peak <= predicted)


PEAKS = {
    "lenet": (200, 10), "resnet20": (40, 10), "vgg11": (10, 4), "resnet50": (4, 1), "mobilenet-v2": (12, 10),
    "vit": (40, 4), "gpt": (40, 4),
}  # fmt: skip
"""Samples and vectors with which the peaks of products are predicted, by network."""


def predicted_peak(name: str, strategy: str) -> Row:
    """Memory that products took at the peak, in GB, in a process of its own, against what was predicted: 25 %."""
    samples, vectors = PEAKS[name]
    command = [sys.executable, ROOT / "tests/helpers/peak.py", name, samples, 4.0, strategy, vectors]
    done = subprocess.run([*map(str, command)], env=environment(), check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    peak, predicted = found["peak"] / 2**30, found["predicted"] / 2**30
    what = f"peak GB, {strategy}, {name}, {samples} samples : predicted"
    return row(what, peak, predicted, 1.25, "lower", f"{peak / predicted:.2f}", peak / predicted >= 0.75)


def getting_ready(name: str, samples: int, count: int = 160) -> Row:
    """All that comes before the first of so many products (choosing, tracing, checking), in products: at most 15.

    In seconds of the processor.
    """
    _, network, problem = setting(name, samples)
    at, vector = (network.parameters(), network.buffers()), np.ones(problem.layout.size)
    start = time.process_time()
    strategy = problem.choose_strategy(*at, 1, count=count).strategy
    ready = time.process_time() - start
    operator = problem.linearize(*at, strategy=strategy)
    first = operator.matvec(vector)
    start = time.process_time()
    again = operator.matvec(vector)
    product = time.process_time() - start
    what = f"getting ready, {name}, {samples} samples : a product"
    return row(what, ready, product, 15.0, "lower", strategy, distance(again, first) < 1e-5)


def flat(tensors: list[torch.Tensor]) -> np.ndarray:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).double().numpy()


def unflat(module: nn.Module, vector: np.ndarray) -> list[torch.Tensor]:
    parts = torch.as_tensor(vector, dtype=torch.float32).split([p.numel() for p in module.parameters()])
    return [part.view(p.shape) for part, p in zip(parts, module.parameters(), strict=True)]


LARGE = (("vgg11", 40), ("resnet50", 8), ("mobilenet-v2", 40), ("vit", 100), ("gpt", 100))
"""Networks of the papers' size and transformers, with a number of samples."""

JOBS = (("vgg11", 40), ("resnet50", 40), ("mobilenet-v2", 40), ("vit", 1000), ("gpt", 1000))
"""The same with samples as jobs have them: by default 1000."""


def rows() -> list[Row]:
    """Return all comparisons, in a process whose memory is set up as that of jobs; peers profit as well."""
    keep_freed_memory()
    return [
        spectrum_against_pyhessian(),
        products_against_curvlinops("lenet", 1000, 1.2),
        products_against_curvlinops("resnet20", 100, 1.1),
        products_against_rebuilding("resnet20", 100, 1.6),
        products_against_curvlinops("mobilenet-v2", 20, 1.2),
        *(products_against_rebuilding(*one, 1.5) for one in LARGE),
        *(getting_ready(*one) for one in JOBS),
        memory_of_products(),
        *(predicted_peak(name, strategy) for name in PEAKS for strategy in ("split", "retained")),
    ]
