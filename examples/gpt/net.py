"""A GPT of two layers over characters, and this project's README as its text."""

from pathlib import Path

import torch
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

LENGTH = 32
TEXT = (Path(__file__).parents[2] / "README.md").read_text()
ALPHABET = sorted(set(TEXT))


def build() -> GPT2LMHeadModel:
    """Return the network, with random weights."""
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": LENGTH, "vocab_size": len(ALPHABET)}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, use_cache=False))


def data() -> dict:
    """Return pieces of the text and, as targets, the characters that follow, each (sample, position)."""
    tokens = torch.tensor([ALPHABET.index(character) for character in TEXT])
    pieces = tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)
    inputs, targets = pieces[:, :-1], pieces[:, 1:]
    return {"train": (inputs[::2], targets[::2]), "test": (inputs[1::2], targets[1::2])}


def loss(outputs, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of each piece, (sample,)."""
    return functional.cross_entropy(outputs.logits.transpose(1, 2), targets, reduction="none").mean(1)
