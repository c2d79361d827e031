"""Small networks of many kinds, with their samples: what people bring to planes and curves."""

from collections.abc import Callable

import numpy as np
import torch
from lossatlas.data import Split
from torch import Tensor, nn
from torch.nn import functional

SAMPLES, CLASSES = 23, 5
VECTOR, SERIES, SEQUENCE, IMAGE = (12,), (3, 14), (6, 8), (3, 13, 13)
TOKENS = (6,)


def head(network: nn.Module, width: int) -> nn.Sequential:
    """Classes from the ``width`` numbers that a network makes of a sample."""
    return nn.Sequential(network, nn.Flatten(), nn.Linear(width, CLASSES))


class First(nn.Module):
    """The first of several results."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class SelfAttention(nn.Module):
    def __init__(self, **choices):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **choices)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class CausalAttention(nn.Module):
    """Scaled dot products with a mask, spelled out, and rotary tables that are made when they are first needed."""

    def __init__(self, lazy: bool = False, masked_in_place: bool = False):
        super().__init__()
        self.qkv, self.out, self.lazy, self.in_place = nn.Linear(8, 24), nn.Linear(8, 8), lazy, masked_in_place
        self.table = None

    def rotated(self, x: Tensor) -> Tensor:
        if not self.lazy:
            return x
        if self.table is None:
            angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * 0.5 ** torch.arange(4, dtype=x.dtype)
            self.table = torch.cos(angles), torch.sin(angles)
        cos, sin = self.table
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = self.rotated(q), self.rotated(k)
        scores = q @ k.transpose(-2, -1) / 8**0.5
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill_(mask, -1e9) if self.in_place else scores.masked_fill(mask, -1e9)
        return self.out(scores.softmax(-1) @ v)


class Fused(nn.Module):
    """PyTorch's own scaled dot product attention, causal."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        made = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(made.transpose(1, 2).flatten(2))


class Cells(nn.Module):
    """A recurrent cell, step by step."""

    def __init__(self, kind: type):
        super().__init__()
        self.cell = kind(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state[0] if isinstance(state, tuple) else state


class Tied(nn.Module):
    """Token and place embeddings, and scores by the former's weights."""

    def __init__(self, **choices):
        super().__init__()
        self.embed, self.place, self.norm = nn.Embedding(11, 8, **choices), nn.Embedding(6, 8), nn.LayerNorm(8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.embed(tokens) + self.place(places)))[:, 0, :CLASSES]


class Twice(nn.Module):
    """One layer used on the samples and again on its own result."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(torch.tanh(self.layer(x))))


class TwiceLinear(nn.Module):
    """Products of what is linear: a layer applied twice without a nonlinearity, squares, weights times weights."""

    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(12, 12), nn.Parameter(torch.linspace(0.5, 1.5, 12))

    def forward(self, x: Tensor) -> Tensor:
        once = self.layer(x)
        return self.layer(once) + once * once * 0.1 + once * self.scale + torch.mul(once, once.detach())


class InPlace(nn.Module):
    """In-place operations on results, on views of them and on a copy of the samples."""

    def __init__(self):
        super().__init__()
        self.layer, self.other = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        made = self.layer(x)
        made[:, :4] *= 2.0
        made[:, 4:8].relu_()
        made[:, 8:] += self.other(x)[:, 8:]
        copy = x.clone()
        copy[:, ::2] = made[:, ::2]
        copy.index_copy_(1, torch.tensor([1, 3]), made[:, :2])
        return made.add_(copy).tanh_()


class WritesSamples(nn.Module):
    """Changes its samples and back again: standardised in place, as some preprocessing does."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        x.sub_(x.mean(1, keepdim=True)).div_(x.std(1, keepdim=True))
        buffer = torch.zeros(len(x), 12, dtype=x.dtype)
        buffer.copy_(self.layer(x))
        return torch.tanh(buffer)


class Filled(nn.Module):
    """A result that is filled part by part, by slices and by indices."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(12, 6), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        made = x.new_zeros(len(x), 12)
        made[:, :6] = self.one(x)
        made[:, torch.arange(6, 12)] = self.two(x)
        return torch.sin(made)


class Dict(nn.Module):
    def __init__(self, layer: nn.Module, form: str):
        super().__init__()
        self.layer, self.form = layer, form

    def forward(self, x: Tensor):
        made = self.layer(x)
        return {"logits": made} if self.form == "dict" else (made, made.mean(1))


class Residual(nn.Module):
    def __init__(self, layer: nn.Module, shortcut: nn.Module | None = None):
        super().__init__()
        self.layer, self.shortcut = layer, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x) + self.shortcut(x))


class Affine(nn.Module):
    """Everything that stays linear in the weights: divisions, means, concatenations with constants, paddings, sums."""

    def __init__(self):
        super().__init__()
        self.layer, self.shift = nn.Linear(12, 12), nn.Parameter(torch.ones(1, 12))

    def forward(self, x: Tensor) -> Tensor:
        made = torch.add(self.layer(x), x, alpha=0.5) - torch.sub(self.shift, x, alpha=2)
        made = torch.cat([made, x, torch.ones_like(x), self.shift.expand(len(x), -1)], 1)
        made = functional.pad(made, (1, 1), value=0.7) / 1.5
        product = torch.addmm(made, x, self.layer.weight[:, :1].expand(-1, 50), beta=0.5, alpha=2)
        rows = torch.stack([made, made.flip(1), 2 - made, product])
        rows = torch.cat([rows, rows.cumsum(0), torch.roll(rows, 1, 2)])
        return torch.tanh(rows.mean(0) + rows.sum(0, keepdim=True)[0] + torch.where(made > 0.1, made, 0.5 * made))


class Scaled(nn.Module):
    """A dense layer whose bias and product have factors, before a BatchNorm."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(12, 9), nn.BatchNorm1d(9)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(torch.addmm(self.layer.bias, x, self.layer.weight.T, beta=0.5, alpha=2)))


class Rounded(nn.Module):
    """Divisions that round, and other steps: nothing here is linear."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        made = self.layer(x)
        steps = torch.div(made, 0.3, rounding_mode="floor") + made.round() + made.int() + made.clamp(-0.5, 0.5)
        steps = steps + made.remainder(0.4) + made.abs() + torch.maximum(made, x)
        return steps + made.sum(1, keepdim=True, dtype=torch.int64)


class Pools(nn.Module):
    """Pools of odd images, rounded up, with overlap, padding, dilation, oblong windows, averages and their indices."""

    def forward(self, x: Tensor) -> Tensor:
        places = functional.max_pool2d(x, 2, return_indices=True)[1].to(x.dtype) * 1e-3
        pools = [
            functional.max_pool2d(x, 2), functional.max_pool2d(x, 3), functional.max_pool2d(torch.relu(x), 2),
            functional.max_pool2d(x, 2, ceil_mode=True), functional.max_pool2d(x, 3, 2), places,
            functional.max_pool2d(x, 2, padding=1), functional.max_pool2d(x, 2, dilation=2),
            functional.max_pool2d(x, (2, 3)), functional.avg_pool2d(x, 2), functional.adaptive_max_pool2d(x, 2),
            functional.adaptive_avg_pool2d(x, 3), functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
            functional.lp_pool2d(x.abs() + 1, 2, 2),
        ]  # fmt: skip
        return torch.stack([pool.mean((2, 3)) for pool in pools], 1)


def norms_of(build: Callable[[], nn.Module]) -> nn.Module:
    """Return a network whose norms are not as they were made: weights of both signs, statistics that were moved."""
    module, generator = build(), torch.Generator().manual_seed(1)
    for layer in module.modules():
        if "Norm" in type(layer).__name__:
            for parameter in layer.parameters(recurse=False):
                parameter.data += torch.randn(parameter.shape, generator=generator)
            for name, buffer in layer.named_buffers(recurse=False):
                if name != "num_batches_tracked":
                    buffer.data += torch.rand(buffer.shape, generator=generator)
    return module


def conv(width: int, *layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, CLASSES))


NETWORKS: dict[str, tuple[tuple, Callable[[], nn.Module]]] = {
    "mlp": (VECTOR, lambda: head(nn.Sequential(nn.Linear(12, 9), nn.GELU(), nn.Linear(9, 7), nn.SiLU()), 7)),
    "linear": (VECTOR, lambda: nn.Linear(12, CLASSES)),
    "without bias": (
        VECTOR,
        lambda: head(nn.Sequential(nn.Linear(12, 9, bias=False), nn.BatchNorm1d(9), nn.ReLU()), 9),
    ),
    "scaled": (VECTOR, lambda: head(Scaled(), 9)),
    "twice": (VECTOR, lambda: head(Twice(), 12)),
    "twice linear": (VECTOR, lambda: head(TwiceLinear(), 12)),
    "affine": (VECTOR, lambda: head(Affine(), 50)),
    "rounded": (VECTOR, lambda: head(Rounded(), 12)),
    "in place": (VECTOR, lambda: head(InPlace(), 12)),
    "writes its samples": (VECTOR, lambda: head(WritesSamples(), 12)),
    "filled": (VECTOR, lambda: head(Filled(), 12)),
    "weight norm": (
        VECTOR,
        lambda: head(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(12, 9)), nn.Tanh()), 9),
    ),
    "spectral norm": (
        VECTOR,
        lambda: head(nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(12, 9)), nn.Tanh()), 9),
    ),
    "bilinear": (VECTOR, lambda: head(Paired(), 7)),
    "dict": (VECTOR, lambda: Dict(nn.Linear(12, CLASSES), "dict")),
    "tuple": (VECTOR, lambda: Dict(nn.Linear(12, CLASSES), "tuple")),
    "dropout": (VECTOR, lambda: head(nn.Sequential(nn.Linear(12, 9), nn.Dropout(0.5), nn.AlphaDropout(0.1)), 9)),
    "embedding": (TOKENS, lambda: head(nn.Embedding(11, 4), 24)),
    "padded embedding": (TOKENS, lambda: head(nn.Embedding(11, 4, padding_idx=0, scale_grad_by_freq=True), 24)),
    "renormed embedding": (TOKENS, lambda: head(nn.Embedding(11, 4, max_norm=0.8), 24)),
    "embedding bag": (TOKENS, lambda: head(nn.EmbeddingBag(11, 4), 4)),
    "tied": (TOKENS, Tied),
    "lstm": (SEQUENCE, lambda: head(First(nn.LSTM(8, 5, batch_first=True)), 30)),
    "two-way lstm": (SEQUENCE, lambda: head(First(nn.LSTM(8, 5, 2, batch_first=True, bidirectional=True)), 60)),
    "projected lstm": (SEQUENCE, lambda: head(First(nn.LSTM(8, 5, batch_first=True, proj_size=3)), 18)),
    "gru": (SEQUENCE, lambda: head(First(nn.GRU(8, 5, 2, batch_first=True)), 30)),
    "rnn": (SEQUENCE, lambda: head(First(nn.RNN(8, 5, batch_first=True)), 30)),
    "lstm cell": (SEQUENCE, lambda: head(Cells(nn.LSTMCell), 6)),
    "gru cell": (SEQUENCE, lambda: head(Cells(nn.GRUCell), 6)),
    "attention": (SEQUENCE, lambda: head(SelfAttention(), 48)),
    "attention with keys": (SEQUENCE, lambda: head(SelfAttention(add_bias_kv=True, add_zero_attn=True), 48)),
    "encoder": (
        SEQUENCE,
        lambda: head(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True), 48),
    ),
    "post-norm encoder": (SEQUENCE, lambda: head(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 48)),
    "causal attention": (SEQUENCE, lambda: head(CausalAttention(), 48)),
    "rotary": (SEQUENCE, lambda: head(CausalAttention(lazy=True, masked_in_place=True), 48)),
    "fused attention": (SEQUENCE, lambda: head(Fused(), 48)),
    "series": (
        SERIES,
        lambda: conv(
            24, nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(6, 8, 3, dilation=2), nn.BatchNorm1d(8), nn.Tanh(),
        ),
    ),
    "norm of the samples": (IMAGE, lambda: conv(2028, nn.BatchNorm2d(3), nn.Conv2d(3, 12, 3, padding=1), nn.ReLU())),
    "grouped": (
        IMAGE,
        lambda: conv(
            294, nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 6, 3, 2, 2, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU6(), nn.Hardswish(),
            nn.Conv2d(6, 6, 1, groups=2), nn.BatchNorm2d(6, affine=False), nn.ReLU(),
        ),
    ),
    "transposed": (
        IMAGE,
        lambda: conv(
            294, nn.ConvTranspose2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, dilation=2),
            nn.ConvTranspose2d(8, 6, 2, groups=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(7),
        ),
    ),
    "padded convolutions": (
        IMAGE,
        lambda: conv(
            162, nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.LeakyReLU(),
            nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular"), nn.ELU(inplace=True), nn.ZeroPad2d(1),
            nn.Conv2d(4, 2, 3, dilation=3),
        ),
    ),
    "residual": (
        IMAGE,
        lambda: conv(
            150, nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
            Residual(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
                                   nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))),
            Residual(nn.Sequential(nn.Conv2d(6, 6, 3, 2, bias=False), nn.BatchNorm2d(6)),
                     nn.Sequential(nn.Conv2d(6, 6, 1, 2), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(6))),
            nn.AvgPool2d(2, 1),
        ),
    ),
    "pools": (IMAGE, lambda: conv(56, nn.Conv2d(3, 4, 3), Pools())),
    "pools of norms": (
        IMAGE,
        lambda: conv(
            30, nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, 3), nn.MaxPool2d(2),
            nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 30, 1), nn.AdaptiveMaxPool2d(1),
        ),
    ),
    "group norm": (IMAGE, lambda: conv(726, nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6), nn.ReLU())),
    "instance norm": (IMAGE, lambda: conv(726, nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.ReLU())),
    "tracked instance norm": (
        IMAGE,
        lambda: conv(726, nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, track_running_stats=True), nn.ReLU()),
    ),
    "layer norm": (IMAGE, lambda: conv(726, nn.Conv2d(3, 6, 3), nn.LayerNorm([6, 11, 11]), nn.ReLU())),
    "rms norm": (VECTOR, lambda: head(nn.Sequential(nn.Linear(12, 9), nn.RMSNorm(9), nn.Softplus()), 9)),
    "local response norm": (IMAGE, lambda: conv(726, nn.Conv2d(3, 6, 3), nn.LocalResponseNorm(2), nn.PReLU(6))),
    "norm of sequences": (
        SEQUENCE,
        lambda: conv(54, nn.Linear(8, 9), nn.BatchNorm1d(6), nn.ReLU(), nn.LayerNorm(9)),
    ),
    "volumes": (
        (2, 5, 6, 7),
        lambda: conv(
            24, nn.Conv3d(2, 3, 3, padding=1), nn.BatchNorm3d(3), nn.ReLU(), nn.MaxPool3d(2),
            nn.ConvTranspose3d(3, 2, 1), nn.BatchNorm3d(2), nn.AdaptiveAvgPool3d((2, 2, 3)),
        ),
    ),
    "shuffled": (
        IMAGE,
        lambda: conv(
            676, nn.Conv2d(3, 16, 1), nn.PixelShuffle(2), nn.Upsample(scale_factor=0.5), nn.ChannelShuffle(2),
            nn.Softmax2d(),
        ),
    ),
    "mixer": (SEQUENCE, lambda: head(Mixed(), 48)),
}  # fmt: skip
"""Shapes of a sample, and how a network is built."""


class Paired(nn.Module):
    """A bilinear layer, the samples against what a layer makes of them."""

    def __init__(self):
        super().__init__()
        self.layer, self.pair = nn.Linear(12, 6), nn.Bilinear(12, 6, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.pair(x, self.layer(x))


class Mixed(nn.Module):
    """Mixes places by a dense layer on a transposed axis, einsum, negative axes, broadcast scales and views."""

    def __init__(self):
        super().__init__()
        self.places, self.mix = nn.Linear(6, 6), nn.Parameter(torch.linspace(-1, 1, 64).view(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        made = self.places(x.permute(0, -1, 1)).movedim(-1, 1)
        made = torch.einsum("ntc,cd->ntd", made, self.mix) + x.view(len(x), -1).view_as(x)
        return made.softmax(-1) + made.amax(1, keepdim=True) + torch.linalg.vector_norm(made, dim=-1, keepdim=True)


def split(shape: tuple, count: int = SAMPLES, seed: int = 0) -> Split:
    """Return samples of a shape, ``TOKENS`` from a vocabulary of eleven, and their classes."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(0, 11, (count, *shape)) if shape == TOKENS else rng.standard_normal((count, *shape))
    return Split(inputs, rng.integers(0, CLASSES, count))
