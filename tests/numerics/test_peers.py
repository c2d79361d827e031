"""Oracle 16 against other people's programs: products of curvlinops, spectra of PyHessian."""

import curvlinops
import numpy as np
import pyhessian
import pytest
import torch
from lossatlas import zoo
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem
from lossatlas.data import Split
from lossatlas.krylov import Spectrum, lanczos
from scipy.stats import wasserstein_distance
from torch.nn import functional


def setting(name: str, dtype: torch.dtype):
    """A network in evaluation mode, its problem on ragged chunks, and the same chunks for a peer."""
    torch.manual_seed(0)
    module = zoo.builder(name)().to(dtype)
    module(torch.randn(50, 3, 32, 32, dtype=dtype))  # running statistics that are not the initial ones
    module.eval()
    rng = np.random.default_rng(0)
    split = Split(rng.standard_normal((23, 3, 32, 32)), rng.integers(0, 10, 23))
    network = FlatNetwork(module, Device(torch.device("cpu"), dtype))
    problem = TorchProblem(network, functional.cross_entropy, split, 10)
    return module, network, problem


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", ["lenet", pytest.param("resnet20", marks=pytest.mark.full)])
def test_oracle_16_products_equal_those_of_curvlinops(name, dtype, tolerance):
    module, network, problem = setting(name, dtype)
    parameters = list(module.parameters())
    peer = curvlinops.HessianLinearOperator(module, torch.nn.CrossEntropyLoss(), parameters, problem.chunks)
    vectors = np.random.default_rng(1).standard_normal((3, problem.layout.size))
    ours = problem.linearize(network.parameters(), network.buffers()).matmat(vectors)
    theirs = (peer @ torch.as_tensor(vectors.T, dtype=dtype)).detach().numpy().T
    assert np.abs(ours - theirs).max() < tolerance * np.abs(theirs).max()


def test_oracle_16_spectrum_equals_that_of_pyhessian(monkeypatch):
    monkeypatch.setattr(torch, "eig", stand_in_for_eig, raising=False)
    module, network, problem = setting("lenet", torch.float32)
    peer = pyhessian.hessian(module, functional.cross_entropy, dataloader=problem.chunks, cuda=False)
    torch.manual_seed(5)
    nodes, weights = (np.array(values) for values in peer.density(iter=12, n_v=2))
    torch.manual_seed(5)
    probes = np.stack([rademacher(module) for _ in range(2)])
    operator = problem.linearize(network.parameters(), network.buffers())
    ours = Spectrum.of(lanczos(operator, probes, 12), problem.layout.size)
    width = np.abs(ours.nodes).max()
    for k in range(2):
        distance = wasserstein_distance(ours.nodes[k], nodes[k], ours.weights[k], weights[k])
        assert distance < 5e-3 * width
    assert np.abs(np.sort(nodes)[:, -1] - ours.nodes[:, -1]).max() < 5e-3 * width


def rademacher(module: torch.nn.Module) -> np.ndarray:
    """Draw a probe as PyHessian does, in its order."""
    draws = [torch.randint_like(p, high=2) for p in module.parameters()]
    signs = torch.cat([torch.where(d == 0, -1.0, 1.0).reshape(-1) for d in draws])
    return (signs / signs.norm()).double().numpy()


def stand_in_for_eig(matrix: torch.Tensor, eigenvectors: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """What PyHessian asks of `torch.eig`, which PyTorch no longer has, for its symmetric matrices."""
    assert eigenvectors
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors
