"""Hessian products of networks (oracles 1-6, 18): against closed forms, dense Hessians and differences."""

from fnmatch import fnmatch

import numpy as np
import pytest
import torch
from lossatlas import zoo
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError
from lossatlas.problem.checks import OPERATORS
from torch import nn
from torch.func import functional_call, hessian, jacrev

FLOAT64 = Device(torch.device("cpu"), torch.float64)
FLOAT32 = Device(torch.device("cpu"), torch.float32)
CROSS_ENTROPY, MSE = build_loss({"name": "cross-entropy"}), build_loss({"name": "mse"})
PRECISIONS = pytest.mark.parametrize(
    ("device", "exact"), [(FLOAT64, True), (FLOAT32, False)], ids=["float64", "float32"]
)
STRATEGIES = pytest.mark.parametrize("strategy", ["split", "retained", "rebuild"])


def dense_of(operator):
    return operator.matmat(np.eye(operator.size))


def conv_net():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(27, 5),
        nn.Softplus(),
        nn.Linear(5, 4),
    )


def conv_problem(device, batch=5, samples=13):
    torch.manual_seed(0)
    module, rng = conv_net(), np.random.default_rng(0)
    module.train()(torch.randn(20, 2, 8, 8))
    split = Split(rng.standard_normal((samples, 2, 8, 8)), rng.integers(0, 4, samples))
    network = FlatNetwork(module, device)
    return module, split, TorchProblem(network, CROSS_ENTROPY, split, batch)


def point(problem):
    return problem.network.parameters(), problem.network.buffers()


@PRECISIONS
@STRATEGIES
def test_oracle_1_linear_regression(device, exact, strategy):
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((23, 6)), rng.standard_normal(23)
    problem = TorchProblem(FlatNetwork(nn.Linear(6, 1, bias=False), device), MSE, Split(x, t), 7)
    h = 2 / 23 * x.T @ x
    ours = dense_of(problem.linearize(*point(problem), strategy=strategy))
    assert np.abs(ours - h).max() < (1e-10 if exact else 1e-5) * np.linalg.norm(h, 2)


@PRECISIONS
@STRATEGIES
def test_oracle_1_softmax_regression(device, exact, strategy):
    rng = np.random.default_rng(1)
    x, t = rng.standard_normal((17, 5)), rng.integers(0, 3, 17)
    network = FlatNetwork(nn.Linear(5, 3, bias=False), device)
    problem = TorchProblem(network, CROSS_ENTROPY, Split(x, t), 6)
    theta = network.parameters().astype(float).reshape(3, 5)
    scores = np.exp(x @ theta.T)
    p = scores / scores.sum(axis=1, keepdims=True)
    h = np.zeros((15, 15))
    for i in range(17):
        h += np.kron(np.diag(p[i]) - np.outer(p[i], p[i]), np.outer(x[i], x[i])) / 17
    ours = dense_of(problem.linearize(*point(problem), strategy=strategy))
    assert np.abs(ours - h).max() < (1e-10 if exact else 1e-5) * np.linalg.norm(h, 2)


def dense_oracle(module, split):
    """The Hessian by torch.func.hessian over a parameter dict, in float64; shares no code with ours."""
    module = module.double().eval()
    names = [name for name, _ in module.named_parameters()]
    shapes = [p.shape for p in module.parameters()]
    flat = torch.cat([p.detach().flatten() for p in module.parameters()])
    inputs, targets = torch.tensor(split.inputs).double(), torch.tensor(split.targets)

    def value(vector):
        parts = vector.split([s.numel() for s in shapes])
        parameters = {n: part.view(s) for n, part, s in zip(names, parts, shapes, strict=True)}
        return nn.functional.cross_entropy(functional_call(module, parameters, (inputs,)), targets)

    return hessian(value)(flat).numpy()


@PRECISIONS
@STRATEGIES
def test_oracle_2_dense_hessian_of_a_small_network(device, exact, strategy):
    module, split, problem = conv_problem(device)
    ours = dense_of(problem.linearize(*point(problem), strategy=strategy))
    oracle = dense_oracle(module, split)
    assert np.abs(ours - oracle).max() < (1e-9 if exact else 1e-4) * np.linalg.norm(oracle, 2)


@PRECISIONS
@STRATEGIES
def test_gauss_newton_and_residual_add_up_to_the_hessian(device, exact, strategy):
    """The oracle builds the Jacobian and the softmax curvature densely."""
    module, split, problem = conv_problem(device)
    theta, buffers = point(problem)
    found = {name: dense_of(problem.linearize(theta, buffers, operator=name, strategy=strategy)) for name in OPERATORS}
    module = module.double().eval()
    named = dict(module.named_parameters())
    inputs = torch.tensor(split.inputs).double()
    jacobians = jacrev(lambda p: functional_call(module, p, (inputs,)))({n: p.detach() for n, p in named.items()})
    count = len(split)
    jacobian = torch.cat([jacobians[name].reshape(count, -1, named[name].numel()) for name in named], dim=2)
    shares = module(inputs).detach().softmax(dim=1)
    curved = torch.diag_embed(shares) - shares[:, :, None] * shares[:, None, :]
    oracle = (torch.einsum("nci,ncd,ndj->ij", jacobian, curved, jacobian) / count).detach().numpy()
    size = np.linalg.norm(found["hessian"], 2)
    assert np.abs(found["ggn"] - oracle).max() < (1e-10 if exact else 1e-5) * size
    assert np.linalg.eigvalsh(oracle)[0] > -1e-12 * size
    rest = found["hessian"] - found["ggn"] - found["residual"]
    assert np.abs(rest).max() < (1e-11 if exact else 1e-5) * size
    assert np.abs(found["residual"]).max() > 1e-3 * size


@STRATEGIES
@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_some_parameters_give_a_block_of_the_matrix(operator, strategy):
    _, _, problem = conv_problem(FLOAT64)
    theta, buffers = point(problem)
    whole = dense_of(problem.linearize(theta, buffers, operator=operator))
    names = [slot.name for slot in problem.layout]
    for patterns in ((names[0],), ("*bias",), (names[0], names[-1])):
        kept = [slot for slot in problem.layout if any(fnmatch(slot.name, p) for p in patterns)]
        rows = np.concatenate([np.arange(slot.slice.start, slot.slice.stop) for slot in kept])
        part = problem.linearize(theta, buffers, operator=operator, parameters=patterns, strategy=strategy)
        assert part.size == len(rows) < theta.size
        assert np.abs(dense_of(part) - whole[np.ix_(rows, rows)]).max() < 1e-12 * np.abs(whole).max()
    with pytest.raises(LossAtlasError, match=r"parameters: 'head\*' matches none of"):
        problem.linearize(theta, buffers, operator=operator, parameters=("head*",))


def test_oracle_3_modes_agree_and_equal_differences_of_the_gradient():
    _, _, problem = conv_problem(FLOAT64)
    theta, buffers = point(problem)
    v = np.random.default_rng(2).standard_normal((3, theta.size))
    split = problem.linearize(theta, buffers).matmat(v)
    for other in ("retained", "rebuild"):
        found = problem.linearize(theta, buffers, strategy=other).matmat(v)
        assert np.abs(split - found).max() < 1e-9 * np.abs(split).max()
    for i in range(3):
        step = 1e-5 * v[i]
        difference = (problem.gradient(theta + step, buffers) - problem.gradient(theta - step, buffers)) / 2e-5
        assert np.abs(split[i] - difference).max() < 1e-6 * np.abs(split).max()


@PRECISIONS
def test_oracle_4_symmetry_and_linearity(device, exact):
    _, _, problem = conv_problem(device)
    operator, rng = problem.linearize(*point(problem)), np.random.default_rng(3)
    u, v = rng.standard_normal((2, operator.size))
    hu, hv, both = operator.matmat(np.stack([u, v, 2 * u - 3 * v]))
    scale = np.linalg.norm(hu) * np.linalg.norm(v)
    assert abs(u @ hv - v @ hu) < (1e-12 if exact else 1e-5) * scale
    assert np.abs(both - 2 * hu + 3 * hv).max() < (1e-12 if exact else 1e-5) * np.abs(hv).max() * 10


@PRECISIONS
@STRATEGIES
@pytest.mark.parametrize("batch", [1, 5, 12])
def test_oracle_5_ragged_batches_give_what_one_batch_gives(device, exact, strategy, batch):
    products = []
    for size in (13, batch):
        _, _, problem = conv_problem(device, batch=size)
        v = np.random.default_rng(4).standard_normal((2, problem.layout.size))
        products.append(problem.linearize(*point(problem), strategy=strategy).matmat(v))
    assert np.abs(products[0] - products[1]).max() < (1e-12 if exact else 1e-5) * np.abs(products[0]).max()


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_oracle_6_scaling_the_loss_scales_the_products(scale):
    _, split, plain = conv_problem(FLOAT64)
    scaled = TorchProblem(plain.network, lambda outputs, targets: scale * CROSS_ENTROPY(outputs, targets), split, 5)
    v = np.random.default_rng(5).standard_normal((2, plain.layout.size))
    one, other = (p.linearize(*point(p)).matmat(v) for p in (plain, scaled))
    assert np.abs(other / scale - one).max() < 1e-11 * np.abs(one).max()


def test_blocks_do_not_mix_vectors():
    _, _, problem = conv_problem(FLOAT64)
    operator = problem.linearize(*point(problem))
    v = np.random.default_rng(6).standard_normal((23, operator.size))
    together, alone = operator.matmat(v), np.stack([operator.matvec(row) for row in v])
    assert np.abs(together - alone).max() < 1e-13 * np.abs(together).max()
    assert operator.products == 46


@pytest.mark.parametrize("strategy", ["split", "retained"])
def test_what_cannot_be_kept_is_computed_anew(strategy):
    _, _, problem = conv_problem(FLOAT64)
    v = np.random.default_rng(7).standard_normal((2, problem.layout.size))
    plenty = problem.linearize(*point(problem), strategy=strategy)
    first = plenty.matmat(v)
    assert len(plenty._kept) == len(plenty._plan.pieces) == 3
    assert plenty._plan.share_kept == 1
    little = problem.linearize(*point(problem), strategy=strategy, memory_gb=plenty._plan.working / 2**30)
    for _ in range(2):
        assert np.array_equal(little.matmat(v), first)
        assert np.array_equal(plenty.matmat(v), first)
    assert not little._kept


@pytest.mark.parametrize("name", ["lenet", "resnet20"])
def test_networks_of_the_zoo_are_traced(name):
    torch.manual_seed(0)
    network, rng = FlatNetwork(zoo.builder(name)(), FLOAT64), np.random.default_rng(0)
    problem = TorchProblem(
        network, CROSS_ENTROPY, Split(rng.standard_normal((5, 3, 32, 32)), rng.integers(0, 10, 5)), 3
    )
    operator = problem.linearize(*point(problem))
    assert operator.strategy == "split"
    v = rng.standard_normal((2, operator.size))
    rebuilt = problem.linearize(*point(problem), strategy="rebuild").matmat(v)
    assert np.abs(operator.matmat(v) - rebuilt).max() < 1e-9 * np.abs(rebuilt).max()


def test_other_points_and_buffers_reuse_the_trace():
    _, _, problem = conv_problem(FLOAT64)
    theta, buffers = point(problem)
    v = np.random.default_rng(8).standard_normal((2, theta.size))
    problem.linearize(theta, buffers).matmat(v)
    traced = dict(problem.matrix()._graphs)
    for t, b in ((1.5 * theta, buffers), (theta, 2 + buffers)):
        ours = problem.linearize(t, b).matmat(v)
        oracle = problem.linearize(t, b, strategy="rebuild").matmat(v)
        assert np.abs(ours - oracle).max() < 1e-12 * np.abs(oracle).max()
    assert problem.matrix()._graphs == traced


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.embed.weight.requires_grad_(False)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
        self.head = nn.Linear(8, 7, bias=False)
        self.mix = nn.Linear(8, 8, bias=False)
        self.again = nn.Linear(8, 8, bias=False)
        self.again.weight = self.mix.weight

    def forward(self, tokens):
        return self.head(self.again(self.block(self.mix(self.embed(tokens))))).transpose(1, 2)


def test_attention_tied_and_frozen_parameters():
    torch.manual_seed(0)
    network, rng = FlatNetwork(Attention(), FLOAT64), np.random.default_rng(0)
    split = Split(rng.integers(0, 7, (6, 4)), rng.integers(0, 7, (6, 4)))
    problem = TorchProblem(network, CROSS_ENTROPY, split, 4)
    theta, buffers = point(problem)
    v = rng.standard_normal((2, theta.size))
    ours = problem.linearize(theta, buffers).matmat(v)
    difference = [
        (problem.gradient(theta + 1e-5 * d, buffers) - problem.gradient(theta - 1e-5 * d, buffers)) / 2e-5 for d in v
    ]
    assert np.abs(ours - np.stack(difference)).max() < 1e-6 * np.abs(ours).max()


def test_a_network_that_cannot_be_traced_falls_back_with_a_message(capsys):
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return (x * self.w**3).sum(dim=1, keepdim=True) * (2.0 if float(self.w.sum()) > 0 else 1.0)

    problem = TorchProblem(FlatNetwork(Branching(), FLOAT64), MSE, Split(np.ones((4, 3)), np.zeros(4)), 3)
    operator = problem.linearize(*point(problem))
    assert operator.strategy == "rebuild"
    assert "has no forward derivative" in capsys.readouterr().out
    assert np.linalg.norm(dense_of(operator)) > 0


def test_a_loss_without_forward_derivatives_falls_back_instead_of_crashing(capsys):
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((9, 4)), rng.standard_normal((9, 1))
    problem = TorchProblem(FlatNetwork(nn.Linear(4, 1, bias=False), FLOAT64), nn.functional.mse_loss, Split(x, t), 4)
    operator = problem.linearize(*point(problem))
    assert operator.strategy == "rebuild"
    assert "second backward passes" in capsys.readouterr().out
    assert np.abs(dense_of(operator) - 2 / 9 * x.T @ x).max() < 1e-12


@STRATEGIES
def test_oracle_18_the_model_is_untouched_and_nothing_leaks(strategy):
    module, _, problem = conv_problem(FLOAT32)
    module.float().train()
    before, state = {n: t.clone() for n, t in module.state_dict().items()}, torch.random.get_rng_state()
    operator = problem.linearize(*point(problem), strategy=strategy)
    v = np.random.default_rng(9).standard_normal((2, operator.size))
    first = operator.matmat(v)
    import gc

    gc.collect()
    tensors = sum(1 for o in gc.get_objects() if isinstance(o, torch.Tensor))
    for _ in range(50):
        assert np.array_equal(operator.matmat(v), first), "the same product bit for bit"
    gc.collect()
    assert sum(1 for o in gc.get_objects() if isinstance(o, torch.Tensor)) <= tensors
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())
    assert all(p.grad is None for p in [*module.parameters(), *problem.network.module.parameters()])
    assert module.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_nan_names_the_chunk():
    _, _, problem = conv_problem(FLOAT64)
    problem.chunks[1][0][0] = float("nan")
    with pytest.raises(LossAtlasError, match=r"loss nan or its gradient is not finite in chunk 1 of 3"):
        problem.linearize(*point(problem))


def test_vectors_of_another_length_are_refused():
    _, _, problem = conv_problem(FLOAT64)
    with pytest.raises(LossAtlasError, match=r"vectors of shape \(2, 7\)"):
        problem.linearize(*point(problem)).matmat(np.zeros((2, 7)))
