"""Small transformers, written out: what users bring and the zoo does not hold."""

import torch
from torch import nn


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x):
        """Return what attention and the dense layers make of tokens (samples, tokens, width)."""
        parts = self.project(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*parts, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class ViT(nn.Module):
    """A vision transformer for 3 x 32 x 32 images in patches of 8 x 8, 212,682 parameters, with a mean over tokens."""

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4):
        super().__init__()
        self.patch, self.place = nn.Conv2d(3, width, 8, 8), nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.Sequential(*(_Block(width, heads, False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images):
        """Return ten scores."""
        tokens = self.patch(images).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class GPT(nn.Module):
    """A character model for 32 tokens of 65 kinds; scores (samples, 65, 32)."""

    def __init__(self, width: int = 48, depth: int = 4, heads: int = 4):
        super().__init__()
        self.tokens, self.place = nn.Embedding(65, width), nn.Parameter(0.02 * torch.randn(32, width))
        self.blocks = nn.Sequential(*(_Block(width, heads, True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 65)

    def forward(self, text):
        """Return the scores of the next token at each place."""
        return self.head(self.norm(self.blocks(self.tokens(text) + self.place))).transpose(1, 2)
