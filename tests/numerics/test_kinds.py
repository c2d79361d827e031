"""Kinds and filters of parameters: what ``ignore: [bias, norm]`` leaves out, and along which axis filters lie."""

import lossatlas
import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork
from lossatlas.errors import LossAtlasError
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

FLOAT64 = Device(torch.device("cpu"), torch.float64)
SCALE, SHIFT, BIAS = ("norm-scale", None), ("norm-shift", None), ("bias", None)


class ChannelNorm(nn.Module):
    """One of the user's own, with a number for each channel."""

    def __init__(self):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(3, 1, 1)), nn.Parameter(torch.zeros(3, 1, 1))


def kinds(module):
    return {slot.name: (slot.kind, slot.filter_axis) for slot in FlatNetwork(module, FLOAT64).layout}


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.LSTM(3, 4, bidirectional=True), {f"bias_{w}_l0{r}": BIAS for w in ("ih", "hh") for r in ("", "_reverse")}),
        (nn.GRUCell(3, 4), {"bias_ih": BIAS, "bias_hh": BIAS, "weight_ih": ("weight", 0)}),
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), {f"{n}": BIAS for n in ("in_proj_bias", "bias_k", "bias_v")}),
        (nn.MultiheadAttention(4, 2), {"in_proj_weight": ("weight", 0), "out_proj.bias": BIAS}),
        (nn.LayerNorm([2, 3, 4]), {"weight": SCALE, "bias": SHIFT}),
        (nn.RMSNorm([2, 3]), {"weight": SCALE}),
        (nn.GroupNorm(2, 4), {"weight": SCALE, "bias": SHIFT}),
        (nn.InstanceNorm2d(3, affine=True), {"weight": SCALE, "bias": SHIFT}),
        (ChannelNorm(), {"gamma": SCALE, "beta": SHIFT}),
        (nn.ConvTranspose2d(3, 5, 2), {"weight": ("weight", 1), "bias": BIAS}),
        (spectral_norm(nn.ConvTranspose2d(3, 5, 2)), {"parametrizations.weight.original": ("weight", 1)}),
        (weight_norm(nn.Linear(3, 5), dim=0), {f"parametrizations.weight.original{k}": ("weight", 0) for k in (0, 1)}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kinds_and_filter_axes(module, expected):
    found = kinds(module)
    assert {name: found[name] for name in expected} == expected


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.lstm, self.last = nn.LayerNorm([5, 3]), nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.lstm(self.norm(x))[0][:, -1])


def test_random_planes_leave_biases_and_norms_of_recurrent_networks_out():
    torch.manual_seed(0)
    module, rng = Recurrent().double(), np.random.default_rng(0)
    data = rng.standard_normal((6, 5, 3)), rng.integers(0, 2, 6)
    vectors = lossatlas.plane(module, "cross-entropy", data, points=(3, 3), vectors=True)["direction"].values
    start = 0
    for name, parameter in module.named_parameters():
        part, start = vectors[:, start : start + parameter.numel()], start + parameter.numel()
        assert part.any() == (name in ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "last.weight")), name


def test_modules_that_keep_what_they_compute_are_copied():
    """``torch.nn.utils.weight_norm`` leaves the weight beside what it is made from."""
    with pytest.warns(FutureWarning, match="weight_norm"):
        module = nn.utils.weight_norm(nn.Linear(3, 5)).double()
    flat, x = FlatNetwork(module, FLOAT64), torch.ones(2, 3, dtype=torch.float64)
    assert torch.equal(flat.module(x), module(x))
    flat.theta.mul_(2)  # the magnitudes and the bias count
    assert torch.allclose(flat.module(x), 2 * module(x))
    module.kept = (part for part in ())
    with pytest.raises(LossAtlasError, match=r"copy\.deepcopy of it fails"):
        FlatNetwork(module, FLOAT64)
