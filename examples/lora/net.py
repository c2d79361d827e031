"""A small GPT over characters with low-rank adapters (LoRA), and the licence as the text that these learn."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

LENGTH = 32
ROOT = Path(__file__).parents[2]
ALPHABET = [chr(code) for code in range(128)]


def base() -> GPT2LMHeadModel:
    """Return the network without adapters, with random weights."""
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": LENGTH, "vocab_size": len(ALPHABET)}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, use_cache=False))


def build() -> PeftModel:
    """Return the network with adapters; a recording has the weights of both."""
    return adapted(base())


def adapted(network: GPT2LMHeadModel) -> PeftModel:
    """Freeze a network and lay adapters of rank 4 over its attention."""
    return get_peft_model(network, LoraConfig(r=4, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True))


def pieces(file: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pieces of a text and, as targets, the characters that follow, each (sample, position)."""
    tokens = torch.tensor([min(ord(character), 127) for character in (ROOT / file).read_text()])
    rows = tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)
    return rows[:, :-1], rows[:, 1:]


def data() -> dict:
    """Return what the adapters learn."""
    return {"train": pieces("LICENSE")}


def loss(outputs, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of each piece, (sample,)."""
    return functional.cross_entropy(outputs.logits.transpose(1, 2), targets, reduction="none").mean(1)
