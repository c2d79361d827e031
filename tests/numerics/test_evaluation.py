"""Strategies of evaluating points of a plane: all agree, fall back where they must, and keep NaN, inf and bits."""

import numpy as np
import pytest
import torch
from lossatlas import zoo
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.backends.torch.subspace import autotune, subspace_loss
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError
from torch import nn
from torch.nn import functional

CPU = torch.device("cpu")
FLOAT32, FLOAT64 = Device(CPU, torch.float32), Device(CPU, torch.float64)
CROSS_ENTROPY = build_loss({"name": "cross-entropy"})
POINTS = np.array([[0.0, 0.0], [0.7, -1.3], [-2.0, 1.0], [0.0, 0.5], [1.5, 1.5]])


class Tied(nn.Module):
    """Token and place embeddings, a head that shares the former's weights."""

    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(11, 6), nn.Embedding(4, 6)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.embed(tokens) + self.place(places))).transpose(1, 2)


class Twice(nn.Module):
    """One dense layer used on the samples and again on its own result."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(12, 12), nn.Linear(12, 10)

    def forward(self, x):
        return self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


class Moody(nn.Module):
    """Takes another course where its weights are small."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 10)

    def forward(self, x):
        return self.layer(x) if self.layer.weight.sum() > 0 else -self.layer(x)


class Branches(nn.Module):
    """Sums of convolutions with others, with themselves and with numbers, read once or twice, before a ReLU or not."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if k == 0 else 4, 4, 3, padding=1) for k in range(6))
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        first, *others = self.layers
        start = torch.relu(first(x))
        one, two, three, four, five = (layer(start) for layer in others)
        summed = torch.relu(one + two) + three
        again = torch.relu(four + four) + (five + 1.0) * torch.relu(five) + start[:, :1]
        return self.head((summed + again).mean((2, 3)))


def small_cnn():
    """Pools of odd images, a pool with overlap, BatchNorm after a convolution with bias, a dense layer and a pool."""
    return nn.Sequential(
        *(nn.Conv2d(3, 5, 4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.BatchNorm2d(5), nn.Conv2d(5, 6, 3)),
        *(nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 4, 1, bias=False), nn.MaxPool2d(3)),
        *(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10)),
    )


NETWORKS = {
    "lenet": lambda: zoo.builder("lenet")(),
    "mlp": lambda: zoo.builder("mlp")(),
    "resnet20": lambda: zoo.builder("resnet20")(),
    "cnn": small_cnn,
    "branches": Branches,
    "tied": Tied,
    "twice": Twice,
    "linear": lambda: nn.Linear(12, 10),
}


def samples(name, count=23):
    rng = np.random.default_rng(0)
    if name == "tied":
        return Split(rng.integers(0, 11, (count, 4)), rng.integers(0, 11, (count, 4)))
    shape = (12,) if name in ("twice", "linear", "moody") else (3, 32, 32)
    return Split(rng.standard_normal((count, *shape)).astype(np.float32), rng.integers(0, 10, count))


def setting(name, device=FLOAT32, batch=10, scale=0.1):
    """A problem with ragged chunks, and center, filter-sized directions and perturbed running statistics."""
    torch.manual_seed(0)
    module = NETWORKS[name]() if name in NETWORKS else Moody()
    network = FlatNetwork(module, device)
    rng = np.random.default_rng(1)
    theta, buffers = network.parameters(), network.buffers()
    theta += 0.1 * rng.standard_normal(theta.size)
    buffers = np.abs(buffers + 0.3 * rng.standard_normal(buffers.size))
    directions = scale * rng.standard_normal((2, theta.size)) * (np.abs(theta) + 0.1)
    return TorchProblem(network, CROSS_ENTROPY, samples(name), batch), (theta, directions, buffers)


@pytest.fixture(autouse=True)
def several_pieces(monkeypatch):
    """These few samples go in pieces of a chunk each, whose losses are computed in groups of two."""
    monkeypatch.setattr(subspace_loss, "PIECE_BYTES", 0)
    monkeypatch.setattr(subspace_loss, "OUTPUT_NUMBERS", 200)


@pytest.mark.parametrize("strategy", ["folded", "first-layer", "vmapped"])
@pytest.mark.parametrize("name", NETWORKS)
def test_oracle_3_strategies_agree_with_plain_evaluation(name, strategy):
    for device, tolerance in ((FLOAT32, 1e-6), (FLOAT64, 1e-12)):
        problem, at = setting(name, device)
        expected = np.stack([problem.metrics(at[0] + point @ at[1], at[2]) for point in POINTS])
        made = problem.restrict(*at, strategy)
        found = made.metrics(POINTS)
        assert made.strategy == strategy
        assert np.abs(found[:, 0] / expected[:, 0] - 1).max() < tolerance
        assert np.array_equal(found[:, 1], expected[:, 1])
        assert np.ptp(expected[:, 0]) > 1e-3 * expected[0, 0], "the points differ"


def operations(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def test_what_is_saved_at_each_point():
    """Convolutions and BatchNorms that are left, and the caches: the first layer's of the centre and each direction."""
    expected = {"lenet": (1, 0), "resnet20": (18, 1), "cnn": (2, 1), "tied": (0, 0)}
    for name, (convolutions, norms) in expected.items():
        problem, at = setting(name)
        made = problem.restrict(*at, "first-layer")
        left = operations(made.stages.rest)
        assert sum("convolution" in target for target in left) == convolutions, name
        assert sum("native_batch_norm" in target for target in left) == norms, name
        assert sum("embedding" in target for target in left) == 0
        assert not any("max_pool" in target for target in left) or name == "cnn"
    problem, at = setting("resnet20")
    left = operations(problem.restrict(*at, "folded").stages.rest)
    assert sum("convolution" in target for target in left) == 19
    assert sum("native_batch_norm" in target for target in left) == 0
    assert not problem.restrict(*at, "folded").stages.has_affine


def test_convolutions_add_and_rectify_by_themselves():
    """Sums and ReLUs of ResNet-20 vanish in its 19 convolutions, in float32; sums of other shapes stay."""
    problem, at = setting("resnet20")
    left = operations(problem.restrict(*at, "folded").stages.rest)
    assert sum("_convolution_pointwise.binary" in target for target in left) == 9
    assert sum("_convolution_pointwise.default" in target for target in left) == 10
    assert not any("relu" in target or "add." in target for target in left)
    problem, at = setting("branches")
    left = operations(problem.restrict(*at, "folded").stages.rest)
    assert sum("_convolution_pointwise.binary" in target for target in left) == 2, "one + two, and what adds three"
    assert sum("_convolution_pointwise.default" in target for target in left) == 1, "the first"
    double, at = setting("resnet20", FLOAT64)
    assert not any("pointwise" in target for target in operations(double.restrict(*at, "folded").stages.rest))


def test_a_network_that_ends_in_what_is_rewritten_is_evaluated_in_stages():
    torch.manual_seed(0)
    network = FlatNetwork(nn.Sequential(nn.Conv2d(3, 10, 29), nn.ReLU(), nn.MaxPool2d(4)), FLOAT64)
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((23, 3, 32, 32))
    problem = TorchProblem(network, CROSS_ENTROPY, Split(inputs, rng.integers(0, 10, (23, 1, 1))), 10)
    theta = network.parameters()
    at = theta, 0.1 * rng.standard_normal((2, theta.size)), network.buffers()
    made = problem.restrict(*at, "first-layer")
    assert made.strategy == "first-layer"
    assert np.allclose(made.metrics(POINTS), problem.restrict(*at).metrics(POINTS), rtol=1e-12)


def test_pieces_that_fill_the_caches_agree(monkeypatch):
    for name in ("lenet", "tied"):
        problem, at = setting(name)
        small = problem.restrict(*at, "first-layer")
        found = small.metrics(POINTS)
        assert [len(targets) for _, targets in small.pieces] == [8, 8, 7]
        with monkeypatch.context() as patch:
            patch.setattr(subspace_loss, "PIECE_BYTES", 2**24)
            patch.setattr(subspace_loss, "OUTPUT_NUMBERS", 2**16)
            large = problem.restrict(*at, "first-layer")
            assert [len(targets) for _, targets in large.pieces] == [23]
            assert np.allclose(large.metrics(POINTS), found, rtol=1e-6)


@pytest.mark.parametrize("strategy", ["eager", "folded", "first-layer", "vmapped"])
@pytest.mark.parametrize("name", ["lenet", "resnet20", "tied"])
def test_oracle_14_a_point_does_not_depend_on_the_others(name, strategy, monkeypatch):
    problem, at = setting(name)
    together = problem.restrict(*at, strategy).metrics(POINTS)
    monkeypatch.setattr(subspace_loss, "CACHE_BYTES", 0)  # caches made anew for each unit
    monkeypatch.setattr(subspace_loss, "POINT_BYTES", 0)  # points one by one
    other = problem.restrict(*at, strategy)
    backwards = [other.metrics(POINTS[i : i + 1])[0] for i in reversed(range(len(POINTS)))]
    assert np.array_equal(np.stack(backwards[::-1]), together)


def test_caches_stay_within_their_bytes(monkeypatch):
    problem, at = setting("lenet")
    chunk = 3 * 8 * 6 * 28 * 28 * 4
    monkeypatch.setattr(subspace_loss, "CACHE_BYTES", int(2.5 * chunk))
    made = problem.restrict(*at, "first-layer")
    made.metrics(POINTS)
    assert list(made._kept) == [0, 1], "of three chunks"
    assert made.share_kept == pytest.approx(2.5 / 3)


def test_networks_that_cannot_be_traced_fall_back_and_say_so(capsys):
    problem, at = setting("moody")
    made = problem.restrict(*at, "first-layer")
    assert made.strategy == "eager"
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert said[0].startswith("grid points: strategy 'eager' instead of 'first-layer' (")
    expected = np.stack([problem.metrics(at[0] + point @ at[1], at[2]) for point in POINTS])
    assert np.allclose(made.metrics(POINTS), expected, rtol=1e-6)
    with pytest.raises(LossAtlasError, match=r"precision: this network cannot be evaluated in 'bfloat16' .*use 'full'"):
        problem.restrict(*at, "folded", "bfloat16")
    with pytest.raises(LossAtlasError, match="strategy: 'fast' is not one of auto, eager, folded"):
        problem.restrict(*at, "fast")


def test_networks_that_hide_a_state_are_found_out(capsys):
    class Counting(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += torch.is_grad_enabled() or 0
            return super().forward(x) * (1.0 if torch.is_inference_mode_enabled() else 1.5)

    problem, (theta, directions, buffers) = setting("linear")
    problem.network.module = Counting(12, 10).requires_grad_(False)
    problem.network.module.weight.data = problem.network.theta[:120].view(10, 12)
    problem.network.module.bias.data = problem.network.theta[120:]
    chosen = problem.choose_evaluation(theta, directions, buffers, POINTS, 10**9, "folded")
    assert chosen.strategy == "eager"
    said = capsys.readouterr().out
    assert "strategy 'eager' instead of 'folded' (its outputs are off by 5.0e-01, rounding is" in said


@pytest.mark.parametrize("strategy", ["folded", "first-layer", "vmapped"])
def test_nan_and_inf_are_those_of_plain_evaluation(strategy):
    """Directions and centers that overflow: 0 * inf must not make a NaN where the point itself is finite."""
    problem, (theta, directions, buffers) = setting("lenet")
    directions[0, :450] = 3e38 * np.sign(directions[0, :450])  # finite; its convolution with the samples is not
    broken = theta.copy()
    broken[500] = np.inf
    rotten = theta.copy()
    rotten[3] = np.nan
    points = np.array([[0.0, 0.0], [0.0, 1.0], [1e-20, 0.0], [1.0, 0.0], [5.0, 0.0], [-1.0, 2.0]])
    for center in (theta, broken, rotten):
        expected = problem.restrict(center, directions, buffers, "eager").metrics(points)
        found = problem.restrict(center, directions, buffers, strategy).metrics(points)
        assert np.array_equal(np.isfinite(found), np.isfinite(expected))
        assert np.allclose(found, expected, rtol=1e-6, equal_nan=True)
    expected = problem.restrict(theta, directions, buffers, "eager").metrics(points)
    assert np.isfinite(expected[:2]).all()
    assert not np.isfinite(expected[3:, 0]).any()


@pytest.mark.parametrize("name", ["lenet", "resnet20", "mlp"])
def test_bfloat16_is_off_by_its_rounding_and_says_how_much(name):
    problem, at = setting(name)
    exact = problem.restrict(*at).metrics(POINTS)[:, 0]
    for strategy in ("folded", "first-layer"):
        gap = np.abs(problem.restrict(*at, strategy, "bfloat16").metrics(POINTS)[:, 0] - exact)
        assert 1e-6 < (gap / exact).max() < 0.03
        chosen = problem.choose_evaluation(*at, POINTS, 1000, strategy, "bfloat16")
        assert chosen.strategy == strategy
        assert chosen.error == pytest.approx(gap.max(), rel=1e-12)
    assert problem.choose_evaluation(*at, POINTS, 1000, "folded").error is None


@pytest.fixture
def compiler():
    try:
        subspace_loss.check_compiler()
    except LossAtlasError as error:
        pytest.skip(str(error))


def test_compiled_agrees_where_there_is_a_compiler(compiler):
    problem, at = setting("twice")
    made = problem.restrict(*at, "compiled")
    assert made.strategy == "compiled"
    expected = problem.restrict(*at).metrics(POINTS)
    together = made.metrics(POINTS)
    assert np.abs(together[:, 0] / expected[:, 0] - 1).max() < 1e-6
    assert np.array_equal(np.concatenate([made.metrics(POINTS[i : i + 1]) for i in range(len(POINTS))]), together)


def test_without_a_compiler_nothing_is_compiled(monkeypatch, capsys):
    monkeypatch.setattr(subspace_loss.shutil, "which", lambda name: None)
    problem, at = setting("linear")
    assert problem.restrict(*at, "compiled").strategy == "first-layer"
    assert "strategy 'first-layer' instead of 'compiled' (there is no C++ compiler)" in capsys.readouterr().out


def test_the_fastest_is_chosen(monkeypatch):
    problem, at = setting("lenet")
    monkeypatch.setattr(subspace_loss, "check_compiler", lambda: (_ for _ in ()).throw(LossAtlasError("none")))
    times = {"eager": 1.0, "folded": 0.5, "first-layer": 0.4}
    monkeypatch.setattr(autotune, "seconds", lambda ways, points: {name: times[name] for name in ways})
    assert problem.choose_evaluation(*at, POINTS, 9).strategy == "eager", "tracing takes longer than nine points"
    chosen = problem.choose_evaluation(*at, POINTS, 11)
    assert chosen.strategy == "first-layer"
    assert chosen.told == "first-layer (s per point: first-layer 0.4, folded 0.5, eager 1)"
    times["first-layer"] = 0.49
    assert problem.choose_evaluation(*at, POINTS, 1000).strategy == "folded", "less than the noise"
    assert problem.choose_evaluation(*at, POINTS, 1000, precision="bfloat16").strategy == "folded"


def test_points_go_together_where_one_is_small(monkeypatch):
    problem, at = setting("lenet")
    times = {"eager": 1.0, "folded": 0.5, "first-layer": 0.4, "vmapped": 0.3}
    monkeypatch.setattr(autotune, "seconds", lambda ways, points: {name: times[name] for name in ways})
    assert problem.choose_evaluation(*at, POINTS, 100).strategy == "first-layer", "this is a processor"
    monkeypatch.setattr(autotune, "one_point_is_small", lambda problem: True)
    assert problem.choose_evaluation(*at, POINTS, 100).strategy == "vmapped"


def test_times_are_of_all_samples():
    problem, at = setting("lenet", batch=4)
    ways = {name: problem.restrict(*at, name) for name in ("eager", "folded", "first-layer")}
    for seconds in autotune.seconds(ways, POINTS, rounds=2).values():
        assert 0 < seconds < 5


def test_each_chunk_or_piece_counts_once(monkeypatch):
    problem, at = setting("lenet", batch=4)
    monkeypatch.setattr(autotune, "_time", lambda run, count: 1.0)
    assert autotune.seconds({"eager": problem.restrict(*at)}, POINTS) == {"eager": 6}
    assert autotune.seconds({"folded": problem.restrict(*at, "folded")}, POINTS) == {"folded": 6 + 1}
    monkeypatch.setattr(subspace_loss, "PIECE_BYTES", 2**24)
    assert autotune.seconds({"folded": problem.restrict(*at, "folded")}, POINTS) == {"folded": 1 + 1}


def test_the_model_stays_untouched():
    torch.manual_seed(0)
    module = zoo.builder("resnet20")().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.random.get_rng_state()
    network = FlatNetwork(module, FLOAT32)
    problem = TorchProblem(network, functional.cross_entropy, samples("resnet20"), 10)
    directions = np.ones((2, network.layout.size))
    problem.restrict(network.parameters(), directions, network.buffers(), "first-layer").metrics(POINTS[1:])
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
