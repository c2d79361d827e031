"""Built-in networks: counts from papers and by hand, torchvision's networks, and what the rest asks of each."""

import inspect
import re
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from lossatlas import config, zoo
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, TorchTrainer, build_loss, build_module
from lossatlas.config import models
from lossatlas.data import Split
from lossatlas.geometry.normalization import drop, normalize
from lossatlas.vision import torchvision
from lossatlas.zoo.resnet import Bottleneck
from torch import nn

from tests.conftest import ROOT

FLOAT64 = Device(torch.device("cpu"), torch.float64)
FLOAT32 = Device(torch.device("cpu"), torch.float32)
CROSS_ENTROPY = build_loss({"name": "cross-entropy"})
CONVOLUTIONAL = [name for name in zoo.builders() if name != "mlp"]
NETWORKS = pytest.mark.parametrize("name", CONVOLUTIONAL)
DEPTHS = (20, 32, 56, 110)


def narrow(name: str) -> dict:
    """Return keyword arguments that make a network small but no shallower."""
    return {"width": 4} if name.startswith(("vgg", "resnet")) else {}


def built(name: str, **kwargs) -> nn.Module:
    return build_module({"name": name, "kwargs": kwargs}, seed=0)


def used(module: nn.Module) -> nn.Module:
    """Give BatchNorm parameters unlike those it begins with, and the statistics of a batch."""
    torch.manual_seed(3)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.2)
            layer.momentum = 1.0
    with torch.no_grad():
        module.train()(torch.randn(16, 3, 32, 32))
    return module.eval()


def size(name: str, **kwargs) -> int:
    """Return how many parameters a network has, without making their values."""
    with torch.device("meta"):
        return sum(p.numel() for p in zoo.builder(name)(**kwargs).parameters())


def samples(count: int) -> Split:
    rng = np.random.default_rng(0)
    return Split(rng.standard_normal((count, 3, 32, 32)).astype(np.float32), rng.integers(0, 10, count))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        *zip((f"resnet{depth}" for depth in DEPTHS), (0.27, 0.46, 0.85, 1.7), strict=True),  # He et al. 2016, table 6
        ("vgg11", 9.23),
        ("resnet50", 23.52),
        ("mobilenet-v2", 2.24),
        ("vgg9", 2.79),
    ],
)
def test_sizes_are_those_published(name, millions):
    digits = len(str(millions).split(".")[1])
    assert round(size(name) / 1e6, digits) == millions


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_sizes_of_resnets_of_any_width_by_hand(depth, k):
    n, w = (depth - 2) // 6, 16 * k
    # 3 x 3 convolutions: one from colours, 2 n in each stage, the first of stages two and three from half the channels.
    convolutions = 9 * (3 * w + 2 * n * w**2 + (2 * n - 0.5) * (2 * w) ** 2 + (2 * n - 0.5) * (4 * w) ** 2)
    norms = 2 * (w + 2 * n * (w + 2 * w + 4 * w))
    expected = convolutions + norms + 4 * w * 10 + 10
    assert size(f"resnet{depth}", width=w) == size(f"resnet{depth}-noshort", width=w) == expected


def test_sizes_by_difference_to_torchvisions_published_ones():
    published = torchvision().models.get_model_weights
    counts = {n: published(n).DEFAULT.meta["num_params"] for n in ("resnet50", "vgg11_bn", "mobilenet_v2")}
    head = {"resnet50": 2048 * 1000 + 1000, "mobilenet_v2": 1280 * 1000 + 1000}
    head["vgg11_bn"] = (512 * 7 * 7 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    stem = 3 * 64 * (7 * 7 - 3 * 3)
    assert size("resnet50") == counts["resnet50"] - stem - head["resnet50"] + 2048 * 10 + 10
    assert size("vgg11") == counts["vgg11_bn"] - head["vgg11_bn"] + 512 * 10 + 10
    assert size("mobilenet-v2") == counts["mobilenet_v2"] - head["mobilenet_v2"] + 1280 * 10 + 10
    assert size("mobilenet-v2", classes=1000) == counts["mobilenet_v2"] == 3_504_872


def test_size_of_vgg9_by_hand():
    channels = [3, 64, 64, 128, 128, 256, 256, 256]
    weights = sum(9 * a * b for a, b in pairwise(channels)) + 256 * 16 * 256 + 256 * 10
    biases = sum(channels[1:]) + 256 + 10
    norms = 2 * (sum(channels[1:]) + 256)
    assert size("vgg9") == weights + biases + norms == 2_789_706
    assert size("vgg9", batchnorm=False) == weights + biases
    assert size("vgg11", batchnorm=False) == 9_231_114 - 2 * (64 + 128 + 256 * 2 + 512 * 4)


def test_sizes_in_the_documentation_are_right():
    page = (ROOT / "docs/reference/networks.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| ([0-9,]+) \|", page, re.MULTILINE)
    assert {name: int(count.replace(",", "")) for name, count in rows} == {
        name: size(name) for name in zoo.builders() if not name.endswith("-noshort")
    }


@torch.no_grad()
def test_resnet50_is_torchvisions_but_for_the_stem():
    ours, theirs = used(built("resnet50")), torchvision().models.resnet50(num_classes=10).eval()
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("batchnorm", [True, False])
@pytest.mark.parametrize("name", ["vgg9", "vgg11"])
def test_vgg_is_torchvisions_but_for_the_dense_layers(name, batchnorm):
    plans = {
        "vgg9": [64, 64, "M", 128, 128, "M", 256, 256, 256, "M"],
        "vgg11": [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
    }
    theirs = torchvision().models.vgg.make_layers(plans[name], batchnorm).eval()
    ours, images = used(built(name, batchnorm=batchnorm)), torch.randn(2, 3, 32, 32)
    state = ours.state_dict()
    theirs.load_state_dict({key: state[key] for key in theirs.state_dict()})
    rest = [layer for layer in ours[len(theirs) :] if not isinstance(layer, nn.Flatten)]
    expected = nn.Sequential(*rest)(theirs(images).flatten(1))
    assert [type(layer).__name__ for layer in rest] == {
        ("vgg9", True): ["Linear", "BatchNorm1d", "ReLU", "Linear"],
        ("vgg9", False): ["Linear", "ReLU", "Linear"],
    }.get((name, batchnorm), ["Linear"])
    torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("width", [4, 5])
def test_without_what_the_blocks_add_shortcuts_pass_the_stem_on_and_nothing_else_does(depth, width):
    with_shortcuts = used(built(f"resnet{depth}", width=width))
    without = used(built(f"resnet{depth}-noshort", width=width))
    without.load_state_dict(with_shortcuts.state_dict())
    for network in (with_shortcuts, without):
        for block in network.blocks:
            nn.init.zeros_(block.bn2.weight)
            nn.init.zeros_(block.bn2.bias)
    images = torch.randn(3, 3, 32, 32)
    stem = torch.relu(with_shortcuts.bn(with_shortcuts.conv(images)))[:, :, ::4, ::4].mean((2, 3))
    passed = torch.zeros(3, 4 * width)
    first = width // 2 + width  # channels of zeros before, half of those that either of two stages adds
    passed[:, first : first + width] = stem
    torch.testing.assert_close(with_shortcuts(images), with_shortcuts.linear(passed))
    torch.testing.assert_close(without(images), without.linear.bias.expand(3, 10))


@torch.no_grad()
@NETWORKS
def test_scores_of_any_number_of_classes_and_weights_of_the_seed_alone(name):
    first = built(name, classes=7, **narrow(name))
    torch.manual_seed(9)
    again = built(name, classes=7, **narrow(name))
    other = build_module({"name": name, "kwargs": {"classes": 7, **narrow(name)}}, seed=1)
    assert first.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    pairs = list(zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@NETWORKS
def test_filters_are_output_channels_and_norms_are_told_from_weights(name):
    module = used(built(name, **narrow(name)))
    flat = FlatNetwork(module, FLOAT64)
    theta = flat.parameters()
    random = np.random.default_rng(0).standard_normal(theta.size)
    used_direction = normalize(drop(random, flat.layout, ["bias", "norm"]), theta, flat.layout, "filter")
    scaled = {slot.name: used_direction[slot.slice].reshape(slot.shape) for slot in flat.layout}
    filters = 0
    for prefix, layer in module.named_modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            kinds = {slot.name: slot.kind for slot in flat.layout}
            assert (kinds[f"{prefix}.weight"], kinds[f"{prefix}.bias"]) == ("norm-scale", "norm-shift")
            assert not scaled[f"{prefix}.weight"].any()
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            outputs = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
            weight = layer.weight.detach().double().numpy().reshape(outputs, -1)
            direction = scaled[f"{prefix}.weight"].reshape(outputs, -1)
            assert np.allclose(np.linalg.norm(direction, axis=1), np.linalg.norm(weight, axis=1), rtol=1e-12)
            filters += outputs
            assert layer.bias is None or not scaled[f"{prefix}.bias"].any()
    assert filters == sum(slot.shape[0] for slot in flat.layout if slot.kind == "weight")


@NETWORKS
def test_a_step_of_training_lowers_the_loss_of_its_batch(name):
    flat = FlatNetwork(built(name, **narrow(name)), FLOAT32)
    spec = {"optimizer": "SGD", "optimizer_kwargs": {}, "learning_rate": 1e-3, "batch_size": 16, "epochs": 1}
    trainer = TorchTrainer(flat, CROSS_ENTROPY, samples(16), spec, seed=0)
    before = flat.parameters()
    loss, _ = trainer.step(0)
    step = flat.parameters() - before
    assert step.any()
    assert all(step[slot.slice].any() for slot in flat.layout if slot.kind == "weight")
    later, _ = trainer.step(1)
    assert later < loss


def differences(problem: TorchProblem, theta: np.ndarray, buffers: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return central differences of the gradient along v."""
    step = 1e-6 / np.linalg.norm(v)
    ahead, behind = (problem.gradient(theta + sign * step * v, buffers) for sign in (1, -1))
    return (ahead - behind) / (2 * step)


@NETWORKS
def test_oracle_3_hessian_products_are_differences_of_gradients(name, monkeypatch):
    # Deep ResNets have so many kinks that any step crosses one. Their running statistics stay near where they begin,
    # for with those of a batch they amplify, without shortcuts, a step of 1e-6 beyond all differences.
    monkeypatch.setattr(nn.functional, "relu", lambda x, inplace=False: nn.functional.silu(x))
    module = built(name, **narrow(name)).train()
    torch.manual_seed(3)
    for _ in range(2):
        module(torch.randn(8, 3, 32, 32))
    flat = FlatNetwork(module, FLOAT64)
    problem = TorchProblem(flat, CROSS_ENTROPY, samples(2), 2)
    theta, buffers = flat.parameters(), flat.buffers()
    v = np.random.default_rng(1).standard_normal(theta.size)
    product = problem.linearize(theta, buffers, strategy="rebuild").matmat(v[None])[0]
    expected = differences(problem, theta, buffers, v)
    assert np.abs(product - expected).max() < 1e-6 * np.abs(expected).max()


def blocks_of_mobilenet() -> nn.Module:
    """Return what MobileNet-V2 is made of, once each: with and without expansion, stride and shortcut."""
    plan = [[1, 8, 1, 1], [2, 8, 2, 2]]
    return torchvision().models.MobileNetV2(10, width_mult=0.25, inverted_residual_setting=plan, dropout=0.2)


def blocks_of_resnet50() -> nn.Module:
    """Return Bottlenecks with a projected and with a plain shortcut."""
    return nn.Sequential(Bottleneck(3, 2, 2), Bottleneck(8, 2, 1), nn.AvgPool2d(16), nn.Flatten(), nn.Linear(8, 10))


@pytest.mark.parametrize(
    "build", [blocks_of_mobilenet, blocks_of_resnet50, lambda: built("vgg9", width=2)], ids=["mobile", "bottle", "vgg"]
)
def test_oracle_3_new_building_blocks_are_split(build):
    torch.manual_seed(0)
    flat = FlatNetwork(used(build()), FLOAT64)
    problem = TorchProblem(flat, CROSS_ENTROPY, samples(2), 2)
    theta, buffers = flat.parameters(), flat.buffers()
    vectors = np.random.default_rng(1).standard_normal((2, theta.size))
    products = problem.linearize(theta, buffers, strategy="split").matmat(vectors)
    for v, product in zip(vectors, products, strict=True):
        expected = differences(problem, theta, buffers, v)
        assert np.abs(product - expected).max() < 1e-6 * np.abs(expected).max()


def test_the_config_knows_every_network_and_what_it_takes():
    assert sorted(get_args(models.NetworkName)) == sorted(zoo.builders())
    for name, build in zoo.builders().items():
        takes = inspect.signature(build).parameters
        for keyword, parameter in takes.items():
            default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            resolved = {"runs": {"a": {"model": {"name": name, "kwargs": {keyword: default}}}}}
            assert config.resolve(resolved)["runs"]["a"]["model"]["kwargs"] == {keyword: default}
        for keyword in models.NetworkKwargs.fields().keys() - takes.keys():
            with pytest.raises(Exception, match=rf"runs.a.model.kwargs: '{keyword}' is not one of "):
                config.resolve({"runs": {"a": {"model": {"name": name, "kwargs": {keyword: 1}}}}})
