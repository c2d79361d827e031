"""Every strategy of evaluating points, on networks of all kinds, and the proof that each must give before its use."""

import copy

import hypothesis
import lossatlas
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.backends.torch.subspace import agreement, subspace_loss
from lossatlas.data import Split
from lossatlas.problem.protocol import Place
from torch import nn
from torch.nn import functional

from tests.helpers import point_networks as nets

FLOAT32, FLOAT64 = (Device(torch.device("cpu"), dtype) for dtype in (torch.float32, torch.float64))
POINTS = np.array([[0.0, 0.0], [-1.0, -1.0], [1.0, -1.0], [0.3, 1.0]])
FAST = ("folded", "first-layer", "vmapped")
REFUSED = {
    "dict": "the network returns no single tensor",
    "tuple": "the network returns no single tensor",
    "renormed embedding": "the network writes into its parameters, buffers or samples by aten.copy_.default",
}
"""Networks that are evaluated plainly, and why."""


def cross_entropy(outputs, targets):
    if isinstance(outputs, dict | tuple):
        outputs = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    return functional.cross_entropy(outputs, targets)


@pytest.fixture(autouse=True)
def several_pieces(monkeypatch):
    """These few samples go in pieces of a chunk each, whose losses are computed in groups of two."""
    monkeypatch.setattr(subspace_loss, "PIECE_BYTES", 0)
    monkeypatch.setattr(subspace_loss, "OUTPUT_NUMBERS", 80)


def setting(module, samples, device=FLOAT64, batch=9, scale=0.5, loss=cross_entropy):
    """A problem with ragged chunks, a center and two directions as large as the weights, and buffers."""
    network = FlatNetwork(module, device)
    theta, rng = network.parameters(), np.random.default_rng(1)
    directions = scale * rng.standard_normal((2, theta.size)) * (np.abs(theta) + 0.1)
    return TorchProblem(network, loss, samples, batch), (theta, directions, network.buffers())


def plain(module, samples, at, device):
    """Return the outputs (point, sample, class) of the module itself, its parameters set point by point, all samples
    at once."""
    module = copy.deepcopy(module).to(device.dtype).eval()
    inputs = torch.as_tensor(samples.inputs)
    inputs = inputs.to(device.dtype) if inputs.is_floating_point() else inputs
    found = []
    for point in POINTS:
        theta = torch.as_tensor(at[0] + point @ at[1]).to(device.dtype)
        nn.utils.vector_to_parameters(theta, module.parameters())
        with torch.no_grad():
            outputs = module(inputs)
        outputs = outputs["logits"] if isinstance(outputs, dict) else outputs
        found.append((outputs[0] if isinstance(outputs, tuple) else outputs).double().numpy())
    return np.stack(found)


def loss_and_hits(outputs, targets):
    """Return loss and accuracy by the formulas, (point,) each."""
    shifted = outputs - outputs.max(-1, keepdims=True)
    own = np.take_along_axis(shifted, targets[None, :, None], -1)[..., 0]
    losses = np.log(np.exp(shifted).sum(-1)) - own
    return losses.mean(1), (outputs.argmax(-1) == targets).mean(1)


def built(name):
    shape, build = nets.NETWORKS[name]
    torch.manual_seed(0)
    return shape, nets.norms_of(build)


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_oracle_3_strategies_equal_plain_evaluation_on_networks_of_all_kinds(name, capsys):
    shape, module = built(name)
    splits = {FLOAT64: (nets.split(shape), nets.split(shape, 11, seed=1)), FLOAT32: (nets.split(shape),)}
    for device, tolerance in ((FLOAT64, 1e-10), (FLOAT32, 5e-6)):
        for samples in splits[device]:
            problem, at = setting(module, samples, device)
            outputs = plain(module, samples, at, device)
            loss, hits = loss_and_hits(outputs, samples.targets)
            assert np.ptp(loss) > 1e-3, "the points differ"
            for strategy in FAST:
                made = problem.restrict(*at, strategy)
                found, said = made.metrics(POINTS), capsys.readouterr().out.splitlines()
                assert len(said) <= 1
                assert (made.strategy == "eager") == (name in REFUSED), said
                assert REFUSED.get(name, "") in "".join(said)
                assert np.abs(found[:, 0] - loss).max() <= tolerance * loss.max()
                if "accuracy" in problem.metric_names:
                    assert np.array_equal(found[:, 1], hits)
                if made.strategy != "eager":
                    pieces = [torch.stack(made.outputs(k, POINTS)) for k in range(len(made.pieces))]
                    gap = np.abs(torch.cat(pieces, 1).double().numpy() - outputs).max()
                    assert gap <= 10 * tolerance * np.abs(outputs).max()


@pytest.mark.parametrize("name", ["grouped"])
def test_oracle_3_compiled_networks_equal_plain_evaluation(name):
    shape, module = built(name)
    samples = nets.split(shape)
    problem, at = setting(module, samples)
    loss, _ = loss_and_hits(plain(module, samples, at, FLOAT64), samples.targets)
    assert np.abs(problem.restrict(*at, "compiled").metrics(POINTS)[:, 0] / loss - 1).max() < 1e-10


# What must be found out: outputs that a rewriting makes wrong.

WRONG = {
    "all by 3e-4": lambda outputs, point: outputs * (1 + 3e-4),
    "all by 3e-5": lambda outputs, point: outputs * (1 + 3e-5),
    "one sample": lambda outputs, point: torch.cat([outputs[:1] * 1.001, outputs[1:]]),
    "two samples swapped": lambda outputs, point: outputs[[1, 0, *range(2, len(outputs))]],
    "errors that cancel": lambda outputs, point: outputs + torch.linspace(-1e-3, 1e-3, len(outputs))[:, None],
    "in one corner": lambda outputs, point: outputs * (1 + 1e-3 * (point[0] > 0 and point[1] < 0)),
    "NaN in its place": lambda outputs, point: torch.where(outputs == outputs[0, 0], 1e12, outputs),
}


def pretend(monkeypatch, wrong, strategies=("folded", "first-layer", "vmapped", "compiled"), samples=None):
    """Let stages make wrong outputs."""

    def patched(each):
        def made(self, points, *rest):
            here = self.strategy in strategies and (samples is None or self.problem.samples == samples)
            for point, outputs in zip(points, each(self, points, *rest), strict=True):
                yield wrong(outputs, point) if here else outputs

        return made

    for kind in (subspace_loss.Staged, subspace_loss.Vmapped):
        monkeypatch.setattr(kind, "each", patched(kind.each))


@pytest.mark.parametrize("device", [FLOAT32, FLOAT64], ids=["float32", "float64"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_disagrees_is_not_used(monkeypatch, capsys, wrong, device):
    shape, module = built("lstm cell")
    problem, at = setting(module, nets.split(shape), device)
    pretend(monkeypatch, WRONG[wrong])
    chosen = problem.choose_evaluation(*at, POINTS, 1000, "folded")
    said = capsys.readouterr().out.splitlines()
    assert (chosen.strategy, chosen.agreement) == ("eager", None)
    assert len(said) == 1
    assert said[0].startswith("grid points: strategy 'eager' instead of 'folded' (its outputs are off by ")


def test_the_next_strategy_is_tried_and_must_agree_as_well(monkeypatch, capsys):
    shape, module = built("lstm cell")
    problem, at = setting(module, nets.split(shape), FLOAT32)
    pretend(monkeypatch, WRONG["all by 3e-4"], ("first-layer", "vmapped"))
    chosen = problem.choose_evaluation(*at, POINTS, 1000, "vmapped")
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in said] == [
        "grid points: strategy 'first-layer' instead of 'vmapped'",
        "grid points: strategy 'folded' instead of 'first-layer'",
    ]
    assert chosen.strategy == chosen.agreement.strategy == "folded"
    assert chosen.agreement.difference < 1e-6


def test_rounding_is_no_disagreement(monkeypatch):
    shape, module = built("lstm cell")
    problem, at = setting(module, nets.split(shape), FLOAT32)
    pretend(monkeypatch, lambda outputs, point: outputs * (1 + 2.0**-22))
    found = problem.choose_evaluation(*at, POINTS, 1000, "first-layer").agreement
    assert (found.strategy, found.points, found.samples, found.reason) == ("first-layer", 4, 23, "")
    assert 1e-8 < found.difference < 5 * found.rounding < 1e-5


def test_metrics_that_depend_on_the_grouping_of_samples_are_found_out(capsys):
    shape, module = built("linear")
    problem, at = setting(module, nets.split(shape))
    weights = torch.arange(1.0, nets.CLASSES + 1, dtype=torch.float64)
    problem.loss = lambda outputs, targets: functional.cross_entropy(outputs, targets, weights)
    assert problem.choose_evaluation(*at, POINTS, 1000, "folded").strategy == "eager"
    assert "(its metrics depend on which samples are evaluated together)" in capsys.readouterr().out


def test_checks_take_a_bounded_time(monkeypatch):
    """Of an expensive network one piece at one point is compared, the ragged one in a corner; of a cheap one more."""
    shape, module = built("linear")
    problem, at = setting(module, nets.split(shape))
    monkeypatch.setattr(agreement, "LEAST_SECONDS", 0.0)
    calls, forward = [], problem.network.module.forward

    def counted(inputs):
        calls.append(len(inputs))
        return forward(inputs)

    made = problem.restrict(*at, "folded")
    problem.network.module.forward = counted
    found = agreement.Reference(problem, Place(*at), POINTS, 1).compare(made)
    assert (found.points, found.samples) == (1, 7)
    assert calls == [7, 7], "plainly and moved by rounding"
    found = agreement.Reference(problem, Place(*at), POINTS, 10**9).compare(made)
    assert (found.points, found.samples) == (4, 23)


def test_stores_say_what_agreed_and_how_well():
    shape, module = built("grouped")
    data, test = (nets.split(shape, count) for count in (23, 11))
    pairs = [(d.inputs.astype(np.float32), d.targets) for d in (data, test)]
    plane = lossatlas.plane(module, "cross-entropy", pairs[0], test=pairs[1], points=(3, 3), strategy="first-layer")
    assert plane.attrs["strategy"] == plane.attrs["agreement_strategy"] == "first-layer"
    assert (plane.attrs["agreement_points"], plane.attrs["agreement_samples"]) == (5, 23 + 11)
    assert 0 < plane.attrs["agreement_difference"] < agreement.MULTIPLE * plane.attrs["agreement_rounding"] < 1e-4
    curve = lossatlas.curve(module, "cross-entropy", pairs[0], points=5, strategy="folded")
    assert (curve.attrs["agreement_strategy"], curve.attrs["agreement_points"]) == ("folded", 3)
    assert "agreement_strategy" not in lossatlas.curve(module, "cross-entropy", pairs[0], points=5).attrs


def test_one_split_that_disagrees_leaves_the_strategy_to_none(monkeypatch, capsys):
    shape, module = built("grouped")
    pairs = [(d.inputs, d.targets) for d in (nets.split(shape, count) for count in (23, 11))]
    choices = {"test": pairs[1], "points": (3, 3), "dtype": "float64", "seed": 3}
    expected = lossatlas.plane(module, "cross-entropy", pairs[0], strategy="eager", **choices)
    pretend(monkeypatch, WRONG["all by 3e-4"], ("first-layer",), samples=11)
    plane = lossatlas.plane(module, "cross-entropy", pairs[0], strategy="first-layer", **choices)
    assert plane.attrs["strategy"] == plane.attrs["agreement_strategy"] == "folded"
    assert "strategy 'folded' instead of 'first-layer'" in capsys.readouterr().out
    assert np.abs(plane["loss"] / expected["loss"] - 1).max() < 1e-10


def test_tracing_leaves_no_trace_in_the_network():
    """A table that is made anew for each number of samples stays one of numbers, and so does plain evaluation."""

    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.tables = nn.Linear(12, nets.CLASSES), {}

        def forward(self, x):
            if len(x) not in self.tables:
                self.tables[len(x)] = torch.linspace(0, 1, len(x), dtype=x.dtype)[:, None] * 0
            return torch.tanh(self.layer(x)) + self.tables[len(x)]

    samples = nets.split(nets.VECTOR)
    problem, at = setting(Remembers(), samples)
    expected = problem.restrict(*at).metrics(POINTS)
    made = problem.restrict(*at, "first-layer")
    assert made.strategy == "first-layer"
    assert all(type(table) is torch.Tensor for table in problem.network.module.tables.values())
    assert np.allclose(made.metrics(POINTS), expected, rtol=1e-12)
    assert np.array_equal(problem.restrict(*at).metrics(POINTS), expected)


def test_parameters_that_are_not_trained_are_read_where_they_lie():
    module = nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, nets.CLASSES))
    module[0].requires_grad_(False)
    problem, at = setting(module, nets.split(nets.VECTOR))
    made = problem.restrict(*at, "folded")
    problem.network.load(frozen=problem.network.frozen() + 0.5)
    expected = problem.restrict(*at).metrics(POINTS)
    fresh = problem.restrict(*at, "folded").metrics(POINTS)
    assert np.allclose(fresh, expected, rtol=1e-12)
    assert not np.allclose(made.metrics(POINTS[:1])[:, 0], 0.0)


# Programs of tensor operations put together at random.


def _written(value, other):
    made = value.clone()
    made[:, :3] = other[:, :3]
    made[:, 3:].mul_(2.0).sub_(other[:, 3:])
    return made


ONE = {
    "neg": torch.neg, "tanh": torch.tanh, "relu": torch.relu, "sin": torch.sin, "abs": torch.abs,
    "scaled": lambda x: 1.5 * x / 1.25 - 0.3, "from one": lambda x: 1 - x, "flip": lambda x: x.flip(1),
    "turned": lambda x: x.view(-1, 2, 3).transpose(1, 2).reshape(-1, 6), "roll": lambda x: x.roll(2, 1),
    "split": lambda x: torch.cat([part * (k + 1) for k, part in enumerate(x.split(2, 1))], 1),
    "mean": lambda x: x - x.mean(1, keepdim=True), "sum": lambda x: x.sum(1, keepdim=True).expand(-1, 6) / 6,
    "padded": lambda x: functional.pad(x, (2, 1), value=0.4)[:, 1:7], "softmax": lambda x: x.softmax(1),
    "chosen": lambda x: torch.stack(x.unbind(1)[::-1], 1), "clamped": lambda x: x.clamp(-0.5, 0.5),
    "pooled": lambda x: functional.max_pool2d(x.view(-1, 1, 2, 3).repeat(1, 1, 1, 2), 2).flatten(1).repeat(1, 2),
    "normed": lambda x: functional.layer_norm(x, (6,)), "square": lambda x: x * x * 0.25,
    "strided": lambda x: x[:, ::2].repeat(1, 2),
}  # fmt: skip
TWO = {
    "add": torch.add, "sub": lambda x, y: torch.sub(x, y, alpha=0.7), "mul": torch.mul, "maximum": torch.maximum,
    "div": lambda x, y: x / (1 + y.abs()), "where": lambda x, y: torch.where(x > y, x, 0.5 * y), "written": _written,
    "joined": lambda x, y: torch.cat([x[:, :4], y[:, 4:]], 1),
    "in place": lambda x, y: x.add_(y, alpha=0.5).tanh_(),
    "over samples": lambda x, y: x + y.T.reshape(6, -1).T,
}  # fmt: skip
LAYERS = {
    "linear": lambda x, w, b: functional.linear(x, w, b), "matmul": lambda x, w, b: x @ w,
    "weighted": lambda x, w, b: torch.addmm(b, x, w, beta=0.5, alpha=0.8), "scale": lambda x, w, b: x * b,
    "norm": lambda x, w, b: functional.batch_norm(functional.linear(x, w), b, b.square() + 0.5, b + 1, b),
    "conv": lambda x, w, b: functional.conv1d(x[:, None], w[:1, None, :3], padding=1)[:, 0],
}  # fmt: skip
OWN = {"neg", "tanh", "sin", "scaled", "softmax", "square", "add", "sub", "mul", "div", "written", "linear", "matmul"}
"""Operations whose results nothing else lies in: these may be written to, and who reads them later reads that."""

STEPS = st.one_of(
    st.tuples(st.sampled_from(sorted(ONE)), st.integers(0, 9), st.just(0)),
    st.tuples(st.sampled_from(sorted(TWO)), st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.sampled_from(sorted(LAYERS)), st.integers(0, 9), st.integers(0, 1)),
)


class Program(nn.Module):
    """Operations on values (sample, 6), each on earlier ones, counted back from the last."""

    def __init__(self, steps):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.steps = steps
        self.weights = nn.ParameterList(torch.randn(6, 6, generator=generator) / 2.5 for _ in range(2))
        self.biases = nn.ParameterList(torch.randn(6, generator=generator) for _ in range(2))

    def forward(self, x):
        values, names = [x, self.biases[0].expand(len(x), -1)], ["samples", "bias"]
        for name, first, second in self.steps:
            one = values[-1 - first % len(values)]
            if name == "in place" and names[-1 - first % len(values)] not in OWN:
                one = one.clone()
            names.append(name)
            if name in LAYERS:
                values.append(LAYERS[name](one, self.weights[second], self.biases[second]))
            else:
                values.append(ONE[name](one) if name in ONE else TWO[name](one, values[-1 - second % len(values)]))
        return values[-1] + 0.1 * self.weights[0].sum() * x


@hypothesis.settings(
    max_examples=60, derandomize=True, deadline=None, database=None, phases=[hypothesis.Phase.generate]
)
@hypothesis.given(st.lists(STEPS, min_size=1, max_size=9))
def test_oracle_3_random_programs_in_stages_equal_themselves(steps):
    module, samples = Program(steps), Split(np.random.default_rng(0).standard_normal((11, 6)), np.zeros(11, int))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subspace_loss, "PIECE_BYTES", 0)
        problem, at = setting(module, samples, batch=11, loss=build_loss({"name": "cross-entropy"}))
        outputs = plain(module, samples, at, FLOAT64)
        for strategy in ("folded", "first-layer"):
            made = problem.restrict(*at, strategy)
            found = torch.stack(made.outputs(0, POINTS)).numpy()
            assert np.abs(found - outputs).max() <= 1e-11 * (1 + np.abs(outputs).max())
