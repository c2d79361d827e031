"""A user's own model, data and loss: a small transformer that learns to add digits modulo ten.

The embedding is frozen, the output layer shares its weights with a trained projection (tied), and the loss
returns one value per sample.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import vocabulary


class TinyTransformer(nn.Module):
    """Tokens (sample, position) -> logits (sample, vocabulary, position)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.embed = nn.Embedding(vocabulary.SIZE, width)
        self.embed.weight.requires_grad_(False)
        self.position = nn.Parameter(0.02 * torch.randn(vocabulary.LENGTH, width))
        self.mix = nn.Linear(width, width, bias=False)
        self.block = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.1, batch_first=True)
        self.unmix = nn.Linear(width, width, bias=False)
        self.unmix.weight = self.mix.weight
        self.head = nn.Linear(width, vocabulary.SIZE)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.mix(self.embed(tokens)) + self.position
        return self.head(self.unmix(self.block(hidden))).transpose(1, 2)


def build(width: int = 16, heads: int = 2) -> nn.Module:
    return TinyTransformer(width, heads)


def load(samples: int = 200) -> dict:
    """Sequences a b c and their running sums modulo ten."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, vocabulary.SIZE, (samples, vocabulary.LENGTH), generator=generator)
    sums = tokens.cumsum(1) % vocabulary.SIZE
    cut = samples * 3 // 4
    return {"train": (tokens[:cut], sums[:cut]), "test": (tokens[cut:], sums[cut:])}


def right_throughout(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether all tokens of each sequence are right, shape (sample,)."""
    return (outputs.argmax(1) == targets).all(1)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each sequence, shape (sample,)."""
    return functional.cross_entropy(outputs, targets, reduction="none").mean(dim=1)
