"""Losses, targets and outputs of every kind, in chunks of any size, against one whole batch in float64."""

from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, as_loss
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError
from torch import nn
from torch.func import functional_call
from torch.nn import functional

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
