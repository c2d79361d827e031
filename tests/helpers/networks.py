"""Small networks of every kind that people bring, each with samples and a loss: fewer than 500 parameters.

``NETWORKS`` says of each how it is built, its inputs and targets, and its loss. Where the derivatives that are wanted
are not those that PyTorch gives for the module, ``plain`` is how the reference evaluates it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

SAMPLES, STEPS, WIDTH, CLASSES, WORDS = 4, 4, 4, 3, 6
cross_entropy = functional.cross_entropy


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean square error, smooth in the outputs."""
    return (outputs - targets).square().mean()


def of_sequences(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of scores (N, T, C)."""
    return cross_entropy(outputs.transpose(1, 2), targets)


def of_sequences_softly(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of scores (N, T, C) with shares of classes."""
    return cross_entropy(outputs.transpose(1, 2), targets.transpose(1, 2))


def features(*shape: int) -> Tensor:
    """Normal inputs."""
    return torch.randn(SAMPLES, *shape, dtype=torch.float64)


def classes(*shape: int) -> Tensor:
    """Classes."""
    return torch.randint(0, CLASSES, (SAMPLES, *shape))


vectors, images = partial(features, WIDTH), partial(features, 2, 6, 6)
sequences = partial(features, STEPS, WIDTH)


def words() -> Tensor:
    """Words, among which 0 is padding and some come twice."""
    return torch.tensor([[1, 2, 2, 0], [3, 1, 0, 0], [5, 4, 3, 1], [2, 2, 5, 0]])


class Net(nn.Module):
    """A network given by its layers and a function of (itself, inputs)."""

    def __init__(self, function: Callable, **layers: object):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> object:
        """Apply the function."""
        return self.function(self, x)


@dataclass(frozen=True)
class Case:
    """A network with samples and a loss.

    ``ways`` are those in which products can be computed; ``smooth`` is false where float32 may take another course.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor] = vectors
    targets: Callable[[], Tensor] = classes
    loss: Callable = cross_entropy
    plain: Callable | None = None
    ways: tuple[str, ...] = ("split", "retained", "rebuild")


def param(*shape: int) -> nn.Parameter:
    """Normal parameters, of the size that keeps values near one."""
    return nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)


def attend(function: Callable, **layers: object) -> Callable:
    """Return a builder of queries, keys and values, attention and a head; the mean over steps is classified."""
    return lambda: Net(
        lambda m, x: m.head(function(m, *m.qkv(x).chunk(3, -1)).mean(1)),
        qkv=nn.Linear(WIDTH, 3 * WIDTH),
        head=nn.Linear(WIDTH, CLASSES),
        **{name: build() for name, build in layers.items()},
    )


def heads(x: Tensor) -> Tensor:
    """Return (N, T, D) as two heads (N, 2, T, D / 2)."""
    return x.unflatten(-1, (2, -1)).transpose(1, 2)


def scaled(q: Tensor, k: Tensor, v: Tensor, **how: object) -> Tensor:
    """Attention by two heads, as PyTorch computes it."""
    found = functional.scaled_dot_product_attention(heads(q), heads(k), heads(v), **how)
    return found.transpose(1, 2).flatten(2)


def by_hand(m: Net, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by einsum with a bias for each distance."""
    steps = torch.arange(STEPS)
    scores = torch.einsum("nhqd,nhkd->nhqk", heads(q), heads(k)) / 2**0.5
    scores = scores + m.bias[:, steps[:, None] - steps[None] + STEPS - 1]
    scores = scores.masked_fill(torch.ones(STEPS, STEPS, dtype=torch.bool).triu(1), float("-inf"))
    return torch.einsum("nhqk,nhkd->nqhd", scores.softmax(-1), heads(v)).flatten(2)


class Rotary(nn.Module):
    """Turns pairs of entries by angles that grow with the step; the table is made when it is first needed."""

    table = None

    def forward(self, x: Tensor) -> Tensor:
        """Turn (N, T, D)."""
        if self.table is None or self.table.shape[1] != x.shape[1]:
            angles = torch.arange(x.shape[1], dtype=x.dtype)[:, None] / 10.0 ** torch.arange(x.shape[2] // 2)
            self.table = torch.stack([angles.cos(), angles.sin()])
        cos, sin = self.table
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def multihead(function: Callable, **how: object) -> Callable:
    """Return a builder of ``MultiheadAttention`` after a layer; ``function`` uses it."""
    return lambda: Net(
        lambda m, x: m.head(function(m.attention, torch.tanh(m.first(x)))),
        first=nn.Linear(WIDTH, WIDTH),
        attention=nn.MultiheadAttention(WIDTH, 2, batch_first=True, **how),
        head=nn.Linear(WIDTH, CLASSES),
    )


def weighted(attention: nn.Module, x: Tensor, **how: object) -> Tensor:
    """Attention that also returns its weights, of which the outputs are made."""
    values, weights = attention(x, x, x, **how)
    return values.mean(1) + weights.square().flatten(1).sum(1, keepdim=True)


CAUSAL = torch.triu(torch.full((STEPS, STEPS), float("-inf"), dtype=torch.float64), 1)
PADDED = torch.tensor([[0.0, 0.0, 0.0, float("-inf")]], dtype=torch.float64)


def encoder(**how: object) -> Callable:
    """Return a builder of an encoder layer and a head."""
    return lambda: nn.Sequential(
        nn.Linear(WIDTH, WIDTH),
        nn.TransformerEncoderLayer(WIDTH, 2, 6, dropout=0.1, batch_first=True, **how),
        Net(lambda m, x: m.head(x.mean(1)), head=nn.Linear(WIDTH, CLASSES)),
    )


def decoder(**how: object) -> Callable:
    """Return a builder of a decoder layer that looks at a transformation of its own inputs."""
    return lambda: Net(
        lambda m, x: m.head(m.layer(x, torch.tanh(m.memory(x)), tgt_mask=CAUSAL.to(x.dtype))),
        memory=nn.Linear(WIDTH, WIDTH),
        layer=nn.TransformerDecoderLayer(WIDTH, 2, 6, dropout=0.1, batch_first=True, **how),
        head=nn.Linear(WIDTH, CLASSES),
    )


def recurrent(kind: type, hidden: int = 4, **how: object) -> Callable:
    """Return a builder of a recurrent network whose steps are all classified."""
    sizes = (how.get("proj_size") or hidden) * (2 if how.get("bidirectional") else 1)
    return lambda: Net(
        lambda m, x: m.head(m.layers(x)[0]),
        layers=kind(WIDTH, hidden, batch_first=True, **how),
        head=nn.Linear(sizes, CLASSES),
    )


def cell(kind: type, **how: object) -> Callable:
    """Return a builder of a cell that is applied step by step."""

    def run(m: Net, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = m.cell(step, state)
        return m.head(state[0] if isinstance(state, tuple) else state)

    return lambda: Net(run, cell=kind(WIDTH, 4, **how), head=nn.Linear(4, CLASSES))


def embedded(how: dict, **reference: object) -> dict:
    """Return a case of an embedding; the reference evaluates its rows as if they were any others."""
    return {
        "build": lambda: Net(
            lambda m, x: m.head(torch.tanh(m.embed(x)).mean(1)),
            embed=nn.Embedding(WORDS, 4, **how),
            head=nn.Linear(4, CLASSES),
        ),
        "plain": lambda m, x: m.head(torch.tanh(m.embed.weight[x]).mean(1)),
        "inputs": words,
        **reference,
    }


def tied() -> nn.Module:
    """Words in, scores of words out, by the same weights."""
    net = Net(lambda m, x: m.out(torch.tanh(m.mix(m.embed(x)))), embed=nn.Embedding(WORDS, 4), mix=nn.Linear(4, 4))
    net.out = nn.Linear(4, WORDS, bias=False)
    net.out.weight = net.embed.weight
    return net


def normal(g: Tensor, v: Tensor) -> Tensor:
    """Weights of these norms, row by row; spelled out."""
    return torch.stack([row * (norm / row.pow(2).sum().sqrt()) for norm, row in zip(g.flatten(), v, strict=True)])


def conv(*layers: Callable[[], nn.Module], channels: int = 2, last: int | None = None) -> Callable:
    """Return a builder of a convolution, tanh, the layers, and the classified mean over all pixels."""
    return lambda: nn.Sequential(
        nn.Conv2d(2, channels, 3),
        nn.Tanh(),
        *[layer() for layer in layers],
        Net(lambda m, x: m.head(x.square().flatten(2).mean(2)), head=nn.Linear(last or channels, CLASSES)),
    )


def between(*layers: Callable[[], nn.Module], hidden: int = 4, last: int | None = None) -> Callable:
    """Return a builder of layers between two dense ones."""
    return lambda: nn.Sequential(
        nn.Linear(WIDTH, hidden), *[layer() for layer in layers], nn.Linear(last or hidden, CLASSES)
    )


def applied(function: Callable, last: int = 4, hidden: int = 4) -> Callable:
    """Return a builder of a function of activations (N, hidden) between two dense layers."""
    return between(lambda: Net(lambda _, x: function(x)), hidden=hidden, last=last)


def used(norm: nn.Module) -> nn.Module:
    """Return BatchNorm whose running statistics are those of some samples, and whose weights are not one."""
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    norm.running_mean.uniform_(-0.5, 0.5)
    norm.running_var.uniform_(0.5, 2.0)
    return norm


def twice_used() -> nn.Module:
    """One layer, applied twice."""
    return Net(
        lambda m, x: m.head(torch.tanh(m.layer(torch.tanh(m.layer(x))))), layer=nn.Linear(4, 4), head=nn.Linear(4, 3)
    )


def in_place(x: Tensor) -> Tensor:
    """Changes its own tensors in place."""
    y = 1.5 * x
    y.add_(x.square()).mul_(0.5)
    y[:, 1:3] = y[:, 1:3].exp() * x[:, :1]
    y[:, 3].sub_(x[:, 0])
    return functional.leaky_relu(y, inplace=True)


def spectrum(x: Tensor) -> Tensor:
    """Filter by a Fourier transform."""
    return torch.fft.irfft(torch.fft.rfft(x) * torch.complex(x[:, :3], x[:, 1:]), n=4)


def phases(x: Tensor) -> Tensor:
    """Multiply pairs as complex numbers."""
    z = torch.view_as_complex(x.unflatten(1, (2, 2)).contiguous())
    return torch.view_as_real(z * z.flip(1) + z.abs()).flatten(1)


class Halved(torch.autograd.Function):
    """An operation of a user's own with a backward pass, and no rule for anything else."""

    @staticmethod
    def forward(ctx, x):
        """Return x^2 / 2."""
        ctx.save_for_backward(x)
        return x.square() / 2

    @staticmethod
    def backward(ctx, g):
        """Return its derivative."""
        return g * ctx.saved_tensors[0]


def counted() -> nn.Module:
    """Counts its evaluations in a buffer that plays no part."""

    def run(m: Net, x: Tensor) -> Tensor:
        m.count += 1
        return m.head(torch.tanh(m.first(x)))

    net = Net(run, first=nn.Linear(4, 4), head=nn.Linear(4, CLASSES))
    net.register_buffer("count", torch.zeros((), dtype=torch.long))
    return net


def frozen() -> nn.Module:
    """A network whose first layer is not trained."""
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    for parameter in net[0].parameters():
        parameter.requires_grad_(False)
    return net


def residual() -> nn.Module:
    """Two residual blocks with LayerNorm before each."""
    block = lambda: Net(  # noqa: E731
        lambda m, x: x + m.out(functional.gelu(m.into(m.norm(x)))),
        norm=nn.LayerNorm(4),
        into=nn.Linear(4, 6),
        out=nn.Linear(6, 4),
    )
    return nn.Sequential(block(), block(), nn.Linear(4, CLASSES))


def two_heads(kind: type) -> Callable:
    """Return a builder of a network with two outputs, in a tuple or a dict."""
    return lambda: Net(
        lambda m, x: (
            (m.one(torch.tanh(m.first(x))), m.two(torch.tanh(m.first(x))))
            if kind is tuple
            else {"scores": m.one(torch.tanh(m.first(x))), "value": m.two(torch.tanh(m.first(x)))}
        ),
        first=nn.Linear(4, 4),
        one=nn.Linear(4, CLASSES),
        two=nn.Linear(4, 1),
    )


def of_two(outputs: object, targets: Tensor) -> Tensor:
    """Cross-entropy of the first output and the square of the second one, per sample."""
    scores, value = outputs.values() if isinstance(outputs, dict) else outputs
    return cross_entropy(scores, targets, reduction="none") + (value[:, 0] - targets).square() * scores[:, 0].cosh()


def constant(function: Callable) -> Callable:
    """Return a builder of a network that hides part of its course from derivatives."""
    return lambda: Net(
        lambda m, x: m.head(torch.tanh(m.first(x)) * function(m, x)), first=nn.Linear(4, 4), head=nn.Linear(4, CLASSES)
    )


def without_gradient(m: Net, x: Tensor) -> Tensor:
    """Return scales that are taken for constants."""
    with torch.no_grad():
        return m.first(x).sigmoid()


IMAGES, PER_STEP = {"inputs": images}, {"inputs": sequences, "targets": partial(classes, STEPS), "loss": of_sequences}
SEQUENCES = {"inputs": sequences}

NETWORKS = {
    # Attention.
    "multihead": Case(multihead(lambda a, x: a(x, x, x, need_weights=False)[0].mean(1)), **SEQUENCES),
    "multihead, weights used": Case(multihead(weighted), **SEQUENCES),
    "multihead, weights of each head": Case(multihead(partial(weighted, average_attn_weights=False)), **SEQUENCES),
    "multihead, masks": Case(
        multihead(
            lambda a, x: a(
                x, x, x, attn_mask=CAUSAL.to(x.dtype), key_padding_mask=PADDED.expand(len(x), -1).to(x.dtype)
            )[0].mean(1)
        ),
        **SEQUENCES,
    ),
    "multihead, causal hint": Case(
        multihead(lambda a, x: a(x, x, x, attn_mask=CAUSAL.to(x.dtype), is_causal=True, need_weights=False)[0].mean(1)),
        **SEQUENCES,
    ),
    "multihead, other keys and values": Case(
        multihead(
            lambda a, x: a(x, x[..., :3], x[:, :, :2])[0].mean(1), kdim=3, vdim=2, add_bias_kv=True, add_zero_attn=True
        ),
        **SEQUENCES,
    ),
    "attention": Case(attend(lambda m, q, k, v: scaled(q, k, v)), **SEQUENCES),
    "attention, causal": Case(attend(lambda m, q, k, v: scaled(q, k, v, is_causal=True)), **SEQUENCES),
    "attention, mask": Case(attend(lambda m, q, k, v: scaled(q, k, v, attn_mask=CAUSAL.to(q.dtype))), **SEQUENCES),
    "attention, relative bias": Case(attend(by_hand, bias=lambda: param(2, 2 * STEPS - 1)), **SEQUENCES),
    "attention, rotary": Case(
        attend(lambda m, q, k, v: scaled(m.turn(q), m.turn(k), v, is_causal=True), turn=Rotary), **SEQUENCES
    ),
    "encoder": Case(encoder(), **SEQUENCES),
    "encoder, norm first": Case(encoder(norm_first=True, activation="gelu"), **SEQUENCES),
    "encoder, two layers, mask": Case(
        lambda: Net(
            lambda m, x: m.head(m.layers(x, mask=CAUSAL.to(x.dtype), is_causal=True)),
            layers=nn.TransformerEncoder(
                nn.TransformerEncoderLayer(WIDTH, 1, 4, 0.0, batch_first=True), 2, enable_nested_tensor=False
            ),
            head=nn.Linear(WIDTH, CLASSES),
        ),
        **PER_STEP,
    ),
    "decoder": Case(decoder(), **PER_STEP),
    "decoder, norm first": Case(decoder(norm_first=True), **PER_STEP),
    # Recurrent networks.
    "lstm": Case(recurrent(nn.LSTM), **PER_STEP),
    "lstm, both directions": Case(recurrent(nn.LSTM, 3, bidirectional=True), **PER_STEP),
    "lstm, projected": Case(recurrent(nn.LSTM, proj_size=2), **PER_STEP),
    "gru": Case(recurrent(nn.GRU), **PER_STEP),
    "gru, two layers": Case(recurrent(nn.GRU, 3, num_layers=2), **PER_STEP),
    "rnn": Case(recurrent(nn.RNN), **PER_STEP),
    "rnn, relu, both directions, two layers": Case(
        recurrent(nn.RNN, 3, nonlinearity="relu", bidirectional=True, num_layers=2), **PER_STEP
    ),
    "lstm cell": Case(cell(nn.LSTMCell), **SEQUENCES),
    "gru cell": Case(cell(nn.GRUCell), **SEQUENCES),
    "rnn cell": Case(cell(nn.RNNCell, nonlinearity="relu"), **SEQUENCES),
    # Embeddings.
    "embedding": Case(**embedded({})),
    "embedding, padding": Case(**embedded({"padding_idx": 0})),
    "embedding, by frequency": Case(**embedded({"scale_grad_by_freq": True})),
    "embedding, sparse": Case(**embedded({"sparse": True})),
    "embedding, tied": Case(
        tied,
        words,
        lambda: torch.randint(0, WORDS, (SAMPLES, STEPS)),
        of_sequences,
    ),
    # Weights that are functions of parameters.
    "weight norm": Case(
        lambda: nn.Sequential(weight_norm(nn.Linear(4, 5)), nn.Tanh(), weight_norm(nn.Linear(5, 3))),
        plain=lambda m, x: functional.linear(
            torch.tanh(functional.linear(x, normal(m[0].weight_g, m[0].weight_v), m[0].bias)),
            normal(m[2].weight_g, m[2].weight_v),
            m[2].bias,
        ),
    ),
    "weight norm, all at once": Case(
        lambda: nn.Sequential(weight_norm(nn.Linear(4, 5), dim=None), nn.Tanh(), nn.Linear(5, 3)),
        plain=lambda m, x: m[2](
            torch.tanh(x @ (m[0].weight_v * m[0].weight_g / m[0].weight_v.pow(2).sum().sqrt()).T + m[0].bias)
        ),
    ),
    "weight norm, parametrization": Case(
        conv(lambda: parametrizations.weight_norm(nn.Conv2d(2, 2, 2))),
        plain=lambda m, x: m[3](
            functional.conv2d(m[:2](x), normal(*m[2].parametrizations.weight.parameters()), m[2].bias)
        ),
        **IMAGES,
    ),
    "weight norm, columns": Case(
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5), dim=1), nn.Tanh(), nn.Linear(5, 3)),
        plain=lambda m, x: m[1:](
            functional.linear(
                x,
                normal(m[0].parametrizations.weight.original0, m[0].parametrizations.weight.original1.T).T,
                m[0].bias,
            )
        ),
    ),
    "spectral norm": Case(lambda: nn.Sequential(spectral_norm(nn.Linear(4, 5)).eval(), nn.Tanh(), nn.Linear(5, 3))),
    "spectral norm, parametrization": Case(
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 5)).eval(), nn.Tanh(), nn.Linear(5, 3))
    ),
    "orthogonal": Case(
        lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)).eval(), nn.Tanh(), nn.Linear(4, 3))
    ),
    # Normalisation.
    "layer norm": Case(between(lambda: nn.LayerNorm(4), nn.Tanh)),
    "layer norm of images": Case(conv(lambda: nn.LayerNorm([2, 4, 4])), **IMAGES),
    "group norm": Case(conv(lambda: nn.GroupNorm(2, 4), channels=4), **IMAGES),
    "instance norm": Case(conv(lambda: nn.InstanceNorm2d(2, affine=True)), **IMAGES),
    "rms norm": Case(between(lambda: nn.RMSNorm(4), nn.Tanh)),
    "batch norm": Case(between(lambda: used(nn.BatchNorm1d(4)), nn.Tanh)),
    "batch norm of images": Case(conv(lambda: used(nn.BatchNorm2d(2)), nn.ReLU), **IMAGES),
    "local response norm": Case(conv(lambda: nn.LocalResponseNorm(2)), **IMAGES),
    # Convolutions and pooling.
    "grouped": Case(conv(lambda: nn.Conv2d(4, 4, 2, groups=2), nn.ReLU, channels=4), **IMAGES),
    "depthwise": Case(
        conv(lambda: nn.Conv2d(3, 3, 3, groups=3, padding=1), nn.ReLU6, lambda: nn.Conv2d(3, 4, 1), channels=3, last=4),
        **IMAGES,
    ),
    "transposed": Case(conv(lambda: nn.ConvTranspose2d(2, 3, 3, 2, 1, output_padding=1), last=3), **IMAGES),
    "dilated": Case(conv(lambda: nn.Conv2d(2, 3, 2, dilation=2), last=3), **IMAGES),
    "padded": Case(
        conv(
            lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
            lambda: nn.Conv2d(2, 2, 2, padding="same", padding_mode="reflect"),
        ),
        **IMAGES,
    ),
    "one dimension": Case(
        lambda: Net(
            lambda m, x: m.head(m.second(torch.relu(m.first(x.transpose(1, 2)))).amax(-1)),
            first=nn.Conv1d(4, 4, 2),
            second=nn.Conv1d(4, 3, 2, padding=1, stride=2),
            head=nn.Linear(3, CLASSES),
        ),
        **SEQUENCES,
    ),
    "three dimensions": Case(
        lambda: Net(
            lambda m, x: m.head(m.second(torch.tanh(m.first(x[:, :, None]))).flatten(1).unflatten(1, (3, -1)).mean(2)),
            first=nn.Conv3d(2, 2, (1, 3, 3)),
            second=nn.Conv3d(2, 3, (1, 2, 2), stride=(1, 2, 2)),
            head=nn.Linear(3, CLASSES),
        ),
        **IMAGES,
    ),
    "max pool": Case(conv(nn.ReLU, lambda: nn.MaxPool2d(2), lambda: nn.Conv2d(2, 3, 2), last=3), **IMAGES),
    "max pool, overlap": Case(conv(lambda: nn.MaxPool2d(3, 1, 1), lambda: nn.Conv2d(2, 3, 2), last=3), **IMAGES),
    "average pool": Case(conv(lambda: nn.AvgPool2d(3, 2, 1), lambda: nn.Conv2d(2, 3, 2), last=3), **IMAGES),
    "adaptive pools": Case(
        conv(lambda: nn.AdaptiveAvgPool2d(3), lambda: nn.Conv2d(2, 2, 1), lambda: nn.AdaptiveMaxPool2d(2)), **IMAGES
    ),
    "power pool": Case(conv(nn.Sigmoid, lambda: nn.LPPool2d(2, 2)), **IMAGES),
    "pixel shuffle": Case(conv(lambda: nn.PixelShuffle(2), lambda: nn.Conv2d(1, 2, 2), channels=4, last=2), **IMAGES),
    "interpolated": Case(
        conv(
            lambda: nn.Upsample(scale_factor=1.5, mode="bilinear"),
            lambda: nn.Conv2d(2, 2, 2),
            lambda: nn.Upsample(scale_factor=2),
            nn.Softplus,
            lambda: nn.Upsample((3, 3), mode="bicubic", align_corners=True),
        ),
        **IMAGES,
    ),
    "unfolded": Case(
        conv(lambda: Net(lambda m, x: m.layer(functional.unfold(x, 2).mT).mT, layer=nn.Linear(8, 3)), last=3), **IMAGES
    ),
    # Activations.
    "gelu, silu, softplus": Case(between(nn.GELU, lambda: nn.GELU("tanh"), nn.SiLU, nn.Softplus)),
    "hardswish, prelu, elu": Case(between(nn.Hardswish, lambda: nn.PReLU(4), nn.ELU)),
    "mish, selu, celu, softsign": Case(between(nn.Mish, nn.SELU, nn.CELU, nn.Softsign)),
    "leaky, hardtanh, tanhshrink": Case(between(nn.LeakyReLU, nn.Hardtanh, nn.Tanhshrink)),
    "glu, logsigmoid, softmin": Case(between(nn.GLU, nn.LogSigmoid, lambda: nn.Softmin(1), hidden=8, last=4)),
    # Whatever else people write.
    "residual": Case(residual),
    "layer used twice": Case(twice_used),
    "in place": Case(applied(in_place)),
    "relu in place": Case(between(lambda: nn.ReLU(inplace=True), nn.Softplus)),
    "permute(-1, 0)": Case(
        lambda: Net(
            lambda m, x: m.head(torch.tanh(x @ m.square.permute(-1, 0)) @ m.square),
            square=param(4, 4),
            head=nn.Linear(4, CLASSES),
        )
    ),
    "permute, negative": Case(
        conv(lambda: Net(lambda m, x: x.square().permute(0, -2, -1, 1).flatten(2).movedim(-1, 1) * 1.5), last=8),
        **IMAGES,
    ),
    "einsum": Case(applied(lambda x: torch.einsum("ni,nj,nk->nij", x, x, x.tanh()).flatten(1), last=16)),
    "squeeze, unsqueeze": Case(applied(lambda x: (x.unsqueeze(-1) @ x.tanh()[:, None]).sum(-1, True).squeeze())),
    "cumsum, cumprod, flip": Case(applied(lambda x: x.cumsum(1) * x.cumprod(1).flip(1))),
    "sort": Case(applied(lambda x: x.sort(1, descending=True).values * torch.arange(1.0, 5.0, dtype=x.dtype))),
    "topk, gather": Case(
        applied(lambda x: torch.cat([x.topk(2).values, x.square().gather(1, x.argsort(1)[:, :2])], 1))
    ),
    "scatter, index_select": Case(
        applied(
            lambda x: (
                torch.zeros_like(x).scatter_add(1, torch.tensor([[0, 1, 1, 3]]).expand(len(x), -1), x.exp())
                + x.index_select(1, torch.tensor([3, 0, 0, 1])).square()
            )
        )
    ),
    "where, clamp, max": Case(
        applied(
            lambda x: torch.where(x > 0, x.exp(), x.square()).clamp(max=2) + x.max(1, True).values * x.amin(1, True)
        )
    ),
    "roll, slices, expand": Case(
        applied(lambda x: x.roll(1, -1)[:, ::2].repeat(1, 2) * x[:, 1:2].expand(-1, 4) + x[..., -1:] ** 2)
    ),
    "strided view": Case(
        applied(lambda x: x.tanh().t().contiguous().as_strided((len(x), 3), (1, len(x))).square(), last=3)
    ),
    "diagonal, tril": Case(
        applied(lambda x: (x[:, :, None] * x[:, None].tanh()).tril().diagonal(0, 1, 2) + torch.diag_embed(x).sum(1))
    ),
    "norms": Case(
        applied(lambda x: functional.normalize(x) * x.norm(dim=1, keepdim=True).log() + x.logsumexp(1, True))
    ),
    "statistics": Case(
        applied(lambda x: (x - x.mean(1, True)) / (x.var(1, keepdim=True) + 0.1) * x.std(1, keepdim=True))
    ),
    "bilinear": Case(lambda: Net(lambda m, x: m.b(x.tanh(), m.a(x).tanh()), a=nn.Linear(4, 3), b=nn.Bilinear(4, 3, 3))),
    "distances": Case(
        lambda: Net(
            lambda m, x: -(m.a(x)[:, None] - m.centres).square().sum(-1), a=nn.Linear(4, 4), centres=param(3, 4)
        )
    ),
    "linear algebra": Case(
        applied(lambda x: torch.linalg.solve(torch.diag_embed(x.square() + 1) + 0.1 * x[:, :, None] * x[:, None], x))
    ),
    "fourier": Case(applied(spectrum)),
    "complex": Case(applied(phases)),
    "own function": Case(applied(Halved.apply), ways=("retained", "rebuild")),
    "checkpointed": Case(
        lambda: Net(
            lambda m, x: m.head(checkpoint(lambda y: torch.tanh(m.first(y)), x, use_reentrant=False)),
            first=nn.Linear(4, 4),
            head=nn.Linear(4, CLASSES),
        ),
        ways=("retained", "rebuild"),
    ),
    "counts evaluations": Case(counted, ways=("retained", "rebuild")),
    "first layer not trained": Case(frozen),
    "tuple of outputs": Case(two_heads(tuple), loss=of_two),
    "dict of outputs": Case(two_heads(dict), loss=of_two),
    "regression": Case(between(nn.Tanh), targets=lambda: features(CLASSES), loss=squared),
}

REFUSED = {
    "no_grad": (Case(constant(without_gradient)), "."),
    "detach": (Case(constant(lambda m, x: m.first(x).sigmoid().detach())), "."),
    "embedding, max_norm": (Case(**embedded({"max_norm": 1.0})), "max_norm"),
    "embedding bag": (
        Case(
            lambda: Net(
                lambda m, x: m.head(m.bag(x).tanh()), bag=nn.EmbeddingBag(WORDS, 4), head=nn.Linear(4, CLASSES)
            ),
            words,
        ),
        "no second derivative, and so no curvature: .*_embedding_bag_backward",
    ),
    "hardsigmoid": (Case(between(nn.Hardsigmoid)), "no second derivative, and so no curvature: .*hardsigmoid_backward"),
    "margins": (
        Case(between(nn.Tanh), loss=nn.MultiMarginLoss(p=2)),
        "no second derivative, and so no curvature: .*multi_margin_loss_backward",
    ),
    "ctc": (
        Case(
            recurrent(nn.GRU),
            sequences,
            lambda: torch.randint(1, CLASSES, (SAMPLES, 2)),
            lambda o, t: functional.ctc_loss(
                o.log_softmax(2).transpose(0, 1), t, [STEPS] * len(t), [2] * len(t), reduction="none"
            ),
        ),
        "no second derivative, and so no curvature: .*ctc_loss_backward",
    ),
}
"""Networks and losses without a curvature that could be given, and what the line says that refuses them.

The first two hide a part of their course from derivatives, so these are not those of the values.
"""


def shares(*shape: int) -> Tensor:
    """Numbers between 0 and 1 that add up to one along the last axis."""
    return torch.rand(SAMPLES, *shape, dtype=torch.float64).softmax(-1)


def ignored(*shape: int) -> Tensor:
    """Classes of which one is left out."""
    targets = classes(*shape)
    targets.view(-1)[1] = -100
    return targets


def each(loss: Callable, **how: object) -> Callable:
    """Return a loss of PyTorch's with one value per sample, the mean over what else a sample has."""
    own = lambda o, t: loss(o, t, reduction="none", **how)  # noqa: E731
    return lambda o, t: own(o, t).reshape(len(t), -1).mean(1)


def gaussian(outputs: Tensor, targets: Tensor) -> Tensor:
    """Likelihood of a target under a mean and a variance that are both outputs."""
    return functional.gaussian_nll_loss(outputs[:, 0], targets[:, 0], outputs[:, 1].exp(), reduction="none")


_WEIGHTS = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
_DENSE, _STEPWISE = between(lambda: nn.LayerNorm(4), nn.Tanh), recurrent(nn.GRU, 3)
_VALUES, _SHARES = partial(features, CLASSES), partial(shares, CLASSES)

LOSSES = {
    "class weights": (_DENSE, vectors, classes, each(cross_entropy, weight=_WEIGHTS)),
    "label smoothing": (_DENSE, vectors, classes, nn.CrossEntropyLoss(label_smoothing=0.1)),
    "ignore_index": (_DENSE, vectors, ignored, each(cross_entropy)),
    "soft targets": (_DENSE, vectors, _SHARES, cross_entropy),
    "soft targets, sequences": (_STEPWISE, sequences, partial(shares, STEPS, CLASSES), of_sequences_softly),
    "sequences (N, T, C)": (_STEPWISE, sequences, partial(classes, STEPS), of_sequences),
    "sequences (N, C, T)": (
        lambda: nn.Sequential(_STEPWISE(), Net(lambda _, x: x.mT)),
        sequences,
        partial(classes, STEPS),
        cross_entropy,
    ),
    "sequences, ignore_index": (
        _STEPWISE,
        sequences,
        partial(ignored, STEPS),
        lambda o, t: each(cross_entropy)(o.mT, t),
    ),
    "likelihood": (_DENSE, vectors, classes, lambda o, t: functional.nll_loss(o.log_softmax(1), t)),
    "bce with logits": (
        _DENSE,
        vectors,
        _SHARES,
        each(functional.binary_cross_entropy_with_logits, pos_weight=_WEIGHTS),
    ),
    "bce": (_DENSE, vectors, _SHARES, lambda o, t: functional.binary_cross_entropy(o.sigmoid(), t)),
    "kl": (_DENSE, vectors, _SHARES, lambda o, t: functional.kl_div(o.log_softmax(1), t, reduction="batchmean")),
    "mse": (_DENSE, vectors, _VALUES, nn.MSELoss()),
    "mse, sums of samples": (_DENSE, vectors, _VALUES, lambda o, t: functional.mse_loss(o, t, reduction="none").sum(1)),
    "huber": (_DENSE, vectors, _VALUES, nn.HuberLoss(delta=0.7)),
    "smooth l1": (_DENSE, vectors, _VALUES, each(functional.smooth_l1_loss)),
    "l1": (_DENSE, vectors, _VALUES, nn.L1Loss()),
    "poisson": (_DENSE, vectors, _SHARES, nn.PoissonNLLLoss()),
    "gaussian": (_DENSE, vectors, _VALUES, gaussian),
    "soft margins": (_DENSE, vectors, lambda: shares(CLASSES).round(), nn.MultiLabelSoftMarginLoss()),
    "cosine": (_DENSE, vectors, _VALUES, lambda o, t: 1 - functional.cosine_similarity(o, t)),
}
"""Losses on small networks: how the network is built, inputs, targets, loss."""
