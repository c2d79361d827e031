"""A network of timm's for images of ten kinds of clothing."""

import timm
import torch
from lossatlas.data import load_dataset


def build() -> torch.nn.Module:
    """Return the smallest of timm's ResNets, with random weights."""
    return timm.create_model("test_resnet.r160_in1k", num_classes=10)


def data() -> dict:
    """Return images (sample, 3, 32, 32) and their classes."""
    images = load_dataset({"name": "fashion-mnist-mini"})
    return {name: (split.inputs, split.targets) for name, split in (("train", images.train), ("test", images.test))}
