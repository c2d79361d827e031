"""Losses, targets and outputs of every kind, in chunks of any size, against one whole batch in float64."""

from functools import partial
from typing import NamedTuple

import lossatlas
import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, as_loss
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from tests.helpers import double_backward

FLOAT64 = Device(torch.device("cpu"), torch.float64)
SAMPLES, STEPS, CLASSES = 11, 5, 5
WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.5, 7.0], dtype=torch.float64)
RNG = np.random.default_rng(0)
X, TOKENS = RNG.standard_normal((SAMPLES, 3)), RNG.standard_normal((SAMPLES, STEPS, 3))
LABELS, SEQUENCES = RNG.integers(0, CLASSES, SAMPLES), RNG.integers(0, CLASSES, (SAMPLES, STEPS))
REAL = RNG.standard_normal((SAMPLES, CLASSES))
SOFT = np.exp(REAL) / np.exp(REAL).sum(1, keepdims=True)
BITS = (REAL > 0).astype(float)
IGNORED = np.where(np.arange(SAMPLES) % 4 == 1, -100, LABELS)
PADDED = np.where(np.arange(STEPS) < RNG.integers(1, STEPS + 1, SAMPLES)[:, None], SEQUENCES, 0)
LEFT_OUT = np.where(RNG.random((SAMPLES, STEPS)) < 0.5, -100, SEQUENCES)
LEFT_OUT[3] = -100


class Case(NamedTuple):
    """A loss; ``end`` comes between the network's linear outputs (class axis last) and the loss."""

    make: object
    inputs: np.ndarray
    targets: np.ndarray
    end: object = lambda o: o
    ignored: int | None = None


def turn(outputs):
    return outputs.transpose(1, 2)


def log_shares(outputs):
    return outputs.log_softmax(-1)


def ctc(outputs, targets, reduction):
    count, steps = outputs.shape[:2]
    lengths = torch.full((count,), steps), torch.full((count,), 2)
    return functional.ctc_loss(outputs.transpose(0, 1), 1 + targets[:, :2] % 4, *lengths, reduction=reduction)


CE, NLL = nn.CrossEntropyLoss, nn.NLLLoss
CASES = {
    "plain": Case(CE, X, LABELS),
    "weights": Case(partial(CE, weight=WEIGHTS), X, LABELS),
    "ignored": Case(CE, X, IGNORED, ignored=-100),
    "ignored-weights": Case(partial(CE, weight=WEIGHTS), X, IGNORED, ignored=-100),
    "smooth": Case(partial(CE, label_smoothing=0.1), X, LABELS),
    "smooth-weights": Case(partial(CE, weight=WEIGHTS, label_smoothing=0.1), X, IGNORED, ignored=-100),
    "soft": Case(CE, X, SOFT),
    "soft-weights": Case(partial(CE, weight=WEIGHTS), X, SOFT),
    "sequence-ctn": Case(partial(CE, ignore_index=0), TOKENS, PADDED, turn, ignored=0),
    "sequence-left-out": Case(partial(CE, weight=WEIGHTS), TOKENS, LEFT_OUT, turn, ignored=-100),
    "bce": Case(nn.BCELoss, X, BITS, torch.sigmoid),
    "bce-logits": Case(partial(nn.BCEWithLogitsLoss, pos_weight=WEIGHTS), X, BITS),
    "nll": Case(NLL, X, LABELS, log_shares),
    "nll-weights": Case(partial(NLL, weight=WEIGHTS, ignore_index=2), X, LABELS, log_shares, ignored=2),
    "mse": Case(nn.MSELoss, X, REAL),
    "l1": Case(nn.L1Loss, X, REAL),
    "huber": Case(partial(nn.HuberLoss, delta=0.5), X, REAL),
}
AVERAGED = {"mean": lambda value: value, "none": lambda value: value.mean()}


class Net(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.first, self.last, self.end = nn.Linear(3, 4), nn.Linear(4, CLASSES), end

    def forward(self, x):
        return self.end(self.last(torch.tanh(self.first(x))))


def network(case):
    torch.manual_seed(1)
    return Net(case.end).double()


def whole_batch(module, value, inputs, targets):
    """Loss, gradient, Hessian product and outputs of all samples at once, by double backward."""
    names = [name for name, _ in module.named_parameters()]
    theta = torch.cat([p.detach().flatten() for p in module.parameters()]).requires_grad_()
    parts = theta.split([p.numel() for p in module.parameters()])
    shapes = [p.shape for p in module.parameters()]
    outputs = functional_call(
        module, {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}, (torch.tensor(inputs),)
    )
    loss = value(outputs, torch.tensor(targets))
    (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
    v = np.random.default_rng(5).standard_normal(theta.numel())
    (product,) = torch.autograd.grad(gradient, theta, torch.tensor(v))
    return float(loss.detach()), gradient.detach().numpy(), v, product.numpy(), outputs


def check(module, loss, value, split, axis=None, ignored=None):
    """Compare every chunk size with one whole batch; ``value`` is the loss written out for all samples."""
    expected, gradient, v, product, outputs = whole_batch(module, value, split.inputs, split.targets)
    flat = FlatNetwork(module, FLOAT64)
    theta = flat.parameters()
    for size in (1, 3, 7, SAMPLES):
        problem = TorchProblem(flat, loss, split, size)
        found = dict(zip(problem.metric_names, problem.metrics(theta, np.zeros(0)), strict=True))
        assert found["loss"] == pytest.approx(expected, rel=1e-10)
        assert np.allclose(problem.gradient(theta, np.zeros(0)), gradient, rtol=0, atol=1e-10 * abs(gradient).max())
        for strategy in ("split", "rebuild") if size == 3 else ("rebuild",):
            hessian = problem.linearize(theta, np.zeros(0), strategy=strategy)
            assert np.allclose(hessian.matvec(v), product, rtol=0, atol=1e-10 * abs(product).max()), (size, strategy)
        if axis is not None:
            targets = torch.tensor(split.targets)
            counted = targets >= 0 if ignored is None else targets != ignored
            hits = (outputs.argmax(axis) == targets)[counted]
            assert found["accuracy"] == pytest.approx(float(hits.double().mean()), abs=1e-12)
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_any_chunks_give_what_one_whole_batch_gives(name, reduction):
    case, average = CASES[name], AVERAGED[reduction]
    own = case.make(reduction=reduction)
    ignored = case.ignored
    if reduction == "none" and ignored is not None:
        ignored = min(ignored, -1)  # nobody knows which class a loss without reduction leaves out
    axis = 1 if np.issubdtype(case.targets.dtype, np.integer) else None
    loss, split = as_loss(own), Split(case.inputs, case.targets)
    check(network(case), loss, lambda o, t: average(own(o, t)), split, axis, ignored)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_loss_without_second_derivative_has_values_and_gradients_and_refuses_products(reduction):
    """Connectionist temporal classification, in PyTorch 2.13."""
    own, module = partial(ctc, reduction=reduction), Net(log_shares).double()
    outputs, targets = module(torch.tensor(TOKENS)), torch.tensor(SEQUENCES)
    value = AVERAGED[reduction](own(outputs, targets))
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(value, list(module.parameters()))]).numpy()
    flat = FlatNetwork(module, FLOAT64)
    theta = flat.parameters()
    for size in (1, 3, SAMPLES):
        problem = TorchProblem(flat, as_loss(own), Split(TOKENS, SEQUENCES), size)
        assert problem.metrics(theta, np.zeros(0))[0] == pytest.approx(float(value.detach()), rel=1e-10)
        assert np.allclose(problem.gradient(theta, np.zeros(0)), gradient, rtol=1e-9, atol=1e-12)
    for strategy in ("split", "retained", "rebuild"):
        with pytest.raises(LossAtlasError, match="no second derivative") as error:
            problem.linearize(theta, np.zeros(0), strategy=strategy).matvec(theta)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", CASES)
def test_sums_over_samples_are_refused_in_one_line(name):
    case = CASES[name]
    with pytest.raises(LossAtlasError, match="it must be the mean over samples") as error:
        loss = as_loss(case.make(reduction="sum"))
        TorchProblem(FlatNetwork(network(case), FLOAT64), loss, Split(case.inputs, case.targets), 3)
    assert "\n" not in str(error.value)


class Wrapped(Net):
    """The same network, whose outputs are something else than one tensor."""

    def __init__(self, form, end=lambda o: o):
        super().__init__(end)
        self.form = form

    def forward(self, x):
        outputs = super().forward(x)
        penalty = 0.5 * sum(p.square().sum() for p in self.parameters())
        return {"tuple": (outputs, 1), "dict": {"logits": outputs, "none": None}, "penalty": (outputs, penalty),
                "first": outputs.transpose(0, 1)}[self.form]  # fmt: skip


def wrapped(form, end=lambda o: o):
    torch.manual_seed(1)
    return Wrapped(form, end).double()


def scores(outputs):
    return outputs["logits"] if isinstance(outputs, dict) else outputs[0]


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_outputs_of_any_form_give_what_one_whole_batch_gives(form):
    value = lambda o, t: functional.cross_entropy(scores(o), t)  # noqa: E731
    found = check(wrapped(form), as_loss(value), value, Split(X, LABELS))
    each = functional.cross_entropy(scores(wrapped(form)(torch.tensor(X))), torch.tensor(LABELS), reduction="none")
    assert found["loss_standard_error"] == pytest.approx(float(each.std().detach() / SAMPLES**0.5), rel=1e-9)


def test_samples_may_lie_on_another_axis_of_the_outputs():
    value = lambda o, t: functional.cross_entropy(o.transpose(0, 1), t)  # noqa: E731
    found = check(wrapped("first"), as_loss(value), value, Split(X, LABELS))
    each = functional.cross_entropy(wrapped("first")(torch.tensor(X)).T, torch.tensor(LABELS), reduction="none")
    assert found["loss_standard_error"] == pytest.approx(float(each.std().detach() / SAMPLES**0.5), rel=1e-9)


def test_flattened_sequences_give_what_one_whole_batch_gives():
    value = lambda o, t: functional.cross_entropy(o, t.flatten())  # noqa: E731
    found = check(network(CASES["sequence-ctn"]._replace(end=lambda o: o.flatten(0, 1))), as_loss(value), value,
                  Split(TOKENS, SEQUENCES))  # fmt: skip
    assert "loss_standard_error" not in found


@pytest.mark.parametrize("form", ["tuple", "dict"])
@pytest.mark.parametrize("size", [1, 3, SAMPLES])
def test_outputs_of_any_form_are_checked(form, size):
    split = Split(X, LABELS)
    cases = {
        "must be the mean over samples": lambda o, t: functional.cross_entropy(scores(o), t, weight=WEIGHTS),
        "draws random numbers": lambda o, t: functional.cross_entropy(functional.dropout(scores(o), 0.5), t),
    }
    for message, loss in cases.items():
        with pytest.raises(LossAtlasError, match=message):
            TorchProblem(FlatNetwork(wrapped(form), FLOAT64), as_loss(loss), split, size)
    coupled = wrapped(form, nn.BatchNorm1d(CLASSES, affine=False, track_running_stats=False))
    with pytest.raises(LossAtlasError, match="depend on the others of its batch"):
        loss = as_loss(lambda o, t: functional.cross_entropy(scores(o), t))
        TorchProblem(FlatNetwork(coupled, FLOAT64), loss, split, size)


def test_one_rare_weighted_or_ignored_target_among_thousands_is_found():
    """More than the 32 samples that are looked at singly, also where outputs of a fresh network are all alike."""
    rng = np.random.default_rng(1)
    inputs, labels = rng.standard_normal((3000, 3)), np.zeros(3000, int)
    labels[777], left_out = 4, labels.copy()
    left_out[777] = -100
    module = network(CASES["plain"])
    nn.init.zeros_(module.last.weight)
    flat = FlatNetwork(module, FLOAT64)
    for size in (1, 50, 3000):
        for targets, weight in ((labels, WEIGHTS), (left_out, None)):
            with pytest.raises(LossAtlasError, match="must be the mean over samples"):
                loss = as_loss(lambda o, t, w=weight: functional.cross_entropy(o, t, weight=w))
                TorchProblem(flat, loss, Split(inputs, targets), size)
    assert torch.equal(flat.module.last.weight, torch.zeros(CLASSES, 4, dtype=torch.float64))


def penalised(module, read):
    return lambda o, t: functional.cross_entropy(o, t) + 0.5 * sum(read(p).square().sum() for p in module.parameters())


@pytest.mark.parametrize("read", [lambda p: p, lambda p: p.detach(), lambda p: p.data])
def test_losses_and_metrics_that_read_parameters_by_themselves_are_refused(read):
    module, split = network(CASES["plain"]), Split(X, LABELS)
    with pytest.raises(LossAtlasError, match="loss: it reads parameters besides the outputs") as error:
        TorchProblem(FlatNetwork(module, FLOAT64), as_loss(penalised(module, read)), split, 4)
    assert "\n" not in str(error.value)
    with pytest.raises(LossAtlasError, match=r"metrics.norm: it reads parameters"):
        metric = {"norm": as_loss(lambda o, t: sum(read(p).square().sum() for p in module.parameters()))}
        TorchProblem(FlatNetwork(module, FLOAT64), as_loss("cross-entropy"), split, 4, metrics=metric)
    teacher = nn.Linear(3, CLASSES).double().requires_grad_(False)
    distilled = lambda o, t: (o - teacher(t)).square().mean()  # noqa: E731
    check(module, as_loss(distilled), distilled, Split(X, X))


def test_a_penalty_among_the_outputs_is_differentiated():
    value = lambda o, t: functional.cross_entropy(o[0], t) + o[1]  # noqa: E731
    check(wrapped("penalty"), as_loss(value), value, Split(X, LABELS))
    flat = FlatNetwork(wrapped("penalty"), FLOAT64)
    theta, loss = flat.parameters(), as_loss(value)
    plain = as_loss(lambda o, t: functional.cross_entropy(o[0], t))
    traces = [
        np.trace(TorchProblem(flat, one, Split(X, LABELS), 4).linearize(theta, np.zeros(0)).matmat(np.eye(theta.size)))
        for one in (loss, plain)
    ]
    assert traces[0] - traces[1] == pytest.approx(theta.size, rel=1e-10)


def test_where_both_axes_could_hold_the_classes_the_loss_decides():
    split = Split(TOKENS, SEQUENCES)  # as many steps as classes
    outputs, targets = network(CASES["plain"])(torch.tensor(TOKENS)), torch.tensor(SEQUENCES)
    turned = lambda o, t: functional.cross_entropy(o.transpose(1, 2), t)  # noqa: E731
    for loss, axis in ((turned, 2), (functional.cross_entropy, 1), (lambda o, t: functional.cross_entropy(o, t), 1)):
        problem = TorchProblem(FlatNetwork(network(CASES["plain"]), FLOAT64), as_loss(loss), split, 4)
        found = problem.metrics(problem.network.parameters(), np.zeros(0))[1]
        assert found == pytest.approx(float((outputs.argmax(axis) == targets).double().mean()))


def test_the_standard_error_of_a_weighted_mean_is_that_of_a_ratio():
    """With weights 0 and 1 it is sd / sqrt(n) of the samples that count; with others the linearised one."""
    module = network(CASES["plain"])
    outputs, targets = module(torch.tensor(X)).detach(), torch.tensor(IGNORED)
    each = functional.cross_entropy(outputs, targets, reduction="none")
    kept, n = targets >= 0, int((targets >= 0).sum())
    for size in (1, 4, SAMPLES):
        problem = TorchProblem(FlatNetwork(module, FLOAT64), as_loss(CE()), Split(X, IGNORED), size)
        found = problem.metrics(problem.network.parameters(), np.zeros(0))[-1]
        assert found == pytest.approx(float(each[kept].std() / n**0.5), rel=1e-9)
        problem = TorchProblem(FlatNetwork(module, FLOAT64), as_loss(CE(weight=WEIGHTS)), Split(X, IGNORED), size)
        found = problem.metrics(problem.network.parameters(), np.zeros(0))[-1]
        weights = WEIGHTS[targets[kept]]
        mean = (weights * each[kept]).sum() / weights.sum()
        linear = (weights * (each[kept] - mean)).square().sum() * n / (n - 1)
        assert found == pytest.approx(float(linear.sqrt() / weights.sum()), rel=1e-9)


class Squeezed(nn.Linear):
    def forward(self, x):
        return super().forward(x).squeeze()


@pytest.mark.parametrize("where", ["loss", "model"])
def test_what_squeezes_a_single_sample_away_gives_what_one_whole_batch_gives(where):
    torch.manual_seed(0)
    module = (Squeezed if where == "model" else nn.Linear)(3, 1).double()
    value = lambda o, t: functional.binary_cross_entropy_with_logits(o.squeeze(), t)  # noqa: E731
    inputs, targets = X[:10], BITS[:10, 0]
    expected, gradient, v, product, _ = whole_batch(module, value, inputs, targets)
    flat = FlatNetwork(module, FLOAT64)
    for size in (1, 3, 10):
        problem = TorchProblem(flat, as_loss(value), Split(inputs, targets), size)
        for strategy in ("eager", "folded"):
            plane = problem.restrict(flat.parameters(), np.ones((1, 4)), np.zeros(0), strategy)
            assert plane.metrics(np.zeros((1, 1)))[0, 0] == pytest.approx(expected, rel=1e-10)
        assert np.allclose(problem.gradient(flat.parameters(), np.zeros(0)), gradient, rtol=1e-10)
        hessian = problem.linearize(flat.parameters(), np.zeros(0), strategy="rebuild")
        assert np.allclose(hessian.matvec(v), product, rtol=1e-10)
    with pytest.raises(LossAtlasError, match="fails on a single sample"):
        TorchProblem(flat, as_loss(value), Split(inputs[:1], targets[:1]), 1)


class Viewed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Linear(64, CLASSES)

    def forward(self, x):
        x = torch.tanh(self.conv(x))
        return self.last(x.view(x.size(0), -1))


def test_images_of_several_channels_may_be_flattened_by_view():
    torch.manual_seed(0)
    split = Split(RNG.standard_normal((SAMPLES, 3, 6, 6)), LABELS)
    check(Viewed().double(), as_loss("cross-entropy"), functional.cross_entropy, split, 1)


def test_all_zero_parameters_are_a_point_like_any_other():
    """The Hessian of softmax regression at 0 is the covariance of one-hot classes times second moments, over N."""
    module = nn.Linear(3, CLASSES, bias=False).double()
    nn.init.zeros_(module.weight)
    covariance = np.eye(CLASSES) / CLASSES - np.ones((CLASSES, CLASSES)) / CLASSES**2
    dense = np.kron(covariance, X.T @ X / SAMPLES)
    found = lossatlas.hessian(module, "cross-entropy", (X, LABELS), batch_size=4).matmat(np.eye(15))
    assert np.allclose(found, dense, rtol=0, atol=1e-12)
    direction = np.arange(15.0) / 15
    plane = lossatlas.plane(module, "cross-entropy", (X, LABELS), [direction, np.eye(15)[0]], points=(3, 3))
    assert float(plane["loss"].sel(x=0, y=0, split="train")) == pytest.approx(np.log(CLASSES), rel=1e-12)


@pytest.mark.parametrize("strategy", ["split", "rebuild"])
def test_batchnorm_without_running_statistics_is_that_of_each_chunk(strategy):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, CLASSES)
    ).double()
    expected, gradient, v, product, _ = whole_batch(module, functional.cross_entropy, X, LABELS)
    flat = FlatNetwork(module, FLOAT64)
    problem = TorchProblem(flat, as_loss("cross-entropy"), Split(X, LABELS), SAMPLES, "batch")
    theta = flat.parameters()
    assert problem.metrics(theta, np.zeros(0))[0] == pytest.approx(expected, rel=1e-10)
    assert np.allclose(problem.gradient(theta, np.zeros(0)), gradient, rtol=0, atol=1e-10)
    found = problem.linearize(theta, np.zeros(0), strategy=strategy).matvec(v)
    assert np.allclose(found, product, rtol=0, atol=1e-10 * abs(product).max())
    with pytest.raises(LossAtlasError, match="can take batchnorm: batch"):
        TorchProblem(flat, as_loss("cross-entropy"), Split(X, LABELS), SAMPLES)


@pytest.mark.parametrize("strategy", ["split", "rebuild"])
@pytest.mark.parametrize("operator", ["ggn", "residual"])
@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_several_outputs_have_a_gauss_newton_matrix(form, operator, strategy):
    """The samples come in unequal chunks; the reference takes all at once, and only the scores among the outputs."""
    loss = lambda o, t: functional.cross_entropy(scores(o), t)  # noqa: E731
    module = wrapped(form)
    vectors = torch.randn(4, sum(p.numel() for p in module.parameters()), dtype=torch.float64)
    expected = double_backward.products(
        module, functional.cross_entropy, torch.tensor(X), torch.tensor(LABELS), vectors, lambda m, x: scores(m(x))
    )
    matrix = lossatlas.hessian(module, loss, (X, LABELS), operator=operator, strategy=strategy, batch_size=4)
    error = np.abs(matrix.matmat(vectors.numpy()) - expected[operator].numpy()).max()
    assert error < 1e-9 * float(expected["hessian"].abs().max())


@pytest.mark.parametrize("loss", ["cross-entropy", nn.CrossEntropyLoss(label_smoothing=0.1)])
def test_a_random_guess_is_among_the_classes_of_the_outputs_not_those_present(loss):
    labels = np.minimum(LABELS, 1)
    found = lossatlas.curve(network(CASES["plain"]), loss, (X, labels), points=3)
    assert found.attrs["random_guess"] == pytest.approx(np.log(CLASSES))


@pytest.mark.parametrize("strategy", ["folded", "first-layer", "vmapped"])
def test_weighted_losses_at_many_points_at_once_are_those_of_each_point(strategy):
    module = network(CASES["ignored-weights"])
    problem = TorchProblem(FlatNetwork(module, FLOAT64), as_loss(CE(weight=WEIGHTS)), Split(X, IGNORED), 4)
    theta, points = problem.network.parameters(), np.array([[0.0], [0.1], [-0.2], [0.3], [0.5], [0.7]])
    direction = np.random.default_rng(7).standard_normal((1, theta.size))
    found = problem.restrict(theta, direction, np.zeros(0), strategy).metrics(points)
    alone = np.stack([problem.metrics(theta + point @ direction, np.zeros(0)) for point in points])
    assert found.shape == alone.shape and np.allclose(found, alone, rtol=1e-10, atol=0)
