"""The loss of a network over flat parameters: weighted, frozen, untouched (oracles 5, 17, 18)."""

import numpy as np
import pytest
import torch
from lossatlas import zoo
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, as_loss, as_metrics, build_loss, build_module
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError
from torch import nn
from torch.nn import functional

FLOAT64 = Device(torch.device("cpu"), torch.float64)
FLOAT32 = Device(torch.device("cpu"), torch.float32)
CROSS_ENTROPY = build_loss({"name": "cross-entropy"})
MSE = build_loss({"name": "mse"})


def images(count=37, seed=0):
    rng = np.random.default_rng(seed)
    return Split(rng.standard_normal((count, 3, 32, 32)).astype(np.float32), rng.integers(0, 10, count))


def trained_statistics(module):
    """Give BatchNorm running statistics that differ from their initial values."""
    module.train()
    torch.manual_seed(5)
    for _ in range(3):
        module(torch.randn(16, 3, 32, 32) * 2 + 1)
    return module.eval()


@pytest.mark.parametrize("name", ["lenet", "mlp", "resnet20", pytest.param("resnet20-noshort", marks=pytest.mark.full)])
@pytest.mark.parametrize(("device", "tolerance"), [(FLOAT64, 1e-12), (FLOAT32, 1e-5)])
def test_ragged_batches_give_what_one_batch_gives(name, device, tolerance):
    torch.manual_seed(0)
    network = FlatNetwork(trained_statistics(zoo.builder(name)()), device)
    theta, buffers = network.parameters(), network.buffers()
    whole = TorchProblem(network, CROSS_ENTROPY, images(), 37).metrics(theta, buffers)
    for size in (36, 10, 1):
        ragged = TorchProblem(network, CROSS_ENTROPY, images(), size).metrics(theta, buffers)
        assert np.allclose(ragged, whole, rtol=tolerance, atol=0)


def test_loss_and_accuracy_equal_plain_pytorch():
    torch.manual_seed(1)
    module, split = trained_statistics(zoo.builder("resnet20")()).double(), images()
    network = FlatNetwork(module, FLOAT64)
    loss, accuracy, error = TorchProblem(network, CROSS_ENTROPY, split, 8).metrics(
        network.parameters(), network.buffers()
    )
    with torch.no_grad():
        outputs = module(torch.tensor(split.inputs).double())
        expected = functional.cross_entropy(outputs, torch.tensor(split.targets))
        hits = (outputs.argmax(1) == torch.tensor(split.targets)).double().mean()
    assert loss == pytest.approx(float(expected), rel=1e-12)
    each = functional.cross_entropy(outputs, torch.tensor(split.targets), reduction="none")
    assert accuracy == pytest.approx(float(hits), rel=1e-12)
    assert error == pytest.approx(float(each.std() / len(split) ** 0.5), rel=1e-10)


def test_standard_error_is_that_of_the_losses_of_the_samples():
    """Built-in losses, a user's per sample, as a mean, and one that only loops can take apart; sequences; overflow."""
    rng = np.random.default_rng(0)
    x, real, classes = rng.standard_normal((11, 4)), rng.standard_normal((11, 3)), rng.integers(0, 3, 11)
    sequence = rng.standard_normal((11, 5, 4)), rng.integers(0, 3, (11, 5))

    def looping(outputs, targets):
        return sum(abs(v) for v in (outputs - targets).flatten().tolist()) * torch.ones(()) / outputs.numel()

    def across(outputs, targets):
        return functional.cross_entropy(outputs.transpose(1, 2), targets)

    torch.manual_seed(0)
    network = FlatNetwork(nn.Linear(4, 3), FLOAT64)
    cases = [
        (MSE, x, real, lambda o, t: ((o - t) ** 2).mean(1)),
        (CROSS_ENTROPY, x, classes, lambda o, t: -o.log_softmax(1)[range(11), t]),
        (lambda o, t: (o - t).abs().mean(1), x, real, lambda o, t: (o - t).abs().mean(1)),
        (lambda o, t: (o - t).abs().mean(), x, real, lambda o, t: (o - t).abs().mean(1)),
        (looping, x, real, lambda o, t: (o - t).abs().mean(1)),
        (across, *sequence, lambda o, t: -o.log_softmax(2).gather(2, t[:, :, None]).mean((1, 2))),
    ]
    for loss, inputs, targets, written_out in cases:
        problem = TorchProblem(
            network, as_loss(loss) if loss not in (MSE, CROSS_ENTROPY) else loss, Split(inputs, targets), 4
        )
        each = written_out(network.module(torch.tensor(inputs)), torch.tensor(targets)).detach()
        found = problem.metrics(network.parameters(), np.zeros(0))
        assert problem.metric_names[-1] == "loss_standard_error"
        assert found[0] == pytest.approx(float(each.mean()), rel=1e-6)
        assert found[-1] == pytest.approx(float(each.std() / 11**0.5), rel=1e-6)
    far = TorchProblem(network, MSE, Split(x, real), 4).metrics(np.full(15, 1e200), np.zeros(0))
    assert far[0] == np.inf
    assert np.isnan(far[1])
    alone = TorchProblem(network, MSE, Split(x[:1], real[:1]), 4).metrics(network.parameters(), np.zeros(0))
    assert np.isnan(alone[1])


def test_own_metrics_are_means_over_all_samples_by_every_strategy():
    """One value per sample, hits or misses, and a mean; in ragged chunks, against NumPy."""
    rng = np.random.default_rng(0)
    x, classes = rng.standard_normal((11, 4)), rng.integers(0, 3, 11)
    own = as_metrics(
        {
            "confidence": lambda o, t: o.softmax(1).amax(1),
            "top2": lambda o, t: (o.topk(2, 1).indices == t[:, None]).any(1),
            "spread": lambda o, t: o.square().mean(),
        }
    )
    torch.manual_seed(0)
    network = FlatNetwork(nn.Linear(4, 3), FLOAT64)
    problem = TorchProblem(network, CROSS_ENTROPY, Split(x, classes), 4, metrics=own)
    assert problem.metric_names == ("loss", "accuracy", "confidence", "top2", "spread", "loss_standard_error")
    theta = network.parameters()
    outputs = x @ theta[:12].reshape(3, 4).T + theta[12:]
    shares = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    ranks = (outputs > outputs[range(11), classes][:, None]).sum(1)
    expected = [shares.max(1).mean(), (ranks < 2).mean(), np.square(outputs).mean()]
    assert np.allclose(problem.metrics(theta, np.zeros(0))[2:5], expected, rtol=1e-12)
    for strategy in ("eager", "first-layer"):
        made = problem.restrict(theta, rng.standard_normal((2, theta.size)), np.zeros(0), strategy)
        assert made.strategy == strategy
        assert np.allclose(made.metrics(np.zeros((1, 2)))[0, 2:5], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda o, t: o.sum(), "metrics.mine: that of 11 samples is .* it must be the mean over samples"),
        (lambda o, t: torch.rand(len(o)), "metrics.mine: evaluated twice it gave"),
        (lambda o, t: o, r"metrics: 'mine' must return a scalar or one value per sample, got \(11, 3\)"),
        (lambda o, t: o @ t, r"metrics.mine: on outputs \(11, 3\) and targets \(11,\) it gave RuntimeError: "),
    ],
)
def test_own_metrics_that_are_no_means_are_refused(metric, message):
    rng = np.random.default_rng(0)
    split = Split(rng.standard_normal((11, 4)), rng.integers(0, 3, 11))
    network = FlatNetwork(nn.Linear(4, 3), FLOAT64)
    with pytest.raises(LossAtlasError, match=message):
        TorchProblem(network, CROSS_ENTROPY, split, 4, metrics=as_metrics({"mine": metric}))


def test_parameter_counts_of_the_zoo():
    counts = {
        name: sum(p.numel() for p in zoo.builder(name)().parameters())
        for name in ("lenet", "resnet20", "resnet20-noshort")
    }
    assert counts == {"lenet": 62_006, "resnet20": 269_722, "resnet20-noshort": 269_722}


def test_plane_of_linear_regression_equals_its_closed_form():
    rng = np.random.default_rng(0)
    x, t, n, d = rng.standard_normal((50, 7)), rng.standard_normal(50), 50, 7
    network = FlatNetwork(nn.Linear(d, 1, bias=False), FLOAT64)
    problem = TorchProblem(network, MSE, Split(x, t), 16)
    assert problem.metric_names == ("loss", "loss_standard_error")
    center, directions = rng.standard_normal(d), rng.standard_normal((2, d))
    plane = problem.restrict(center, directions, network.buffers())
    h, g = 2 / n * x.T @ x, 2 / n * x.T @ (x @ center - t)
    at_center = np.mean((x @ center - t) ** 2)
    for a in np.linspace(-2, 2, 5):
        for b in np.linspace(-1, 3, 5):
            step = a * directions[0] + b * directions[1]
            expected = at_center + g @ step + 0.5 * step @ h @ step
            assert plane.metrics(np.array([[a, b]]))[0, 0] == pytest.approx(expected, rel=1e-12)


def test_plane_points_equal_direct_evaluation():
    torch.manual_seed(0)
    network = FlatNetwork(trained_statistics(zoo.builder("resnet20")()), FLOAT64)
    problem = TorchProblem(network, CROSS_ENTROPY, images(), 10)
    theta, buffers = network.parameters(), network.buffers()
    directions = np.random.default_rng(1).standard_normal((2, theta.size)) * 0.01
    plane = problem.restrict(theta, directions, buffers)
    (point,) = plane.metrics(np.array([[0.7, -1.3]]))
    direct = problem.metrics(theta + 0.7 * directions[0] - 1.3 * directions[1], buffers)
    assert np.allclose(point, direct, rtol=1e-12)
    assert np.array_equal(plane.metrics(np.array([[0.7, -1.3]]))[0], point), "no memory of former points"


def test_true_loss_uses_the_checkpoints_own_statistics():
    torch.manual_seed(0)
    network = FlatNetwork(trained_statistics(zoo.builder("resnet20")()), FLOAT64)
    problem = TorchProblem(network, CROSS_ENTROPY, images(), 10)
    theta, buffers = network.parameters(), network.buffers()
    assert problem.metrics(theta, buffers)[0] != problem.metrics(theta, np.ones_like(buffers))[0]


def test_the_users_model_stays_untouched():
    torch.manual_seed(0)
    module = trained_statistics(zoo.builder("resnet20")()).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    pointers, state = [p.data_ptr() for p in module.parameters()], torch.random.get_rng_state()
    network = FlatNetwork(module, FLOAT32)
    problem = TorchProblem(network, CROSS_ENTROPY, images(), 10)
    plane = problem.restrict(network.parameters(), np.ones((2, network.layout.size)), network.buffers())
    plane.metrics(np.array([[0.1, 0.2]]))
    problem.metrics(network.parameters() * 2, network.buffers())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert [p.data_ptr() for p in module.parameters()] == pointers
    assert all(p.grad is None for p in module.parameters())
    assert module.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_dropout_is_off_and_evaluation_repeats_bit_for_bit():
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3072, 10))
    network = FlatNetwork(module, FLOAT32)
    problem = TorchProblem(network, CROSS_ENTROPY, images(), 10)
    values = [problem.metrics(network.parameters(), network.buffers()) for _ in range(3)]
    assert np.array_equal(values[0], values[1])
    assert np.array_equal(values[0], values[2])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.fixed = nn.Parameter(torch.randn(4, 6), requires_grad=False)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.embed(tokens) + self.fixed).transpose(1, 2)


def test_tied_and_frozen_parameters_and_sequence_targets():
    torch.manual_seed(0)
    module = Tied()
    network = FlatNetwork(module, FLOAT64)
    assert network.layout.size == 66, "tied weights count once, frozen ones not at all"
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 11, (9, 4)), rng.integers(0, 11, (9, 4)))
    problem = TorchProblem(network, CROSS_ENTROPY, split, 4)
    theta = rng.standard_normal(66)
    loss, accuracy, _ = problem.metrics(theta, network.buffers())
    with torch.no_grad():
        module.double().embed.weight.copy_(torch.tensor(theta).view(11, 6))
        outputs = module(torch.tensor(split.inputs))
    targets = torch.tensor(split.targets)
    assert loss == pytest.approx(float(functional.cross_entropy(outputs, targets)), rel=1e-12)
    assert accuracy == pytest.approx(float((outputs.argmax(1) == targets).double().mean()), rel=1e-12)


def test_nan_is_a_value_of_the_surface():
    network = FlatNetwork(nn.Linear(2, 1, bias=False), FLOAT32)
    problem = TorchProblem(network, MSE, Split(np.ones((3, 2)), np.ones(3)), 2)
    assert np.isnan(problem.metrics(np.array([np.nan, 0]), network.buffers())[0])
    assert np.isposinf(problem.metrics(np.array([1e30, 0]), network.buffers())[0])


def test_initial_weights_depend_on_the_seed_alone():
    spec = {"name": "lenet", "kwargs": {}}
    torch.manual_seed(1)
    first = build_module(spec, 3)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second, other = build_module(spec, 3), build_module(spec, 4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_misfits_are_one_line():
    network = FlatNetwork(zoo.builder("lenet")(), FLOAT32)
    with pytest.raises(LossAtlasError, match=r"model and data do not fit: inputs \(5, 3, 28, 28\)") as error:
        TorchProblem(network, CROSS_ENTROPY, Split(np.zeros((5, 3, 28, 28), np.float32), np.zeros(5, int)), 5)
    assert "\n" not in str(error.value)
    with pytest.raises(LossAtlasError, match="no parameter requires a gradient"):
        FlatNetwork(nn.ReLU(), FLOAT32)
    with pytest.raises(LossAtlasError, match=r"building 'lenet' with kwargs .*wings"):
        build_module({"name": "lenet", "kwargs": {"wings": 2}}, 0)


def test_losses_that_are_no_mean_and_targets_that_are_no_classes_are_refused():
    network, rng = FlatNetwork(nn.Linear(4, 3), FLOAT32), np.random.default_rng(0)
    x, classes, real = rng.standard_normal((9, 4)), rng.integers(0, 3, 9), rng.standard_normal((9, 3))
    with pytest.raises(LossAtlasError, match=r"cross-entropy needs integer classes, .* use loss: \{name: mse\}"):
        TorchProblem(network, CROSS_ENTROPY, Split(x, real), 4)
    with pytest.raises(LossAtlasError, match="it must be the mean over samples"):
        TorchProblem(network, lambda o, t: functional.cross_entropy(o, t, reduction="sum"), Split(x, classes), 4)
    weights = torch.tensor([1.0, 5.0, 20.0])
    with pytest.raises(LossAtlasError, match="it must be the mean over samples"):
        loss = as_loss(lambda o, t: functional.cross_entropy(o, t, weight=weights))
        TorchProblem(network, loss, Split(x, np.sort(classes)), 4)
    left_out = np.where(np.arange(9) % 3, classes, -100)
    with pytest.raises(LossAtlasError, match="it must be the mean over samples"):
        TorchProblem(network, as_loss(lambda o, t: functional.cross_entropy(o, t)), Split(x, left_out), 4)
    with pytest.raises(LossAtlasError, match="cross-entropy of the class -1; classes count from 0"):
        TorchProblem(network, CROSS_ENTROPY, Split(x, np.where(np.arange(9) % 3, classes, -1)), 4)
    with pytest.raises(LossAtlasError, match=r"cross-entropy of the class 3; .* the outputs have 3"):
        TorchProblem(network, CROSS_ENTROPY, Split(x, classes + 1), 4)
    with pytest.raises(LossAtlasError, match="every target is ignored"):
        TorchProblem(network, CROSS_ENTROPY, Split(x, np.full(9, -100)), 4)
    with pytest.raises(LossAtlasError, match="2 weights of classes, but the outputs have 3"):
        TorchProblem(network, nn.CrossEntropyLoss(weight=torch.ones(2)), Split(x, classes), 4)
    shares = np.abs(real) / np.abs(real).sum(axis=1, keepdims=True)
    assert TorchProblem(network, CROSS_ENTROPY, Split(x, shares), 4).metric_names == ("loss", "loss_standard_error")
    assert TorchProblem(network, CROSS_ENTROPY, Split(x, classes.astype(np.int32)), 4).fit.class_axis == 1


def test_a_weighted_loss_per_sample_is_its_mean_on_any_chunks():
    network, rng = FlatNetwork(nn.Linear(4, 3), FLOAT64), np.random.default_rng(0)
    x, classes = rng.standard_normal((9, 4)), np.sort(rng.integers(0, 3, 9))
    each = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64), reduction="none")
    exact = float(each(network.module(torch.tensor(x)), torch.tensor(classes)).mean())
    for batch in (2, 9):
        problem = TorchProblem(network, as_loss(each), Split(x, classes), batch)
        assert problem.metrics(network.parameters(), np.zeros(0))[0] == pytest.approx(exact, rel=1e-12)


def test_models_whose_outputs_depend_on_the_batch_or_on_chance_are_refused():
    rng = np.random.default_rng(0)
    split = Split(rng.standard_normal((9, 4)), rng.integers(0, 3, 9))
    batchnorm = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))
    with pytest.raises(LossAtlasError, match="depend on the others of its batch"):
        TorchProblem(FlatNetwork(batchnorm, FLOAT64), CROSS_ENTROPY, split, 4)

    class Noisy(nn.Linear):
        def forward(self, x):
            return functional.dropout(super().forward(x), 0.5, training=True)

    with pytest.raises(LossAtlasError, match="draws random numbers"):
        TorchProblem(FlatNetwork(Noisy(4, 3), FLOAT64), CROSS_ENTROPY, split, 4)


def test_sequences_have_an_accuracy_whichever_axis_holds_the_classes():
    rng = np.random.default_rng(0)
    split = Split(rng.standard_normal((9, 5, 4)), rng.integers(0, 7, (9, 5)))
    network = FlatNetwork(nn.Linear(4, 7), FLOAT64)
    loss = lambda o, t: functional.cross_entropy(o.transpose(1, 2), t)  # noqa: E731
    outputs = network.module(torch.tensor(split.inputs)).argmax(-1).numpy()
    found = TorchProblem(network, loss, split, 4).metrics(network.parameters(), np.zeros(0))
    assert found[1] == pytest.approx((outputs == split.targets).mean())


def test_a_single_logit_has_no_accuracy():
    network, rng = FlatNetwork(nn.Linear(4, 1), FLOAT32), np.random.default_rng(0)
    split = Split(rng.standard_normal((9, 4)), rng.integers(0, 2, 9))
    loss = lambda o, t: functional.binary_cross_entropy_with_logits(o[:, 0], t.to(o.dtype))  # noqa: E731
    assert TorchProblem(network, loss, split, 4).metric_names == ("loss", "loss_standard_error")
