"""A GPT of two layers over characters, and this project's README as its text."""

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

LENGTH = 32
TEXT = (Path(__file__).parents[2] / "README.md").read_text()
ALPHABET = sorted(set(TEXT))


def build() -> GPT2LMHeadModel:
    """Return the network, with random weights."""
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": LENGTH, "vocab_size": len(ALPHABET)}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, use_cache=False))


def data() -> dict:
    """Return pieces of the text, (sample, place); Hugging Face's models compare them with themselves one place on."""
    tokens = torch.tensor([ALPHABET.index(character) for character in TEXT])
    pieces = tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)
    splits = {"train": pieces[::2], "test": pieces[1::2]}
    return {name: {"input_ids": some, "labels": some} for name, some in splits.items()}
