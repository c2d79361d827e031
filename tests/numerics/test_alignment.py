"""Alignment of networks: their modules compute the same, orders that were mixed up are found again, bit for bit."""

import numpy as np
import pytest
import torch
from lossatlas import data
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.backends.torch.symmetry import interchangeable
from lossatlas.config import resolve
from lossatlas.drivers import line_scans
from lossatlas.drivers.mined_directions import Connection
from lossatlas.errors import LossAtlasError
from lossatlas.geometry.alignment import align
from lossatlas.zoo.lenet import lenet
from lossatlas.zoo.mlp import mlp
from lossatlas.zoo.resnet import resnet, resnet50
from lossatlas.zoo.vgg import vgg9
from torch import nn
from torch.nn import functional

from tests.numerics.test_curves import compute, make
from tests.numerics.test_sites import record


class Mixed(nn.Module):
    """Depthwise and pointwise layers, layers side by side, a mean over channels, LayerNorm."""

    def __init__(self):
        super().__init__()
        self.stem, self.depthwise, self.point = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 5, 1)
        self.beside, self.norm, self.last = nn.Conv2d(3, 4, 5), nn.LayerNorm(9), nn.Linear(9, 3)

    def forward(self, x):
        one = self.point(functional.silu(self.depthwise(functional.relu(self.stem(x)))))
        both = torch.cat([one, torch.tanh(self.beside(x))[:, 0:]], 1)
        return self.last(self.norm(functional.adaptive_avg_pool2d(both, 1).flatten(1)))


class Gated(nn.Module):
    """Squeeze and excitation: channels are scaled by what two layers make of their means."""

    def __init__(self):
        super().__init__()
        self.stem, self.squeeze = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.excite, self.last = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x):
        images = self.stem(x)
        gates = torch.sigmoid(self.excite(functional.relu(self.squeeze(images.mean((2, 3))))))
        return self.last((images * gates[..., None, None]).mean((2, 3)))


NETWORKS = {
    "mlp": (lambda: mlp(inputs=192, hidden=(7, 5)), [5, 7]),
    "lenet": (lambda: lenet(), [6, 16, 84, 120]),
    "vgg": (lambda: vgg9(width=2), [2, 2, 4, 4, 8, 8, 8, 8]),
    # Shortcuts bind the four channels of the stem to four of each later stage; what these add is free.
    "resnet": (lambda: resnet(20)(width=4), [4] * 3 + [8] * 3 + [16] * 3 + [4, 4, 8]),
    "resnet without shortcuts": (lambda: resnet(20, False)(width=4), [4] * 7 + [8] * 6 + [16] * 6),
    "resnet with projections": (lambda: resnet50(width=2), None),
    "mixed": (Mixed, [4, 5, 6]),
    "gated": (Gated, [2, 4]),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """A network whose BatchNorm has statistics and scales of all kinds, its groups, and what they should be."""
    torch.manual_seed(0)
    build, sizes = NETWORKS[request.param]
    module = build().double().eval()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.data = torch.rand_like(tensor) + ("running_mean" not in name)
    flat = FlatNetwork(module, Device(torch.device("cpu"), torch.float64))
    inputs = (
        torch.randn(2, 3, 8, 8, dtype=torch.float64) if request.param == "mlp" else torch.randn(2, 3, 32, 32).double()
    )
    return module, flat, inputs, interchangeable(flat, inputs), sizes


def shapes(flat):
    return [(name, tuple(buffer.shape)) for name, buffer in flat._buffers]


def mixed_up(module, groups):
    """Change the places of all units in a copy of the state of a module, tensor by tensor; return it by name."""
    draws, state = (
        np.random.default_rng(0),
        {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()},
    )
    for group in groups:
        order = draws.permutation(len(group[0].places))
        for role in group:
            there = np.moveaxis(state[role.name], role.axis, 0)
            there[role.places.ravel()] = there[role.places[order].ravel()]
    return state


def flatten(flat, state):
    return (
        np.concatenate([state[slot.name].ravel() for slot in flat.layout]),
        np.concatenate([np.zeros(0), *(state[name].ravel() for name, _ in shapes(flat))]),
    )


def test_units_change_places_and_the_function_stays(network):
    module, flat, inputs, groups, sizes = network
    assert sizes is None or sorted(len(group[0].places) for group in groups) == sorted(sizes)
    before, state = module(inputs).detach(), mixed_up(module, groups)
    assert not np.array_equal(flatten(flat, state)[0], flat.parameters())
    flat.load(*flatten(flat, state))
    after = flat.module(inputs).detach()
    flat.load(*flatten(flat, {name: tensor.numpy() for name, tensor in module.state_dict().items()}))
    assert torch.allclose(before, after, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(before, before.flip(1))


def test_an_order_that_was_mixed_up_is_found_again_bit_for_bit(network):
    module, flat, _, groups, _ = network
    theta, buffers = flatten(flat, {name: tensor.numpy() for name, tensor in module.state_dict().items()})
    found = align(theta, *flatten(flat, mixed_up(module, groups)), groups, flat.layout, shapes(flat))
    assert np.array_equal(found.theta, theta)
    assert np.array_equal(found.buffers, buffers)
    assert 0.5 * found.units < found.moved <= found.units == sum(len(group[0].places) for group in groups)


class Idle(nn.Module):
    """A layer of three units, and a buffer from which nothing is computed."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 1)
        self.register_buffer("idle", torch.zeros(4))

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def test_what_is_not_computed_with_is_no_unit_and_what_is_not_finite_has_no_order():
    flat = FlatNetwork(Idle(), Device(torch.device("cpu"), torch.float64))
    groups = interchangeable(flat, torch.zeros(2, 2, dtype=torch.float64))
    assert {role.name for group in groups for role in group} == {"first.weight", "first.bias", "last.weight"}
    theta = flat.parameters()
    found = align(theta, theta, flat.buffers(), groups, flat.layout, shapes(flat))
    assert (found.moved, found.units) == (0, 3)
    with pytest.raises(LossAtlasError, match="align: one of the two checkpoints holds NaN or inf"):
        align(theta, np.where(np.arange(theta.size) == 1, np.nan, theta), flat.buffers(), groups, flat.layout, [])


def test_the_best_order_of_one_layer_is_that_of_all_orders():
    """Two networks with four hidden units: the distance is the smallest of all 24 orders."""
    from itertools import permutations

    draws = np.random.default_rng(3)
    flat = FlatNetwork(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), Device(torch.device("cpu"), torch.float64)
    )
    groups = interchangeable(flat, torch.zeros(2, 3, dtype=torch.float64))
    one, other = draws.standard_normal((2, flat.layout.size))
    found = align(one, other, np.zeros(0), groups, flat.layout, [])
    first, bias, second, last = np.split(other, [12, 16, 24])
    orders = [np.array(order) for order in permutations(range(4))]
    all_of = [np.concatenate([first.reshape(4, 3)[o].ravel(), bias[o], second.reshape(2, 4)[:, o].ravel(), last])
              for o in orders]  # fmt: skip
    best = min(np.linalg.norm(one - theta) for theta in all_of)
    assert np.linalg.norm(one - found.theta) == pytest.approx(best)
    assert best < np.linalg.norm(one - other)
    assert any(np.array_equal(found.theta, theta) for theta in all_of)


@pytest.fixture
def pair(tmp_path):
    """A network with BatchNorm and another that is nearly the same with its units in another order; as a trajectory."""
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double().eval()
    module[1].running_mean, module[1].running_var = torch.randn(6).double(), torch.rand(6).double() + 0.5
    flat = FlatNetwork(module, Device(torch.device("cpu"), torch.float64))
    draws = np.random.default_rng(0)
    theta, buffers, inputs = 5 * flat.parameters(), flat.buffers(), draws.standard_normal((40, 4))
    flat.load(theta)
    targets = flat.module(torch.tensor(inputs)).argmax(1).numpy()  # so that the loss is low at both ends
    problem = TorchProblem(flat, build_loss({"name": "cross-entropy"}), data.Split(inputs, targets), 20)
    names = ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias")
    noisy = np.split(theta + 1e-3 * draws.standard_normal(len(theta)), [24, 30, 36, 42, 60])
    state = dict(zip(names, noisy, strict=True))
    order = np.array([3, 5, 4, 0, 2, 1])
    other = [state["0.weight"].reshape(6, 4)[order].ravel(), state["0.bias"][order], state["1.weight"][order]]
    other += [state["1.bias"][order], state["3.weight"].reshape(3, 6)[:, order].ravel(), state["3.bias"]]
    moved = buffers.reshape(2, 6)[:, order].ravel()
    thetas, names = np.stack([theta, np.concatenate(other)]), [("1.running_mean", (6,)), ("1.running_var", (6,))]
    trajectory = record(tmp_path / "run", thetas, np.stack([buffers, moved]), names, flat.layout)
    return trajectory, problem


def test_oracle_17_the_straight_line_before_and_after(pair, tmp_path):
    """After, the line lies within a small ball in which the loss hardly changes; before, it climbs between its ends."""
    trajectory, problem = pair
    spec = {"from": "first", "to": {"iteration": "last", "align": True}, "batchnorm": "interpolate"}
    spec |= {"range": [0, 1], "points": 11}
    course = line_scans.Between(spec, trajectory, {}, "curve", problem.interchangeable())
    made = compute(*make(tmp_path, course, {"train": problem}, spec))
    loss, ends = (
        made["loss"][:, 0],
        [problem.metrics(trajectory.parameters(k), trajectory.buffers(k))[0] for k in (0, 1)],
    )
    assert made["curve"][:].tolist() == ["aligned", "as trained"]
    assert loss[:, 0] == pytest.approx(ends[0], rel=1e-12)
    assert loss[:, -1] == pytest.approx(ends[1], rel=1e-12), "the same function"
    assert np.ptp(loss[0]) < 0.01
    assert made["barrier"][1, 0] > 0.1
    assert made.attrs["length"] == pytest.approx(1e-3 * np.sqrt(63), rel=0.3)
    apart = np.linalg.norm(trajectory.parameters(1) - trajectory.parameters(0))
    assert made["distance"][1, -1] == pytest.approx(apart)
    assert made.attrs["to"] == "iteration 1, aligned"
    assert made.attrs["alignment"].endswith("6 of 6 hidden units moved")


def test_oracle_17_a_connection_to_an_aligned_network(pair, tmp_path):
    trajectory, problem = pair
    chosen = {"kind": "connection", "to": {"iteration": "last", "align": True}, "curve": "chain", "center": "first"}
    chosen |= {"seed": 0, "epochs": 3, "learning_rate": 0.01, "normalize": "none", "ignore": []}
    job = Connection({"directions": chosen}, trajectory, subset=range(3), args=None)
    job.device = "cpu"
    bend = job.share([problem], range(1), tmp_path / "states", 600)[0]
    end, middle = job.completed(bend[None]).raw.vectors
    assert np.linalg.norm(end) == pytest.approx(1e-3 * np.sqrt(63), rel=0.3)
    assert np.linalg.norm(middle) < 0.5


class Split(nn.Module):
    """Channels cut into two heads."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(2, 2)

    def forward(self, x):
        return self.two(self.one(x).view(-1, 2, 2)).sum(1)


class Sorted(Split):
    def forward(self, x):
        return self.two(torch.sort(self.one(x))[0][:, :2])


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Split(), "align: the network has the operation aten.view, of which"),
        (Sorted(), "align: the network has the operation aten.sort, of which"),
        (nn.Linear(3, 2), "align: no hidden units of this network can change places"),
    ],
)
def test_what_is_not_understood_is_refused(module, message):
    flat = FlatNetwork(module, Device(torch.device("cpu"), torch.float64))
    with pytest.raises(LossAtlasError, match=message):
        interchangeable(flat, torch.zeros(2, 3, dtype=torch.float64))


def test_units_that_lie_twice_on_an_axis_or_meet_constants_stay():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.scale = nn.Linear(3, 4), nn.Linear(2, 2), nn.Parameter(torch.ones(2))
            self.scale.requires_grad_(False)

        def forward(self, x):
            hidden = self.one(x)
            return self.two(hidden[:, :2] + hidden[:, 2:])

    flat = FlatNetwork(Halves(), Device(torch.device("cpu"), torch.float64))
    with pytest.raises(LossAtlasError, match="no hidden units"):
        interchangeable(flat, torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "tensorflow"}, "runs.one.curves.c.to.align: needs backend: torch"),
        ({"spectra_between": {"l": {"to": {"run": "two", "align": True}}}}, "spectra_between.l.to: .*'align'"),
    ],
)
def test_mistakes_are_named(settings, message):
    one = {"model": {"name": "lenet"}, "planes": {}, "curves": {"c": {"to": {"run": "two", "align": True}}}, **settings}
    with pytest.raises(LossAtlasError, match=message):
        resolve({"runs": {"one": one, "two": {"model": {"name": "lenet"}, "seed": 1, "planes": {}}}})
