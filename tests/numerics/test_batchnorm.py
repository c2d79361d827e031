"""BatchNorm by the statistics of each chunk: products, gradients and losses against modules in training mode."""

import copy

import lossatlas
import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.data import Split, Subset
from lossatlas.drivers import spectra
from lossatlas.errors import LossAtlasError
from lossatlas.geometry.segments import AlongTraining
from lossatlas.io import store
from lossatlas.problem.checks import OPERATORS
from torch import nn
from torch.func import functional_call

from tests.conftest import make_trajectory

FLOAT64 = Device(torch.device("cpu"), torch.float64)
CROSS_ENTROPY = build_loss({"name": "cross-entropy"})
BATCH, SAMPLES = 5, 13
STRATEGIES = pytest.mark.parametrize("strategy", ["split", "retained", "rebuild"])


def network():
    """A small network whose running statistics are far from those of its samples."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(27, 5),
        nn.BatchNorm1d(5, affine=False),
        nn.Softplus(),
        nn.Linear(5, 4),
    ).double()
    for parameter in module[1].parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    module.train()(3 + torch.randn(20, 2, 8, 8, dtype=torch.float64))
    return module


def problem_of(module, batch=BATCH, samples=SAMPLES, batchnorm="batch"):
    rng = np.random.default_rng(0)
    split = Split(rng.standard_normal((samples, 2, 8, 8)), rng.integers(0, 4, samples))
    return split, TorchProblem(FlatNetwork(module, FLOAT64), CROSS_ENTROPY, split, batch, batchnorm)


class Trained:
    """The oracle: the module itself in training mode, dropout off, each chunk a batch of its own."""

    def __init__(self, module, split):
        self.module = copy.deepcopy(module).train()
        self.module[3].eval()
        self.shapes = {name: p.shape for name, p in self.module.named_parameters()}
        self.theta = torch.cat([p.detach().flatten() for p in self.module.parameters()])
        inputs, targets = torch.tensor(split.inputs), torch.tensor(split.targets)
        self.chunks = list(zip(inputs.split(BATCH), targets.split(BATCH), strict=True))

    def outputs(self, theta, inputs):
        parts = theta.split([shape.numel() for shape in self.shapes.values()])
        named = {n: part.view(s) for part, (n, s) in zip(parts, self.shapes.items(), strict=True)}
        buffers = {n: b.clone() for n, b in self.module.named_buffers()}
        return functional_call(self.module, (named, buffers), (inputs,))

    def loss(self, theta):
        values = [nn.functional.cross_entropy(self.outputs(theta, x), t) * len(x) for x, t in self.chunks]
        return sum(values) / SAMPLES

    def hessian(self):
        return torch.autograd.functional.hessian(self.loss, self.theta).numpy()

    def gauss_newton(self):
        total = torch.zeros(len(self.theta), len(self.theta), dtype=torch.float64)
        for inputs, _ in self.chunks:
            jacobian = torch.autograd.functional.jacobian(lambda t, x=inputs: self.outputs(t, x), self.theta)
            p = self.outputs(self.theta, inputs).softmax(dim=1).detach()
            curved = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
            total += torch.einsum("nci,ncd,ndj->ij", jacobian, curved, jacobian)
        return (total / SAMPLES).numpy()


def point(problem):
    return problem.network.parameters(), problem.network.buffers()


@pytest.mark.parametrize(
    "strategy", ["split", *(pytest.param(name, marks=pytest.mark.full) for name in ("retained", "rebuild"))]
)
def test_products_are_those_of_a_module_in_training_mode(strategy):
    """Three chunks of 5, 5 and 3 samples: the last one is a batch of its own."""
    module = network()
    split, problem = problem_of(module)
    oracle = Trained(module, split)
    dense = {"hessian": oracle.hessian(), "ggn": oracle.gauss_newton()}
    dense["residual"] = dense["hessian"] - dense["ggn"]
    size = np.linalg.norm(dense["hessian"], 2)
    for operator in OPERATORS:
        linearized = problem.linearize(*point(problem), operator=operator, strategy=strategy)
        ours = linearized.matmat(np.eye(linearized.size))
        assert np.abs(ours - dense[operator]).max() < 1e-9 * size, operator
        assert np.linalg.norm(dense[operator], 2) > 1e-3 * size, "the oracle is no zero matrix"
    _, frozen = problem_of(module, batchnorm="frozen")
    linearized = frozen.linearize(*point(frozen))
    assert np.abs(linearized.matmat(np.eye(linearized.size)) - dense["hessian"]).max() > 1e-2 * size


def test_loss_and_gradient_are_of_the_same_kind():
    module = network()
    split, problem = problem_of(module)
    oracle = Trained(module, split)
    theta = oracle.theta.clone().requires_grad_(True)
    value = oracle.loss(theta)
    (gradient,) = torch.autograd.grad(value, theta)
    assert problem.metrics(*point(problem))[0] == pytest.approx(value.item(), rel=1e-12)
    assert np.abs(problem.gradient(*point(problem)) - gradient.numpy()).max() < 1e-12


@STRATEGIES
def test_running_statistics_play_no_part_and_stay_bit_for_bit(strategy):
    module = network()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    _, problem = problem_of(module)
    inside = {name: t.clone() for name, t in problem.network.module.state_dict().items()}
    theta, buffers = point(problem)
    v = np.random.default_rng(1).standard_normal((2, theta.size))
    ours = problem.linearize(theta, buffers, strategy=strategy).matmat(v)
    for when, now in ((before, module), (inside, problem.network.module)):
        assert all(torch.equal(t, when[name]) for name, t in now.state_dict().items())
    others = problem.linearize(theta, 1 + 2 * np.abs(buffers), strategy=strategy).matmat(v)
    assert np.array_equal(ours, others)


def test_a_chunk_is_never_cut(monkeypatch):
    monkeypatch.setattr("lossatlas.backends.torch.problem.PIECE_BYTES", 1)
    module = network()
    _, problem = problem_of(module)
    assert [len(piece[0]) for piece in problem.pieces(10)] == [5, 5, 3]
    _, frozen = problem_of(module, batchnorm="frozen")
    assert [len(piece[0]) for piece in frozen.pieces(10)] == [1] * SAMPLES


def test_networks_without_batchnorm_have_one_loss():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    module, split = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)), None
    split = Split(rng.standard_normal((7, 6)), rng.integers(0, 3, 7))
    found = [TorchProblem(FlatNetwork(module, FLOAT64), CROSS_ENTROPY, split, 3, b) for b in ("batch", "frozen")]
    one, other = (p.linearize(*point(p)).matmat(np.eye(p.layout.size)) for p in found)
    assert np.array_equal(one, other)


def test_a_last_chunk_of_one_value_per_channel_is_refused():
    with pytest.raises(LossAtlasError, match=r"batchnorm: 'batch' needs more than one value .* batch_size"):
        problem_of(network(), samples=11)
    problem_of(network(), samples=11, batchnorm="frozen")


def test_notebooks_ask_for_it():
    module = network()
    split, _ = problem_of(module)
    data = torch.tensor(split.inputs), torch.tensor(split.targets)
    ours = lossatlas.hessian(module, "cross-entropy", data, batch_size=BATCH, batchnorm="batch")
    dense = Trained(module, split).hessian()
    assert np.abs(ours.matmat(np.eye(ours.size)) - dense).max() < 1e-9 * np.linalg.norm(dense, 2)
    with pytest.raises(LossAtlasError, match="batchnorm: 'train' is not one of frozen, batch"):
        lossatlas.hessian(module, "cross-entropy", data, batchnorm="train")


@pytest.mark.parametrize("batchnorm", ["frozen", "batch"])
def test_stores_say_which(tmp_path, batchnorm):
    spec = {"stride": 1, "probes": 1, "steps": 2, "seed": 0, "distribution": "gaussian", "tolerance": None}
    spec |= {"operator": "hessian", "parameters": ["*"], "memory_gb": 1.0, "batch_size": BATCH, "batchnorm": batchnorm}
    split, problem = problem_of(network(), batchnorm=batchnorm)
    sites = AlongTraining(make_trajectory(tmp_path, np.zeros((2, problem.layout.size)), problem.layout), 1)
    job = spectra.Spectra({"spectra": spec}, problem, Subset(split, np.arange(SAMPLES), "digest", True), sites)
    made = store.create(tmp_path / "spectra.zarr", tmp_path, store.Fingerprint("spectra", spec), job.build)
    said = {"frozen": "frozen: each checkpoint's own", "batch": "batch: mean and biased variance over each chunk of 5 "}
    assert made.attrs["batchnorm"].startswith(said[batchnorm])
